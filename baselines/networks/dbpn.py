"""D-DBPN: up- and down-projections in turn, densely connected; each corrects its own error.

    up     h_0 = U_0 x,  l_0 = V h_0,  out = h_0 + U_1 (l_0 − x)
    down   the same with U and V exchanged

U are transposed convolutions and V are convolutions, both of stride s and followed by a PReLU.
Kernels start as in He et al.

References
----------
Haris, Shakhnarovich, Ukita, "Deep back-projection networks for super-resolution", CVPR 2018.  T = 7
stages: 5,953,526 parameters for ×2 and 10,426,358 for ×4, with 51 slopes of PReLUs; there is no ×3.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes
from baselines.networks.initial_weights import he

# Scale: side of the kernel, stride, padding.
_PROJECTIONS = {2: (6, 2, 2), 4: (8, 4, 2), 8: (12, 8, 2)}


class DDBPN(nn.Module):
    """D-DBPN for one scale, on RGB in [0, 1].

    Parameters
    ----------
    scale : int
        2, 4 or 8.
    stages : int
        T up-projections, with T − 1 down-projections between them.
    maps, features : int
        Maps of the projections, and of the first layer.

    Examples
    --------
    >>> DDBPN(2, stages=3, maps=4, features=8)(torch.zeros(1, 3, 6, 5)).shape
    torch.Size([1, 3, 12, 10])
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = False

    def __init__(self, scale: int, stages: int = 7, maps: int = 64, features: int = 256) -> None:
        super().__init__()
        check_sizes(scale=scale, stages=stages, maps=maps, features=features)
        if scale not in _PROJECTIONS:
            raise ValueError(f"D-DBPN upscales by 2, 4 or 8, not by {scale}")
        self.scales = (scale,)
        self.first = nn.Sequential(
            nn.Conv2d(3, features, 3, padding=1), nn.PReLU(), nn.Conv2d(features, maps, 1),
            nn.PReLU(),
        )  # fmt: skip
        # Up and down in turn; each unit sees the outputs of all earlier units of the other kind.
        self.units = nn.ModuleList(
            _Projection(scale, maps, max(1, (i + 1) // 2), up=i % 2 == 0)
            for i in range(2 * stages - 1)
        )
        self.last = nn.Conv2d(stages * maps, 3, 3, padding=1)
        he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        high: list[Tensor] = [self.units[0](self.first(x))]
        low: list[Tensor] = []
        for down, up in zip(self.units[1::2], self.units[2::2], strict=True):
            low.insert(0, down(torch.cat(high, 1)))
            high.insert(0, up(torch.cat(low, 1)))
        out: Tensor = self.last(torch.cat(high, 1))
        return out


class _Projection(nn.Module):
    """A projection unit, which first reduces `inputs` sets of maps to one."""

    def __init__(self, scale: int, maps: int, inputs: int, *, up: bool) -> None:
        super().__init__()
        k, stride, padding = _PROJECTIONS[scale]

        def layer(transposed: bool) -> nn.Sequential:
            kind = nn.ConvTranspose2d if transposed else nn.Conv2d
            return nn.Sequential(kind(maps, maps, k, stride, padding), nn.PReLU())

        self.reduce = (
            nn.Sequential(nn.Conv2d(inputs * maps, maps, 1), nn.PReLU())
            if inputs > 1
            else nn.Identity()
        )
        self.there, self.back, self.again = layer(up), layer(not up), layer(up)

    def forward(self, x: Tensor) -> Tensor:
        x = self.reduce(x)
        first = self.there(x)
        out: Tensor = first + self.again(self.back(first) - x)
        return out
