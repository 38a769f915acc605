"""MSRN: blocks with 3×3 and 5×5 kernels side by side.

References
----------
Li, Fang, Mei, Zhang, "Multi-scale residual network for image super-resolution", ECCV 2018, in the
authors' RGB version: 5,930,307, 6,114,947 and 6,078,019 parameters for ×2, ×3 and ×4.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.edsr_layers import MEAN, Upsampler, conv, shift


class MSRN(nn.Module):
    """MSRN for one scale, on RGB in [0, 1].

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    blocks, maps : int
        Multi-scale blocks and feature maps.

    Examples
    --------
    >>> MSRN(3, blocks=2, maps=8)(torch.zeros(1, 3, 6, 5)).shape
    torch.Size([1, 3, 18, 15])
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = False
    mean: Tensor

    def __init__(self, scale: int, blocks: int = 8, maps: int = 64) -> None:
        super().__init__()
        check_sizes(blocks=blocks, maps=maps)
        self.scales = (scale,)
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.head = conv(3, maps)
        self.blocks = nn.ModuleList(_MultiScale(maps) for _ in range(blocks))
        self.fuse = conv((blocks + 1) * maps, maps, 1)
        self.tail = nn.Sequential(conv(maps, maps), Upsampler(scale, maps), conv(maps, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        first = h = self.head(shift(x, self.mean, -1))
        found = []
        for block in self.blocks:
            h = block(h)
            found.append(h)
        # The head comes last, as in the authors' code, so their weights fit.
        return shift(self.tail(self.fuse(torch.cat([*found, first], 1))), self.mean, +1)


class _MultiScale(nn.Module):
    def __init__(self, maps: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(n, n, k) for n in (maps, 2 * maps) for k in (3, 5))
        self.fuse = conv(4 * maps, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        h = x
        for three, five in zip(self.layers[::2], self.layers[1::2], strict=True):
            h = torch.cat([three(h), five(h)], 1).relu()
        out: Tensor = x + self.fuse(h)
        return out
