"""MDSR: EDSR's residual blocks, shared by several scales.

    −mean → conv → 2 blocks of 5×5 (per scale) → 80 blocks, conv, + → upsampler (per scale)
    → conv → +mean

References
----------
Lim, Son, Kim, Nah, Lee, "Enhanced deep residual networks for single image super-resolution", CVPRW
2017.  7,953,987 parameters.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.edsr_layers import MEAN, ResidualBlock, Upsampler, conv, shift
from csc.checks import words


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
            raise ValueError(f"this MDSR upscales by {words(self.before)}, not by {scale}")
        h = self.before[str(scale)](self.head(shift(x, self.mean, -1)))
        h = self.upsamplers[str(scale)](h + self.body(h))
        return shift(self.tail(h), self.mean, +1)
