"""CRNet-A: super-resolution of a bicubic-enlarged image by an unfolded sparse code.

    y = ReLU(F1 ⊗ ReLU(F0 ⊗ I))                    features, n0 maps        (eq. 11)
    z_0 = ReLU(Wl ⊗ y),  z_k = ReLU(Wl ⊗ y + S ⊗ z_{k−1}),  k ≤ K   codes, m0 maps  (eq. 12)
    R = H ⊗ ReLU(Wh ⊗ z_K),   output = I + R                                (eq. 13, 14)

All kernels are 3×3 with zero padding 1 and there is no bias, so the whole network is positively
homogeneous: scaling the image scales the output.  S is one tensor for all K recursions, so K
changes the depth (K + 5) but no parameter.

References
----------
Zhang, Liu, Yu, "CRNet: image super-resolution using a convolutional sparse coding inspired
network", arXiv 1908.01166, 2019.  The 3×3 S is the paper's relaxation: the S of 3×3 filters that
equals ISTA is 5×5 (`csc.unfold`).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor, nn

from csc import CISTA, Kernels


class CRNetA(nn.Module):
    """CRNet-A, which maps bicubic-enlarged images to sharp ones of the same size.

    Shapes and dtypes are checked at every call; NaN is not, since that would stall a GPU, and
    spreads to what it reaches.  :class:`crnet.Upscaler`, which resamples first, refuses it.

    Input and output are (B, channels, H, W), floating point; the bundled weights take Y of YCbCr
    (BT.601) in [0, 1].  The receptive field reaches K + 5 pixels to each side.

    Parameters
    ----------
    n0, m0 : int
        Feature maps, and code maps (atoms).
    recursions : int
        K ≥ 0; may be changed later.
    channels : int
        Channels of the image.
    residual : bool
        Add the input to the output (eq. 14); the paper's Fig. 4 compares without.
    threshold : bool
        Learn a threshold θ ≥ 0 per atom (initially 0) instead of the paper's θ = 0.
    bias : bool
        Biases on F0, F1, Wh and H.  The paper's equations have none.
    generator : torch.Generator
        Source of the initial weights.

    Raises
    ------
    ValueError
        If a size is not positive.

    Examples
    --------
    >>> net = CRNetA(n0=8, m0=16, recursions=3)
    >>> net.depth, net(torch.zeros(1, 1, 12, 10)).shape
    (8, torch.Size([1, 1, 12, 10]))
    """

    def __init__(
        self,
        n0: int = 128,
        m0: int = 256,
        recursions: int = 25,
        *,
        channels: int = 1,
        residual: bool = True,
        threshold: bool = False,
        bias: bool = False,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if min(n0, m0, channels) < 1 or recursions < 0:
            raise ValueError(
                f"n0, m0, channels must be ≥ 1 and recursions ≥ 0, "
                f"got {n0}, {m0}, {channels} and {recursions}"
            )

        def conv(n_in: int, n_out: int, gain: float = 1.0) -> nn.Conv2d:
            layer = nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)
            layer.weight = nn.Parameter(_he(n_out, n_in, gain, generator))
            if layer.bias is not None:
                nn.init.zeros_(layer.bias)
            return layer

        self.residual = residual
        self.F0 = conv(channels, n0)
        self.F1 = conv(n0, n0)
        # A He-initialised S explodes over many recursions; 0.3 keeps the codes of the input's size.
        kernels = Kernels(
            W=_he(m0, n0, 1.0, generator),
            S=_he(m0, m0, 0.3, generator),
            theta=torch.zeros(m0) if threshold else None,
        )
        self.cista = CISTA(kernels, recursions, nonneg=True, padding=1)
        self.Wh = conv(m0, n0)
        self.H = conv(n0, channels, 0.1)  # start near the bicubic image

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, C, H, W) to sharp images (B, C, H, W)."""
        return self.reconstruct(x, self.cista(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        """Return y = ReLU(F1 ⊗ ReLU(F0 ⊗ x)), shape (B, n0, H, W)."""
        channels = self.F0.weight.shape[1]
        if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point():
            raise ValueError(
                f"CRNet-A takes floating-point images (B, {channels}, H, W) in [0, 1], "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        y: Tensor = self.F1(self.F0(x).relu_()).relu_()
        return y

    def codes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K, each (B, m0, H, W)."""
        return self.cista.codes(self.features(x))

    def reconstruct(self, x: Tensor, z: Tensor) -> Tensor:
        """Return x + H ⊗ ReLU(Wh ⊗ z) (without x + where the network is not residual)."""
        R: Tensor = self.H(self.Wh(z).relu_())
        return x + R if self.residual else R

    @torch.no_grad()
    def atoms(self) -> Tensor:
        """Return what an isolated unit code adds to the image, atom by atom.

        H ⊗ ReLU(Wh ⊗ δ_m), shape (m0, channels, 5, 5).  Without biases, t times the code adds t
        times the atom; codes closer than five pixels interact through the ReLU.
        """
        W = self.Wh.weight
        delta = torch.eye(W.shape[1]).to(W)[:, :, None, None]  # (m0, m0, 1, 1)
        delta = nn.functional.pad(delta, (2, 2, 2, 2))
        R: Tensor = self.H(self.Wh(delta).relu_())
        return R

    @property
    def depth(self) -> int:
        """Count the weight layers on the path from input to output: K + 5."""
        return self.cista.recursions + 5

    @property
    def reach(self) -> int:
        """Count the pixels to each side that an output pixel depends on: one per layer."""
        return self.depth


def _he(n_out: int, n_in: int, gain: float, generator: torch.Generator | None) -> Tensor:
    """Draw a 3×3 kernel from N(0, gain²·2/(9 n_in)) (He et al., ICCV 2015)."""
    weight = torch.randn(n_out, n_in, 3, 3, generator=generator)
    # Channels last is the layout in which CPUs convolve many channels fastest.
    weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.mul_(gain * math.sqrt(2 / (9 * n_in)))
