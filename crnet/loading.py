"""Trained networks by name or from files: cards, `load`, `save`, and what is bundled.

The header of a weights file holds a card: the architecture and its arguments, the scales, the
training data and recipe, and the measured PSNR.  The file alone is enough to rebuild the network.
`load` also takes a checkpoint of training (``.ckpt``), whose averaged weights it returns, and
published PyTorch files (``.pth``, ``.pt``).
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from baselines import weights
from baselines.matlab import load_matlab
from baselines.networks.scn import SCN
from baselines.networks.srcnn import SRCNN
from baselines.networks.vdsr import VDSR
from baselines.torch_files import read_torch
from crnet import networks
from crnet.data import sha256
from crnet.errors import ImageFileError, WeightsError, words
from crnet.files import output_file
from crnet.networks import Network
from crnet.training.checkpoint import averaged_weights, recipe_of, training_state
from crnet.training.recipe import Recipe
from crnet.training.recipe import bundled as recipes
from csc.html import table

RECOMMENDED = "crnet-b"
"""The bundled model that is used where none is named: the best."""

NAME = r"[\w.+-]+"
"""Pattern of a model's name."""


@dataclass(frozen=True, repr=False)
class Card:
    """What a weights file says about its network.

    Attributes
    ----------
    name : str
        Name of the model.
    architecture : str
        Class of the network.
    arguments : dict
        Keyword arguments of the class: numbers, or lists of whole numbers.
    scales : tuple of int
        The scales it was trained for.
    training : dict
        Data, recipe and duration of the training.
    psnr : dict
        Measured mean PSNR on Y in dB, by image set and then by scale.

    Raises
    ------
    ValueError, TypeError
        If the value of a field is not valid; the message names the field.
    """

    name: str
    architecture: str
    arguments: dict[str, int | float | bool | list[int]]
    scales: tuple[int, ...]
    training: dict[str, str | int | float]
    psnr: dict[str, dict[str, float]]

    def __post_init__(self) -> None:
        if not (isinstance(self.name, str) and re.fullmatch(NAME, self.name)):
            raise ValueError(
                f"a card's name must be letters, digits, '.', '_', '+' or '-', got {self.name!r}"
            )
        for field, value, kind in (
            ("architecture", self.architecture, str), ("arguments", self.arguments, dict),
            ("training", self.training, dict), ("psnr", self.psnr, dict),
        ):  # fmt: skip
            if not isinstance(value, kind):
                raise TypeError(f"a card's {field} must be {kind.__name__}, got {value!r}")
        if not all(isinstance(s, int) and s > 0 for s in self.scales):
            raise ValueError(f"a card's scales must be whole numbers > 0, got {self.scales!r}")
        for key, v in self.arguments.items():
            many = isinstance(v, list | tuple) and all(isinstance(s, int) for s in v)
            if not (many or isinstance(v, int | float)):
                raise ValueError(
                    f"a card's argument {key} must be a number or a list of whole "
                    f"numbers, got {v!r}"
                )

    def __repr__(self) -> str:
        """Return name, network, scales and measured PSNR in one line."""
        sizes = ", ".join(f"{key}={value}" for key, value in self.arguments.items())
        psnr = [
            f"{name} {' / '.join(f'{value:.2f}' for value in found.values())} dB"
            for name, found in self.psnr.items()
        ]
        scales = (
            words([f"×{scale}" for scale in self.scales], "and") if self.scales else "any scale"
        )
        return f"Card({self.name}: {', '.join([f'{self.architecture}({sizes})', scales, *psnr])})"

    def _repr_html_(self) -> str:
        """Return what the network is and measures, for notebooks."""
        sizes = ", ".join(f"{key} {value}" for key, value in self.arguments.items())
        rows = [
            [name, *(f"{psnr[str(s)]:.2f}" if str(s) in psnr else "" for s in self.scales)]
            for name, psnr in self.psnr.items()
        ]
        head = ["PSNR in dB", *(f"×{scale}" for scale in self.scales)]
        return table(f"{self.name}: {self.architecture}({sizes})", head, rows)


