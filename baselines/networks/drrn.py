"""DRRN: residual units of two shared convolutions, each added to the same first features.

    x_0 = A p(x),    x_u = x_0 + C_2 p_{u2}(C_1 p_{u1}(x_{u−1})),    ŷ = x + R p(x_U)

p is batch normalisation and ReLU.  The U units share C_1 and C_2, but each has normalisations of
its own.  Kernels start as in He et al.

References
----------
Tai, Yang, Liu, "Image super-resolution via deep recursive residual network", CVPR 2017.  B1U25:
297,601 parameters with biases, and 13,058 in the normalisations.
"""

from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb
from baselines.networks.initial_weights import he


class DRRN(nn.Module):
    """DRRN (B = 1) on the bicubic-enlarged Y in [0, 1]; one set of weights for ×2, ×3 and ×4.

    Parameters
    ----------
    units : int
        U ≥ 1.
    maps : int
        Feature maps.
    channels : int
        1 for Y, 3 for RGB.
    normalize : bool
        Use batch normalisation, which many later versions leave out.

    Examples
    --------
    >>> import torch
    >>> DRRN(units=2, maps=8)(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(
        self, units: int = 25, maps: int = 128, *, channels: int = 1, normalize: bool = True
    ) -> None:
        super().__init__()
        check_sizes(units=units, maps=maps)
        self.rgb = is_rgb(channels)

        def before(n: int) -> nn.Module:
            return nn.Sequential(nn.BatchNorm2d(n), nn.ReLU()) if normalize else nn.ReLU()

        def conv(n_in: int, n_out: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, 3, padding=1)

        self.first = nn.Sequential(before(channels), conv(channels, maps))
        self.before1 = nn.ModuleList(before(maps) for _ in range(units))
        self.before2 = nn.ModuleList(before(maps) for _ in range(units))
        self.C1, self.C2 = conv(maps, maps), conv(maps, maps)
        self.last = nn.Sequential(before(maps), conv(maps, channels))
        he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        first = self.first(x)
        h = first
        for p1, p2 in zip(self.before1, self.before2, strict=True):
            h = first + self.C2(p2(self.C1(p1(h))))
        R: Tensor = self.last(h)
        return x + R
