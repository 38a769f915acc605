"""The CSC problem: objective, gradient, Lipschitz constant, and the duality gap that certifies.

    P(z) = ½‖x − D z‖² + Σ_m λ_m‖z_m‖₁            (optionally z ≥ 0),
    Δ(ν) = ½‖x‖² − ½‖x − ν‖²   for  |d_m ⋆ ν| ≤ λ_m   (without |·| where z ≥ 0).

Every image of a batch is a problem of its own: values have shape (B,).  For any z and any feasible
ν, Δ(ν) ≤ P* ≤ P(z), so P(z) − Δ(ν) bounds how far z is from optimal, whatever produced it.

References
----------
Kim, Koh, Lustig, Boyd, Gorinevsky, "An interior-point method for large-scale ℓ1-regularized least
squares", IEEE JSTSP 1(4), 2007 (the dual problem and its scaled residual).
"""

from numbers import Integral
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import (
    Weight,
    check_codes,
    check_dictionary,
    check_finite,
    check_pair,
    check_weight,
    code_shape,
    per_atom,
)


def objective(x: Tensor, D: Tensor, z: Tensor, lam: Weight, *, nonneg: bool = False) -> Tensor:
    """Return P(z) = ½‖x − D z‖² + Σ_m λ_m‖z_m‖₁ of each image.

    Sums are taken in float64 whatever the dtype of the images.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    z : Tensor, shape (B, M, H-k+1, W-k+1)
        Codes.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0.
    nonneg : bool
        Add the constraint z ≥ 0: the value is infinite where a code is negative.

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
    _check_problem(x, D, z, lam)
    return primal(x - F.conv_transpose2d(z, D), z, per_atom(lam, z), nonneg=nonneg)


def gradient(x: Tensor, D: Tensor, z: Tensor) -> Tensor:
    """Return Dᵀ(D z − x), the gradient of ½‖x − D z‖² in z.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    z : Tensor, shape (B, M, H-k+1, W-k+1)
        Codes.

    Returns
    -------
    Tensor, shape (B, M, H-k+1, W-k+1)

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
    _check_problem(x, D, z, 0.0)
    return F.conv2d(F.conv_transpose2d(z, D) - x, D)


def lipschitz(D: Tensor, size: tuple[int, int]) -> float:
    """Return L = max_ω σ_max(D̂(ω))² ≥ ‖DᵀD‖₂, a Lipschitz constant of the gradient.

    D̂(ω) is the C×M matrix of the atoms' Fourier coefficients on the grid of the image.  L is
    exact for periodic convolution on that grid.  Ours is a compression of it, so L is an upper
    bound, and ‖DᵀD‖₂ ≥ L · Π_axes max(0, n−k+1)/n with n the side of the codes (put the top
    eigenvector of the best frequency on the whole code grid), so it is tight for large images.
    Power iteration would give a *lower* bound, with which ISTA may diverge.

    Parameters
    ----------
    D : Tensor, shape (M, C, k, k)
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
        If D is no finite dictionary or an atom does not fit in `size`.

    Examples
    --------
    >>> import torch
    >>> lipschitz(torch.ones(1, 1, 2, 2), (8, 8))  # (1 + 1 + 1 + 1)² at frequency zero
    16.0
    """
    check_dictionary(D)
    check_finite(D, "D")
    if len(size) != 2 or not all(isinstance(n, Integral) for n in size):
        raise ValueError(f"size must be two integers, height and width; got {size}")
    if min(size) < D.shape[-1]:
        raise ValueError(f"an atom of {D.shape[-1]}x{D.shape[-1]} does not fit in {tuple(size)}")
    spectrum = torch.fft.rfft2(D.detach().double(), s=tuple(size))  # (M, C, H, W//2+1)
    if D.shape[0] > D.shape[1]:
        spectrum = spectrum.transpose(0, 1)  # the Gram matrix of the shorter side
    largest = 0.0
    for rows in spectrum.split(32, dim=2):  # bounds the memory of the Gram matrices
        A = rows.permute(2, 3, 0, 1)  # (32, W//2+1, C, M)
        largest = max(largest, float(torch.linalg.eigvalsh(A @ A.mH).max()))
    return largest


def lam_max(x: Tensor, D: Tensor, *, nonneg: bool = False) -> float:
    """Return max |Dᵀx| over the batch: z = 0 is optimal exactly when λ ≥ λ_max.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    nonneg : bool
        For non-negative codes: max(0, max Dᵀx).

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
    check_pair(x, D)
    check_finite(x, "x")
    check_finite(D, "D")
    correlation = F.conv2d(x.detach(), D.detach())
    return max(0.0, float((correlation if nonneg else correlation.abs()).max()))


def dual_point(x: Tensor, D: Tensor, z: Tensor, lam: Weight, *, nonneg: bool = False) -> Tensor:
    """Return the best feasible multiple ν = s·(x − D z), s ≥ 0, of each image's residual.

    Parameters
    ----------
    x, D, z, lam, nonneg
        As of :func:`objective`.

    Returns
    -------
    Tensor, shape (B, C, H, W)
        Feasible: |Dᵀν| ≤ λ (Dᵀν ≤ λ for non-negative codes).

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
    _check_problem(x, D, z, lam)
    r = x - F.conv_transpose2d(z, D)
    peaks = _peaks(F.conv2d(r, D), nonneg=nonneg)
    s = _dual_scale(x, r, peaks, per_atom(lam, z).flatten())
    return r * s.to(r)[:, None, None, None]


def duality_gap(x: Tensor, D: Tensor, z: Tensor, lam: Weight, *, nonneg: bool = False) -> Tensor:
    """Return P(z) − Δ(ν) ≥ P(z) − P* of each image: a certified bound on the error of z.

    Parameters
    ----------
    x, D, z, lam, nonneg
        As of :func:`objective`.

    Returns
    -------
    Tensor, shape (B,), float64
        Zero at the optimum but for an allowance of 8 ε‖x‖‖x − D z‖ for rounding, ε that of the
        images' dtype.

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
    _check_problem(x, D, z, lam)
    return certify_codes(x, D, z, lam, nonneg=nonneg).gap


class Certificate(NamedTuple):
    """Objective and duality gap of each image, both (B,) float64."""

    objective: Tensor
    gap: Tensor

    def within(self, tol: float) -> bool:
        """Tell whether (P(z) − P*)/P* ≤ tol is certain for all images: gap ≤ tol·Δ(ν)."""
        return bool((self.gap <= tol * (self.objective - self.gap)).all())


def certify_codes(x: Tensor, D: Tensor, z: Tensor, lam: Weight, *, nonneg: bool) -> Certificate:
    """Return the certificate of codes z, without checks."""
    r = x - F.conv_transpose2d(z, D)
    return certify(x, r, F.conv2d(r, D), z, per_atom(lam, z), nonneg=nonneg)


def certify(
    x: Tensor, r: Tensor, correlation: Tensor, z: Tensor, lam: Tensor, *, nonneg: bool
) -> Certificate:
    """Return the certificate of z from r = x − D z and Dᵀr, which a solver has at hand.

    No checks; `lam` broadcasts against z.
    """
    P = primal(r, z, lam, nonneg=nonneg)
    peaks = _peaks(correlation, nonneg=nonneg)
    return Certificate(P, P - dual_value(x, r, peaks, lam.flatten()) + rounding(x, r))


def rounding(x: Tensor, r: Tensor) -> Tensor:
    """Return what the rounding of r = x − D z may hide of a gap: 8 ε‖x‖‖r‖, shape (B,), float64.

    It makes a gap in float32 a bound still, and keeps it from being certified below about 1e-5.
    """
    return 8 * torch.finfo(x.dtype).eps * (_inner(x, x) * _inner(r, r)).sqrt()


def dual_value(x: Tensor, r: Tensor, peaks: Tensor, lam: Tensor) -> Tensor:
    """Return the largest Δ(s r) of feasible multiples of r; no checks, `lam` is () or (M,).

    peaks (B, M) is the largest |d_m ⋆ r|, or d_m ⋆ r for non-negative codes, of each atom.
    """
    s = _dual_scale(x, r, peaks, lam)
    # Δ(s r) = s⟨x, r⟩ − ½s²‖r‖², without the cancellation of ½‖x‖² − ½‖x − s r‖².
    return s * _inner(x, r) - 0.5 * s.square() * _inner(r, r)


def primal(r: Tensor, z: Tensor, lam: Tensor, *, nonneg: bool) -> Tensor:
    """Return ½‖r‖² + Σ λ|z| of each image, in float64; no checks, `lam` broadcasts against z."""
    l1 = (lam.double() * z.abs().double()).sum((1, 2, 3))
    P = 0.5 * _inner(r, r) + l1
    return torch.where((z < 0).flatten(1).any(1), torch.inf, P) if nonneg else P


def _peaks(correlation: Tensor, *, nonneg: bool) -> Tensor:
    low, high = correlation.flatten(2).aminmax(dim=2)  # (B, M)
    return high if nonneg else torch.maximum(high, -low)


def _dual_scale(x: Tensor, r: Tensor, peaks: Tensor, lam: Tensor) -> Tensor:
    """Return the s ≥ 0 that maximises Δ(s r) subject to s·peaks ≤ λ, shape (B,), float64."""
    # An atom that does not correlate with r bounds nothing.
    largest = torch.where(peaks > 0, lam.double() / peaks, torch.inf).amin(1)
    rr = _inner(r, r)
    best = torch.where(rr > 0, _inner(x, r) / rr, 0.0)
    return torch.minimum(best.clamp(min=0), largest)


def _inner(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() * b.double()).sum((1, 2, 3))


def _check_problem(x: Tensor, D: Tensor, z: Tensor, lam: Weight) -> None:
    check_pair(x, D)
    check_codes(z, D)
    fits = code_shape(x, D)
    if tuple(z.shape) != fits:
        raise ValueError(f"codes of these images and atoms have shape {fits}, got {tuple(z.shape)}")
    check_weight(lam, D.shape[0], dtype=x.dtype)
    for value, name in ((x, "x"), (D, "D"), (z, "z")):
        check_finite(value, name)
