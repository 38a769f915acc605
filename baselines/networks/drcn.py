"""DRCN: one convolution applied sixteen times, with a prediction after each.

    h_0 = ReLU(B ReLU(A x)),    h_d = ReLU(S h_{d−1}),    d ≤ D
    ŷ_d = x + R₂ ReLU(R₁ h_d),    ŷ = Σ_d w_d ŷ_d

All recursions share S and the reconstruction R.  S starts as the identity, the other kernels as in
He et al.

References
----------
Kim, Lee, Lee, "Deeply-recursive convolutional network for image super-resolution", CVPR 2016.
1,775,105 parameters with biases, and the 16 weights w.
"""

import torch
from torch import Tensor, nn

from baselines.networks.checks import check_sizes, is_rgb
from baselines.networks.initial_weights import he


class DRCN(nn.Module):
    """DRCN on the bicubic-enlarged Y in [0, 1]; one set of weights per scale.

    Parameters
    ----------
    maps : int
        Feature maps.
    recursions : int
        D ≥ 1.
    channels : int
        1 for Y, 3 for RGB.

    Examples
    --------
    >>> net = DRCN(maps=8, recursions=3)
    >>> net.predictions(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([3, 1, 1, 12, 10])
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

    def __init__(self, maps: int = 256, recursions: int = 16, *, channels: int = 1) -> None:
        super().__init__()
        check_sizes(maps=maps, recursions=recursions)
        self.rgb = is_rgb(channels)
        self.recursions = recursions

        def conv(n_in: int, n_out: int) -> nn.Conv2d:
            return nn.Conv2d(n_in, n_out, 3, padding=1)

        self.embed = nn.Sequential(conv(channels, maps), nn.ReLU(), conv(maps, maps), nn.ReLU())
        self.recurse = conv(maps, maps)
        self.reconstruct = nn.Sequential(conv(maps, maps), nn.ReLU(), conv(maps, channels))
        self.weights = nn.Parameter(torch.full((recursions,), 1 / recursions))
        he(self)
        nn.init.dirac_(self.recurse.weight)

    def predictions(self, x: Tensor) -> Tensor:
        """Return ŷ_1, …, ŷ_D, shape (D, B, channels, H, W); training supervises each of them."""
        h = self.embed(x)
        found = []
        for _ in range(self.recursions):
            h = self.recurse(h).relu()
            found.append(x + self.reconstruct(h))
        return torch.stack(found)

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, channels, H, W) to sharp ones of the same size."""
        return self.combine(self.predictions(x))

    def combine(self, predictions: Tensor) -> Tensor:
        """Return the weighted sum of predictions, (B, channels, H, W)."""
        return torch.einsum("d,dbchw->bchw", self.weights, predictions)
