"""Three ways to take a proximal step: compiled, in the Fourier domain, or by convolutions.

A step from y = z + β (z − z_before) with r = x − D y is

    z_new = h_θ(y + Dᵀr/L),      θ = factor · λ/L,

divided by 1 + μ/L with a ridge μ.  It also returns D z_new, ‖y − z_new‖² and
⟨y − z_new, z_new − z⟩.

- :class:`Compiled` takes one pass over the codes on a CPU.  It computes D z_new from the non-zero
  codes.  It takes neither a ridge nor groups.
- :class:`Fourier` multiplies spectra, a chunk of atoms at a time, so that a chunk stays in cache.
  Codes are zero where an atom would wrap around, so periodic convolution is exact on any grid at
  least as large as the image.  The grid has small prime factors.
- :class:`Spatial` calls PyTorch's convolutions, in bfloat16 if asked.

A step keeps nothing for the next one: :class:`State` holds all that it starts from.  Numbers have
one entry for each image of a batch, shape (B, 1, 1, 1).
"""

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import code_shape
from csc.compiled import records
from csc.compiled.records import Flags, Floats, Scalars, Span
from csc.compiled.threads import together, torch_threads
from csc.problem import Gap, Problem

CHUNK = 2**21  # bytes of codes that are transformed at a time on a CPU
LARGE = 2**17  # codes for which compiling pays


class Codes(NamedTuple):
    """Codes, and where they may differ from zero."""

    z: Tensor  # (B, M, h, w)
    in_use: Flags  # (B, M · h · runs), flags of `csc.compiled.records.Codes`; (B, 0) in PyTorch


class State(NamedTuple):
    """The codes that a step starts from, and memory for the new codes.

    A step overwrites `spare`.  After it, go on from the state that it returns, or repeat it from
    the same state with another L.
    """

    now: Codes
    before: Codes  # those of the step before
    spare: Codes

    def next(self) -> "State":
        """Return the state in which the codes in `spare` are the current ones."""
        return State(now=self.spare, before=self.now, spare=self.before)


class Step(NamedTuple):
    """The result of a step."""

    state: State
    image: Tensor  # D z_new
    squared_move: Tensor  # ‖y − z_new‖²
    restart_test: Tensor  # ⟨y − z_new, z_new − z⟩, positive where momentum opposes the step


