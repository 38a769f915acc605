"""CRNet-A and CRNet-B: super-resolution by an unfolded sparse code.

CRNet-A takes a bicubic-enlarged image I:

    y = ReLU(F1 ⊗ ReLU(F0 ⊗ I))                    features, n0 maps        (eq. 11)
    z_0 = ReLU(Wl ⊗ y),  z_k = ReLU(Wl ⊗ y + S ⊗ z_{k−1}),  k ≤ K   codes, m0 maps  (eq. 12)
    R = H ⊗ ReLU(Wh ⊗ z_K),   output = I + R                                (eq. 13, 14)

All kernels are 3×3 with zero padding 1, without biases.  The network is therefore positively
homogeneous: scaling the image scales the output.  All K recursions share one S, so K changes the
depth (K + 5) but not the number of weights.

CRNet-B takes the LR image.  Between its head and its tail, a CRNet-A works on feature maps.  Each
scale has its own residual unit before this CRNet-A and its own pixel-shuffle upsampler after it.

References
----------
Zhang, Liu, Yu, "CRNet: image super-resolution using a convolutional sparse coding inspired
network", arXiv 1908.01166, 2019.  The 3×3 S is the paper's relaxation of ISTA, whose S is 5×5 for
3×3 filters (`csc.unfold`).
"""

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor, nn

from baselines.networks.edsr_layers import MEAN
from crnet import summary
from crnet.initial import ENLARGED, he_kernel, whitening_kernel
from csc import CISTA, Kernels
from csc.checks import words


