"""Recursion blocks whose codes minimise a stated convex problem, also after training.

The kernel S of :class:`csc.CISTA` is free, so its trained codes minimise nothing.  The blocks here
learn a dictionary D (M, p, kh, kw) and weights λ ≥ 0 instead of S.  With u = W ⊗ y,

    tied     ½‖y − D z‖² + Σ λ|z|                          z ← h(z + t Dᵀ(y − D z) − t λ)
    ridge    ½‖z‖² + ½‖D z‖² − ⟨u − λ, z⟩,  z ≥ 0          z ← relu(z − t (z + DᵀD z − u + λ))

Tied is the paper's problem (3) with a learned D.  Ridge is the non-negative elastic net of the
dictionary [D; I]: its input weights W are free, and its objective is strongly convex with
modulus 1.  Hence it has one minimiser z*, and the map u ↦ z* is 1-Lipschitz.  With ‖D‖² ≤ L and
t = 2/(2 + L), each step contracts distances by q = L/(2 + L).

In a stack of ridge blocks (layered basis pursuit), the codes of a block change the next features:

    z_b = block_b(y_b),      y_{b+1} = y_b + H_b ⊗ z_b.

:meth:`RidgeBlock.project` scales D to ‖D‖² ≤ L after an optimizer step.  The forward pass relies
on this bound and does not check it.

Codes have the size of y.  D z is half an atom larger on each side, as in :mod:`csc.conv` with y
extended by zeros.  So D and Dᵀ are exact adjoints, and the recursion equals that of (W, S, θ) at
every pixel.

The ridge certificate needs one more application of DᵀD.  With a = u − λ − DᵀD z, the dual point
w = D z has the gap

    E(z) − E* ≤ ½‖z − a₊‖² + ⟨z, a₋⟩,      ‖z − z*‖ ≤ √(2 gap)  and  ‖z − z*‖ ≤ ‖T z − z‖/t,

where T is the step, a₊ = max(a, 0) and a₋ = max(−a, 0).

References
----------
Zou, Hastie, "Regularization and variable selection via the elastic net", JRSS B 67(2), 2005.
Papyan, Romano, Elad, "Convolutional neural networks analyzed via convolutional sparse coding",
JMLR 18, 2017: layered basis pursuit.
"""

import copy
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from csc.bounds import duality_gap, objective
from csc.checks import check_dictionary, check_finite, check_images, check_weight
from csc.conv import gram
from csc.prox import shrink
from csc.recursion.kernel import centre, check_odd, complement
from csc.recursion.spectrum import grid_for_all_sizes
from csc.recursion.unfold import Kernels, unfold

_BELOW = 1 - 1e-6  # keeps float32 kernels under the bound after scaling


def norm_bound(kernel: Tensor) -> float:
    """Return an upper bound on the norm of a zero-padded convolution, for images of all sizes.

    The symbol of the kernel is a trigonometric polynomial of degree k // 2 per axis.  Its largest
    singular value on N points per axis, divided by cos(π (k // 2)/N) for each axis, bounds it
    everywhere (:mod:`csc.recursion.spectrum`).

    Parameters
    ----------
    kernel : Tensor, shape (n, m, kh, kw)
        Kernel of a convolution from m to n maps, or dictionary of n atoms of m channels, odd sides.

    Returns
    -------
    float
        Computed in float64.

    Raises
    ------
    ValueError, TypeError
        If the kernel is not finite or not of odd side.

    Examples
    --------
    >>> norm_bound(torch.eye(2)[:, :, None, None])  # the identity
    1.0
    """
    check_dictionary(kernel)
    check_finite(kernel, "kernel")
    check_odd(kernel, "the kernel")
    grid, factor = grid_for_all_sizes(kernel)
    K = kernel.detach().double()
    K = K if K.shape[0] <= K.shape[1] else K.transpose(0, 1)
    symbol = torch.fft.rfft2(K, s=grid).permute(2, 3, 0, 1)
    largest = float(torch.linalg.eigvalsh(symbol @ symbol.mH).amax())
    return factor * math.sqrt(max(largest, 0.0))


class BlockCertificate(NamedTuple):
    """What is proven about the codes z of one block, for each image; all are (B,) float64.

    objective : E(z).
    gap : E(z) − E* ≤ gap.
    distance : ‖z − z*‖ ≤ distance; infinite where the problem is not strongly convex.
    relative : ‖z − z*‖/‖z*‖ ≤ relative; infinite where z* may be zero.
    """

    objective: Tensor
    gap: Tensor
    distance: Tensor
    relative: Tensor


