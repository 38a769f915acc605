"""Trained networks by name or from files: cards, `load`, `save`, and what is bundled.

The header of a weights file carries a card: the architecture and its arguments, the scales, the
training data and recipe, and the PSNR that was measured.  A file is enough to rebuild its network.
`load` also takes a checkpoint of training (``.ckpt``), and returns its averaged weights.
"""

import json
import re
from collections.abc import Iterable
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
from crnet import networks
from crnet.data import sha256
from crnet.errors import ImageFileError, WeightsError
from crnet.files import output_file
from crnet.networks import Network
from crnet.training.checkpoint import averaged_weights, recipe_of, training_state
from crnet.training.recipe import bundled as recipes

NAME = r"[\w.+-]+"
"""What a model may be called."""


@dataclass(frozen=True)
class Card:
    """What a weights file says of itself.

    Attributes
    ----------
    name : str
        As ``crnet.load`` knows it.
    architecture : str
        Class of the network.
    arguments : dict
        Keyword arguments that build it.
    scales : tuple of int
        Enlargements it was trained for.
    training : dict
        Data, recipe and duration, in words and numbers.
    psnr : dict
        Measured mean PSNR on Y in dB, by set and then by scale.

    Raises
    ------
    ValueError, TypeError
        If the name is none, a scale no whole number > 0, or an argument neither a number nor a
        list of whole numbers.
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
        if not all(isinstance(s, int) and s > 0 for s in self.scales):
            raise ValueError(f"a card's scales must be whole numbers > 0, got {self.scales!r}")
        for key, v in self.arguments.items():
            many = isinstance(v, list | tuple) and all(isinstance(s, int) for s in v)
            if not (many or isinstance(v, int | float)):
                raise ValueError(
                    f"a card's argument {key} must be a number or whole numbers, got {v!r}"
                )


def build(
    architecture: str, arguments: dict[str, Any], generator: torch.Generator | None = None
) -> Network:
    """Return a network by the name of its class and its arguments, with initial weights.

    Raises
    ------
    WeightsError
        If there is no such class, or the arguments are not its own.
    """
    try:
        return networks.build(architecture, arguments, generator)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"cannot build {architecture}: {error!r}") from error


def serialize(net: Network, about: Card) -> bytes:
    """Return the bytes of a weights file.

    Parameters
    ----------
    net : Network
        The network; its weights are stored in their own dtype, and computed with in float32.
    about : Card
        What to say of it.

    Returns
    -------
    bytes
        safetensors, which `load` and `card` read back from a file.
    """
    return weights.to_bytes(net.state_dict(), asdict(about))


def save(path: str | Path, net: Network, about: Card) -> None:
    """Write a network and its card as a weights file, which `load` and the command line take.

    Parameters
    ----------
    path : str or Path
        The file, ``.safetensors``; replaced, as a whole, if it is there.
    net : Network
        The network; its weights are stored in their own dtype.
    about : Card
        What to say of it.

    Raises
    ------
    WeightsError
        If the path ends otherwise, the card does not build a network of these weights, one of
        them is not finite, or the file cannot be written.

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
        build(about.architecture, about.arguments).load_state_dict(state)
    except RuntimeError as error:
        raise WeightsError(f"{path}: the network is not that of its card: {error}") from error
    try:
        with output_file(Path(path), overwrite=True) as file:
            file.write(serialize(net, about))
    except (ImageFileError, OSError) as error:
        raise WeightsError(f"the weights were not written: {error}") from error


