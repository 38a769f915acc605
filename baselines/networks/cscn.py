"""CSCN: a cascade of SCNs, each after a bicubic enlargement by ×2.

    x ← SCN_i(bicubic(x, 2))     until the image is large enough,

and bicubic reduces it to the requested size.  Every SCN has weights of its own.

References
----------
Wang, Liu, Yang, Han, Huang, "Deep networks for image super-resolution with sparse prior", ICCV
2015.
"""

import math

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.scn import SCN
from baselines.resample import resample
from csc.checks import words


class CSCN(nn.Module):
    """The cascade, one network for several scales, on LR Y in [0, 1].

    All stages are trained together; at ×3 and ×4 the first learns through the second.  :meth:`of`
    makes a cascade of trained networks, for example of the two that were published::

        CSCN.of(load_matlab(first), load_matlab(second))

    Parameters
    ----------
    stages : int
        Number n of SCNs, from 1 to 6; they make the scales from 2 to 2ⁿ.
    M : int
        Atoms of each SCN.
    lam, generator
        As in :class:`~baselines.networks.scn.SCN`.

    Examples
    --------
    >>> CSCN()(torch.rand(1, 1, 6, 5), 3).shape
    torch.Size([1, 1, 18, 15])
    """

    enlarged: bool = False
    rgb: bool = False
    scales: tuple[int, ...]
    takes_scale: bool = True

    def __init__(
        self,
        stages: int = 2,
        M: int = 128,
        *,
        lam: float = 0.2,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        check_sizes(stages=stages)
        if stages > 6:
            raise ValueError(f"a CSCN has at most 6 stages, which make ×64; got {stages}")
        self.scales = tuple(range(2, 2**stages + 1))
        self.stages = nn.ModuleList(SCN(M, lam=lam, generator=generator) for _ in range(stages))

    @classmethod
    def of(cls, *stages: SCN) -> "CSCN":
        """Return the cascade of SCNs with equally many atoms; it keeps the SCNs themselves.

        Raises
        ------
        ValueError
            If there are no SCNs, or their numbers of atoms differ.
        """
        sizes = {stage.S.in_channels for stage in stages}
        if len(sizes) > 1:
            raise ValueError(
                f"the stages must have equally many atoms, got {words(sorted(sizes), 'and')}"
            )
        net = cls(len(stages), *sizes)
        net.stages = nn.ModuleList(stages)
        return net.train(stages[0].training)

    @property
    def reach(self) -> int:
        """Bound the number of LR pixels to each side that an output pixel depends on.

        Stage i reads 6 pixels at ×2ⁱ, which are 6/2ⁱ LR pixels.  Its bicubic reads less than 2
        pixels at ×2ⁱ⁻¹.  The reduction reads less than 2 pixels of the output.  These are widest
        at the smallest scale of the last stage.
        """
        n = len(self.stages)
        reduction = 2 / (2 ** (n - 1) + 1) if n > 1 else 0.0
        return math.ceil((SCN.reach + 4) * (1 - 0.5**n) + reduction)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Map LR images (B, 1, h, w) to sharp images (B, 1, scale·h, scale·w)."""
        if x.ndim != 4 or x.shape[1] != 1 or not x.is_floating_point():
            raise ValueError(
                "CSCN takes floating-point Y (B, 1, h, w) in [0, 1], "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        if scale not in self.scales:
            raise ValueError(f"this CSCN upscales by {words(self.scales)}, not by {scale}")
        h, w = x.shape[-2:]
        factor = 1
        for stage in self.stages:
            if factor < scale:
                factor *= 2
                x = stage(resample(x, (factor * h, factor * w), (2.0, 2.0)))
        if factor == scale:
            return x
        return resample(x, (scale * h, scale * w), (scale / factor, scale / factor))
