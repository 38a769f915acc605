"""How far a trained recursion is from ISTA: what is left of S = δ − DᵀD/L and W = Dᵀ/L.

On a periodic grid, ISTA has I − Ŝ(ω) = D̂(ω)ᴴ D̂(ω)/L.  This matrix is Hermitian, positive
semidefinite and of rank ≤ C at every frequency, with C the channels of the atoms.  Any
A = I − Ŝ(ω) splits orthogonally into

    A = [top C positive]  +  [positive beyond rank C]  +  [negative]  +  [skew-Hermitian].

The first three come from the eigenvalues of its Hermitian part.  By Parseval, the squared norms of
all four add up to ‖δ − S‖² over the frequencies.  An ISTA has the first part only, for any atoms
and L.  The other three are therefore a lower bound on the distance to every ISTA.  The atoms of
:func:`nearest_dictionary` give an upper bound.  Distances are relative to ‖δ − S‖, the distance to
the trivial ISTA of D = 0.

A random kernel has some of the first part too.  :func:`control` measures how much, on kernels that
share the norm, the entries, the trace and the symmetry of δ − S and are random otherwise.

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

from csc.checks import check_dictionary, check_finite, check_integer, check_sides, check_size
from csc.conv import gram
from csc.recursion.kernel import Size, check_kernel, complement
from csc.recursion.spectrum import operator_norm, responses, transpose
from csc.recursion.unfold import Kernels


class Remains(NamedTuple):
    """What is left of ISTA in S: four fractions of ‖δ − S‖² that sum to one, and bounds.

    kept : positive and of rank ≤ C, as in ISTA; rank : positive beyond rank C; negative : negative
    eigenvalues; skew : not symmetric; low, high : extreme eigenvalues of I − (S + Sᵀ)/2, in [0, 1]
    for ISTA with step 1/L; distance : √(1 − kept), a lower bound on the relative distance of δ − S
    to any DᵀD/L in Frobenius norm; operator : the same in operator norm.
    """

    kept: float
    rank: float
    negative: float
    skew: float
    low: float
    high: float
    distance: float
    operator: float


class Control(NamedTuple):
    """What random kernels keep of ISTA: mean and standard deviation of each field of `Remains`."""

    mean: Remains
    spread: Remains


class Nearest(NamedTuple):
    """The nearest ISTA that was found.

    D : (M, C, kh, kw), atoms over √L; S : (M, M, sh, sw), its kernel S' = δ − DᵀD/L; distance,
    operator : ‖S − S'‖/‖δ − S‖ in Frobenius and in operator norm.
    """

    D: Tensor
    S: Tensor
    distance: float
    operator: float


class Fit(NamedTuple):
    """How well the Gram kernel of W fits δ − S: δ − S ≈ scale·WᵀW.

    scale : by least squares, L for ISTA; correlation : cosine between the two, 1 for ISTA;
    residual : √(1 − correlation²), the relative distance at that scale.
    """

    scale: float
    correlation: float
    residual: float


def symmetry_defect(S: Tensor) -> float:
    """Return ‖S − Sᵀ‖/‖S‖ in Frobenius norm: 0 for ISTA, about √2 for random S, at most 2.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.

    Returns
    -------
    float
        0 for S = 0.

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel.

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
    """Split ‖δ − S‖² into the part that an ISTA of C channels can have and the parts it cannot.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    channels : int
        C ≥ 1, the channels that W takes; ISTA's rank is at most C.
    size : (int, int)
        Height and width of the periodic grid, each ≥ s.  The bounds hold for every S' = δ − DᵀD/L
        that also fits on the grid.

    Returns
    -------
    Remains

    Notes
    -----
    Half of a random S is symmetric, and half of its eigenvalues are positive.  `kept` is therefore
    far from zero even for a kernel that has nothing of ISTA.  Compare with :func:`control`.

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel or S = δ, `channels` < 1, or the grid is smaller than S.

    Examples
    --------
    >>> S = torch.tensor([[1.0, -1.0], [1.0, 0.0]]).view(2, 2, 1, 1)  # I − S = 0, 1 / −1, 1
    >>> r = remains(S, 1, (4, 4))
    >>> [round(part, 3) for part in (r.kept, r.rank, r.negative, r.skew)]
    [0.333, 0.0, 0.0, 0.667]
    """
    check_kernel(S)
    check_size(size)
    check_integer(channels, "channels", 1)
    sh, sw = S.shape[2:]
    if size[0] < sh or size[1] < sw:
        raise ValueError(f"the grid {tuple(size)} is smaller than S, {sh}x{sw}")
    parts = torch.zeros(4, dtype=torch.float64, device=S.device)
    low, high, worst, largest = math.inf, -math.inf, 0.0, 0.0
    eye = torch.eye(S.shape[0], dtype=torch.complex128, device=S.device)
    for Sw in responses(S, size):
        A = eye - Sw
        values = torch.linalg.eigvalsh((A + A.mH) / 2).flip(-1)  # descending
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
        raise ValueError("S is δ, so I − S is zero and has no parts")
    kept, rank, negative, skewed = (parts / parts.sum()).tolist()
    lost = rank + negative + skewed
    return Remains(
        kept, rank, negative, skewed, low, high, math.sqrt(lost), min(1.0, worst / largest)
    )


