"""SRCNN: three convolutions on the bicubic-enlarged Y.

    y = conv_5×5(ReLU(conv_k×k(ReLU(conv_9×9(x)))))            1 → 64 → 32 → 1

There is no skip.  Borders are replicated, as in the authors' test code.  The tables show 9-5-5,
which has 57,281 parameters with biases; 9-1-5 has 8,129.  Kernels start from N(0, 0.001²).

References
----------
Dong, Loy, He, Tang, "Image super-resolution using deep convolutional networks", TPAMI 38(2), 2016.
"""

from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb


class SRCNN(nn.Module):
    """SRCNN on Y in [0, 1]; one set of weights per scale.

    Parameters
    ----------
    middle : int
        Side k of the second kernel: 5, 3 or 1.
    channels : int
        1 for Y, 3 for RGB.

    Examples
    --------
    >>> import torch
    >>> SRCNN()(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(self, middle: int = 5, *, channels: int = 1) -> None:
        super().__init__()
        check_sizes(middle=middle)
        self.rgb = is_rgb(channels)
        if middle not in (1, 3, 5):
            raise ValueError(f"middle must be 1, 3 or 5, got {middle}")

        def conv(n_in: int, n_out: int, k: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, k, padding=k // 2, padding_mode="replicate")

        self.layers = nn.Sequential(
            conv(channels, 64, 9), nn.ReLU(), conv(64, 32, middle), nn.ReLU(), conv(32, channels, 5)
        )
        for layer in self.layers:
            if isinstance(layer, nn.Conv2d):
                nn.init.normal_(layer.weight, std=0.001)
                nn.init.constant_(layer.get_parameter("bias"), 0)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        out: Tensor = self.layers(x)
        return out
