"""What a name on the command line means: a system x_lr → x_sr.

``bicubic``, a sparse-coding baseline, a bundled model, a weights file or a checkpoint: each becomes
a callable of an LR image and a scale.
"""

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from baselines import csc_sr, scsr
from baselines.bicubic import bicubic
from crnet import checkpoint
from crnet.ensemble import Ensemble
from crnet.upscale import Upscaler

System: TypeAlias = Callable[[Tensor, int], Tensor]
"""A system: LR Y in [0, 1], (1, 1, h, w), and the scale to HR Y, (1, 1, scale·h, scale·w).

One whose attribute `channels` is 3 takes and returns RGB instead.  `parameters`, where it has the
attribute, is the number of its learned numbers.
"""

BASELINES: dict[str, Callable[[], System]] = {
    "bicubic": lambda: bicubic,
    "scsr": scsr.load,
    "csc-sr": csc_sr.load,
}
"""Systems that are no networks, by name."""


def system(
    name: str, device: str = "cpu", *, ensemble: bool = False, precision: str = "float32"
) -> System:
    """Return a system by name: a baseline, a bundled model, a weights file or a checkpoint.

    Parameters
    ----------
    name : str
        One of :data:`BASELINES` or of :func:`crnet.bundled`, or a path.
    device, precision : str
        Of a network, see :class:`crnet.Upscaler`; baselines run on the CPU in float32.
    ensemble : bool
        Average over the eight flips and quarter turns.

    Raises
    ------
    CheckpointError
        If there is none of this name.

    Examples
    --------
    >>> import torch
    >>> system("bicubic")(torch.zeros(1, 1, 4, 5), 3).shape
    torch.Size([1, 1, 12, 15])
    """
    one: System
    if name in BASELINES:
        one = BASELINES[name]()
    else:
        one = Upscaler(checkpoint.load(name, device=device), precision=precision)
    return Ensemble(one) if ensemble else one


def scales(name: str) -> tuple[int, ...]:
    """Return the scales that a system was made for; none where it takes any.

    Raises
    ------
    CheckpointError
        If there is none of this name.
    """
    if name in BASELINES:
        return tuple(getattr(BASELINES[name](), "scales", ()))
    return checkpoint.card(name).scales


def parameters(upscale: System) -> int:
    """Return the number of learned numbers of a system; 0 where it has none."""
    inside = upscale.system if isinstance(upscale, Ensemble) else upscale
    return int(getattr(inside, "parameters", 0))
