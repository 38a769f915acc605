"""Super-resolution by sparse codes: the image is exactly bicubic plus Σ codes * atoms.

    y = ReLU(F1 ⊗ ReLU(F0 ⊗ I))                              features, n0 maps
    z_b = argmin ½‖z‖² + ½‖D_b z‖² − ⟨W_b ⊗ y_b − λ_b, z⟩,  z ≥ 0,      y_{b+1} = y_b + H_b ⊗ z_b
    image = bicubic + Σ_m z_{B,m} * a_m

Only the atoms a_m turn the codes of the last block into the image, so each atom's part of the image
is exact.  The codes z_b of :class:`csc.RidgeStack` minimise a stated convex problem up to
a certified distance, also after training.  :class:`crnet.CRNetA` and :class:`crnet.CRNetB`, the
paper's networks, have neither property.

:class:`SparseCRNetA` takes the bicubic-enlarged image.  :class:`SparseCRNetB` takes the LR image;
its atoms live on the enlarged grid, one set for each scale.

F0 does not respond to a constant, and the image is replicated at its border.  A flat image
therefore has zero features and zero codes, and stays exactly flat.

References
----------
Zhang, Liu, Yu, "CRNet", arXiv 1908.01166, 2019.  Papyan, Romano, Elad, "Convolutional neural
networks analyzed via convolutional sparse coding", JMLR 18, 2017.
"""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines.resample import resample
from crnet import summary
from crnet.initial import ENLARGED, LR, Spread, he_kernel, whitening_kernel
from csc.checks import words
from csc.recursion.ridge import RidgeBlock, RidgeStack, StackCertificate


