"""SRDenseNet: dense blocks, a bottleneck that sees the outputs of all, and two deconvolutions.

References
----------
Tong, Li, Liu, Gao, "Image super-resolution using dense skip connections", ICCV 2017, model "All".
The paper does not say what the layers of a block see.  Here the first layer sees the 128 input
maps, and each later layer sees the outputs of the layers before it.  This gives 2,143,489
parameters.  The CRNet paper says 2,015k, which no reading gives exactly.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes


class SRDenseNet(nn.Module):
    """SRDenseNet for ×4, on LR Y in [0, 1].

    Parameters
    ----------
    blocks, layers, growth : int
        Dense blocks, layers in each block, and maps that each layer adds.
    bottleneck : int
        Maps after the bottleneck.

    Examples
    --------
    >>> SRDenseNet(blocks=2, layers=2, growth=4, bottleneck=8)(torch.zeros(1, 1, 6, 5)).shape
    torch.Size([1, 1, 24, 20])
    """

    enlarged: bool = False
    rgb: bool = False
    scales: tuple[int, ...] = (4,)
    takes_scale: bool = False

    def __init__(
        self, blocks: int = 8, layers: int = 8, growth: int = 16, bottleneck: int = 256
    ) -> None:
        super().__init__()
        check_sizes(blocks=blocks, layers=layers, growth=growth, bottleneck=bottleneck)
        maps = layers * growth
        self.first = nn.Conv2d(1, maps, 3, padding=1)
        self.blocks = nn.ModuleList(_Dense(maps, layers, growth) for _ in range(blocks))
        self.bottleneck = nn.Conv2d((blocks + 1) * maps, bottleneck, 1)
        self.deconvolutions = nn.ModuleList(
            nn.ConvTranspose2d(bottleneck, bottleneck, 3, 2, padding=1, output_padding=1)
            for _ in range(2)
        )
        self.last = nn.Conv2d(bottleneck, 1, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, 1, h, w) to sharp images (B, 1, 4·h, 4·w)."""
        found = [self.first(x).relu()]
        for block in self.blocks:
            found.append(block(found[-1]))
        h = self.bottleneck(torch.cat(found, 1)).relu()
        for layer in self.deconvolutions:
            h = layer(h).relu()
        out: Tensor = self.last(h)
        return out


class _Dense(nn.Module):
    """The first layer sees the input; each later layer sees the outputs of those before it."""

    def __init__(self, maps: int, layers: int, growth: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(maps, growth, 3, padding=1)
        self.rest = nn.ModuleList(
            nn.Conv2d(i * growth, growth, 3, padding=1) for i in range(1, layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        inside: Tensor = self.first(x).relu()
        for layer in self.rest:
            inside = torch.cat([inside, layer(inside).relu()], 1)
        return inside
