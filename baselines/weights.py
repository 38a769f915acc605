"""Weights files: safetensors with a card and a checksum in the header.

The header holds two texts: ``card``, a JSON object that describes the weights, and ``sha256``, a
checksum of the card and the tensors.  Reading a file never unpickles anything.  The sparse-coding
baselines use these functions directly; :mod:`crnet.loading` adds networks and their cards.
"""

import hashlib
import json
import os
import secrets
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_safetensors
from torch import Tensor


class CRNetError(Exception):
    """Base of the errors about files, image sets, recipes and runs; see :mod:`crnet.errors`."""


class WeightsError(CRNetError):
    """A weights file is missing, damaged, not one of ours, or cannot be written."""


def bundled(name: str) -> Path:
    """Return the path of the bundled weights of a sparse-coding baseline."""
    return Path(str(resources.files("baselines.sparse"))) / "weights" / f"{name}.safetensors"


def read(path: str | Path) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the tensors and the card of a file of :func:`write`.

    Parameters
    ----------
    path : str or Path
        The file.

    Returns
    -------
    (dict of Tensor, dict)
        Tensors by name, on the CPU and in the dtype of the file; and the card.

    Raises
    ------
    WeightsError
        If the file is missing, damaged or not one of ours, or if it holds NaN or infinite numbers.
    """
    card, text, expected = header(path)
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        raise WeightsError(f"{path} is not a weights file of csc-crnet: {error}") from error
    if digest(tensors, text) != expected:
        raise WeightsError(f"{path} is damaged: it does not match its checksum")
    for name, tensor in tensors.items():
        number = tensor.is_floating_point() or tensor.ndim == 0  # or a counter of steps
        if not (number and bool(torch.isfinite(tensor).all())):
            raise WeightsError(f"{path}: {name} holds values that are not finite numbers")
    return tensors, card


def header(path: str | Path) -> tuple[dict[str, Any], str, str]:
    """Return the content of the header of a weights file, without reading the tensors.

    Returns
    -------
    (dict, str, str)
        The card, its text, and the checksum of text and tensors.

    Raises
    ------
    WeightsError
        If the file is missing, or its header is not that of a weights file.
    """
    if not Path(path).is_file():
        raise WeightsError(f"no weights file {path}")
    try:
        with safe_open(path, framework="pt") as file:
            found = file.metadata() or {}
        text, checksum = found["card"], found["sha256"]
        card = json.loads(text)
        if not isinstance(card, dict):
            raise TypeError("its card is not a JSON object")
    except (SafetensorError, KeyError, TypeError, ValueError, OSError, RecursionError) as error:
        raise WeightsError(f"{path} is not a weights file of csc-crnet: {error}") from error
    return card, text, checksum


def write(path: str | Path, tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> None:
    """Write tensors and a card to a file for :func:`read`, all of it or nothing.

    Parameters
    ----------
    path : str or Path
        The file; replaced if it exists.
    tensors : mapping of str to Tensor
        Floating-point tensors by name; the dtype is kept.
    card : mapping
        Description of the weights, for JSON.

    Raises
    ------
    TypeError, ValueError
        If the card does not fit into JSON; NaN does not.
    WeightsError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     write(f"{folder}/a.safetensors", {"D": torch.ones(2)}, {"name": "a"})
    ...     read(f"{folder}/a.safetensors")
    ({'D': tensor([1., 1.])}, {'name': 'a'})
    """
    content, path = to_bytes(tensors, card), Path(path)
    part = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        part.write_bytes(content)
        os.replace(part, path)
    except OSError as error:
        raise WeightsError(f"{path} was not written: {error}") from error
    finally:
        part.unlink(missing_ok=True)


def to_bytes(tensors: Mapping[str, Tensor], card: Mapping[str, Any]) -> bytes:
    """Return the content of a weights file; the arguments are those of :func:`write`."""
    # safetensors refuses tensors that share memory, so a shared weight is stored for every name.
    state = {k: v.detach().cpu().contiguous().clone() for k, v in tensors.items()}
    text = json.dumps(dict(card), allow_nan=False)
    return to_safetensors(state, metadata={"card": text, "sha256": digest(state, text)})


def digest(tensors: Mapping[str, Tensor], text: str) -> str:
    """Return the SHA-256 of a card's text and of the tensors: name, dtype, shape and content."""
    found = hashlib.sha256(text.encode())
    for name in sorted(tensors):
        tensor = tensors[name].contiguous()
        found.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        found.update(tensor.flatten().view(torch.uint8).numpy().tobytes())
    return found.hexdigest()
