"""Recipes: everything a training run depends on besides the images, one flat record.

A recipe is a TOML file, bundled under ``crnet/training/recipes`` or the user's own.  Each field
can be overridden on the command line.  The resolved recipe is saved with the run.
"""

import dataclasses
import difflib
import json
import math
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, get_args, get_origin

from crnet import networks
from crnet.errors import RecipeError, words


@dataclass(frozen=True)
class Recipe:
    """What a run depends on, besides the images.

    Attributes
    ----------
    architecture : str
        Class of the network, one of :data:`crnet.networks.ARCHITECTURES`.
    n0 : int
        Feature maps of a CRNet.
    m0 : int
        Code maps of a CRNet, one per atom.
    recursions : int
        Recursions K of a CRNet.
    bias : bool
        Whether a CRNet has biases; the paper's has none.
    threshold : bool
        Whether a CRNet learns a threshold per atom; the paper's threshold is 0.
    residual : bool
        Whether CRNet-A adds its input to its output.
    border : int
        LR pixels by which CRNet-B extends the image to each side, and crops the result.
    sizes : dict
        Arguments of the other networks, such as ``depth=8 maps=32``.
    scales : tuple of int
        Scales to train, all in one network.
    sets : tuple of str
        Image sets to train on.
    exclude : tuple of str
        File names to leave out of the sets.
    validation : tuple of str
        Image sets to validate on; empty for no validation.
    patch : int
        Side of a patch in pixels of the network's input: HR pixels for networks on the enlarged
        image, LR pixels for the others.
    batch : int
        Patches per step, over all devices.
    detail : float
        A patch is drawn with probability ∝ (its mean |HR − bicubic|)^detail; 0 is uniform.
    flat : int
        Patches of a step that are one flat colour each, so that flat images stay flat.
    deep : float
        Weight α of deep supervision in DRCN and MemNet: the loss is α times the mean loss of the
        images after each recursion or block, plus 1 − α times the loss of the output.
    loss : str
        ``l1`` and ``l2`` are means over pixels; ``l2-sum`` is eq. 15: ½ Σ over the pixels, mean
        over the patches.
    steps : int
        Updates of the weights.
    minutes : float
        Minutes to train; 0 trains for `steps` instead.  With minutes the schedule follows the
        clock, so the run ends annealed on any machine.  Two such runs are not equal bit for bit.
    optimizer : str
        ``adam``, ``muon`` (:mod:`crnet.training.muon`) or ``sgd``.
    lr : float
        Learning rate.
    momentum : float
        Momentum of the optimizer; β₁ of Adam.
    weight_decay : float
        Weight decay of the optimizer.
    warmup : int
        Steps in which the rate rises linearly from zero.
    schedule : str
        ``cosine`` falls to zero at the end; ``step`` multiplies the rate by `decay_factor`
        every `decay_every` steps.
    decay_every : int
        Steps between the decays of the ``step`` schedule.
    decay_factor : float
        Factor of each decay of the ``step`` schedule.
    clip : float
        Largest norm of the gradient of all weights together; larger ones are scaled down.
    ema : float
        Decay of the averaged weights, which are validated and exported.
    seed : int
        Seed of the initial weights and of the patches.
    start : str
        Bundled model or weights file to start from; empty for random weights.
    teacher : str
        Bundled model, weights file or checkpoint whose images replace HR as targets; empty for HR.
    precision : str
        ``bf16-mixed``, ``32-true``, or ``auto`` for the faster of them on the device
        (:mod:`crnet.precision`).
    recompute : bool
        Recompute the recursions in the backward pass instead of storing them.
    """

    architecture: str = "CRNetA"
    n0: int = 64
    m0: int = 128
    recursions: int = 12
    bias: bool = False
    threshold: bool = False
    residual: bool = True
    border: int = 0
    sizes: dict[str, Any] = dataclasses.field(default_factory=dict)
    scales: tuple[int, ...] = (2, 3, 4)
    sets: tuple[str, ...] = ("T91", "BSDS200-train")
    exclude: tuple[str, ...] = ("302003.jpg",)
    validation: tuple[str, ...] = ("gb82",)
    patch: int = 32
    batch: int = 8
    detail: float = 0.0
    flat: int = 0
    deep: float = 0.0
    loss: str = "l1"
    steps: int = 20_000
    minutes: float = 0.0
    optimizer: str = "adam"
    lr: float = 1e-3
    momentum: float = 0.9
    weight_decay: float = 0.0
    warmup: int = 200
    schedule: str = "cosine"
    decay_every: int = 10_000
    decay_factor: float = 0.1
    clip: float = 0.4
    ema: float = 0.999
    seed: int = 0
    start: str = ""
    teacher: str = ""
    precision: str = "auto"
    recompute: bool = False

    def __post_init__(self) -> None:
        """Refuse what cannot be trained, before any work."""
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if not _fits(value, field.type):
                raise RecipeError(
                    f"recipe field {field.name} must be {_told(field.type)}, got {value!r}"
                )
        positive = ("n0", "m0", "patch", "batch", "steps", "decay_every", "lr", "clip")
        for name in (*positive, "decay_factor"):
            if not 0 < getattr(self, name) < math.inf:
                raise RecipeError(f"{name} must be finite and > 0, got {getattr(self, name)}")
        for name in ("recursions", "border", "minutes", "seed", "warmup", "detail",
                     "flat", "weight_decay"):  # fmt: skip
            if not 0 <= getattr(self, name) < 2**63:
                raise RecipeError(f"{name} must be finite and ≥ 0, got {getattr(self, name)}")
        for name in ("ema", "momentum"):
            if not 0 <= getattr(self, name) < 1:
                raise RecipeError(f"{name} must be in [0, 1), got {getattr(self, name)}")
        if self.flat >= self.batch:
            raise RecipeError(f"flat must be below batch = {self.batch}, got {self.flat}")
        if not 0 <= self.deep <= 1:
            raise RecipeError(f"deep must be in [0, 1], got {self.deep}")
        if not self.scales or not set(self.scales) <= {2, 3, 4}:
            raise RecipeError(f"scales must be some of 2, 3 and 4, got {words(self.scales, 'and')}")
        if not self.sets:
            raise RecipeError("sets must name at least one image set")
        for name, known in _CHOICES.items():
            if getattr(self, name) not in known:
                raise RecipeError(f"{name} must be {words(known)}, got {getattr(self, name)!r}")
        self._check_network()

    def _check_network(self) -> None:
        """Refuse arguments that the network does not take, and scales that it does not make."""
        name, known = self.architecture, networks.arguments_of(self.architecture)
        crnet = "n0" in known
        own = set(known) - {"scale", "scales", "channels", *(_OF_CRNETS if crnet else ())}
        for key in self.sizes:
            if key not in own:
                told = f"; it takes {words(sorted(own), 'and')}" if own else ""
                raise RecipeError(f"{name} has no size {key!r}{_nearest(key, sorted(own))}{told}")
        for field in () if crnet else dataclasses.fields(self):
            if field.name in _OF_CRNETS and getattr(self, field.name) != field.default:
                raise RecipeError(f"{field.name} is a field of CRNets; {name} takes sizes")
        if not self.residual and "residual" not in known:
            raise RecipeError(f"{name} cannot leave out its skip")
        if self.border and "border" not in known:
            raise RecipeError(f"{name} has no border; it must be 0")
        if "scale" in known and len(self.scales) != 1:
            raise RecipeError(f"a {name} makes one scale, got {words(self.scales, 'and')}")
        if not crnet:  # the sizes of a CRNet are fields, checked above
            self._check_sizes()
        if self.deep and name not in networks.DEEPLY_SUPERVISED:
            raise RecipeError(f"{name} has one output; deep must be 0")

    def _check_sizes(self) -> None:
        for key, default in networks.arguments_of(self.architecture).items():
            value = self.sizes.get(key, default)
            if isinstance(default, bool) and not isinstance(value, bool):
                raise RecipeError(f"{key} must be true or false, got {value}")
        try:
            made = networks.check(self.architecture, self.network())
        except (TypeError, ValueError, RuntimeError) as error:
            raise RecipeError(f"{self.architecture} cannot have these sizes: {error}") from None
        if made and not set(self.scales) <= set(made):
            missing = words(s for s in self.scales if s not in made)
            raise RecipeError(
                f"this {self.architecture} upscales by {words(made)}, not by {missing}"
            )

    def rate(self, step: int, spent: float | None = None) -> float:
        """Return the learning rate of a step as a part of `lr`: warm-up times the schedule.

        Parameters
        ----------
        step : int
            Steps done.
        spent : float, optional
            Fraction of the `minutes` that has passed; the schedule follows it instead of the step,
            and the warm-up ends after a twentieth of the time at the latest.
        """
        warm = (step + 1) / max(1, self.warmup)
        at: float = step
        if spent is not None:
            warm, at = max(warm, 20 * spent), spent * self.steps
        warm = min(1.0, warm)
        if self.schedule == "step":
            return warm * math.pow(self.decay_factor, at // self.decay_every)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, at / self.steps)))

    def network(self) -> dict[str, Any]:
        """Return the arguments that build the network."""
        known = networks.arguments_of(self.architecture)
        values = {name: getattr(self, name) for name in _OF_CRNETS}
        values |= {"scale": self.scales[0], "scales": list(self.scales)}
        if self.residual:  # the default, which is left out
            del values["residual"]
        if not self.border:
            del values["border"]
        own = {name: value for name, value in values.items() if name in known}
        if "n0" not in known:
            own = {name: own[name] for name in ("scale", "scales") if name in own}
        return own | self.sizes

    def fields(self) -> dict[str, Any]:
        """Return the fields that the architecture has; the others have their defaults."""
        known = networks.arguments_of(self.architecture)
        crnet = "n0" in known
        absent = {name for name in _OF_CRNETS if not (crnet and name in known)}
        absent |= {"sizes"} if crnet else {"recompute"}
        absent |= set() if self.architecture in networks.DEEPLY_SUPERVISED else {"deep"}
        usual = defaults()
        return {
            name: value
            for name, value in dataclasses.asdict(self).items()
            if name not in absent or value != usual[name]
        }

    def toml(self) -> str:
        """Return the recipe as TOML, which `read` takes back."""

        def written(value: Any) -> str:
            if isinstance(value, dict):
                return "{" + ", ".join(f"{k} = {written(v)}" for k, v in value.items()) + "}"
            # TOML writes values as JSON does, except for surrogate pairs and DEL.
            return json.dumps(value, ensure_ascii=False)

        lines = (f"{k} = {written(v)}" for k, v in self.fields().items())
        return "\n".join(lines).replace("\x7f", "\\u007f") + "\n"

    def differences(self, other: "Recipe") -> list[str]:
        """Return the fields in which another recipe differs, as ``field: here, there``."""
        mine, theirs = dataclasses.asdict(self), dataclasses.asdict(other)
        return [f"{k}: {v}, {theirs[k]}" for k, v in mine.items() if theirs[k] != v]


_OF_CRNETS = ("n0", "m0", "recursions", "bias", "threshold", "residual", "border")

_EARLIER = {"checkpoint": "recompute"}  # names in earlier versions: names of today

_CHOICES = {
    "architecture": tuple(networks.ARCHITECTURES),
    "loss": ("l1", "l2", "l2-sum"),
    "optimizer": ("adam", "muon", "sgd"),
    "schedule": ("cosine", "step"),
    "precision": ("auto", "bf16-mixed", "32-true"),
}


def defaults() -> dict[str, Any]:
    """Return the value of each field that a recipe leaves out."""
    return dataclasses.asdict(Recipe())


def bundled() -> dict[str, Path]:
    """Return the recipes that ship with the package, name → file."""
    folder = Path(str(resources.files("crnet.training"))) / "recipes"
    return {path.stem: path for path in sorted(folder.glob("*.toml"))}


def read(name: str | Path, overrides: Mapping[str, Any] | None = None) -> Recipe:
    """Return a recipe by its bundled name or from a TOML file, with some fields replaced.

    Raises
    ------
    RecipeError
        If there is no such recipe, it is not TOML, has an unknown field (the message names the
        nearest one), or describes a run that is not possible.

    Examples
    --------
    >>> read("crnet-a-paper").m0, read("crnet-a-paper", {"m0": 128}).m0
    (256, 128)
    """
    known = bundled()
    path = known.get(str(name), Path(name))
    try:
        fields = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, IsADirectoryError):
        raise RecipeError(f"no recipe and no file {name}{_nearest(str(name), list(known))}; "
                          f"bundled recipes: {', '.join(known)}") from None  # fmt: skip
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise RecipeError(f"{path} is not a recipe: {error}") from error
    try:
        return from_fields({**fields, **(overrides or {})})
    except RecipeError as error:
        raise RecipeError(f"{path}: {error}") from None


