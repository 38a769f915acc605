"""EDSR: residual blocks without normalisation on the LR image; and MDSR, for several scales.

    EDSR   −mean → conv → 32 blocks (×0.1), conv, + → upsampler → conv → +mean
    MDSR   −mean → conv → 2 blocks of 5×5 (per scale) → 80 blocks, conv, + → upsampler (per scale)
           → conv → +mean

References
----------
Lim, Son, Kim, Nah, Lee, "Enhanced deep residual networks for single image super-resolution", CVPRW
2017.  EDSR has 40,729,603, 43,680,003 and 43,089,923 parameters for ×2, ×3 and ×4, the baseline of
16 blocks of 64 maps 1,369,859, 1,554,499 and 1,517,571; MDSR has 7,953,987.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.networks.shuffle import MEAN, ResidualBlock, Upsampler, conv, shift
from baselines.networks.sizes import check_sizes


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


class MDSR(nn.Module):
    """MDSR, one network for several scales, on RGB in [0, 1].

    Parameters
    ----------
    scales : sequence of int
        Some of 2, 3 and 4.
    blocks, maps : int
        Residual blocks and feature maps.

    Examples
    --------
    >>> MDSR(blocks=2, maps=8)(torch.zeros(1, 3, 6, 5), 4).shape
    torch.Size([1, 3, 24, 20])
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = True
    mean: Tensor

    def __init__(self, scales: Sequence[int] = (2, 3, 4), blocks: int = 80, maps: int = 64) -> None:
        super().__init__()
        check_sizes(blocks=blocks, maps=maps)
        if not scales:
            raise ValueError("scales must be some of 2, 3 and 4, got none")
        self.scales = tuple(scales)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.head = conv(3, maps)
        self.before = nn.ModuleDict(
            {str(s): nn.Sequential(ResidualBlock(maps, 5), ResidualBlock(maps, 5)) for s in scales}
        )
        self.body = nn.Sequential(*(ResidualBlock(maps) for _ in range(blocks)), conv(maps, maps))
        self.upsamplers = nn.ModuleDict({str(s): Upsampler(s, maps) for s in scales})
        self.tail = conv(maps, 3)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        if str(scale) not in self.before:
            raise ValueError(f"this MDSR upscales by {', '.join(self.before)}, not by {scale}")
        h = self.before[str(scale)](self.head(shift(x, self.mean, -1)))
        h = self.upsamplers[str(scale)](h + self.body(h))
        return shift(self.tail(h), self.mean, +1)