def control(
    S: Tensor,
    channels: int,
    size: Size,
    *,
    draws: int = 10,
    generator: torch.Generator | None = None,
) -> Control:
    """Return mean and standard deviation of :func:`remains` over draws of :func:`shuffled`.

    If `kept` of S is within a few standard deviations of the mean, S keeps no more of ISTA than a
    random kernel with the same norm, entries, trace and symmetry.

    Parameters
    ----------
    S, channels, size
        As in :func:`remains`.
    draws : int
        Number of random kernels, ≥ 2.
    generator : torch.Generator, optional
        Source of the draws.

    Returns
    -------
    Control

    Raises
    ------
    ValueError, TypeError
        As in :func:`remains`, or if `draws` < 2.

    Examples
    --------
    >>> from csc import dct_dictionary, unfold
    >>> S = unfold(dct_dictionary(3), 0.1, 9.0).S
    >>> by_chance = control(S, 1, (8, 8), generator=torch.Generator().manual_seed(0))
    >>> remains(S, 1, (8, 8)).kept > by_chance.mean.kept + 10 * by_chance.spread.kept
    True
    """
    check_integer(draws, "draws", 2)
    found = [remains(shuffled(S, generator=generator), channels, size) for _ in range(draws)]
    table = torch.tensor(found, dtype=torch.float64)
    return Control(Remains(*table.mean(0).tolist()), Remains(*table.std(0).tolist()))


def shuffled(S: Tensor, *, generator: torch.Generator | None = None) -> Tensor:
    """Return S with the entries of A = δ − S shuffled, in pairs that keep its symmetry.

    Transposition pairs the entry (i, j, t) with (j, i, −t).  All pairs are permuted, and each is
    swapped or not at random.  The M entries (i, i, 0), which have no partner, are permuted among
    themselves.  So A keeps its entries, norm, sparsity and trace, ‖A + Aᵀ‖ and ‖A − Aᵀ‖.
    All else is random: which atoms interact, at which shift.

    Shuffling the entries of S instead would mislead.  It moves the diagonal of S elsewhere and
    leaves δ in A.  δ is symmetric and positive, so it would count as a part of ISTA.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    generator : torch.Generator, optional
        Source of the shuffle.

    Returns
    -------
    Tensor, shape (M, M, sh, sw)

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel.

    Examples
    --------
    >>> S = torch.tensor([[1.0, 2.0], [3.0, 1.0]]).view(2, 2, 1, 1)
    >>> sorted(shuffled(S).flatten().tolist())
    [1.0, 1.0, 2.0, 3.0]
    """
    check_kernel(S)
    A = complement(S.detach()).flatten()
    index = torch.arange(A.numel(), device="cpu").view(S.shape)
    partner = index.transpose(0, 1).flip(2, 3).flatten()  # of the entry at each index
    one = index.flatten()
    first, alone = one[one < partner], one[one == partner]
    second = partner[first]
    order = torch.randperm(len(first), generator=generator)
    swap = torch.rand(len(first), generator=generator) < 0.5
    from_first = torch.where(swap, second[order], first[order])
    out = torch.empty_like(A)
    out[first], out[second] = A[from_first], A[partner[from_first]]
    out[alone] = A[alone[torch.randperm(len(alone), generator=generator)]]
    return complement(out.view(S.shape))


def nearest_dictionary(
    S: Tensor,
    channels: int,
    k: int | tuple[int, int],
    *,
    crop: bool = False,
    start: Tensor | None = None,
    steps: int = 300,
    generator: torch.Generator | None = None,
) -> Nearest:
    """Return atoms D whose δ − DᵀD is near S in Frobenius norm, found by L-BFGS.

    The problem is not convex.  The distance found is a local minimum, and so an upper bound.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    channels : int
        C of the atoms.
    k : int or (int, int)
        Side of the atoms, or their height and width.  Their S has sides 2kh − 1 and 2kw − 1.
    crop : bool
        If that is larger than S, compare only within the support of S.  The paper's k×k S might be
        such a crop of an ISTA's S; the crop itself belongs to no ISTA.
    start : Tensor, shape (M, C, kh, kw), optional
        Atoms to start from, such as W; they are scaled to fit.  Random by default.
    steps : int
        Largest number of steps, ≥ 1.
    generator : torch.Generator, optional
        Source of the random start.

    Returns
    -------
    Nearest
        In float64.  Its S has the sides of S if cropped, else the larger of these and 2k − 1.

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel, S = δ, a number is not positive, or `start` does not fit.

    Examples
    --------
    >>> from csc import random_dictionary, unfold
    >>> D = random_dictionary(2, 1, 2, generator=torch.Generator().manual_seed(0))
    >>> S = unfold(D, 0.1, 4.0).S
    >>> nearest_dictionary(S, 1, 2, generator=torch.Generator().manual_seed(1)).distance < 1e-4
    True
    """
    check_kernel(S)
    for name, value in (("channels", channels), ("steps", steps)):
        check_integer(value, name, 1)
    shape = (S.shape[0], channels, *check_sides(k))
    if start is None:
        start = torch.randn(shape, generator=generator, dtype=torch.float64).to(S.device)
    check_dictionary(start)
    check_finite(start, "start")
    if tuple(start.shape) != shape:
        raise ValueError(f"start must have shape {shape}, got {tuple(start.shape)}")
    sides = (S.shape[2], S.shape[3])
    if not crop:
        sides = (max(sides[0], _gram_sides(start)[0]), max(sides[1], _gram_sides(start)[1]))
    A = _sized(complement(S.detach().double()), sides)
    norm = float(A.norm())
    if not norm:
        raise ValueError("S is δ, the S of D = 0, so there is nothing to fit")
    D = start.detach().double()
    G = _sized(gram(D), sides)
    D = D * math.sqrt(max(float((A * G).sum()) / max(float(G.square().sum()), 1e-300), 1e-6))
    D = _descend(D, A / norm, norm, steps)
    found = _sized(gram(D), sides)
    operator = operator_norm(A - found) / operator_norm(A)
    return Nearest(D, complement(found), float((A - found).norm()) / norm, operator)


