"""The spectrum of a recursion kernel S, frequency by frequency, in float64.

On a periodic grid, z ↦ S ⊗ z is an M×M matrix at each frequency ω,

    Ŝ(ω)_ij = Σ_t S_ij(t) exp(i⟨ω, t⟩),      t from the centre of the kernel.

Its norm is max_ω σ_max(Ŝ(ω)).  The symmetric part (S + Sᵀ)/2 has the eigenvalues of (Ŝ + Ŝᴴ)/2.

The recursion itself pads with zeros.  On h×w codes it equals three steps: embed the codes in a
periodic grid of (h+sh−1)×(w+sw−1), convolve, cut out.  Its norm and its Rayleigh quotients
therefore lie within those of the periodic operator on that grid, or on any larger one.

Without a size, the bounds hold for codes of all sizes.  Each ⟨a, Ŝ(ω) b⟩ is a trigonometric
polynomial, of degrees sh // 2 and sw // 2.  On N points along an axis of degree n, its supremum is
at most 1/cos(π n/N) times its largest modulus; the factors of both axes multiply.

References
----------
Sedghi, Gupta, Long, "The singular values of convolutional layers", ICLR 2019 (the periodic norm).
Ehlich, Zeller, "Schwankung von Polynomen zwischen Gitterpunkten", Math. Z. 86, 1964 (the factor).
"""

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from csc.checks import check_size
from csc.recursion.kernel import Size, centre, check_kernel

_ENTRIES = 2**21  # of the complex matrices in memory at a time: 32 MB
_POINTS = 16  # per axis and unit of degree, for bounds at all sizes: a factor of 1.039


def response(S: Tensor, size: Size) -> Tensor:
    """Return Ŝ(ω)_ij = Σ_t S_ij(t) exp(i⟨ω, t⟩) at the frequencies of a periodic grid.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    size : (int, int)
        Height and width H, W of the grid.  On a grid smaller than S the kernel wraps around.

    Returns
    -------
    Tensor, shape (H, W // 2 + 1, M, M), complex128
        At ω = 2π(p/H, q/W).  The other half of the frequencies has the complex conjugates.

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel or the size is not two integers > 0.

    Examples
    --------
    >>> S = torch.tensor([[0.0, 0.0, 0.0], [1.0, 0.0, 1.0], [0.0, 0.0, 0.0]]).view(1, 1, 3, 3)
    >>> response(S, (1, 4))[0, :, 0, 0].real.round(decimals=12).abs()  # |2 cos ω|
    tensor([2., 0., 2.], dtype=torch.float64)
    """
    return torch.cat(list(responses(S, size)))


def responses(S: Tensor, size: Size) -> Iterator[Tensor]:
    """Yield :func:`response` in blocks of rows, each (rows, W // 2 + 1, M, M), to bound memory."""
    check_kernel(S)
    check_size(size)
    return _responses(S, size)


def operator_norm(S: Tensor, size: Size | None = None, *, periodic: bool = False) -> float:
    """Return an upper bound on the norm ‖S‖₂ of z ↦ S ⊗ z: max_ω σ_max(Ŝ(ω)).

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    size : (int, int), optional
        Height and width of the codes; by default the bound holds for every size.
    periodic : bool
        Return the exact norm of the periodic operator on the grid of `size`.  By default codes are
        padded with zeros, as in :func:`csc.recur`.  The bound is then the norm of the periodic
        operator on a grid larger by sh − 1 and sw − 1.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        As in :func:`response`.

    Examples
    --------
    >>> S = torch.ones(1, 1, 3, 3)
    >>> operator_norm(S, (8, 8), periodic=True), operator_norm(S, (1, 1)) <= 9  # 9 at ω = 0
    (9.0, True)
    """
    grid, slack = _grid(S, size, periodic)
    largest = 0.0
    for A in responses(S, grid):
        largest = max(largest, float(torch.linalg.eigvalsh(A.mH @ A).max()))
    return slack * math.sqrt(largest)


def monotonicity(S: Tensor, size: Size | None = None, *, periodic: bool = False) -> float:
    """Return a lower bound μ on the Rayleigh quotients of I − S: ⟨z, z − S z⟩ ≥ μ‖z‖².

    μ = min_ω λ_min(I − (Ŝ + Ŝᴴ)/2).  If μ > 0, I − S is strongly monotone.

    Parameters
    ----------
    S, size, periodic
        As in :func:`operator_norm`: exact if periodic, a bound for zero padding.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        As in :func:`response`.

    Examples
    --------
    >>> S = torch.zeros(2, 2, 1, 1)
    >>> S[0, 1], S[1, 0] = 5.0, -5.0  # a rotation: norm 5, but no symmetric part
    >>> operator_norm(S, (4, 4)), monotonicity(S, (4, 4))
    (5.0, 1.0)
    """
    grid, slack = _grid(S, size, periodic)
    low, high = math.inf, -math.inf
    for values in _eigenvalues(S, grid):
        low, high = min(low, float(values.min())), max(high, float(values.max()))
    middle, half = (low + high) / 2, (high - low) / 2
    return middle - slack * half if slack > 1 else low


