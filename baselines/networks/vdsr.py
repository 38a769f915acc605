"""VDSR: twenty 3×3 convolutions of 64 maps predict the residual of the bicubic image.

References
----------
Kim, Lee, Lee, "Accurate image super-resolution using very deep convolutional networks", CVPR 2016.
665,921 parameters with biases.  Kernels start as in He et al.
"""

from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb
from baselines.networks.initial_weights import he


class VDSR(nn.Module):
    """VDSR on the bicubic-enlarged Y in [0, 1]; one set of weights for ×2, ×3 and ×4.

    Parameters
    ----------
    depth : int
        Number of convolutions, ≥ 2.
    maps : int
        Feature maps, ≥ 1.
    channels : int
        1 for Y, 3 for RGB.
    bias : bool
        Use biases, as the published weights do.

    Examples
    --------
    >>> import torch
    >>> VDSR()(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(
        self, depth: int = 20, maps: int = 64, *, channels: int = 1, bias: bool = True
    ) -> None:
        super().__init__()
        check_sizes(2, depth=depth)
        check_sizes(maps=maps)
        self.rgb = is_rgb(channels)
        layers: list[nn.Module] = []
        for i in range(depth):
            n_in, n_out = (channels if i == 0 else maps), (channels if i == depth - 1 else maps)
            layers += [nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias), nn.ReLU(inplace=True)]
        self.layers = nn.Sequential(*layers[:-1])
        he(self)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        R: Tensor = self.layers(x)
        return x + R