def gram_fit(kernels: Kernels) -> Fit:
    """Fit δ − S by scale·WᵀW, with WᵀW the Gram kernel of W taken as a dictionary.

    The larger of the two kernels is cropped to the sides of the other.  In ISTA the sides agree.

    Parameters
    ----------
    kernels : Kernels
        W (M, C, kh, kw) and S (M, M, sh, sw).

    Returns
    -------
    Fit

    Raises
    ------
    ValueError, TypeError
        If W or S is not finite, they have different M, or W or δ − S is zero.

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
    sides = (min(S.shape[2], _gram_sides(W)[0]), min(S.shape[3], _gram_sides(W)[1]))
    A = _sized(complement(S.detach().double()), sides)
    G = _sized(gram(W.detach().double()), sides)
    a, g, ag = float(A.norm()), float(G.norm()), float((A * G).sum())
    if not a or not g:
        raise ValueError("W or δ − S is zero, so their fit is undefined")
    cosine = max(-1.0, min(1.0, ag / (a * g)))
    return Fit(ag / g**2, cosine, float((A / a - cosine * G / g).norm()))


def problem_of(kernels: Kernels, *, tol: float = 1e-5) -> tuple[Tensor, Tensor, float]:
    """Return (D, λ, L) of the problem whose ISTA has these kernels: D = L W, λ = L θ.

    Parameters
    ----------
    kernels : Kernels
        (W, S, θ), as :func:`csc.unfold` returns them.
    tol : float
        Largest relative distance between δ − S and L·WᵀW that counts as rounding.

    Returns
    -------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    lam : Tensor, shape (M,)
        λ, zero if θ is None.
    L : float
        Lipschitz constant.

    Raises
    ------
    ValueError
        If S ≠ δ − L·WᵀW for every L > 0, as after training.

    Examples
    --------
    >>> from csc import dct_dictionary, unfold
    >>> D, lam, L = problem_of(unfold(dct_dictionary(2), 0.1, 5.0))
    >>> torch.allclose(D, dct_dictionary(2)), round(lam[0].item(), 4), round(L, 4)
    (True, 0.1, 5.0)
    """
    W, S, theta = kernels
    fit = gram_fit(kernels)
    wanted, given = _gram_sides(W), (S.shape[2], S.shape[3])
    if given != wanted or fit.scale <= 0 or fit.residual > tol:
        raise ValueError(
            f"no problem has these kernels: S = δ − L·WᵀW has the sides {wanted}, got {given} and "
            f"a relative distance of {fit.residual:.2g}; csc.distance.nearest_dictionary finds the "
            "nearest"
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
        G = F.conv2d(D, D, padding=(D.shape[2] - 1, D.shape[3] - 1))
        total = (A - _sized(G, (A.shape[2], A.shape[3])) / norm).square().sum()
        total.backward()  # type: ignore[no-untyped-call]
        return total

    with torch.enable_grad():
        optimizer.step(loss)  # type: ignore[no-untyped-call]
    return D.detach()


def _gram_sides(D: Tensor) -> tuple[int, int]:
    """Return the sides of the Gram kernel of atoms."""
    return (2 * D.shape[2] - 1, 2 * D.shape[3] - 1)


def _sized(kernel: Tensor, sides: tuple[int, int]) -> Tensor:
    """Crop or zero-pad a kernel around its centre."""
    down, across = ((n - s) // 2 for n, s in zip(sides, kernel.shape[2:], strict=True))
    return F.pad(kernel, [across, across, down, down])


def _multiplicity(size: Size, device: torch.device) -> Tensor:
    """Return how many frequencies each column of the half plane stands for, (W // 2 + 1,)."""
    W = size[1]
    count = torch.full((W // 2 + 1,), 2.0, dtype=torch.float64, device=device)
    count[0] = 1
    if W % 2 == 0:
        count[-1] = 1
    return count
