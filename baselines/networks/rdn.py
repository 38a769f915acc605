"""RDN: densely connected blocks, fused within each block and over all blocks.

References
----------
Zhang, Tian, Kong, Zhong, Fu, "Residual dense network for image super-resolution", CVPR 2018.
D = 16 blocks of C = 8 layers of G = 64 maps: 22,123,395, 22,308,035 and 22,271,107 parameters for
×2, ×3 and ×4.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.edsr_layers import Upsampler, conv


class RDN(nn.Module):
    """RDN for one scale, on RGB in [0, 1].

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    blocks, layers, growth : int
        D, C and G.
    maps : int
        Feature maps between the blocks.

    Examples
    --------
    >>> RDN(3, blocks=2, layers=2, growth=4, maps=8)(torch.zeros(1, 3, 6, 5)).shape
    torch.Size([1, 3, 18, 15])
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = False

    def __init__(
        self, scale: int, blocks: int = 16, layers: int = 8, growth: int = 64, maps: int = 64
    ) -> None:
        super().__init__()
        check_sizes(blocks=blocks, layers=layers, growth=growth, maps=maps)
        self.scales = (scale,)
        self.first, self.second = conv(3, maps), conv(maps, maps)
        self.blocks = nn.ModuleList(_Dense(maps, layers, growth) for _ in range(blocks))
        self.fuse = nn.Sequential(conv(blocks * maps, maps, 1), conv(maps, maps))
        self.tail = nn.Sequential(Upsampler(scale, maps), conv(maps, 3))

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        first = self.first(x)
        h, found = self.second(first), []
        for block in self.blocks:
            h = block(h)
            found.append(h)
        out: Tensor = self.tail(first + self.fuse(torch.cat(found, 1)))
        return out


class _Dense(nn.Module):
    """Each layer sees the input and all earlier layers; a 1×1 convolution fuses them."""

    def __init__(self, maps: int, layers: int, growth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(conv(maps + i * growth, growth) for i in range(layers))
        self.fuse = conv(maps + layers * growth, maps, 1)

    def forward(self, x: Tensor) -> Tensor:
        seen = x
        for layer in self.layers:
            seen = torch.cat([seen, layer(seen).relu()], 1)
        out: Tensor = x + self.fuse(seen)
        return out
