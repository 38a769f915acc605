"""Layers of EDSR that later networks use, too: mean shift, residual block, upsampler."""

from torch import Tensor, nn

from baselines.networks.checks import check_sizes

MEAN = (0.4488, 0.4371, 0.4040)
"""Mean of R, G and B over DIV2K, which EDSR and later networks subtract."""


class Upsampler(nn.Sequential):
    """A convolution to s² times the maps and a pixel shuffle, for ×2 or ×3; twice ×2 for ×4.

    Parameters
    ----------
    scale : int
        2, 3 or 4.
    maps : int
        Feature maps, in and out.
    """

    def __init__(self, scale: int, maps: int) -> None:
        check_sizes(scale=scale)
        if scale not in (2, 3, 4):
            raise ValueError(f"scale must be 2, 3 or 4, got {scale}")
        layers: list[nn.Module] = []
        for f in (2, 2) if scale == 4 else (scale,):
            layers += [conv(maps, f * f * maps), nn.PixelShuffle(f)]
        super().__init__(*layers)


class ResidualBlock(nn.Module):
    """x + size · conv(ReLU(conv(x))), without normalisation."""

    def __init__(self, maps: int, k: int = 3, *, size: float = 1.0) -> None:
        super().__init__()
        self.size = size
        self.layers = nn.Sequential(conv(maps, maps, k), nn.ReLU(inplace=True), conv(maps, maps, k))

    def forward(self, x: Tensor) -> Tensor:
        """Map (B, maps, h, w) to the same shape."""
        out: Tensor = x + self.size * self.layers(x)
        return out


def conv(n_in: int, n_out: int, k: int = 3) -> nn.Conv2d:
    """Return a convolution with bias that keeps the size of the image."""
    return nn.Conv2d(n_in, n_out, k, padding=k // 2)


def shift(x: Tensor, mean: Tensor, sign: int) -> Tensor:
    """Return x ± the mean of its channels."""
    return x + sign * mean.view(-1, 1, 1)