class RidgeBlock(nn.Module):
    """Non-negative elastic-net codes of features, by K + 1 contracting steps from zero.

    Parameters
    ----------
    D : Tensor, shape (M, p, kh, kw)
        Dictionary, odd sides; copied, and scaled down to ‖D‖² ≤ `bound`.
    W : Tensor, shape (M, C, kh, kw)
        Input weights; copied.
    lam : Tensor, shape (M,)
        λ ≥ 0; copied.
    recursions : int
        K ≥ 0; may be changed later.
    bound : float
        L > 0.  At 1 a step contracts by 1/3, and K = 2 leaves 1/27 of the way to z*.

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, a side is even, or a number is out of range.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> D, W = torch.randn(6, 2, 3, 3, generator=g), torch.randn(6, 4, 3, 3, generator=g)
    >>> block = RidgeBlock(D, W, torch.full((6,), 0.1), recursions=2)
    >>> y = torch.randn(1, 4, 8, 8, generator=g)
    >>> z = block(y)
    >>> z.shape, bool(block.certify(y, z).relative < 0.2)
    (torch.Size([1, 6, 8, 8]), True)
    """

    def __init__(
        self, D: Tensor, W: Tensor, lam: Tensor, recursions: int, *, bound: float = 1.0
    ) -> None:
        super().__init__()
        _check_block(D, W, lam, recursions, bound)
        self.D = nn.Parameter(D.detach().clone())
        self.W = nn.Parameter(W.detach().clone())
        self.lam = nn.Parameter(lam.detach().clone())
        self.recursions, self.bound = recursions, bound
        self.project()

    @property
    def step(self) -> float:
        """The step t = 2/(2 + L)."""
        return 2 / (2 + self.bound)

    def project(self) -> None:
        """Scale D to ‖D‖² ≤ L and clamp λ to λ ≥ 0, in place; call it after an optimizer step."""
        _project(self.D, self.lam, self.bound)

    def forward(self, y: Tensor) -> Tensor:
        """Map features (B, C, H, W) to codes z_K (B, M, H, W)."""
        return _last(self.codes(y))

    def codes(self, y: Tensor) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K, each (B, M, H, W)."""
        t = self.step
        u = F.conv2d(y, self.W * t, -t * self.lam, padding=centre(self.W))
        return _iterates(u, self.D * math.sqrt(t), 1 - t, self.recursions)

    @torch.no_grad()
    def unfolded(self) -> Kernels:
        """Return (W, S, θ) with which :func:`csc.recur` equals this block.

        W is scaled by t, S = (1 − t) δ − t DᵀD has side 2k − 1, and θ = t λ.
        """
        t = self.step
        S = complement(t * gram(self.D))
        atoms = torch.arange(len(S))
        S[(atoms, atoms, *centre(S))] -= t
        return Kernels(self.W * t, S, self.lam * t)

    @torch.no_grad()
    def certify(self, y: Tensor, z: Tensor) -> BlockCertificate:
        """Return what is proven about codes z for features y, in float64.

        Parameters
        ----------
        y : Tensor, shape (B, C, H, W)
            Features.
        z : Tensor, shape (B, M, H, W)
            Codes ≥ 0, such as those of this block or of any other solver.

        Raises
        ------
        ValueError
            If the shapes do not fit or a code is negative.
        """
        check_images(y)
        wanted = (len(y), len(self.D), *y.shape[2:])
        if tuple(z.shape) != wanted or bool((z < 0).any()):
            raise ValueError(f"z must be non-negative of shape {wanted}, got {tuple(z.shape)}")
        D, z = self.D.double(), z.double()
        half = centre(self.W)
        v = F.conv2d(y.double(), self.W.double(), -self.lam.double(), padding=half)  # u − λ
        image = F.conv_transpose2d(z, D)  # D z, (B, p, H+kh−1, W+kw−1)
        a = v - F.conv2d(image, D)
        objective = 0.5 * _squared(z) + 0.5 * _squared(image) - (v * z).sum((1, 2, 3))
        gap = 0.5 * _squared(z - a.relu()) + (z * (-a).relu()).sum((1, 2, 3))
        moved = _squared(z - (z - self.step * (z - a)).relu()).sqrt()
        distance = torch.minimum((2 * gap).sqrt(), moved / self.step)
        return BlockCertificate(objective, gap, distance, _relative(distance, z))

    @torch.no_grad()
    def as_problem(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (x, D, λ) of the same problem, for the solvers of :mod:`csc`.

        The dictionary is [D; δ], with p + M channels, and the image is [0; u], extended by half an
        atom of zeros.  ``csc.fista(x, D, lam, nonneg=True)`` minimises E(z) + ½‖u‖².

        If W = D, the block is the elastic net of y itself, extended by as many zeros:
        ``csc.fista(y, D, lam, nonneg=True, ridge=1.0)`` minimises E(z) + ½‖y‖².
        """
        M, p = self.D.shape[:2]
        u = F.conv2d(y, self.W, padding=centre(self.W))
        x = torch.cat([u.new_zeros(len(u), p, *u.shape[2:]), u], 1)
        border = _border(self.D)
        delta = F.pad(torch.eye(M).to(self.D)[:, :, None, None], border)
        return F.pad(x, border), torch.cat([self.D, delta], 1), self.lam.detach()

    def extra_repr(self) -> str:
        """Describe the block in ``print(net)``."""
        M, p, kh, kw = self.D.shape
        return (
            f"M={M}, C={self.W.shape[1]}, p={p}, k={kh}x{kw}, "
            f"K={self.recursions}, bound={self.bound}"
        )


