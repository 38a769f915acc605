"""Weights as safetensors that describe themselves.

The header carries a card: architecture and its arguments, scales, what it was trained on and how,
the PSNR that was measured, and a SHA-256 of it all.  A file is enough to rebuild its network;
nothing is unpickled.
"""

import hashlib
import json
import re
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from crnet.model import CRNetA

_ARCHITECTURES: dict[str, Callable[..., CRNetA]] = {"CRNetA": CRNetA}


class CheckpointError(Exception):
    """A weights file is missing, damaged, or not one of ours."""


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
    """

    name: str
    architecture: str
    arguments: dict[str, int | bool]
    scales: tuple[int, ...]
    training: dict[str, str | int | float]
    psnr: dict[str, dict[str, float]]


def serialize(net: CRNetA, about: Card) -> bytes:
    """Return the bytes of a weights file.

    Parameters
    ----------
    net : CRNetA
        The network; its weights are stored in their own dtype.
    about : Card
        What to say of it.

    Returns
    -------
    bytes
        safetensors, which `load` and `card` read back from a file.
    """
    state = {k: v.detach().cpu().contiguous() for k, v in net.state_dict().items()}
    text = json.dumps(asdict(about))
    return save(state, metadata={"card": text, "sha256": _digest(state, text)})


def card(name: str | Path) -> Card:
    """Return what a bundled model or a weights file says of itself, without reading the weights.

    Raises
    ------
    CheckpointError
        If the file is missing, damaged or not one of ours.
    """
    return _open(find(name))[0]


def load(name: str | Path = "crnet-a", *, device: str = "cpu") -> CRNetA:
    """Return a trained network by its name or from a file, ready to evaluate.

    Parameters
    ----------
    name : str or Path
        A bundled model, see :func:`bundled`, or the path of a safetensors file written by us.
    device : str
        Where to put it.

    Returns
    -------
    CRNetA
        In evaluation mode; what its file says of it is ``card(name)``.

    Raises
    ------
    CheckpointError
        If there is no such model, or the file is damaged or not one of ours.

    Examples
    --------
    >>> load("crnet-a").depth
    17
    """
    path = find(name)
    about, digest = _open(path)
    try:
        with safe_open(path, framework="pt") as file:
            state = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        if _digest(state, json.dumps(asdict(about))) != digest:
            raise CheckpointError(f"{path} is damaged: it does not match its checksum")
        if not all(t.is_floating_point() and bool(torch.isfinite(t).all()) for t in state.values()):
            raise CheckpointError(f"{path} holds weights that are not finite numbers")
        net = _ARCHITECTURES[about.architecture](**about.arguments)
        net.load_state_dict(state)
    except (KeyError, TypeError, ValueError, RuntimeError, SafetensorError) as error:
        raise CheckpointError(f"{path} does not fit its architecture: {error}") from error
    return net.eval().to(device)


def bundled() -> dict[str, Path]:
    """Return the models that ship with the package, name → file."""
    folder = Path(str(resources.files("crnet"))) / "weights"
    return {path.stem: path for path in sorted(folder.glob("*.safetensors"))}


def find(name: str | Path) -> Path:
    """Return the file of a bundled model or of a path.

    Raises
    ------
    CheckpointError
        If there is neither a bundled model of this name nor such a file.
    """
    models = bundled()
    if str(name) in models:
        return models[str(name)]
    path = Path(name)
    if not path.is_file():
        known = ", ".join(models) or "none"
        raise CheckpointError(f"no model and no file {name}; bundled models: {known}")
    return path


def _open(path: Path) -> tuple[Card, str]:
    """Return the card and the checksum in the header of a file."""
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
        fields = json.loads(header["card"])
        about = Card(**{**fields, "scales": tuple(fields["scales"])})
        sane = isinstance(about.name, str) and bool(re.fullmatch(r"[\w.+-]+", about.name))
        sane = sane and all(isinstance(s, int) and s > 0 for s in about.scales)
        sane = sane and all(isinstance(v, int) for v in about.arguments.values())
        if not sane:
            raise ValueError("its card is malformed")
        return about, header["sha256"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no weights file {path}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise CheckpointError(f"{path} is not a weights file of csc-crnet: {error}") from error


def _digest(state: dict[str, Tensor], text: str) -> str:
    """Return the SHA-256 of the card and the weights."""
    digest = hashlib.sha256(text.encode())
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
