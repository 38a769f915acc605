"""How a dense solver takes a proximal step: compiled, in the Fourier domain, or by convolutions.

A step from y = z + s (z − z_previous) with r = x − D y is

    new = h_θ(y + Dᵀr/L),      θ = stage · λ/L,

and a solver asks for D new, ‖y − new‖² and ⟨y − new, new − z⟩ with it.  :class:`Compiled` does it
all in one pass over the codes and computes D new from what is not zero; it runs on a CPU.
:class:`Fourier` works through the atoms in chunks that stay in cache.  :class:`Spatial` is left to
PyTorch's convolutions, in bfloat16 if asked.  In the Fourier domain codes are zero where an atom
would wrap around, so periodic convolution on any grid no smaller than the image is exact; the grid
is the next one with small prime factors.

Numbers have one entry for each image of a batch, shape (B, 1, 1, 1).
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import code_shape
from csc.compiled.threads import one_torch_thread, together, torch_threads
from csc.problem import Problem
from csc.prox import shrink

if TYPE_CHECKING:
    from csc.compiled.image import Image

CHUNK = 2**21  # bytes of codes that are transformed at a time on a CPU
LARGE = 2**17  # codes for which it is worth to compile


class Step(NamedTuple):
    """What a step leads to."""

    z: Any  # codes as the way to step keeps them
    image: Tensor  # D z
    moved: Tensor  # ‖y − z‖²
    uphill: Tensor  # ⟨y − z, z − z_old⟩


class Steps(Protocol):
    """A way to take steps; `eps` is the relative rounding of its maps."""

    eps: float

    def running(self) -> AbstractContextManager[Any]:
        """Surround a run."""

    def take(self, z: Tensor) -> Any:
        """Return codes as they are kept here."""

    def give(self, z: Any) -> Tensor:
        """Return codes that are kept here as a tensor, which later steps do not change."""

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""

    def overshoot(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image, as of :class:`csc.problem.Problem`."""

    def step(
        self, z: Any, previous: Any, share: Tensor, r: Tensor, L: Tensor, stage: Tensor
    ) -> Step:
        """Take the step of z_previous = `previous`, s = `share`."""