class StackCertificate(NamedTuple):
    """What is proven about a stack, block by block.

    blocks : certificate of each block, for the features that it was given.
    total : (blocks, B) float64, a bound on the distance of each block's codes from those of the
    exact stack, in which every block is solved to its minimiser.
    total_relative : the same, relative to the norm of the codes of the exact stack.
    nonzero : (blocks, B) float64, fraction of the codes that are not zero.
    """

    blocks: tuple[BlockCertificate, ...]
    total: Tensor
    total_relative: Tensor
    nonzero: Tensor


class RidgeStack(nn.Module):
    """Ridge blocks in a row: y_{b+1} = y_b + H_b ⊗ z_b.

    Parameters
    ----------
    blocks : sequence of RidgeBlock
        At least one; all take features of C channels.
    back : sequence of Tensor, shape (C, M, kh, kw)
        H_b, one fewer than blocks; copied.

    Raises
    ------
    ValueError
        If the numbers or shapes do not fit.
    """

    def __init__(self, blocks: Sequence[RidgeBlock], back: Sequence[Tensor]) -> None:
        super().__init__()
        if not blocks or len(back) != len(blocks) - 1:
            raise ValueError(f"{len(blocks)} blocks need one fewer kernels back, got {len(back)}")
        for block, H in zip(blocks, back, strict=False):
            fits = (block.W.shape[1], len(block.D))
            if tuple(H.shape[:2]) != fits or H.shape[2] % 2 == 0:
                raise ValueError(f"a kernel back must be {fits} and odd, got {tuple(H.shape)}")
        self.blocks = nn.ModuleList(blocks)
        self.back = nn.ParameterList([nn.Parameter(H.detach().clone()) for H in back])

    def forward(self, y: Tensor) -> Tensor:
        """Map features (B, C, H, W) to the last block's codes (B, M, H, W)."""
        return self.all_codes(y)[-1]

    def all_codes(self, y: Tensor) -> list[Tensor]:
        """Return the codes of every block."""
        return [z for _, z in self._run(y)]

    def codes(self, y: Tensor) -> Iterator[tuple[int, Tensor]]:
        """Yield (b, z_k) for the recursions k = 0, …, K of every block b, in order."""
        for b, block in enumerate(self._blocks()):
            for z in block.codes(y):
                yield b, z
            y = self._next(b, y, z)

    def project(self) -> None:
        """Project every block; call it after an optimizer step."""
        for block in self._blocks():
            block.project()

    @torch.no_grad()
    def certify(self, y: Tensor, *, recursions: int | None = None) -> StackCertificate:
        """Return what is proven about the codes for features y.

        A block's minimiser is a 1-Lipschitz function of u = W ⊗ y.  So an error e in its features
        moves its minimiser by at most ‖W‖ e.  An error e in its codes moves the next features by
        at most ‖H‖ e, and their rounding adds to that.  The product of these norms makes `total`
        loose.  With `recursions` a second stack runs in float64, much nearer to the exact one:
        its own `total` is small, and the distance of the two stacks is measured.

        Parameters
        ----------
        y : Tensor, shape (B, C, H, W)
            Features.
        recursions : int, optional
            Recursions of the second stack; 20 leave 1e-10 of the way at bound 1.
        """
        norms = [norm_bound(block.W) for block in self._blocks()]
        back = [norm_bound(H) for H in self.back]
        found = self._certify(y, norms, back)
        if recursions is None:
            return found
        nearer = copy.deepcopy(self).double()
        for block in nearer._blocks():
            block.recursions = recursions
        codes, theirs = self.all_codes(y), nearer.all_codes(y.double())
        apart = [_squared(z - there).sqrt() for z, there in zip(codes, theirs, strict=True)]
        further = nearer._certify(y.double(), norms, back).total
        total = torch.minimum(found.total, torch.stack(apart) + further)
        relative = [_relative(*given) for given in zip(total, codes, strict=True)]
        return found._replace(total=total, total_relative=torch.stack(relative))

    def _certify(
        self, y: Tensor, norms: Sequence[float], back: Sequence[float]
    ) -> StackCertificate:
        """Return the certificate of one run, with the loose `total`; norms are of W and H."""
        blocks: list[BlockCertificate] = []
        total: list[Tensor] = []
        relative: list[Tensor] = []
        nonzero: list[Tensor] = []
        exact = y.double()  # the features without rounding
        before = exact.new_zeros(len(y))  # bound on the error of the block's features
        for b, (block, (features, z)) in enumerate(zip(self._blocks(), self._run(y), strict=True)):
            before = before + _squared(features - exact).sqrt()
            blocks.append(block.certify(features, z))
            total.append(blocks[-1].distance + norms[b] * before)
            relative.append(_relative(total[-1], z))
            nonzero.append((z != 0).double().mean((1, 2, 3)))
            if b < len(self.back):
                H = self.back[b].double()
                exact = features.double() + F.conv2d(z.double(), H, padding=centre(H))
                before = before + back[b] * total[-1]
        return StackCertificate(
            tuple(blocks), torch.stack(total), torch.stack(relative), torch.stack(nonzero)
        )

    def _blocks(self) -> Iterator[RidgeBlock]:
        for block in self.blocks:
            yield cast(RidgeBlock, block)

    def _run(self, y: Tensor) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield the features and the codes of every block."""
        for b, block in enumerate(self._blocks()):
            z = block(y)
            yield y, z
            y = self._next(b, y, z)

    def _next(self, b: int, y: Tensor, z: Tensor) -> Tensor:
        """Return the features of block b + 1; those of the last block stay."""
        if b == len(self.back):
            return y
        H = self.back[b]
        return y + F.conv2d(z, H, padding=centre(H))


class TiedBlock(nn.Module):
    """The paper's problem with a learned dictionary: K + 1 steps of ISTA, t = τ/L.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary, odd sides; copied, and scaled down to ‖D‖² ≤ `bound`.
    lam : Tensor, shape (M,)
        λ ≥ 0; copied.
    recursions : int
        K ≥ 0; may be changed later.
    bound : float
        L > 0.
    relaxation : float
        τ in (0, 2).  At τ ≤ 1 the objective never rises.
    nonneg : bool
        Require z ≥ 0.

    Raises
    ------
    ValueError, TypeError
        If the shapes do not fit, a side is even, or a number is out of range.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> block = TiedBlock(torch.randn(6, 4, 3, 3, generator=g), torch.full((6,), 0.3), 50)
    >>> y = torch.randn(1, 4, 8, 8, generator=g)
    >>> found = block.certify(y, block(y))
    >>> bool(found.gap < 0.05 * found.objective)
    True
    """

    def __init__(
        self,
        D: Tensor,
        lam: Tensor,
        recursions: int,
        *,
        bound: float = 1.0,
        relaxation: float = 1.0,
        nonneg: bool = True,
    ) -> None:
        super().__init__()
        _check_block(D, D, lam, recursions, bound)
        if not 0 < relaxation < 2:
            raise ValueError(f"relaxation must be in (0, 2), got {relaxation}")
        self.D = nn.Parameter(D.detach().clone())
        self.lam = nn.Parameter(lam.detach().clone())
        self.recursions, self.bound = recursions, bound
        self.relaxation, self.nonneg = relaxation, nonneg
        self.project()

    @property
    def step(self) -> float:
        """The step t = τ/L."""
        return self.relaxation / self.bound

    def project(self) -> None:
        """Scale D to ‖D‖² ≤ L and clamp λ to λ ≥ 0, in place; call it after an optimizer step."""
        _project(self.D, self.lam, self.bound)

    def forward(self, y: Tensor) -> Tensor:
        """Map features (B, C, H, W) to codes z_K (B, M, H, W)."""
        return _last(self.codes(y))

    def codes(self, y: Tensor) -> Iterator[Tensor]:
        """Yield the codes z_0, …, z_K, each (B, M, H, W)."""
        t = self.step
        u = F.conv2d(y, self.D * t, padding=centre(self.D))
        threshold = (t * self.lam).view(-1, 1, 1)
        D = self.D * math.sqrt(t)
        return _iterates(u, D, 1.0, self.recursions, threshold=threshold, nonneg=self.nonneg)

    @torch.no_grad()
    def unfolded(self) -> Kernels:
        """Return (t Dᵀ, δ − t DᵀD, t λ), with which :func:`csc.recur` equals this block."""
        return unfold(self.D, self.lam, 1 / self.step)

    @torch.no_grad()
    def certify(self, y: Tensor, z: Tensor) -> BlockCertificate:
        """Return what is proven about codes z for features y, in float64.

        The problem is convex but not strongly convex, so the distances are infinite.
        """
        x, D, lam = (part.double() for part in self.as_problem(y))
        P = objective(x, D, z.double(), lam, nonneg=self.nonneg)
        gap = duality_gap(x, D, z.double(), lam, nonneg=self.nonneg)
        unknown = torch.full_like(gap, torch.inf)
        return BlockCertificate(P, gap, unknown, unknown)

    @torch.no_grad()
    def as_problem(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return (x, D, λ) of the same problem, for the solvers of :mod:`csc`: x is y, extended."""
        return F.pad(y, _border(self.D)), self.D.detach(), self.lam.detach()

    def extra_repr(self) -> str:
        """Describe the block in ``print(net)``."""
        M, C, kh, kw = self.D.shape
        return f"M={M}, C={C}, k={kh}x{kw}, K={self.recursions}, bound={self.bound}"