class _SparseCodes(nn.Module):
    """The part of both networks that computes features and, by ridge blocks, their codes."""

    def __init__(
        self,
        channels: int,
        n0: int,
        m0: int,
        recursions: int,
        blocks: int,
        rank: int,
        bound: float,
        spread: Spread,
        generator: torch.Generator | None,
    ) -> None:
        super().__init__()
        if min(n0, m0, blocks, rank) < 1 or recursions < 0:
            raise ValueError(
                f"n0, m0, blocks and rank must be ≥ 1 and recursions ≥ 0, "
                f"got {n0}, {m0}, {blocks}, {rank} and {recursions}"
            )
        self.F0 = nn.Parameter(whitening_kernel(n0, channels, spread, generator))
        self.F1 = nn.Parameter(he_kernel(n0, n0, 1.0, generator))
        made = [
            RidgeBlock(
                D=he_kernel(m0, rank, 1.0, generator),
                W=he_kernel(m0, n0, 1.0, generator),
                lam=torch.zeros(m0),
                recursions=recursions,
                bound=bound,
            )
            for _ in range(blocks)
        ]
        back = [he_kernel(n0, m0, 0.1, generator) for _ in range(blocks - 1)]
        self.stack = RidgeStack(made, back)

    def features(self, x: Tensor) -> Tensor:
        """Return y = ReLU(F1 ⊗ ReLU(F0 ⊗ x)), shape (B, n0, H, W)."""
        channels = self.F0.shape[1]
        if x.ndim != 4 or x.shape[1] != channels or not x.is_floating_point():
            raise ValueError(
                f"this network takes floating-point images (B, {channels}, H, W) in [0, 1], "
                f"got {x.dtype} of shape {tuple(x.shape)}"
            )
        kind = x.device.type
        # F0 takes differences between pixels, about as small as the rounding of bfloat16.
        with _without_autocast(x):
            F0 = self.F0 - self.F0.mean((2, 3), keepdim=True)
            extended = F.pad(x.to(F0.dtype), (1, 1, 1, 1), mode="replicate")
            y = F.conv2d(extended, F0)
        if kind != "meta" and torch.is_autocast_enabled(kind):
            y = y.to(torch.get_autocast_dtype(kind))
        return F.conv2d(y.relu_(), self.F1, padding=1).relu_()

    def last_codes(self, x: Tensor) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K of the last block."""
        last = len(self.stack.blocks) - 1
        return (z for b, z in self.stack.codes(self.features(x)) if b == last)

    @torch.no_grad()
    def certify(self, x: Tensor, recursions: int | None) -> StackCertificate:
        """Return the certificate of the codes of x."""
        return self.stack.certify(self.features(x), recursions=recursions)

    @property
    def recursions(self) -> int:
        """K, the recursions of each block; set it at any time."""
        return next(iter(self.stack.blocks)).recursions  # type: ignore[return-value]

    @recursions.setter
    def recursions(self, K: int) -> None:
        for block in self.stack.blocks:
            block.recursions = K  # type: ignore[assignment]

    @property
    def reach(self) -> int:
        """How many input pixels to each side the codes depend on."""
        block = 1 + 2 * self.recursions  # W; D and Dᵀ in each recursion
        return 2 + len(self.stack.blocks) * block + len(self.stack.back)

    @property
    def distance(self) -> float:
        """Bound q of ‖z − z*‖ ≤ q ‖z*‖ in each block: L/(2 + L) to the power K + 1."""
        bound: float = next(iter(self.stack.blocks)).bound  # type: ignore[assignment]
        return (bound / (2 + bound)) ** (self.recursions + 1)

    def sizes(self) -> dict[str, object]:
        """Return the sizes of the codes by name."""
        D: Tensor = next(iter(self.stack.blocks)).D  # type: ignore[assignment]
        m0, rank = D.shape[:2]
        sizes = {"n0": len(self.F0), "m0": m0, "recursions": self.recursions}
        return {**sizes, "blocks": len(self.stack.blocks), "rank": rank}


class SparseCRNetA(nn.Module):
    """Bicubic-enlarged image + Σ sparse codes * atoms, of the same size.

    Parameters
    ----------
    n0, m0 : int
        Feature maps, and code maps (atoms).
    recursions : int
        K ≥ 0 of each block; may be changed later.
    blocks, rank : int
        Ridge blocks, and the channels p of their dictionaries D (m0, p, 3, 3).
    atom : int
        Side of the atoms a_m, odd.
    bound : float
        Upper bound L of ‖D‖²; `project` enforces it.
    channels : int
        1 for Y, 3 for RGB.
    generator : torch.Generator
        Source of the initial weights.

    Raises
    ------
    ValueError
        If a size is not positive, K is negative, or `atom` is even.

    Examples
    --------
    >>> net = SparseCRNetA(n0=8, m0=16, blocks=2, rank=4)
    >>> net(torch.zeros(1, 1, 12, 10)).shape
    torch.Size([1, 1, 12, 10])
    """

    enlarged = True
    takes_scale = False
    rgb = False
    scales: tuple[int, ...]

    def __init__(
        self,
        n0: int = 64,
        m0: int = 128,
        recursions: int = 2,
        *,
        blocks: int = 5,
        rank: int = 32,
        atom: int = 7,
        bound: float = 1.0,
        channels: int = 1,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if atom < 1 or atom % 2 == 0:
            raise ValueError(f"atom must be odd, got {atom}")
        self.rgb = channels == 3
        self.scales = ()
        self.coder = _SparseCodes(
            channels, n0, m0, recursions, blocks, rank, bound, ENLARGED, generator
        )
        self.draw = nn.Parameter(_drawing(channels, m0, atom, generator))

    def forward(self, x: Tensor) -> Tensor:
        """Map bicubic-enlarged images (B, C, H, W) to sharp images (B, C, H, W)."""
        return self.reconstruct(x, self.codes(x))

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of the last block, (B, m0, H, W)."""
        z: Tensor = self.coder.stack(self.coder.features(x))
        return z

    def codes_and_images(self, x: Tensor, scale: int = 1) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z_k of the last block and its image, k = 0, …, K; `scale` is unused."""
        for z in self.coder.last_codes(x):
            yield z, self.reconstruct(x, z)

    def reconstruct(self, x: Tensor, z: Tensor, scale: int = 1) -> Tensor:
        """Return x + Σ_m z_m * a_m, (B, C, H, W); `scale` is unused."""
        return x + _draw(z, self.draw).to(x.dtype)

    def atoms(self) -> Tensor:
        """Return the atoms a_m, (m0, C, k, k): what a unit code adds to the image."""
        return self.draw.detach().transpose(0, 1).flip(2, 3)

    def certify(self, x: Tensor, *, recursions: int | None = None) -> StackCertificate:
        """Return the certificate of the codes of images x, see :class:`csc.RidgeStack`."""
        return self.coder.certify(x, recursions)

    def project(self) -> None:
        """Put the dictionaries back under their bound; training calls it every few steps."""
        self.coder.stack.project()

    @property
    def reach(self) -> int:
        """How many pixels to each side an output pixel depends on."""
        return self.coder.reach + self.draw.shape[-1] // 2

    def __repr__(self) -> str:
        """Return sizes and the number of weights in one line."""
        return summary.line(self, self.coder.sizes())

    def _repr_html_(self) -> str:
        """Return sizes, the certificate of each block and the atoms for notebooks."""
        return summary.page(self, self.coder.sizes(), self.atoms(), self.coder.distance)


class SparseCRNetB(nn.Module):
    """Bicubic(LR) + Σ sparse codes * RGB atoms on the enlarged grid; one network for all scales.

    A code at LR pixel (i, j) draws its atom, of side s·`atom`, centred on the HR pixels (s i, s j)
    to (s i + s − 1, s j + s − 1).  Features and codes do not depend on the scale; the atoms do.

    Parameters
    ----------
    n0, m0, recursions, blocks, rank, bound, generator
        As of :class:`SparseCRNetA`.
    atom : int
        Side of the atoms in LR pixels, odd.
    scales : sequence of int
        Some of 2, 3 and 4.

    Raises
    ------
    ValueError
        If a size is not positive, K is negative, `atom` is even, or a scale is unknown.

    Examples
    --------
    >>> net = SparseCRNetB(n0=8, m0=16, blocks=2, rank=4)
    >>> net(torch.zeros(1, 3, 12, 10), 3).shape
    torch.Size([1, 3, 36, 30])
    """

    enlarged = False
    rgb = True
    takes_scale = True
    scales: tuple[int, ...]

    def __init__(
        self,
        n0: int = 64,
        m0: int = 128,
        recursions: int = 2,
        *,
        blocks: int = 6,
        rank: int = 32,
        atom: int = 5,
        bound: float = 1.0,
        scales: Sequence[int] = (2, 3, 4),
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        if atom < 1 or atom % 2 == 0:
            raise ValueError(f"atom must be odd, got {atom}")
        if not scales or not set(scales) <= {2, 3, 4}:
            raise ValueError(f"scales must be some of 2, 3 and 4, got {words(scales, 'and')}")
        self.scales = tuple(sorted(set(scales)))
        self.coder = _SparseCodes(3, n0, m0, recursions, blocks, rank, bound, LR, generator)
        self.draw = nn.ParameterDict(
            {str(s): nn.Parameter(_drawing(3 * s * s, m0, atom, generator)) for s in self.scales}
        )

    def forward(self, x: Tensor, scale: int) -> Tensor:
        """Map LR images (B, 3, h, w) to sharp images (B, 3, scale·h, scale·w)."""
        return self.reconstruct(x, self.codes(x), scale)

    def codes(self, x: Tensor) -> Tensor:
        """Return the codes of the last block, (B, m0, h, w), which serve every scale."""
        z: Tensor = self.coder.stack(self.coder.features(x))
        return z

    def codes_and_images(self, x: Tensor, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z_k of the last block and its image, k = 0, …, K."""
        for z in self.coder.last_codes(x):
            yield z, self.reconstruct(x, z, scale)

    def reconstruct(self, x: Tensor, z: Tensor, scale: int) -> Tensor:
        """Return bicubic(x) + Σ_m z_m * a_m for the atoms of a scale, (B, 3, scale·h, scale·w).

        Raises
        ------
        ValueError
            If the network lacks the scale.
        """
        if str(scale) not in self.draw:
            raise ValueError(f"this network upscales by {words(self.draw)}, not by {scale}")
        draw = self.draw[str(scale)]
        drawn = F.pixel_shuffle(F.conv2d(z, draw, padding=draw.shape[-1] // 2), scale)
        with _without_autocast(x):
            size = (scale * x.shape[-2], scale * x.shape[-1])
            return resample(x, size, (scale, scale)) + drawn.to(x.dtype)

    def atoms(self, scale: int) -> Tensor:
        """Return the atoms a_m of a scale, (m0, 3, s k, s k): what a unit code adds."""
        draw = self.draw[str(scale)].detach()
        k, m0 = draw.shape[-1], draw.shape[1]
        delta = torch.eye(m0).to(draw)[:, :, None, None]
        spread = F.conv2d(F.pad(delta, (k - 1,) * 4), draw)  # (m0, 3 s², k, k)
        return F.pixel_shuffle(spread, scale)

    def certify(self, x: Tensor, *, recursions: int | None = None) -> StackCertificate:
        """Return the certificate of the codes of LR images x, see :class:`csc.RidgeStack`."""
        return self.coder.certify(x, recursions)

    def project(self) -> None:
        """Put the dictionaries back under their bound; training calls it every few steps."""
        self.coder.stack.project()

    @property
    def reach(self) -> int:
        """How many LR pixels to each side an output pixel depends on."""
        side: int = next(iter(self.draw.values())).shape[-1]
        return self.coder.reach + max(2, side // 2)  # bicubic reads two pixels

    def __repr__(self) -> str:
        """Return sizes and the number of weights in one line."""
        return summary.line(self, self._sizes())

    def _repr_html_(self) -> str:
        """Return sizes, the certificate of each block and atoms for notebooks."""
        atoms = self.atoms(self.scales[0])
        return summary.page(self, self._sizes(), atoms, self.coder.distance)

    def _sizes(self) -> dict[str, object]:
        return {**self.coder.sizes(), "scales": self.scales}


def _without_autocast(x: Tensor) -> AbstractContextManager[object]:
    """Compute in the precision of the tensors; the meta device has no autocast."""
    kind = x.device.type
    return nullcontext() if kind == "meta" else torch.autocast(kind, enabled=False)


def _draw(z: Tensor, kernel: Tensor) -> Tensor:
    """Return ``conv2d(z, kernel, padding=k // 2)`` for the few output maps C of an image.

    Processors multiply by the C k² entries of a code's atom faster in one 1×1 convolution than by
    C maps in k² places.  The products are then summed where the atoms overlap.
    """
    C, M, k, _ = map(int, kernel.shape)
    if torch.jit.is_tracing():  # type: ignore[attr-defined, no-untyped-call]  # sizes are free
        return F.conv_transpose2d(z, kernel.flip(2, 3).transpose(0, 1), padding=k // 2)
    parts = F.conv2d(z, kernel.flip(2, 3).permute(0, 2, 3, 1).reshape(C * k * k, M, 1, 1))
    size = z.shape[-2:]
    return F.fold(parts.flatten(2).to(kernel.dtype), size, k, padding=k // 2)


def _drawing(n_out: int, m0: int, side: int, generator: torch.Generator | None) -> Tensor:
    """Draw small kernels from codes to the image, so that training starts near bicubic."""
    weight = torch.randn(n_out, m0, side, side, generator=generator)
    weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.mul_(0.1 * math.sqrt(2 / (side**2 * m0)))