def of_matlab(path: str | Path, scales: Iterable[int] = ()) -> tuple[Network, Card]:
    """Return the network of :func:`baselines.load_matlab`, and a card for :func:`crnet.save`.

    Parameters
    ----------
    path : str or Path
        ``.mat`` file of published weights.
    scales : iterable of int
        Those that the network was trained for, which the file does not say: one for SRCNN, any for
        VDSR; SCN is of ×2.

    Returns
    -------
    (Network, Card)
        The card has the name of the file, and says that the weights are from it.

    Raises
    ------
    WeightsError
        If the file is missing or none that `load_matlab` takes.
    ValueError
        If the scales are not such.
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
        raise ValueError(f"scales must be 2 of {path}, which is a stage of SCN; got {made}")
    if not made or made[0] < 2 or (isinstance(net, SRCNN) and len(made) > 1):
        wanted = "the one" if isinstance(net, SRCNN) else "those, ≥ 2,"
        raise ValueError(
            f"scales must be {wanted} that the {kind} of {path} was trained for, which the file "
            f"does not say; got {made or 'none'}"
        )
    name = re.sub(r"[^\w.+-]", "-", path.stem)
    told: dict[str, str | int | float] = {"weights": f"{path.name}, SHA-256 {sha256(path)}"}
    return net, Card(name, kind, _arguments(net), made, told, {})


def _arguments(net: SRCNN | VDSR | SCN) -> dict[str, int | float | bool | list[int]]:
    """Return the arguments that build a network of a ``.mat`` file, read off from its layers."""
    if isinstance(net, SCN):
        return {"M": net.W.out_channels}
    layers = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
    if isinstance(net, SRCNN):
        return {"middle": layers[1].kernel_size[0]}
    return {"depth": len(layers), "maps": layers[0].out_channels}


def card(name: str | Path) -> Card:
    """Return what a bundled model or a weights file says of itself, without reading the weights.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours.
    """
    path = find(name)
    return _card_of_training(path) if path.suffix == ".ckpt" else _card_in(path)


def load(name: str | Path = "crnet-a", *, device: str = "cpu") -> Network:
    """Return a trained network by its name or from a file, ready to evaluate.

    Parameters
    ----------
    name : str or Path
        A bundled model, see :func:`bundled`, the path of a safetensors file written by us, or of a
        checkpoint of training.
    device : str
        Where to put it.

    Returns
    -------
    Network
        In evaluation mode, float32; what its file says of it is ``card(name)``.

    Raises
    ------
    WeightsError
        If there is no such model, or the file is damaged or not one of ours.

    Examples
    --------
    >>> load("crnet-a").depth
    13
    """
    path = find(name)
    if path.suffix == ".ckpt":
        return _of_training(path).to(device)
    about = _card_in(path)
    state, _ = weights.read(path)
    net = build(about.architecture, about.arguments)
    try:
        net.load_state_dict(state)  # into float32, whatever is stored
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its architecture: {error}") from error
    return net.eval().to(device)


def _of_training(path: Path) -> Network:
    """Return the network of a checkpoint of training, with its averaged weights."""
    state = training_state(path)
    recipe = recipe_of(path, state)
    averaged = averaged_weights(state)
    _check_finite(path, averaged)
    net = build(recipe.architecture, recipe.network())
    try:
        net.load_state_dict(averaged)
    except RuntimeError as error:
        raise WeightsError(f"{path} does not fit its recipe: {error}") from error
    return net.eval()


def _check_finite(path: str | Path, state: dict[str, Tensor]) -> None:
    if not all(bool(torch.isfinite(w).all()) for w in state.values()):
        raise WeightsError(f"{path} holds weights that are not finite numbers")


def _card_of_training(path: Path) -> Card:
    state = training_state(path)
    recipe = recipe_of(path, state)
    curve = ", ".join(f"{int(step)}: {value:.2f}" for step, value in _thinned(state["history"]))
    excluded = ", ".join(recipe.exclude) or "nothing"
    return Card(
        name=re.sub(r"[^\w.+-]", "-", path.parent.name) or "run",
        architecture=recipe.architecture,
        arguments=recipe.network(),
        scales=recipe.scales,
        training={
            "data": f"{' + '.join(recipe.sets)} without {excluded}",
            "recipe": json.dumps(recipe.fields()),
            "steps": state["global_step"],
            "hours": round(state["seconds"] / 3600, 2),
            "curve": f"validation PSNR in dB by step: {curve or 'none'}",
        },
        psnr={},
    )


def _thinned(curve: list[list[float]], most: int = 20) -> list[list[float]]:
    """Return at most so many points of a curve, with its last one."""
    stride = max(1, -(-len(curve) // most))
    return curve[::-1][::stride][::-1]


def bundled() -> dict[str, Path]:
    """Return the models that ship with the package, name → file."""
    folder = Path(str(resources.files("crnet"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """Return the file of a bundled model or of a path.

    Raises
    ------
    WeightsError
        If there is neither a bundled model of this name nor such a file.
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
            f"{path} is of MATLAB; crnet export {path} NAME.safetensors makes a weights file of it"
        )
    return path


def _card_in(path: Path) -> Card:
    """Return the card in the header of a weights file."""
    fields, *_ = weights.header(path)
    try:
        if "architecture" not in fields:
            raise ValueError(f"it is of no network, but of {fields.get('name', 'something else')}")
        return Card(**{**fields, "scales": tuple(fields["scales"])})
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} is not a weights file of csc-crnet: {error}") from error
