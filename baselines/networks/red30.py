"""RED30: fifteen convolutions, then fifteen transposed ones, with skips between mirrored layers.

The output of every second convolution is added to that of its mirrored layer, before the ReLU.  The
input image is added to the output of the last layer.

References
----------
Mao, Shen, Yang, "Image restoration using very deep convolutional encoder-decoder networks with
symmetric skip connections", NIPS 2016.  128 maps: 4,134,785 parameters with biases.
"""

from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb


class RED30(nn.Module):
    """RED30 on the bicubic-enlarged Y in [0, 1].

    Parameters
    ----------
    depth : int
        Number of convolutions, and number of transposed ones.
    maps : int
        Feature maps.
    channels : int
        1 for Y, 3 for RGB.

    Examples
    --------
    >>> import torch
    >>> RED30(depth=4, maps=8)(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(self, depth: int = 15, maps: int = 128, *, channels: int = 1) -> None:
        super().__init__()
        check_sizes(2, depth=depth)
        check_sizes(maps=maps)
        self.rgb = is_rgb(channels)
        sizes = [channels] + [maps] * depth
        self.encoder = nn.ModuleList(
            nn.Conv2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)
        )
        sizes.reverse()
        self.decoder = nn.ModuleList(
            nn.ConvTranspose2d(a, b, 3, padding=1) for a, b in zip(sizes, sizes[1:], strict=False)
        )

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        h, kept = x, []
        for i, layer in enumerate(self.encoder, 1):
            h = layer(h).relu()
            if i % 2 == 0 and i < len(self.encoder):
                kept.append(h)
        left = len(self.decoder)
        for layer in self.decoder:
            left -= 1
            h = layer(h)
            if left == 0:
                h = x + h
            elif left % 2 == 0:
                h = h + kept.pop()
            h = h.relu() if left else h
        return h
