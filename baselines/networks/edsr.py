"""EDSR: residual blocks without normalisation on the LR image.

    −mean → conv → 32 blocks (×0.1), conv, + → upsampler → conv → +mean

References
----------
Lim, Son, Kim, Nah, Lee, "Enhanced deep residual networks for single image super-resolution", CVPRW
2017.  EDSR has 40,729,603, 43,680,003 and 43,089,923 parameters for ×2, ×3 and ×4.  The baseline of
16 blocks of 64 maps has 1,369,859, 1,554,499 and 1,517,571.
"""

import math

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.edsr_layers import MEAN, ResidualBlock, Upsampler, conv, shift


class EDSR(nn.Module):
    """EDSR for one scale, on RGB in [0, 1].

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    blocks, maps : int
        Residual blocks and feature maps; 16 and 64 are the authors' baseline.
    size : float
        Residual scaling; 0.1, and 1 for the baseline.

    Examples
    --------
    >>> EDSR(3, blocks=2, maps=8)(torch.zeros(1, 3, 6, 5)).shape
    torch.Size([1, 3, 18, 15])
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = False
    mean: Tensor

    def __init__(self, scale: int, blocks: int = 32, maps: int = 256, *, size: float = 0.1) -> None:
        super().__init__()
        check_sizes(blocks=blocks, maps=maps)
        if not math.isfinite(size):
            raise ValueError(f"size must be finite, got {size}")
        self.scales = (scale,)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.head = conv(3, maps)
        self.body = nn.Sequential(
            *(ResidualBlock(maps, size=size) for _ in range(blocks)), conv(maps, maps)
        )
        self.tail = nn.Sequential(Upsampler(scale, maps), conv(maps, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        h = self.head(shift(x, self.mean, -1))
        return shift(self.tail(h + self.body(h)), self.mean, +1)