class Steps(Protocol):
    """A way to take steps."""

    eps: float  # relative rounding of D and Dᵀ
    own_threads: bool  # steps run on threads of our own, and PyTorch's would be in their way

    def begin(self, z: Tensor) -> State:
        """Return the state of codes z without momentum."""

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""

    def largest_ratio(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image, as :meth:`csc.problem.Problem.largest_ratio`."""

    def estimate(self, z: Tensor, r: Tensor) -> Gap:
        """Return the gap of z with r = x − D z, as :meth:`csc.problem.Problem.estimate`."""

    def step(self, state: State, momentum: Tensor, r: Tensor, L: Tensor, factor: Tensor) -> Step:
        """Take a step with β = `momentum`."""

    def certify(self, z: Tensor, tol: float) -> Gap:
        """Return the certificate of codes, as :meth:`csc.problem.Problem.certify`."""


class Spatial:
    """Convolutions with all atoms at once, in the dtype of the images or in bfloat16."""

    own_threads = False

    def __init__(self, p: Problem, *, bfloat16: bool = False) -> None:
        self.p = p
        self.dtype = torch.bfloat16 if bfloat16 else p.D.dtype
        self.eps = torch.finfo(self.dtype).eps
        layout = torch.channels_last if bfloat16 else torch.contiguous_format
        self.kernel = p.D.to(self.dtype).contiguous(memory_format=layout)

    def begin(self, z: Tensor) -> State:
        """Return the state of codes z without momentum."""
        return _begin(z)

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""
        return F.conv_transpose2d(z.to(self.dtype), self.kernel).to(z.dtype).contiguous()

    def adjoint(self, r: Tensor) -> Tensor:
        """Return Dᵀ r."""
        return F.conv2d(r.to(self.dtype), self.kernel).to(r.dtype).contiguous()

    def largest_ratio(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image."""
        return self.p.largest_ratio(self.adjoint(r))

    def estimate(self, z: Tensor, r: Tensor) -> Gap:
        """Return the gap of z with r = x − D z."""
        return self.p.estimate(z, r, self.adjoint(r))

    def certify(self, z: Tensor, tol: float) -> Gap:
        """Return the certificate of codes."""
        return self.p.certify(z, tol=tol)

    def step(self, state: State, momentum: Tensor, r: Tensor, L: Tensor, factor: Tensor) -> Step:
        """Take a step with β = `momentum`."""
        all_atoms = slice(None)
        z, squared_move, restart_test = _step_of_atoms(
            self.p, state, all_atoms, self.adjoint(r), momentum, L, factor
        )
        return Step(state.next(), self.synthesis(z), squared_move, restart_test)


class Fourier:
    """Products of spectra, in chunks of atoms."""

    own_threads = False

    def __init__(self, p: Problem) -> None:
        self.p, self.eps = p, torch.finfo(p.x.dtype).eps
        H, W = p.size
        self.grid, self.codes = (fast_length(H), fast_length(W)), code_shape(p.x, p.D)[2:]
        self.kernel = torch.fft.rfft2(p.D, s=self.grid)  # (M, C, *grid/2)
        self.conjugate = self.kernel.conj().resolve_conj()
        M, one = len(p.D), len(p.x) * p.D.element_size() * self.grid[0] * self.grid[1]
        whole = p.D.device.type != "cpu" or p.penalty.groups is not None
        self.chunk = M if whole else max(1, CHUNK // one)

    def begin(self, z: Tensor) -> State:
        """Return the state of codes z without momentum."""
        return _begin(z)

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""
        total = torch.zeros_like(self._spectrum(self.p.x))
        for atoms in self._chunks():
            self._add_synthesis(total, atoms, z[:, atoms])
        return self._image(total)

    def largest_ratio(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image."""
        return self.p.largest_ratio(self.adjoint(r))

    def estimate(self, z: Tensor, r: Tensor) -> Gap:
        """Return the gap of z with r = x − D z."""
        return self.p.estimate(z, r, self.adjoint(r))

    def adjoint(self, r: Tensor) -> Tensor:
        """Return Dᵀ r."""
        spectrum = self._spectrum(r)
        return torch.cat([self._adjoint(spectrum, atoms) for atoms in self._chunks()], 1)

    def certify(self, z: Tensor, tol: float) -> Gap:
        """Return the certificate of codes."""
        return self.p.certify(z, tol=tol)

    def step(self, state: State, momentum: Tensor, r: Tensor, L: Tensor, factor: Tensor) -> Step:
        """Take a step with β = `momentum`."""
        spectrum = self._spectrum(r)
        total = torch.zeros_like(spectrum)
        squared_move, restart_test = torch.zeros_like(L), torch.zeros_like(L)
        for atoms in self._chunks():
            g = self._adjoint(spectrum, atoms)
            z, square, product = _step_of_atoms(self.p, state, atoms, g, momentum, L, factor)
            self._add_synthesis(total, atoms, z)
            squared_move += square
            restart_test += product
        return Step(state.next(), self._image(total), squared_move, restart_test)

    def _chunks(self) -> Iterator[slice]:
        for first in range(0, len(self.p.D), self.chunk):
            yield slice(first, first + self.chunk)

    def _spectrum(self, image: Tensor) -> Tensor:
        """Return the spectrum (B, C, *grid/2) of an image."""
        spectrum: Tensor = torch.fft.rfft2(image, s=self.grid)
        return spectrum

    def _image(self, spectrum: Tensor) -> Tensor:
        """Return the image (B, C, H, W) of a spectrum."""
        H, W = self.p.size
        image: Tensor = torch.fft.irfft2(spectrum, s=self.grid)
        return image[..., :H, :W].contiguous()

    def _adjoint(self, spectrum: Tensor, atoms: slice) -> Tensor:
        """Return the part of Dᵀ r for some atoms, from the spectrum of r."""
        product = self.conjugate[atoms, 0] * spectrum[:, :1]
        for c in range(1, spectrum.shape[1]):
            product.addcmul_(self.conjugate[atoms, c], spectrum[:, c : c + 1])
        h, w = self.codes
        g: Tensor = torch.fft.irfft2(product, s=self.grid)
        return g[..., :h, :w]

    def _add_synthesis(self, total: Tensor, atoms: slice, z: Tensor) -> None:
        """Add the spectrum of the synthesis of some atoms to `total`, in place."""
        spectrum = torch.fft.rfft2(z, s=self.grid)
        for c in range(total.shape[1]):
            total[:, c] += (spectrum * self.kernel[atoms, c]).sum(1)


def _begin(z: Tensor) -> State:
    """Return the state of codes z without momentum, for steps in PyTorch."""
    now, before = (z.clone(memory_format=torch.contiguous_format) for _ in range(2))
    flags = np.zeros((len(z), 0), np.uint8)
    return State(*(Codes(t, flags) for t in (now, before, torch.empty_like(now))))


def _step_of_atoms(
    p: Problem,
    state: State,
    atoms: slice,
    g: Tensor,
    momentum: Tensor,
    L: Tensor,
    factor: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Write z_new of some atoms into `spare`, with g their part of Dᵀr.

    Return z_new, ‖y − z_new‖² and ⟨y − z_new, z_new − z⟩ of these atoms.
    """
    old = state.now.z[:, atoms]
    y = torch.lerp(state.before.z[:, atoms], old, 1 + momentum)
    theta = factor * (p.lam[:, atoms] if p.lam.shape[1] > 1 else p.lam) / L
    new = p.penalty.prox(torch.addcdiv(y, g, L), theta, L)
    state.spare.z[:, atoms] = new
    y -= new
    return state.spare.z[:, atoms], inner(y, y), inner(y, new.sub_(old))


class Compiled:
    """The compiled kernels, image by image, the rows split among threads."""

    own_threads = True

    def __init__(self, p: Problem) -> None:
        from csc.compiled import certificate, image, kernels

        self.p, self.kernels, self.certifier = p, kernels, certificate
        self.eps = torch.finfo(p.x.dtype).eps
        self.images = [image.Image(p.of(b), torch_threads()) for b in range(len(p.x))]

    def begin(self, z: Tensor) -> State:
        """Return the state of codes z without momentum."""
        M, h, w = z.shape[1:]
        runs = -(-w // self.images[0].width)
        in_use = np.full((len(z), M * h * runs), bool(z.any()), np.uint8)
        state = _begin(z)
        return State(
            now=Codes(state.now.z, in_use),
            before=Codes(state.before.z, in_use.copy()),
            spare=Codes(state.spare.z.zero_(), np.zeros_like(in_use)),
        )

    def synthesis(self, z: Tensor) -> Tensor:
        """Return D z."""
        images = []
        for image, codes in zip(self.images, z, strict=True):
            out = image.flat()
            self.kernels.synthesise(out, image.atoms, codes.numpy())
            images.append(image.tensor(out))
        return torch.cat(images)

    def largest_ratio(self, r: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image, infinite where a λ is zero."""
        parts = zip(self.images, r, strict=True)
        values = [image.largest_ratio(image.flat(part)) for image, part in parts]
        return torch.tensor(values, dtype=torch.float64)

    def estimate(self, z: Tensor, r: Tensor) -> Gap:
        """Return the gap of z with r = x − D z."""
        return self.p.estimate_from(z, r, self.largest_ratio(r))

    def certify(self, z: Tensor, tol: float) -> Gap:
        """Return the certificate of codes."""
        parts = zip(self.images, z, strict=True)
        found = [self.certifier.certify_dense(image, part, tol) for image, part in parts]
        return Gap(*(torch.cat(values) for values in zip(*found, strict=True)))

    def step(self, state: State, momentum: Tensor, r: Tensor, L: Tensor, factor: Tensor) -> Step:
        """Take a step with β = `momentum`."""
        image, squared_move, restart_test = (torch.empty_like(t) for t in (r, L, L))
        for b in range(len(self.images)):
            scalars = Scalars(*(self.images[b].scalar(a[b].item()) for a in (momentum, L, factor)))
            image[b], squared_move[b], restart_test[b] = self._step(state, b, r[b], scalars)
        return Step(state.next(), image, squared_move, restart_test)

    def _step(
        self, state: State, b: int, r: Tensor, scalars: Scalars
    ) -> tuple[Tensor, float, float]:
        """Take the step of image b; return D z_new and the two sums."""
        image = self.images[b]
        pixels = image.flat(r)
        now, before, new = (
            records.Codes(codes.z[b].numpy().ravel(), codes.in_use[b]) for codes in state
        )

        def run(span: Span) -> tuple[Floats, float, float]:
            out = image.flat()
            sums = self.kernels.proximal_step(
                pixels, image.atoms, image.weights, now, before, new, scalars, out, span
            )
            return out, *sums

        images, squares, products = zip(*together(run, image.stripes()), strict=True)
        total = images[0]
        for other in images[1:]:
            total += other
        return image.tensor(total)[0], sum(squares), sum(products)


def choose(p: Problem) -> Steps:
    """Return the fastest way to take steps for a problem, by its size, atoms and channels."""
    C, area = p.D.shape[1], p.D.shape[2] * p.D.shape[3]
    B, M, h, w = code_shape(p.x, p.D)
    if C >= 16:
        return Spatial(p)
    real = p.x.dtype in (torch.float32, torch.float64)
    l1 = p.penalty.groups is None and not p.penalty.ridge
    if l1 and p.x.device.type == "cpu" and real and area <= 256 and B * M * h * w >= LARGE:
        return Compiled(p)
    return Fourier(p) if area > 9 and real else Spatial(p)


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