def from_fields(fields: Mapping[str, Any]) -> Recipe:
    """Return the recipe of a mapping; lists may stand for tuples and whole numbers for floats.

    Fields may also have their names in earlier versions.

    Raises
    ------
    RecipeError
        If a field is unknown or has an invalid value.
    """
    types = {field.name: field.type for field in dataclasses.fields(Recipe)}
    taken: dict[str, Any] = {}
    renamed = {_EARLIER[name]: fields[name] for name in _EARLIER if name in fields}
    given = {name: value for name, value in fields.items() if name not in _EARLIER}
    for name, value in {**renamed, **given}.items():
        if name not in types:
            raise RecipeError(f"unknown recipe field {name!r}{_nearest(name, list(types))}")
        taken[name] = tuple(value) if isinstance(value, list) else value
        if types[name] is float and type(value) is int:
            taken[name] = float(value)
    return Recipe(**taken)


def _fits(value: Any, kind: Any) -> bool:
    if get_origin(kind) is tuple:
        return isinstance(value, tuple) and all(type(v) is get_args(kind)[0] for v in value)
    if get_origin(kind) is dict:
        return isinstance(value, dict) and all(
            type(v) in (int, float, bool) for v in value.values()
        )
    return type(value) is kind


def _told(kind: Any) -> str:
    if get_origin(kind) is tuple:
        return f"a list of {get_args(kind)[0].__name__}"
    if get_origin(kind) is dict:
        return "a table of numbers"
    return {int: "a whole number", float: "a number", bool: "true or false", str: "text"}[kind]


def _nearest(name: str, known: list[str]) -> str:
    close = difflib.get_close_matches(name, known, 1)
    return f"; did you mean {close[0]}?" if close else ""
