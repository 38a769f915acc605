"""How far a trained recursion is from ISTA: what is left of S = δ − DᵀD/L and W = Dᵀ/L.

On a periodic grid, I − Ŝ(ω) = D̂(ω)ᴴ D̂(ω)/L is Hermitian, positive semidefinite and of rank ≤ C at
every frequency, C the channels of the atoms.  Any A = I − Ŝ(ω) splits orthogonally into

    A = [top C positive]  +  [positive beyond rank C]  +  [negative]  +  [skew-Hermitian],

the first three from the eigenvalues of its Hermitian part.  By Parseval the squared norms add up to
‖δ − S‖² over the frequencies, and all but the first are missing from every ISTA, whatever its atoms
and L: a lower bound on the distance.  Atoms found by :func:`nearest_dictionary` bound it from
above.  Distances are relative to ‖δ − S‖, the distance to the trivial ISTA of D = 0.

References
----------
Higham, "Computing a nearest symmetric positive semidefinite matrix", Linear Algebra Appl. 103, 1988
(the projection).  Zhang, Liu, Yu, "CRNet", arXiv 1908.01166, 2019, eq. 8 (S and W).
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import check_dictionary, check_finite
from csc.conv import gram
from csc.recursion.spectrum import (
    Size,
    check_kernel,
    check_size,
    operator_norm,
    responses,
    transpose,
)
from csc.recursion.unfold import Kernels


class Remains(NamedTuple):
    """What is left of ISTA in S: shares of ‖δ − S‖², that sum to one, and two bounds.

    kept : of rank ≤ C and positive, as ISTA's; rank : positive beyond rank C; negative; skew : not
    symmetric; low, high : extreme eigenvalues of I − (S + Sᵀ)/2, in [0, 1] for ISTA with a step of
    1/L; distance : √(1 − kept), at most the distance of δ − S in Frobenius norm to any DᵀD/L,
    relative; operator : the same in operator norm.
    """

    kept: float
    rank: float
    negative: float
    skew: float
    low: float
    high: float
    distance: float
    operator: float


class Nearest(NamedTuple):
    """The nearest ISTA that was found.

    D : (M, C, k, k), atoms over √L; S : (M, M, s, s), its kernel δ − DᵀD/L; distance and operator :
    ‖S − S'‖/‖δ − S‖ in Frobenius and in operator norm.
    """

    D: Tensor
    S: Tensor
    distance: float
    operator: float


class Fit(NamedTuple):
    """How δ − S resembles the Gram kernel of W: δ − S ≈ scale·WᵀW.

    scale : least squares, L for ISTA; correlation : cosine between the two, 1 for ISTA; residual :
    √(1 − correlation²), the relative distance at that scale.
    """

    scale: float
    correlation: float
    residual: float


def symmetry_defect(S: Tensor) -> float:
    """Return ‖S − Sᵀ‖/‖S‖ in Frobenius norm: 0 for ISTA, √2 on average for random S, at most 2.

    Parameters
    ----------
    S : Tensor, shape (M, M, s, s)
        Recursion kernel, s odd.

    Returns
    -------
    float
        Zero where S is.

    Raises
    ------
    ValueError, TypeError
        If S is no finite kernel.

    Examples
    --------
    >>> S = torch.tensor([[0.0, 3.0], [-3.0, 0.0]]).view(2, 2, 1, 1)
    >>> symmetry_defect(S), symmetry_defect(S.abs())
    (2.0, 0.0)
    """
    check_kernel(S)
    S = S.detach().double()
    norm = float(S.norm())
    return float((S - transpose(S)).norm()) / norm if norm else 0.0


def remains(S: Tensor, channels: int, size: Size) -> Remains:
    """Return how ‖δ − S‖² splits into what an ISTA of C channels can have and what none can.

    Parameters
    ----------
    S : Tensor, shape (M, M, s, s)
        Recursion kernel, s odd.
    channels : int
        C ≥ 1, the channels that W takes, to which the rank is limited.
    size : (int, int)
        Height and width of the periodic grid, each ≥ s.  The bound holds against S' = δ − DᵀD/L
        whose side fits on the grid as well.

    Returns
    -------
    Remains

    Notes
    -----
    Half of a random S is symmetric, and half of its eigenvalues positive: `kept` is far from zero
    for a kernel that has nothing of ISTA.  Compare with that of the shuffled entries of S.

    Raises
    ------
    ValueError, TypeError
        If S is no finite kernel, `channels` not positive or the grid smaller than S; or S = δ.

    Examples
    --------
    >>> S = torch.tensor([[1.0, -1.0], [1.0, 0.0]]).view(2, 2, 1, 1)  # I − S = 0, 1 / −1, 1
    >>> r = remains(S, 1, (4, 4))
    >>> [round(share, 3) for share in (r.kept, r.rank, r.negative, r.skew)]
    [0.333, 0.0, 0.0, 0.667]
    """
    check_kernel(S)
    check_size(size)
    if channels < 1:
        raise ValueError(f"channels must be ≥ 1, got {channels}")
    if min(size) < S.shape[-1]:
        raise ValueError(f"the grid {tuple(size)} is smaller than S, {S.shape[-1]} pixels wide")
    parts = torch.zeros(4, dtype=torch.float64, device=S.device)
    low, high, worst, largest = math.inf, -math.inf, 0.0, 0.0
    eye = torch.eye(S.shape[0], dtype=torch.complex128, device=S.device)
    for Sw in responses(S, size):
        A = eye - Sw
        values = torch.linalg.eigvalsh((A + A.mH) / 2).flip(-1)  # falling
        skew = (A - A.mH) / 2
        positive, below = values.clamp(min=0), values.clamp(max=0)
        found = [
            positive[..., :channels].square().sum(-1),
            positive[..., channels:].square().sum(-1),
            below.square().sum(-1),
            skew.abs().square().sum((-2, -1)),
        ]
        parts += (torch.stack(found) * _multiplicity(size, S.device)).sum((1, 2))
        low, high = min(low, float(values.min())), max(high, float(values.max()))
        singular = torch.linalg.svdvals(A)
        largest = max(largest, float(singular.max()))
        beyond = singular[..., channels:].max() if channels < S.shape[0] else 0.0
        worst = max(worst, -low, float(beyond), float(torch.linalg.eigvalsh(1j * skew).abs().max()))
    if not largest:
        raise ValueError("S is δ: I − S is zero, and nothing can be said relative to it")
    kept, rank, negative, skewed = (parts / parts.sum()).tolist()
    lost = rank + negative + skewed
    return Remains(
        kept, rank, negative, skewed, low, high, math.sqrt(lost), min(1.0, worst / largest)
    )


def nearest_dictionary(
    S: Tensor,
    channels: int,
    k: int,
    *,
    crop: bool = False,
    start: Tensor | None = None,
    steps: int = 300,
    generator: torch.Generator | None = None,
) -> Nearest:
    """Return atoms D with δ − DᵀD nearest to S in Frobenius norm, found by L-BFGS.

    The problem is not convex: the distance is that of a local minimum, an upper bound.

    Parameters
    ----------
    S : Tensor, shape (M, M, s, s)
        Recursion kernel, s odd.
    channels, k : int
        C and side of the atoms, whose S has side 2k − 1.
    crop : bool
        Compare within the s×s support of S only, where 2k − 1 > s; the crop of an ISTA's S, which
        the paper's k×k S might be, belongs to no ISTA itself.
    start : Tensor, shape (M, C, k, k), optional
        Atoms to start from, scaled to fit, such as W; random ones by default.
    steps : int
        Largest number of steps, ≥ 1.
    generator : torch.Generator, optional
        Source of the random start.

    Returns
    -------
    Nearest
        In float64.  Its S has the side of S where cropped, else the larger of s and 2k − 1.

    Raises
    ------
    ValueError, TypeError
        If S is no finite kernel or δ, a number is not positive, or `start` has another shape.

    Examples
    --------
    >>> from csc import random_dictionary, unfold
    >>> D = random_dictionary(2, 1, 2, generator=torch.Generator().manual_seed(0))
    >>> S = unfold(D, 0.1, 4.0).S
    >>> nearest_dictionary(S, 1, 2, generator=torch.Generator().manual_seed(1)).distance < 1e-4
    True
    """
    check_kernel(S)
    if min(channels, k, steps) < 1:
        raise ValueError(f"channels, k and steps must be ≥ 1, got {channels}, {k} and {steps}")
    shape = (S.shape[0], channels, k, k)
    if start is None:
        start = torch.randn(shape, generator=generator, dtype=torch.float64).to(S.device)
    check_dictionary(start)
    check_finite(start, "start")
    if tuple(start.shape) != shape:
        raise ValueError(f"start must have shape {shape}, got {tuple(start.shape)}")
    side = S.shape[-1] if crop else max(S.shape[-1], 2 * k - 1)
    A = _sized(_complement(S.detach().double()), side)
    norm = float(A.norm())
    if not norm:
        raise ValueError("S is δ, the S of D = 0: there is nothing to fit")
    D = start.detach().double()
    G = _sized(gram(D), side)
    D = D * math.sqrt(max(float((A * G).sum()) / max(float(G.square().sum()), 1e-300), 1e-6))
    D = _descend(D, A / norm, norm, steps)
    found = _sized(gram(D), side)
    operator = operator_norm(A - found) / operator_norm(A)
    return Nearest(D, _complement(found), float((A - found).norm()) / norm, operator)


def gram_fit(kernels: Kernels) -> Fit:
    """Return how δ − S resembles scale·WᵀW, with WᵀW the Gram kernel of W as a dictionary.

    The larger of the two kernels is cropped to the other's side; ISTA's are equal.

    Parameters
    ----------
    kernels : Kernels
        W (M, C, k, k) and S (M, M, s, s).

    Returns
    -------
    Fit

    Raises
    ------
    ValueError, TypeError
        If W or S is not finite, they do not fit together, or W or δ − S is zero.

    Examples
    --------
    >>> from csc import dct_dictionary, unfold
    >>> fit = gram_fit(unfold(dct_dictionary(2), 0.1, 5.0))
    >>> round(fit.scale, 4), round(fit.correlation, 4)
    (5.0, 1.0)
    """
    W, S, _ = kernels
    check_dictionary(W)
    check_kernel(S)
    if W.shape[0] != S.shape[0]:
        raise ValueError(f"W has {W.shape[0]} atoms but S is for {S.shape[0]}")
    side = min(S.shape[-1], 2 * W.shape[-1] - 1)
    A = _sized(_complement(S.detach().double()), side)
    G = _sized(gram(W.detach().double()), side)
    a, g, ag = float(A.norm()), float(G.norm()), float((A * G).sum())
    if not a or not g:
        raise ValueError("W or δ − S is zero, and resembles nothing")
    cosine = max(-1.0, min(1.0, ag / (a * g)))
    return Fit(ag / g**2, cosine, float((A / a - cosine * G / g).norm()))


def problem_of(kernels: Kernels, *, tol: float = 1e-5) -> tuple[Tensor, Tensor, float]:
    """Return (D, λ, L) of the problem whose ISTA has these kernels: D = L W, λ = L θ.

    Parameters
    ----------
    kernels : Kernels
        (W, S, θ), as of :func:`csc.unfold`.
    tol : float
        Largest relative distance of δ − S to L·WᵀW that counts as rounding.

    Returns
    -------
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    lam : Tensor, shape (M,)
        λ, zero where θ is None.
    L : float
        Lipschitz constant.

    Raises
    ------
    ValueError
        If there is no such problem: S is not δ − L·WᵀW for any L > 0, as after training.

    Examples
    --------
    >>> from csc import dct_dictionary, unfold
    >>> D, lam, L = problem_of(unfold(dct_dictionary(2), 0.1, 5.0))
    >>> torch.allclose(D, dct_dictionary(2)), round(lam[0].item(), 4), round(L, 4)
    (True, 0.1, 5.0)
    """
    W, S, theta = kernels
    fit = gram_fit(kernels)
    if S.shape[-1] != 2 * W.shape[-1] - 1 or fit.scale <= 0 or fit.residual > tol:
        raise ValueError(
            f"no problem has these kernels: W of side {W.shape[-1]} needs S = δ − L·WᵀW of side "
            f"{2 * W.shape[-1] - 1}, got side {S.shape[-1]} and a relative distance of "
            f"{fit.residual:.2g}; csc.distance.nearest_dictionary finds the nearest"
        )
    lam = W.new_zeros(W.shape[0]) if theta is None else fit.scale * theta.detach().clamp(min=0)
    return fit.scale * W.detach(), lam, fit.scale


def _descend(D: Tensor, A: Tensor, norm: float, steps: int) -> Tensor:
    """Minimise ‖A − DᵀD/norm‖² from D by L-BFGS."""
    D = D.clone(memory_format=torch.contiguous_format).requires_grad_()
    optimizer = torch.optim.LBFGS(
        [D], max_iter=steps, tolerance_grad=1e-12, tolerance_change=1e-15,
        history_size=20, line_search_fn="strong_wolfe",
    )  # fmt: skip

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = (A - _sized(F.conv2d(D, D, padding=D.shape[-1] - 1), A.shape[-1]) / norm).square()
        total = value.sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return D.detach()


def _complement(S: Tensor) -> Tensor:
    """Return δ − S."""
    A = -S
    M, middle = S.shape[0], S.shape[-1] // 2
    A[torch.arange(M), torch.arange(M), middle, middle] += 1
    return A


def _sized(kernel: Tensor, side: int) -> Tensor:
    """Crop or zero-pad a kernel around its centre."""
    return F.pad(kernel, [(side - kernel.shape[-1]) // 2] * 4)


def _multiplicity(size: Size, device: torch.device) -> Tensor:
    """Return how often each column of the half plane of frequencies counts, (W // 2 + 1,)."""
    W = size[1]
    count = torch.full((W // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    count[0] = 1
    if W % 2 == 0:
        count[-1] = 1
    return count