def singular_values(S: Tensor, size: Size) -> Tensor:
    """Return the singular values of Ŝ(ω) on a periodic grid, in descending order.

    Parameters
    ----------
    S, size
        As in :func:`response`.

    Returns
    -------
    Tensor, shape (H, W // 2 + 1, M), float64

    Raises
    ------
    ValueError, TypeError
        As in :func:`response`.

    Examples
    --------
    >>> singular_values(-2 * torch.eye(2).view(2, 2, 1, 1), (2, 2))[0, 0]
    tensor([2., 2.], dtype=torch.float64)
    """
    return torch.cat([torch.linalg.svdvals(A) for A in responses(S, size)])


def eigenvalues(S: Tensor, size: Size) -> Tensor:
    """Return the eigenvalues of I − (Ŝ(ω) + Ŝ(ω)ᴴ)/2 on a periodic grid, in ascending order.

    For ISTA's S = δ − DᵀD/L these are the eigenvalues of DᵀD/L.  They lie in [0, 1], and at most C
    of them are not zero.

    Parameters
    ----------
    S, size
        As in :func:`response`.

    Returns
    -------
    Tensor, shape (H, W // 2 + 1, M), float64

    Raises
    ------
    ValueError, TypeError
        As in :func:`response`.

    Examples
    --------
    >>> eigenvalues(0.25 * torch.eye(2).view(2, 2, 1, 1), (1, 1)).flatten()
    tensor([0.7500, 0.7500], dtype=torch.float64)
    """
    check_kernel(S)
    check_size(size)
    return torch.cat(list(_eigenvalues(S, size)))


def transpose(S: Tensor) -> Tensor:
    """Return the kernel of Sᵀ: swap i and j, flip both axes.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.

    Returns
    -------
    Tensor, shape (M, M, sh, sw)

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel.

    Examples
    --------
    >>> transpose(torch.arange(3.0).repeat(1, 1, 3, 1))[0, 0, 0]
    tensor([2., 1., 0.])
    """
    check_kernel(S)
    return S.transpose(0, 1).flip(2, 3)


def _eigenvalues(S: Tensor, size: Size) -> Iterator[Tensor]:
    eye = torch.eye(S.shape[0], dtype=torch.complex128, device=S.device)
    for A in responses(S, size):
        yield torch.linalg.eigvalsh(eye - (A + A.mH) / 2)


def _grid(S: Tensor, size: Size | None, periodic: bool) -> tuple[Size, float]:
    """Return a periodic grid, and a factor that extends its bound to all other frequencies."""
    check_kernel(S)
    if size is None:
        if periodic:
            raise ValueError("periodic codes need a size (height, width); or drop periodic=True")
        return grid_for_all_sizes(S)
    check_size(size)
    edges = (0, 0) if periodic else (S.shape[2] - 1, S.shape[3] - 1)
    return (size[0] + edges[0], size[1] + edges[1]), 1.0


def grid_for_all_sizes(kernel: Tensor) -> tuple[Size, float]:
    """Return a grid for a kernel, and the factor from its bound to all frequencies."""
    degrees = centre(kernel)
    H, W = (_POINTS * max(1, degree) for degree in degrees)
    angles = (math.pi * degree / n for degree, n in zip(degrees, (H, W), strict=True))
    return (H, W), 1 / math.prod(map(math.cos, angles))


def _responses(S: Tensor, size: Size) -> Iterator[Tensor]:
    (H, W), (sh, sw) = size, S.shape[2:]
    kernel = S.detach().to(torch.complex128)

    def waves(n: int, count: int, s: int) -> Tensor:
        omega = 2 * torch.pi * torch.arange(count, dtype=torch.float64, device=S.device) / n
        t = torch.arange(s, dtype=torch.float64, device=S.device) - s // 2
        return torch.exp(1j * omega[:, None] * t)  # (count, s)

    down, across = waves(H, H, sh), waves(W, W // 2 + 1, sw)
    half = torch.einsum("ijab,qb->qaij", kernel, across)  # (W//2+1, sh, M, M)
    rows = max(1, _ENTRIES // (half.shape[0] * kernel.shape[0] ** 2))
    for part in torch.split(down, rows):
        yield torch.einsum("pa,qaij->pqij", part, half)
