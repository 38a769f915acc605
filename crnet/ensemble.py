"""Geometric self-ensemble of any system; CRNet-B+ is the ensemble of CRNet-B.

    x̂(I) = ⅛ Σ_T T⁻¹ x(T I),     T over the eight flips and quarter turns

The average is taken in floating point, before clipping and rounding.  It commutes with every T.

References
----------
Timofte, Rothe, Van Gool, "Seven ways to improve example-based single image super resolution",
CVPR 2016; Lim et al., "Enhanced deep residual networks", CVPRW 2017, which CRNet-B+ follows.
"""

from dataclasses import dataclass

from torch import Tensor

from crnet.contracts import Function, OnTile, System, as_system, following, parameters


@dataclass(frozen=True)
class Ensemble:
    """A system x_lr, scale → x_sr, averaged over the eight flips and quarter turns.

    Examples
    --------
    >>> import torch
    >>> from baselines import bicubic
    >>> x = torch.rand(1, 1, 5, 7)
    >>> torch.allclose(Ensemble(bicubic)(x, 2), bicubic(x, 2), atol=1e-6)  # bicubic is symmetric
    True
    """

    system: System | Function

    @property
    def channels(self) -> int:
        """Channels of the image it takes: 1 is Y, 3 is RGB."""
        return as_system(self.system).channels

    def parameters_at(self, scale: int) -> int:
        """Count the learned numbers of the system for a scale."""
        return parameters(self.system, scale)

    def following(self, on_tile: OnTile, memory_mib: float | None = None) -> "Ensemble":
        """Return the same ensemble, which calls `on_tile` after each tile of each pass."""
        return Ensemble(following(as_system(self.system), on_tile, memory_mib))

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR image (B, C, scale·h, scale·w) of an LR image (B, C, h, w)."""
        total = self.system(x, scale)  # turn 0
        for turn in range(1, 8):
            total = total + unturned(self.system(turned(x, turn), scale), turn)
        return total / 8


def turned(x: Tensor, turn: int) -> Tensor:
    """Return flip or quarter turn number `turn` < 8 of images (..., H, W)."""
    x = x.rot90(turn % 4, (-2, -1))
    return x.flip(-1) if turn >= 4 else x


def unturned(x: Tensor, turn: int) -> Tensor:
    """Undo `turned`."""
    x = x.flip(-1) if turn >= 4 else x
    return x.rot90(-(turn % 4), (-2, -1))
