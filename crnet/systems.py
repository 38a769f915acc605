"""What a name on the command line means: a system x_lr → x_sr.

``bicubic``, a sparse-coding baseline, a bundled model, a weights file or a checkpoint: each becomes
a callable of an LR image and a scale.  What a weights file is of, its card says.
"""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from torch import Tensor

from baselines import weights
from baselines.resample import bicubic
from baselines.sparse import csc_sr, scsr
from crnet import loading
from crnet.ensemble import Ensemble
from crnet.errors import WeightsError
from crnet.upscale import Upscaler

System: TypeAlias = Callable[[Tensor, int], Tensor]
"""A system: LR Y in [0, 1], (1, 1, h, w), and the scale to HR Y, (1, 1, scale·h, scale·w).

One whose attribute `channels` is 3 takes and returns RGB instead.  `parameters`, where it has the
attribute, is the number of its learned numbers, or that of ``at(scale)``, what runs at a scale.
"""

LEARNED: dict[str, Callable[[Path], System]] = {"scsr": scsr.load, "csc-sr": csc_sr.load}
"""Systems of sparse coding that weights files may be of, by the name on their card."""

BASELINES = ("bicubic", *LEARNED)
"""Names of the systems that are no networks."""


def system(
    name: str,
    device: str = "cpu",
    *,
    ensemble: bool = False,
    precision: str = "float32",
    memory_mib: float = 1024,
) -> System:
    """Return a system by name: a baseline, a bundled model, a weights file or a checkpoint.

    Parameters
    ----------
    name : str
        One of :data:`BASELINES` or of :func:`crnet.bundled`, or a path: of a weights file, of a
        network or of sparse coding, or of a checkpoint.
    device, precision, memory_mib
        Of a network, see :class:`crnet.Upscaler`; baselines run on the CPU, whole, in float32.
    ensemble : bool
        Average over the eight flips and quarter turns.

    Raises
    ------
    WeightsError
        If there is none of this name, or the file is damaged or not one of ours.

    Examples
    --------
    >>> import torch
    >>> system("bicubic")(torch.zeros(1, 1, 4, 5), 3).shape
    torch.Size([1, 1, 12, 15])
    """
    one: System
    file = _learned(name)
    if name == "bicubic":
        one = bicubic
    elif file:
        path, card = file
        one = LEARNED[card["name"]](path)
    else:
        one = Upscaler(loading.load(name, device=device), memory_mib, precision=precision)
    return Ensemble(one) if ensemble else one


def _learned(name: str) -> tuple[Path, dict[str, Any]] | None:
    """Return the file of sparse coding that a name means, and its card; None if it means none."""
    if name == "bicubic":
        return None
    try:
        path = weights.bundled(name) if name in LEARNED else loading.find(name)
    except WeightsError as error:
        raise WeightsError(f"{error}; baselines: {', '.join(BASELINES)}") from error
    if path.suffix == ".ckpt":
        return None
    card, *_ = weights.header(path)
    if "architecture" in card:
        return None
    if card.get("name") not in LEARNED:
        raise WeightsError(
            f"{path} is neither of a network nor of {' or '.join(LEARNED)}: "
            f"its card is of {card.get('name', 'nothing known')!r}"
        )
    return path, card


def following(upscale: System, on_tile: Callable[[int, int], None]) -> System:
    """Return a system that tells of its tiles, where it has some."""
    if isinstance(upscale, Ensemble):
        return Ensemble(following(upscale.system, on_tile))
    if isinstance(upscale, Upscaler):
        return dataclasses.replace(upscale, on_tile=on_tile)
    return upscale


def scales(name: str) -> tuple[int, ...]:
    """Return the scales that a system was made for; none where it takes any.

    Raises
    ------
    WeightsError
        If there is none of this name, or the file is not one of ours.
    """
    if name == "bicubic":
        return ()
    file = _learned(name)
    if not file:
        return loading.card(name).scales
    path, card = file
    try:
        return tuple(sorted(int(s) for s in card["scales"]))
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} does not say its scales: {error!r}") from error


def title(name: str) -> str:
    """Return what to call the images of a system: its name, or that of its file.

    Raises
    ------
    WeightsError
        If there is none of this name, or the file is not one of ours.
    """
    if name == "bicubic" or _learned(name):
        return Path(name).stem
    return loading.card(name).name


def parameters(upscale: System, scale: int) -> int:
    """Return the number of learned numbers of a system, 0 where it has none.

    Of one that keeps a model for each scale, they are those of the model of this scale.  A network
    that serves several scales counts as a whole.
    """
    inside = upscale.system if isinstance(upscale, Ensemble) else upscale
    model = inside.at(scale) if hasattr(inside, "at") else inside
    return int(getattr(model, "parameters", 0))
