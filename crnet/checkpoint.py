"""Weights as safetensors that describe themselves.

The header carries a card: architecture and its arguments, scales, what it was trained on and how,
the PSNR that was measured, and a SHA-256 of the weights.  A file is enough to rebuild its network;
nothing is unpickled.
"""

import hashlib
import json
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
    return save(state, metadata={"card": json.dumps(asdict(about)), "sha256": _digest(state)})


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
        if _digest(state) != digest:
            raise CheckpointError(f"{path} is damaged: its weights do not match their checksum")
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
        return Card(**{**fields, "scales": tuple(fields["scales"])}), header["sha256"]
    except FileNotFoundError as error:
        raise CheckpointError(f"no weights file {path}") from error
    except (SafetensorError, KeyError, TypeError, ValueError, OSError) as error:
        raise CheckpointError(f"{path} is not a weights file of csc-crnet: {error}") from error


def _digest(state: dict[str, Tensor]) -> str:
    digest = hashlib.sha256()
    for name in sorted(state):
        tensor = state[name].contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        digest.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