class CRNetA(nn.Module):
    """Map bicubic-enlarged images to sharp images of the same size.

    Input and output are (B, channels, H, W), floating point.  The bundled weights take Y of YCbCr
    (BT.601) in [0, 1].  An output pixel depends on K + 5 pixels to each side (`reach`).

    Every call checks shapes and dtypes.  It does not look for NaN, since that would stall a GPU;
    :class:`crnet.Upscaler` does.

    Parameters
    ----------
    n0, m0 : int
        Feature maps, and code maps (atoms).
    recursions : int
        K ≥ 0; set it at any time.
    channels : int
        Channels of the image: 1 for Y, 3 for RGB.  Inside CRNet-B, channels of the feature maps.
    residual : bool
        Add the input to the output (eq. 14).  The paper's Fig. 4 also shows the network without.
    threshold : bool
        Learn a threshold θ ≥ 0 per atom (initially 0) instead of the paper's θ = 0.
    bias : bool
        Biases on F0, F1, Wh and H.  The paper's equations have none.
    generator : torch.Generator
        Source of the initial weights.

    Raises
    ------
    ValueError
        If a size is not positive, or K is negative.

    Examples
    --------
    >>> net = CRNetA(n0=8, m0=16, recursions=3)
    >>> net.depth, net(torch.zeros(1, 1, 12, 10)).shape
    (8, torch.Size([1, 1, 12, 10]))
    """

    enlarged: bool = True
    rgb: bool = False
    scales: tuple[int, ...] = ()
    takes_scale: bool = False

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
            return _conv(n_in, n_out, gain, bias, generator)

        self.residual = residual
        self.rgb = channels == 3
        self.F0 = conv(channels, n0)
        if channels <= _IMAGE:
            self.F0.weight = nn.Parameter(whitening_kernel(n0, channels, ENLARGED, generator))
        self.F1 = conv(n0, n0)
        # With a gain of 1, codes explode over many recursions; with 0.3 they keep their size.
        kernels = Kernels(
            W=he_kernel(m0, n0, 1.0, generator),
            S=he_kernel(m0, m0, 0.3, generator),
            theta=torch.zeros(m0) if threshold else None,
        )
        self.cista = CISTA(kernels, recursions, nonneg=True, padding=1)
        self.Wh = conv(m0, n0)
        self.H = conv(n0, channels, 0.1)  # start near the bicubic image

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, C, H, W) to sharp images (B, C, H, W)."""
        return self.reconstruct(x, self.cista(self.features(x)))

    def features(self, x: Tensor) -> Tensor:
        """Return y = ReLU(F1 ⊗ ReLU(F0 ⊗ x)), shape (B, n0, H, W).

        Raises
        ------
        ValueError
            If x is not floating point (B, channels, H, W).
        """
        channels = self.F0.weight.shape[1]
        if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point():
            raise ValueError(
                f"CRNet-A takes floating-point images (B, {channels}, H, W) in [0, 1], "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        # F0 takes differences between pixels, about as small as the rounding of bfloat16.
        y = _exactly(self.F0, x) if channels <= _IMAGE else self.F0(x)
        out: Tensor = self.F1(y.relu_()).relu_()
        return out

    def codes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K, each (B, m0, H, W)."""
        return self.cista.codes(self.features(x))

    def codes_and_images(self, x: Tensor, scale: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z_k and its image for k = 0, …, K in one pass; x is enlarged, `scale` unused."""
        for z in self.codes(x):
            yield z, self.reconstruct(x, z)

    def reconstruct(self, x: Tensor, z: Tensor) -> Tensor:
        """Return x + H ⊗ ReLU(Wh ⊗ z), or H ⊗ ReLU(Wh ⊗ z) if the network is not residual."""
        R: Tensor = self.H(self.Wh(z).relu_())
        return x + R if self.residual else R

    @torch.no_grad()
    def atoms(self) -> Tensor:
        """Return the image of an isolated unit code, for each atom.

        H ⊗ ReLU(Wh ⊗ δ_m), shape (m0, channels, 5, 5).  Without biases, a code t adds t times the
        atom.  Codes closer than three pixels interact through the ReLU.
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
        """Count the input pixels to each side that an output pixel depends on: one per layer."""
        return self.depth

    def __repr__(self) -> str:
        """Return sizes and the number of weights in one line."""
        return summary.line(self, self._sizes())

    def _repr_html_(self) -> str:
        """Return sizes and atoms for notebooks."""
        atoms = self.atoms() if self.H.bias is None else None
        return summary.page(self, self._sizes(), atoms, None)

    def _sizes(self) -> dict[str, object]:
        m0, n0 = self.cista.W.shape[:2]
        channels = self.F0.weight.shape[1]
        return {"n0": n0, "m0": m0, "recursions": self.cista.recursions, "channels": channels}


class CRNetB(nn.Module):
    """Map LR images to sharp images, `scale` times as large.

    mean shift → head 3→n0 → residual unit of the scale → CRNet-A on feature maps, with skip →
    upsampler of the scale → tail n0→3 → mean shift.  An upsampler of ×s is a 3×3 convolution to
    n0·s² maps and a pixel shuffle; ×4 is two of ×2.  Only the path of the chosen scale runs.

    Input is RGB (B, 3, h, w) in [0, 1], output (B, 3, scale·h, scale·w).

    Parameters
    ----------
    n0, m0 : int
        Feature maps, and code maps (atoms).
    recursions : int
        K ≥ 0; set it at any time.
    scales : sequence of int
        Some of 2, 3 and 4.  Each has its own residual unit and upsampler.
    threshold, generator
        As in :class:`CRNetA`.
    bias : bool
        Biases on every convolution except W and S.
    border : int
        LR pixels ≥ 0 to replicate at each side before the head.  The output is cropped
        accordingly.  All layers pad with zeros, which changes the edges of a flat image.
        With a border of `reach` pixels, flat images stay flat.  The paper has no border.

    Raises
    ------
    ValueError
        If a size is not positive, K or the border is negative, or a scale is not 2, 3 or 4.

    References
    ----------
    Zhang, Liu, Yu, 2019, section 4.  The paper does not specify the head, the upsamplers, the tail
    and the end of the skip.  For these we follow MDSR of Lim et al., "Enhanced deep residual
    networks for single image super-resolution", CVPRW 2017.  This layout gives the paper's 36
    layers and 2.0M weights at m0 = 256.

    Examples
    --------
    >>> net = CRNetB(n0=8, m0=16, recursions=3)
    >>> net.depth, net(torch.zeros(1, 3, 12, 10), 3).shape
    (14, torch.Size([1, 3, 36, 30]))
    """

    enlarged: bool = False
    rgb: bool = True
    scales: tuple[int, ...]
    takes_scale: bool = True
    mean: Tensor

    def __init__(
        self,
        n0: int = 64,
        m0: int = 1024,
        recursions: int = 25,
        *,
        scales: Sequence[int] = (2, 3, 4),
        threshold: bool = False,
        bias: bool = False,
        border: int = 0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if not isinstance(border, int) or border < 0:
            raise ValueError(f"border must be a whole number ≥ 0, got {border}")
        if not scales or not set(scales) <= {2, 3, 4}:
            raise ValueError(f"scales must be some of 2, 3 and 4, got {words(scales, 'and')}")

        def conv(n_in: int, n_out: int, gain: float = 1.0) -> nn.Conv2d:
            return _conv(n_in, n_out, gain, bias, generator)

        self.body = CRNetA(
            n0, m0, recursions, channels=n0, threshold=threshold, bias=bias, generator=generator
        )
        self.border = border
        # MDSR's constant; the weights are trained with it.
        self.register_buffer("mean", torch.tensor(MEAN), persistent=False)
        self.head = conv(3, n0, math.sqrt(0.5))  # no ReLU follows: half of He's variance
        ordered = sorted(set(scales))
        self.scales = tuple(ordered)
        self.units = nn.ModuleDict(
            {
                str(s): nn.Sequential(conv(n0, n0), nn.ReLU(inplace=True), conv(n0, n0, 0.1))
                for s in ordered
            }
        )
        self.upsamplers = nn.ModuleDict(
            {
                str(s): nn.Sequential(
                    *(
                        layer
                        for f in _FACTORS[s]
                        for layer in (conv(n0, f * f * n0, math.sqrt(0.5)), nn.PixelShuffle(f))
                    )
                )
                for s in ordered
            }
        )
        self.tail = conv(n0, 3, 0.1)
        self._start_bilinear()

    @torch.no_grad()
    def _start_bilinear(self) -> None:
        """Let three feature maps carry R, G and B to the output, enlarged bilinearly.

        All else starts small.  Training then starts near the bilinear image, as CRNet-A's starts
        near the bicubic image.  A network with fewer than three maps has no such start.
        """
        if self.tail.weight.shape[1] < 3:
            return
        for c in range(3):
            self.head.weight[c] = 0
            self.head.weight[c, c, 1, 1] = 1
            self.tail.weight[:, c] = 0
            self.tail.weight[c, c, 1, 1] = 1
        for scale, layers in self.upsamplers.items():
            for f, layer in zip(_FACTORS[int(scale)], layers[::2], strict=True):  # type: ignore[index]
                at = (torch.arange(f) + 0.5) / f - 0.5  # centres of the new pixels in the old one
                taps = (1 - (at[:, None] - torch.tensor([-1.0, 0.0, 1.0])).abs()).clamp(min=0)
                for c in range(3):
                    maps = slice(c * f * f, (c + 1) * f * f)
                    layer.weight[maps] = 0
                    layer.weight[maps, c] = torch.einsum("ia,jb->ijab", taps, taps).flatten(0, 1)

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        x = self.prepare(x, scale)
        return self.reconstruct(x, self.body.cista(self.body.features(x)), scale)

    def prepare(self, x: Tensor, scale: int) -> Tensor:
        """Return the feature maps that the CRNet-A takes, (B, n0, h + 2·border, w + 2·border).

        Raises
        ------
        ValueError
            If x is not floating point (B, 3, h, w), or the network lacks the scale.
        """
        if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
            raise ValueError(
                "CRNet-B takes floating-point RGB (B, 3, h, w) in [0, 1], "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        if str(scale) not in self.units:
            raise ValueError(f"this CRNet-B upscales by {words(self.units)}, not by {scale}")
        x = x - self.mean.view(3, 1, 1)
        if self.border:
            x = nn.functional.pad(x, (self.border,) * 4, mode="replicate")
        x = self.head(x)
        out: Tensor = x + self.units[str(scale)](x)
        return out

    def codes(self, x: Tensor, scale: int) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K, each (B, m0, h + 2·border, w + 2·border)."""
        return self.body.codes(self.prepare(x, scale))

    def codes_and_images(self, x: Tensor, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z_k and its image, for k = 0, …, K, in one pass."""
        maps = self.prepare(x, scale)
        for z in self.body.codes(maps):
            yield z, self.reconstruct(maps, z, scale)

    def reconstruct(self, x: Tensor, z: Tensor, scale: int) -> Tensor:
        """Return the image (B, 3, scale·h, scale·w) of codes z and the maps x of `prepare`."""
        x = self.body.reconstruct(x, z)
        x = self.upsamplers[str(scale)](x)
        # The tail makes the image itself, not a residual: the rounding of bfloat16 would show.
        image = _exactly(self.tail, x, cast_back=False)
        return self.crop(image, scale) + self.mean.view(3, 1, 1)

    def crop(self, image: Tensor, scale: int) -> Tensor:
        """Remove the border from an HR image (B, C, H, W)."""
        b = self.border * scale
        return image[..., b : image.shape[-2] - b, b : image.shape[-1] - b]

    @torch.no_grad()
    def atoms(self, scale: int) -> Tensor:
        """Return what an isolated unit code adds to the image, (m0, 3, 9·scale, 9·scale).

        As in :meth:`CRNetA.atoms`, for a network without biases.
        """
        maps = nn.functional.pad(self.body.atoms(), (2, 2, 2, 2))  # (m0, n0, 9, 9)
        image: Tensor = self.tail(self.upsamplers[str(scale)](maps))
        return image

    @property
    def cista(self) -> CISTA:
        """The unfolded sparse code."""
        return self.body.cista

    @property
    def depth(self) -> int:
        """Count the weight layers on the longest path: K + 11 with ×4, otherwise K + 10."""
        return self.body.depth + 4 + max(len(_FACTORS[int(s)]) for s in self.upsamplers)

    @property
    def reach(self) -> int:
        """Bound the LR pixels to each side that an output pixel depends on: one per layer."""
        return self.depth

    def __repr__(self) -> str:
        """Return sizes and the number of weights in one line."""
        return summary.line(self, self._sizes())

    def _repr_html_(self) -> str:
        """Return sizes and the atoms of the smallest scale for notebooks."""
        atoms = self.atoms(self.scales[0]) if self.tail.bias is None else None
        return summary.page(self, self._sizes(), atoms, None)

    def _sizes(self) -> dict[str, object]:
        m0, n0 = self.cista.W.shape[:2]
        sizes = {"n0": n0, "m0": m0, "recursions": self.cista.recursions}
        return {**sizes, "scales": self.scales, "border": self.border}


_FACTORS = {2: (2,), 3: (3,), 4: (2, 2)}  # of the pixel shuffles

_IMAGE = 4  # most channels of an image; an input with more is feature maps


def _exactly(layer: nn.Conv2d, x: Tensor, *, cast_back: bool = True) -> Tensor:
    """Apply a layer in the precision of its weights, also under autocast."""
    y: Tensor
    kind = x.device.type
    if kind == "meta":  # has no autocast
        y = layer(x)
        return y
    with torch.autocast(kind, enabled=False):
        y = layer(x.to(layer.weight.dtype))
    if cast_back and torch.is_autocast_enabled(kind):
        y = y.to(torch.get_autocast_dtype(kind))
    return y


def _conv(
    n_in: int, n_out: int, gain: float, bias: bool, generator: torch.Generator | None
) -> nn.Conv2d:
    layer = nn.Conv2d(n_in, n_out, 3, padding=1, bias=bias)
    layer.weight = nn.Parameter(he_kernel(n_out, n_in, gain, generator))
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer
