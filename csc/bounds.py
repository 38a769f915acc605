"""Bounds of the CSC problem: objective, gradient, Lipschitz constant, λ_max and duality gap.

:mod:`csc.problem` states the problem and its dual.  These functions check their arguments; the
solvers use the checked problem directly.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import Weight, check_dictionary, check_finite, check_fit, check_size
from csc.precision import full_precision
from csc.problem import check_fits, pose


@full_precision
def objective(
    x: Tensor,
    D: Tensor,
    z: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    """Return P(z) = ½‖x − D z‖² + Σ λ|z| + ½μ‖z‖² of each image.

    It is computed in float64 whatever the dtype of the images.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    z : Tensor, shape (B, M, H-kh+1, W-kw+1)
        Codes.
    lam : float or Tensor
        Weight λ ≥ 0: a number, one value per atom (M,), or four axes that broadcast to z.
    nonneg : bool
        Add the constraint z ≥ 0: the value is infinite where a code is negative.
    mask : Tensor of bool, optional
        Broadcasts to x; True where a pixel is known.  What x holds elsewhere is ignored.
    ridge : float
        Weight μ ≥ 0 of ½‖z‖².
    groups : Tensor of integers, shape (M,), optional
        The group of each atom; λ‖z_g‖₂ of each group and position replaces λ‖z_g‖₁.

    Returns
    -------
    Tensor, shape (B,), float64

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, a tensor holds NaN, or λ is negative or not finite.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> objective(3 * one, one, 2 * one, lam=0.5)  # ½·1² + 0.5·2
    tensor([1.5000], dtype=torch.float64)
    """
    p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
    check_fits(p, z)
    return p.objective(z)


@full_precision
def gradient(x: Tensor, D: Tensor, z: Tensor, *, mask: Tensor | None = None) -> Tensor:
    """Return Dᵀ(D z − x), the gradient of ½‖x − D z‖² in z.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    z : Tensor, shape (B, M, H-kh+1, W-kw+1)
        Codes.
    mask : Tensor of bool, optional
        Broadcasts to x; True where a pixel is known.

    Returns
    -------
    Tensor, shape (B, M, H-kh+1, W-kw+1)

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> gradient(3 * one, 2 * one, one).item()  # 2·(2·1 − 3)
    -2.0
    """
    p = pose(x, D, 0.0, mask=mask)
    check_fits(p, z)
    return -F.conv2d(p.residual(z), D)


def lipschitz(D: Tensor, size: tuple[int, int]) -> float:
    """Return L = max_ω σ_max(D̂(ω))² ≥ ‖DᵀD‖₂, a Lipschitz constant of the gradient.

    D̂(ω) is the C×M matrix of the atoms' Fourier coefficients on the grid of the image.  L is
    exact for periodic convolution on that grid.  Ours is a compression of it, so L is an upper
    bound.  It is tight for large images: with n the side of the codes, ‖DᵀD‖₂ ≥
    L · Π_axes max(0, n−k+1)/n.  (Put the top eigenvector of the best frequency on all codes.)
    Power iteration would give a *lower* bound, with which ISTA may diverge.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    size : (int, int)
        Height and width of the images.

    Returns
    -------
    float
        In units of the squared norm of an atom; computed in float64.

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary, or an atom does not fit in `size`.

    Examples
    --------
    >>> import torch
    >>> lipschitz(torch.ones(1, 1, 2, 2), (8, 8))  # (1 + 1 + 1 + 1)² at frequency zero
    16.0
    """
    check_dictionary(D)
    check_finite(D, "D")
    check_size(size)
    check_fit(D, size)
    spectrum = torch.fft.rfft2(D.detach().double(), s=tuple(size))  # (M, C, H, W//2+1)
    if D.shape[0] > D.shape[1]:
        spectrum = spectrum.transpose(0, 1)  # the Gram matrix of the shorter side
    largest = 0.0
    for rows in spectrum.split(32, dim=2):  # bounds the memory of the Gram matrices
        A = rows.permute(2, 3, 0, 1)  # (32, W//2+1, C, M)
        largest = max(largest, float(torch.linalg.eigvalsh(A @ A.mH).max()))
    return largest


@full_precision
def lam_max(
    x: Tensor,
    D: Tensor,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    groups: Tensor | None = None,
) -> float:
    """Return max |Dᵀx| over the batch: z = 0 is optimal exactly when λ ≥ λ_max, with any ridge.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    nonneg : bool
        For non-negative codes: max(0, max Dᵀx).
    mask : Tensor of bool, optional
        Broadcasts to x; True where a pixel is known.
    groups : Tensor of integers, shape (M,), optional
        The group of each atom: max ‖(Dᵀx)_g‖₂.

    Returns
    -------
    float

    Raises
    ------
    ValueError, TypeError
        If x and D do not fit or hold NaN.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> lam_max(-3 * one, one), lam_max(-3 * one, one, nonneg=True)
    (3.0, 0.0)
    """
    p = pose(x, D, 0.0, nonneg=nonneg, mask=mask, groups=groups)
    return float(p.penalty.sizes(F.conv2d(p.x.detach(), p.D.detach()))[0].max())


@full_precision
def dual_point(
    x: Tensor,
    D: Tensor,
    z: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    """Return the best feasible multiple ν = s·(x − D z), s ≥ 0, of each image's residual.

    Parameters
    ----------
    x, D, z, lam, nonneg, mask, ridge, groups
        As of :func:`objective`.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        Feasible: |Dᵀν| ≤ λ (Dᵀν ≤ λ for non-negative codes).  With a ridge every ν is feasible.

    Raises
    ------
    ValueError, TypeError
        As :func:`objective`.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> dual_point(3 * one, one, 0 * one, lam=0.5).item()
    0.5
    """
    p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
    check_fits(p, z)
    r = p.residual(z)
    s, _ = p.best_dual(r, F.conv2d(r, D))
    return r * s.to(r)[:, None, None, None]


@full_precision
def duality_gap(
    x: Tensor,
    D: Tensor,
    z: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    groups: Tensor | None = None,
) -> Tensor:
    """Return P(z) − Δ(ν) ≥ P(z) − P* of each image: a certified bound on the objective's error.

    It is computed in float64 whatever the dtype of the images.  It does not bound ‖z − z*‖;
    :mod:`csc.problem` says when such a bound follows.

    Parameters
    ----------
    x, D, z, lam, nonneg, mask, ridge, groups
        As of :func:`objective`.

    Returns
    -------
    Tensor, shape (B,), float64
        Never negative.  At the optimum only an allowance for the rounding of float64 remains,
        about 1e-13 of the objective.

    Raises
    ------
    ValueError, TypeError
        As :func:`objective`.

    Examples
    --------
    >>> import torch
    >>> one = torch.ones(1, 1, 1, 1)
    >>> duality_gap(3 * one, one, 2.5 * one, lam=0.5).item() < 1e-5  # the optimum: 3 − 0.5
    True
    >>> duality_gap(3 * one, one, 0 * one, lam=0.5).item()  # at zero: ½·3² − (½·3² − ½·2.5²)
    3.125...
    """
    p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
    check_fits(p, z)
    return p.certify(z).gap