class Chunked:
    """Steps in PyTorch; the maps are those of a subclass, for a chunk of the atoms at a time."""

    def __init__(self, p: Problem) -> None:
        self.p, self.eps = p, torch.finfo(p.x.dtype).eps

    def running(self) -> AbstractContextManager[Any]:
        """Surround a run."""
        return nullcontext()

    def take(self, z: Tensor) -> Tensor:
        """Return codes as they are kept here."""
        return z

    def give(self, z: Tensor) -> Tensor:
        """Return codes that are kept here as a tensor."""
        return z

    def adjoint(self, r: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of atoms and their part of Dᵀr; forget the codes that were added."""
        raise NotImplementedError

    def add(self, atoms: slice, z: Tensor) -> None:
        """Take the codes of a chunk of atoms."""
        raise NotImplementedError

    def total(self) -> Tensor:
        """Return D z of the codes that were added."""
        raise NotImplementedError

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""
        for atoms, _ in self.adjoint(torch.zeros_like(self.p.x)):
            self.add(atoms, z[:, atoms])
        return self.total()

    def overshoot(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image."""
        return self.p.overshoot(torch.cat([part for _, part in self.adjoint(r)], 1))

    def step(
        self, z: Tensor, previous: Tensor, share: Tensor, r: Tensor, L: Tensor, stage: Tensor
    ) -> Step:
        """Take the step of z_previous = `previous`, s = `share`."""
        p, new = self.p, torch.empty_like(z)
        moved, uphill = torch.zeros_like(L), torch.zeros_like(L)
        for atoms, g in self.adjoint(r):
            old = z[:, atoms]
            y = torch.lerp(previous[:, atoms], old, 1 + share)
            theta = stage * (p.lam[:, atoms] if p.lam.shape[1] > 1 else p.lam) / L
            part = shrink(torch.addcdiv(y, g, L), theta, nonneg=p.nonneg)
            new[:, atoms] = part
            self.add(atoms, part)
            y -= part
            moved += inner(y, y)
            uphill += inner(y, part.sub_(old))
        return Step(new, self.total(), moved, uphill)


class Spatial(Chunked):
    """Convolutions with all atoms at once, in the dtype of the images or in bfloat16."""

    def __init__(self, p: Problem, *, bfloat16: bool = False) -> None:
        super().__init__(p)
        self.dtype = torch.bfloat16 if bfloat16 else p.D.dtype
        self.eps = torch.finfo(self.dtype).eps
        layout = torch.channels_last if bfloat16 else torch.contiguous_format
        self.kernel = p.D.to(self.dtype).contiguous(memory_format=layout)

    def adjoint(self, r: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield all atoms and Dᵀr."""
        yield slice(None), F.conv2d(r.to(self.dtype), self.kernel).to(r.dtype).contiguous()

    def add(self, atoms: slice, z: Tensor) -> None:
        """Take the codes."""
        self.image = F.conv_transpose2d(z.to(self.dtype), self.kernel).to(z.dtype).contiguous()

    def total(self) -> Tensor:
        """Return D z of the codes that were added."""
        return self.image


class Fourier(Chunked):
    """Products of spectra, in chunks of atoms."""

    def __init__(self, p: Problem) -> None:
        super().__init__(p)
        M, _, k, _ = p.D.shape
        H, W = p.size
        self.grid, self.codes = (fast_length(H), fast_length(W)), (H - k + 1, W - k + 1)
        self.kernel = torch.fft.rfft2(p.D, s=self.grid)  # (M, C, *grid/2)
        self.conjugate = self.kernel.conj().resolve_conj()
        one = len(p.x) * p.D.element_size() * self.grid[0] * self.grid[1]
        self.chunk = max(1, CHUNK // one) if p.D.device.type == "cpu" else M

    def adjoint(self, r: Tensor) -> Iterator[tuple[slice, Tensor]]:
        """Yield chunks of atoms and their part of Dᵀr; forget the codes that were added."""
        spectrum = torch.fft.rfft2(r, s=self.grid)  # (B, C, *grid/2)
        self.sum = torch.zeros_like(spectrum)
        h, w = self.codes
        for first in range(0, len(self.conjugate), self.chunk):
            atoms = slice(first, first + self.chunk)
            product = self.conjugate[atoms, 0] * spectrum[:, :1]
            for c in range(1, spectrum.shape[1]):
                product.addcmul_(self.conjugate[atoms, c], spectrum[:, c : c + 1])
            yield atoms, torch.fft.irfft2(product, s=self.grid)[..., :h, :w]

    def add(self, atoms: slice, z: Tensor) -> None:
        """Take the codes of a chunk of atoms."""
        spectrum = torch.fft.rfft2(z, s=self.grid)
        for c in range(self.sum.shape[1]):
            self.sum[:, c] += (spectrum * self.kernel[atoms, c]).sum(1)

    def total(self) -> Tensor:
        """Return D z of the codes that were added."""
        image: Tensor = torch.fft.irfft2(self.sum, s=self.grid)
        return image[..., : self.p.size[0], : self.p.size[1]].contiguous()


class _Codes(NamedTuple):
    """Codes (B, M, h, w), and which runs of them may be other than zero, (B, M · h · runs)."""

    z: Tensor
    in_use: Any

    def of(self, b: int) -> tuple[Any, Any]:
        """Return those of an image, flat."""
        return self.z[b].numpy().ravel(), self.in_use[b]


class Compiled:
    """The compiled kernels, image by image, the rows split among threads."""

    def __init__(self, p: Problem) -> None:
        from csc.compiled import image, kernels

        self.kernels, self.eps = kernels, torch.finfo(p.x.dtype).eps
        self.images = [image.Image(p.of(b), torch_threads()) for b in range(len(p.x))]
        self.kept: list[_Codes] = []

    def running(self) -> AbstractContextManager[Any]:
        """Surround a run."""
        return one_torch_thread()

    def take(self, z: Tensor) -> _Codes:
        """Return codes as they are kept here."""
        z = z.contiguous()
        M, h, w = z.shape[1:]
        in_use = np.ones((len(z), M * h * -(-w // self.images[0].width)), np.uint8)
        # A step writes to the one of three that is not what it starts from.
        self.kept = [_Codes(torch.zeros_like(z), 0 * in_use) for _ in range(2)]
        self.kept.append(_Codes(z.clone(), in_use * bool(z.any())))
        return self.kept[-1]

    def give(self, z: _Codes) -> Tensor:
        """Return codes that are kept here as a tensor, which later steps do not change."""
        return z.z.clone()

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""
        images = []
        for image, codes in zip(self.images, z, strict=True):
            out = image.flat()
            self.kernels.synthesise(out, image.D, *image.frame, codes.numpy(), 0, z.shape[2])
            images.append(image.tensor(out))
        return torch.cat(images)

    def overshoot(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image."""
        values = []
        for image, part in zip(self.images, r, strict=True):
            unlisted = np.zeros(image.codes, bool)
            highest = image.dense_pass(image.flat(part), np.inf, unlisted)[1]
            values.append(highest if image.floor.all() else np.inf)
        return torch.tensor(values, dtype=torch.float64)

    def step(
        self, z: _Codes, previous: _Codes, share: Tensor, r: Tensor, L: Tensor, stage: Tensor
    ) -> Step:
        """Take the step of z_previous = `previous`, s = `share`."""
        new = next(codes for codes in self.kept if codes is not z and codes is not previous)
        D_new, moved, uphill = torch.empty_like(r), torch.empty_like(L), torch.empty_like(L)
        for b, image in enumerate(self.images):
            D_new[b], moved[b], uphill[b] = self._step(
                image,
                [array for codes in (z, previous, new) for array in codes.of(b)],
                image.scratch(0, r[b]),
                [image.dtype.type(a[b].item()) for a in (share, L, stage)],
            )
        return Step(new, D_new, moved, uphill)

    def _step(
        self, image: "Image", codes: list[Any], r: Any, numbers: list[Any]
    ) -> tuple[Tensor, float, float]:
        def run(part: tuple[Any, tuple[int, int]]) -> Any:
            out, span = part
            out[:] = 0
            return self.kernels.proximal_step(
                r, image.groups, image.D, *image.frame, image.width, image.floor, image.lam,
                image.nonneg, *codes, *numbers, out, *span,
            )  # fmt: skip

        stripes = image.stripes()
        images = [image.scratch(t) for t in range(1, 1 + len(stripes))]
        sums = together(run, list(zip(images, stripes, strict=True)))
        for other in images[1:]:
            images[0] += other
        moved, uphill = (sum(parts) for parts in zip(*sums, strict=True))
        return image.tensor(images[0])[0], moved, uphill


def choose(p: Problem) -> Steps:
    """Return the fastest way to take steps for a problem, by its size, atoms and channels."""
    C, k = p.D.shape[1], p.D.shape[-1]
    B, M, h, w = code_shape(p.x, p.D)
    if C >= 16:
        return Spatial(p)
    cpu = p.x.device.type == "cpu" and p.x.dtype in (torch.float32, torch.float64)
    if cpu and k <= 16 and B * M * h * w >= LARGE:
        return Compiled(p)
    return Fourier(p) if k > 3 and p.x.dtype in (torch.float32, torch.float64) else Spatial(p)


def fast_length(n: int) -> int:
    """Return the smallest length ≥ n whose prime factors are 2, 3 and 5."""
    while True:
        rest = n
        for prime in (2, 3, 5):
            while rest % prime == 0:
                rest //= prime
        if rest == 1:
            return n
        n += 1


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ of each image, shape (B, 1, 1, 1)."""
    return torch.bmm(a.reshape(len(a), 1, -1), b.reshape(len(b), -1, 1)).view(-1, 1, 1, 1)