def build(
    architecture: str, arguments: Mapping[str, Any], generator: torch.Generator | None = None
) -> Network:
    """Return a network by the name of its class and its arguments, with initial weights.

    Raises
    ------
    WeightsError
        If there is no such class, or it does not take the arguments.
    """
    try:
        return networks.build(architecture, arguments, generator)
    except _UNFIT as error:
        raise WeightsError(f"cannot build {architecture}: {error!r}") from error


def outline(architecture: str, arguments: Mapping[str, Any], tensors: int = 2000) -> Network:
    """Return a network on the meta device, see :func:`crnet.networks.outline`.

    Raises
    ------
    WeightsError
        If there is no such class, it does not take the arguments, or they are too large.
    """
    try:
        return networks.outline(architecture, arguments, tensors)
    except _UNFIT as error:
        raise WeightsError(f"cannot build {architecture}: {error!r}") from error


def serialize(net: Network, about: Card) -> bytes:
    """Return the bytes of a weights file.

    Parameters
    ----------
    net : Network
        The network; its weights are stored in their own dtype.  `load` makes them float32.
    about : Card
        Its card.

    Returns
    -------
    bytes
        safetensors, which `load` and `card` read back from a file.
    """
    return weights.to_bytes(net.state_dict(), asdict(about))


def save(path: str | Path, net: Network, about: Card) -> None:
    """Write a network and its card to a weights file, which `load` and the command line take.

    Parameters
    ----------
    path : str or Path
        The file, ``.safetensors``.  An existing file is replaced as a whole.
    net : Network
        The network; its weights are stored in their own dtype.
    about : Card
        Its card.

    Raises
    ------
    WeightsError
        If the path has another suffix, the card describes another network, a weight is not finite,
        or the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from baselines.networks.vdsr import VDSR
    >>> about = Card("small", "VDSR", {"depth": 3, "maps": 8}, (2, 3), {"data": "none"}, {})
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/small.safetensors", VDSR(3, 8), about)
    ...     card(f"{folder}/small.safetensors") == about
    True
    """
    if Path(path).suffix != ".safetensors":
        raise WeightsError(f"a weights file must end in .safetensors, got {path}")
    state = net.state_dict()
    _check_finite(path, state)
    try:
        _check_shapes(about.architecture, about.arguments, state)
    except ValueError as error:
        raise WeightsError(f"{path}: the network is not that of its card: {error}") from error
    try:
        with output_file(Path(path), overwrite=True) as file:
            file.write(serialize(net, about))
    except (ImageFileError, OSError) as error:
        raise WeightsError(f"the weights were not written: {error}") from error


def of_matlab(path: str | Path, scales: Iterable[int] = ()) -> tuple[Network, Card]:
    """Read published weights; return the network and a card for :func:`crnet.save`.

    Parameters
    ----------
    path : str or Path
        ``.mat`` file that :func:`baselines.load_matlab` takes.
    scales : iterable of int
        The scales that the network was trained for; the file does not name them.  One for SRCNN,
        one or several for VDSR; SCN needs none, it upscales by 2.

    Returns
    -------
    (Network, Card)
        The card has the name of the file and its SHA-256.

    Raises
    ------
    WeightsError
        If the file is missing or holds no network that `load_matlab` knows.
    ValueError
        If the network cannot have these scales.
    """
    path = Path(path)
    try:
        net = load_matlab(path)
    except (FileNotFoundError, ValueError) as error:
        raise WeightsError(str(error)) from error
    made = tuple(sorted(set(scales)))
    kind = type(net).__name__
    if isinstance(net, SCN):
        made = made or (2,)
    if isinstance(net, SCN) and made != (2,):
        raise ValueError(f"scales must be 2 for {path}, a stage of SCN; got {words(made, 'and')}")
    if not made or made[0] < 2 or (isinstance(net, SRCNN) and len(made) > 1):
        wanted = "the scale, ≥ 2," if isinstance(net, SRCNN) else "the scales, ≥ 2,"
        raise ValueError(
            f"scales must be {wanted} that the {kind} of {path} was trained for; the file does "
            f"not say; got {words(made, 'and') if made else 'none'}"
        )
    name = re.sub(r"[^\w.+-]", "-", path.stem)
    told: dict[str, str | int | float] = {"weights": f"{path.name}, SHA-256 {sha256(path)}"}
    return net, Card(name, kind, _arguments(net), made, told, {})