def _iterates(
    u: Tensor,
    D: Tensor,
    decay: float,
    K: int,
    *,
    threshold: Tensor | None = None,
    nonneg: bool = True,
) -> Iterator[Tensor]:
    """Yield z_0 = h(u), z_k = h(u + decay z_{k−1} − DᵀD z_{k−1}) for k ≤ K."""
    border, half = _border(D), centre(D)
    # D z is a convolution with the flipped kernel, on many CPUs faster than a transposed one.
    # Half of the padding is done before it, because oneDNN is slow with padding above that.
    synthesis = D.transpose(0, 1).flip(2, 3).contiguous(memory_format=torch.channels_last)
    z = u.relu() if threshold is None else shrink(u, threshold, nonneg=nonneg)
    yield z
    for _ in range(K):
        image = F.conv2d(F.pad(z, border), synthesis, padding=half)  # D z, larger than z
        a = torch.add(u, z, alpha=decay).sub_(F.conv2d(image, D))
        z = a.relu_() if threshold is None else shrink(a, threshold, nonneg=nonneg)
        yield z


def _last(codes: Iterator[Tensor]) -> Tensor:
    *_, z = codes
    return z


@torch.no_grad()
def _project(D: Tensor, lam: Tensor, bound: float) -> None:
    """Scale D to ‖D‖² ≤ bound and clamp λ to λ ≥ 0, in place."""
    if D.is_meta:  # has no values
        return
    norm = norm_bound(D)
    if norm > math.sqrt(bound) * _BELOW:
        D.mul_(math.sqrt(bound) * _BELOW / norm)
    lam.clamp_(min=0)


