"""Systems by their name on the command line.

The name is ``bicubic``, a sparse-coding baseline, a bundled model, a weights file or a checkpoint.
:func:`find` looks up a name and reads its card; `Found.open` then reads the weights.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from baselines import weights
from baselines.resample import bicubic
from baselines.sparse import csc_sr, scsr
from crnet import loading
from crnet.contracts import OnY, System
from crnet.ensemble import Ensemble
from crnet.errors import WeightsError
from crnet.loading import Card
from crnet.upscale import Upscaler

LEARNED: dict[str, Callable[[Path], System]] = {"scsr": scsr.load, "csc-sr": csc_sr.load}
"""Sparse-coding systems that learn, by the name on the card of their weights."""

BASELINES = ("bicubic", *LEARNED)
"""Names of the systems that are not networks."""


@dataclass(frozen=True)
class Found:
    """What a name means, before the weights are read.

    Attributes
    ----------
    title : str
        Label of its images: its name, or for the file of a baseline the file's stem.
    scales : tuple of int
        The scales it was made for; empty where it takes any.
    path : Path or None
        Its file; bicubic has none.
    card : Card or mapping or None
        What the file says: a :class:`crnet.Card` for a network, a mapping for a baseline.
    make : callable
        Called with (device, precision, memory_mib), it returns the system.
    """

    title: str
    scales: tuple[int, ...]
    path: Path | None
    card: Card | Mapping[str, Any] | None
    make: Callable[[str, str, float], System]

    def open(
        self,
        device: str = "cpu",
        *,
        ensemble: bool = False,
        precision: str = "float32",
        memory_mib: float = 1024,
    ) -> System:
        """Read the weights and return the system.

        Parameters
        ----------
        device, precision, memory_mib
            For a network, see :class:`crnet.Upscaler`.  Baselines ignore them: they run on the CPU
            in float32, without tiles.
        ensemble : bool
            Average over the eight flips and quarter turns.

        Raises
        ------
        WeightsError
            If the file is damaged, or its weights are not those of its card.
        """
        one = self.make(device, precision, memory_mib)
        return Ensemble(one) if ensemble else one


def find(name: str) -> Found:
    """Look up a name: a baseline, a bundled model, a weights file or a checkpoint.

    Only the header of a weights file is read.  A checkpoint is read once, as a whole.

    Parameters
    ----------
    name : str
        One of :data:`BASELINES` or of :func:`crnet.bundled`, or a path.

    Raises
    ------
    WeightsError
        If there is nothing of this name, or the file is damaged or not one of ours.

    Examples
    --------
    >>> import torch
    >>> find("bicubic").open()(torch.zeros(1, 1, 4, 5), 3).shape
    torch.Size([1, 1, 12, 15])
    >>> find("crnet-a").scales
    (2, 3, 4)
    """
    if name == "bicubic":
        return Found(name, (), None, None, lambda *_: OnY(bicubic))
    try:
        path = weights.bundled(name) if name in LEARNED else loading.find(name)
    except WeightsError as error:
        raise WeightsError(f"{error}; baselines: {', '.join(BASELINES)}") from error
    if path.suffix in (".ckpt", ".pth", ".pt"):
        return _network(loading.stored(path))
    card, *_ = weights.header(path)
    if "architecture" in card:
        return _network(loading.in_weights_file(path, card))
    return _baseline(path, card)


def _network(file: loading.Stored) -> Found:
    def make(device: str, precision: str, memory_mib: float) -> System:
        return Upscaler(file.network().to(device), memory_mib, precision=precision)

    return Found(file.card.name, file.card.scales, file.path, file.card, make)


def _baseline(path: Path, card: Mapping[str, Any]) -> Found:
    """Return what the weights file of a baseline holds."""
    kind = card.get("name")
    if kind not in LEARNED:
        raise WeightsError(
            f"{path} holds neither a network nor {' or '.join(LEARNED)}; "
            f"its card says {kind or 'nothing known'!r}"
        )
    try:
        scales = tuple(sorted(int(s) for s in card["scales"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not say its scales: {error!r}") from error
    return Found(path.stem, scales, path, card, lambda *_: LEARNED[kind](path))