def of_torch(path: str | Path, scales: Iterable[int] = ()) -> "Stored":
    """Return the network in a published PyTorch file, see :mod:`baselines.torch_files`.

    Parameters
    ----------
    path : str or Path
        ``.pth`` or ``.pt`` file.
    scales : iterable of int
        The scales that the network was trained for, where the file does not say them: SRCNN, VDSR
        and MemNet.

    Returns
    -------
    Stored
        Its card has the name of the file and its SHA-256.  Without `scales`, the card of SRCNN,
        VDSR or MemNet names none, and the network takes any scale.

    Raises
    ------
    WeightsError
        If the file is missing, cannot be opened safely, or holds no known network.
    ValueError
        If the network upscales by other scales than these.
    """
    path = Path(path)
    found = read_torch(path)
    wanted = tuple(sorted(set(scales)))
    if wanted and wanted[0] < 2:
        raise ValueError(f"scales must be ≥ 2, got {words(wanted, 'and')}")
    if wanted and found.scales and wanted != found.scales:
        raise ValueError(
            f"scales must be {words(found.scales, 'and')} for the {found.architecture} of {path}; "
            f"got {words(wanted, 'and')}"
        )
    about = Card(
        name=re.sub(r"[^\w.+-]", "-", path.stem),
        architecture=found.architecture,
        arguments=found.arguments,
        scales=found.scales or wanted,
        training={"weights": f"{path.name}, SHA-256 {sha256(path)}"},
        psnr={},
    )

    def read() -> dict[str, Tensor]:
        _check_finite(path, found.tensors)
        return found.tensors

    return Stored(path, about, read)


def _arguments(net: SRCNN | VDSR | SCN) -> dict[str, int | float | bool | list[int]]:
    """Read the arguments of a network's constructor from its layers."""
    if isinstance(net, SCN):
        return {"M": net.W.out_channels}
    layers = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
    if isinstance(net, SRCNN):
        return {"middle": layers[1].kernel_size[0]}
    return {"depth": len(layers), "maps": layers[0].out_channels}


def card(name: str | Path) -> Card:
    """Return the card of a bundled model, a weights file or a checkpoint.

    Only the header of a weights file is read.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    """
    return stored(find(name)).card


def load(name: str | Path = RECOMMENDED, *, device: str = "cpu") -> Network:
    """Return a trained network, by its name or from a file.

    Parameters
    ----------
    name : str or Path
        A bundled model, see :func:`bundled`, or the path of a weights file or a checkpoint.
    device : str
        Where to put it.

    Returns
    -------
    Network
        In evaluation mode, in float32.  ``card(name)`` is its card.

    Raises
    ------
    WeightsError
        If there is no such model, or the file is damaged or not one of ours.

    Examples
    --------
    >>> load("crnet-a").depth
    13
    """
    return stored(find(name)).network().to(device)


@dataclass(frozen=True)
class Stored:
    """A network in a file, before it is built.

    Attributes
    ----------
    path : Path
        The file.
    card : Card
        What the file says about the network.
    read : callable
        Returns the weights by name, or raises WeightsError.
    """

    path: Path
    card: Card
    read: Callable[[], dict[str, Tensor]]

    def network(self) -> Network:
        """Return the network, in evaluation mode, in float32, on the CPU.

        Raises
        ------
        WeightsError
            If the file is damaged, or its weights are not those of the network on its card.
        """
        state = self.read()
        about = self.card
        try:
            _check_shapes(about.architecture, about.arguments, state)
        except ValueError as error:
            raise WeightsError(f"{self.path} does not fit its architecture: {error}") from error
        net = build(about.architecture, about.arguments)
        net.load_state_dict(state)  # into float32, whatever is stored
        if isinstance(net, networks.Projected):
            net.project()  # rounding in storage may have left the certified set
        return net.eval()


def stored(path: Path) -> Stored:
    """Return the network in a weights file, a checkpoint or a published PyTorch file.

    Of a weights file only the header is read; the others are read as a whole.

    Raises
    ------
    WeightsError
        If the file is missing or damaged, or holds no network that is known.
    """
    if path.suffix in (".pth", ".pt"):
        return of_torch(path)
    return _in_checkpoint(path) if path.suffix == ".ckpt" else in_weights_file(path)