def _check_block(D: Tensor, W: Tensor, lam: Tensor, recursions: int, bound: float) -> None:
    for name, kernel in (("D", D), ("W", W)):
        check_dictionary(kernel)
        check_finite(kernel, name)
        check_odd(kernel, name)
    if len(D) != len(W) or tuple(lam.shape) != (len(D),):
        raise ValueError(
            f"D, W and lam must have the same number of atoms, got {len(D)}, {len(W)} and "
            f"shape {tuple(lam.shape)}"
        )
    check_weight(lam, (1, len(D), 1, 1))
    if recursions < 0 or not 0 < bound < math.inf:
        raise ValueError(f"recursions must be ≥ 0 and bound > 0, got {recursions} and {bound}")


def _relative(distance: Tensor, z: Tensor) -> Tensor:
    """Return a bound on ‖z − z*‖/‖z*‖ from one on ‖z − z*‖; infinite where z* may be zero."""
    least = _squared(z.double()).sqrt() - distance  # ‖z*‖ is at least this
    relative = torch.where(least > 0, distance / least, torch.inf)
    return torch.where(distance > 0, relative, 0.0)


def _border(kernel: Tensor) -> tuple[int, int, int, int]:
    """Return the padding of `F.pad` by half a kernel on each side."""
    down, across = centre(kernel)
    return (across, across, down, down)


def _squared(z: Tensor) -> Tensor:
    """Return ‖z‖² of each image."""
    return z.square().sum((1, 2, 3))