def in_weights_file(path: Path, fields: Mapping[str, Any] | None = None) -> Stored:
    """Return the network in a weights file; `fields` is its card as JSON, if already read.

    Raises
    ------
    WeightsError
        If the file is missing, or its header is not that of a network.
    """
    if fields is None:
        fields, *_ = weights.header(path)
    try:
        if "architecture" not in fields:
            raise ValueError(f"it holds {fields.get('name', 'something else')}, not a network")
        about = Card(**{**fields, "scales": tuple(fields["scales"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a weights file of csc-crnet: {error}") from error
    return Stored(path, about, lambda: weights.read(path)[0])


def _in_checkpoint(path: Path) -> Stored:
    """Return the network in a checkpoint, with its averaged weights."""
    state = training_state(path)
    recipe = recipe_of(path, state)
    averaged = averaged_weights(state)

    def read() -> dict[str, Tensor]:
        _check_finite(path, averaged)
        return averaged

    return Stored(path, _card_of_training(path, state, recipe), read)


def _check_shapes(
    architecture: str, arguments: Mapping[str, Any], state: Mapping[str, Tensor]
) -> None:
    """Check the names and shapes of the weights of a network, without building it.

    Raises
    ------
    WeightsError
        If there is no such network.
    ValueError
        If the weights have other names or shapes.
    """
    wanted = outline(architecture, arguments, len(state)).state_dict()
    for name in sorted(wanted.keys() | state.keys()):
        if name not in state:
            raise ValueError(f"{name} is missing")
        if name not in wanted:
            raise ValueError(f"the network has no {name}")
        if wanted[name].shape != state[name].shape:
            raise ValueError(
                f"{name} has shape {tuple(state[name].shape)}, the network needs "
                f"{tuple(wanted[name].shape)}"
            )


_UNFIT = (KeyError, TypeError, ValueError, RuntimeError, OverflowError)
"""What a network raises if it does not take its arguments."""


def _check_finite(path: str | Path, state: Mapping[str, Tensor]) -> None:
    if not all(bool(torch.isfinite(w).all()) for w in state.values()):
        raise WeightsError(f"{path} holds weights that are not finite numbers")


def _card_of_training(path: Path, state: Mapping[str, Any], recipe: Recipe) -> Card:
    curve = ", ".join(f"{int(step)}: {value:.2f}" for step, value in _thinned(state["history"]))
    excluded = ", ".join(recipe.exclude) or "nothing"
    sets = ("a folder of photos" if name == "." else name for name in recipe.sets)
    return Card(
        name=re.sub(r"[^\w.+-]", "-", path.parent.name) or "run",
        architecture=recipe.architecture,
        arguments=recipe.network(),
        scales=recipe.scales,
        training={
            "data": f"{' + '.join(sets)} without {excluded}",
            "recipe": json.dumps(state["recipe"]),
            "precision": state.get("precision", recipe.precision),  # as auto chose it
            "steps": state["global_step"],
            "hours": round(state["seconds"] / 3600, 2),
            "curve": f"validation PSNR in dB by step: {curve or 'none'}",
        },
        psnr={},
    )


def _thinned(curve: list[list[float]], most: int = 20) -> list[list[float]]:
    """Return at most `most` points of a curve, evenly spaced, the last one included."""
    stride = max(1, -(-len(curve) // most))
    return curve[::-1][::stride][::-1]


def bundled() -> dict[str, Path]:
    """Return the models that ship with the package, name → file."""
    folder = Path(str(resources.files("crnet"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """Return the file of a bundled model, or the path if it is a file.

    Raises
    ------
    WeightsError
        If there is no such model and no such file, or it is a MATLAB file.
    """
    models = bundled()
    if str(name) in models:
        return models[str(name)]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(models) or "none"
        hint = f", but crnet train {name} makes one" if str(name) in recipes() else ""
        raise WeightsError(f"no model and no file {name}{hint}; bundled models: {known}")
    if path.suffix == ".mat":
        raise WeightsError(
            f"{path} is a MATLAB file; crnet export {path} NAME.safetensors makes a weights file"
        )
    return path
