"""The CSC problem: objective, gradient, Lipschitz constant, and the duality gap that certifies.

    P(z) = ½‖x − D z‖² + Σ λ|z|              (optionally z ≥ 0),
    Δ(ν) = ½‖x‖² − ½‖x − ν‖²   for  |Dᵀν| ≤ λ   (without |·| where z ≥ 0).

λ is a number, one value per atom, or a weight with four axes that broadcasts to the codes.  With a
mask only the known pixels count: x, D z and ν are taken to be zero at the others.  Every image of a
batch is a problem of its own: values have shape (B,).  For any z and any feasible ν,
Δ(ν) ≤ P* ≤ P(z), so P(z) − Δ(ν) bounds how far z is from optimal, whatever produced it.

References
----------
Kim, Koh, Lustig, Boyd, Gorinevsky, "An interior-point method for large-scale ℓ1-regularized least
squares", IEEE JSTSP 1(4), 2007 (the dual problem and its scaled residual).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import (
    Weight,
    check_codes,
    check_finite,
    check_mask,
    check_pair,
    check_run,
    check_weight,
    code_shape,
    spread,
)


class Gap(NamedTuple):
    """Objective and duality gap of each image, both (B,) float64."""

    objective: Tensor
    gap: Tensor

    def within(self, tol: float) -> bool:
        """Tell whether (P(z) − P*)/P* ≤ tol is certain for all images: gap ≤ tol·Δ(ν)."""
        return bool((self.gap <= tol * (self.objective - self.gap)).all())


class Problem(NamedTuple):
    """A CSC problem that has been checked: what the solvers work on.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        Images, zero at missing pixels.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    lam : Tensor
        λ, with four axes that broadcast against codes.
    nonneg : bool
        Whether z ≥ 0.
    mask : Tensor or None
        1 at known pixels and 0 at missing ones, in the images' dtype; broadcasts against x.
    """

    x: Tensor
    D: Tensor
    lam: Tensor
    nonneg: bool
    mask: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.x.shape[2], self.x.shape[3])

    def check_run(self, start: Tensor | None, max_iter: int, tol: float) -> None:
        """Check what a run is given beside the problem."""
        check_run(self.x, self.D, start, max_iter, tol)
        if start is not None and self.nonneg and bool((start < 0).any()):
            raise ValueError("start has negative codes but nonneg=True; use start.clamp(min=0)")

    def start(self, start: Tensor | None, max_iter: int, tol: float) -> Tensor:
        """Check what a run is given and return the codes it starts from, zero by default."""
        self.check_run(start, max_iter, tol)
        if start is None:
            return self.x.new_zeros(code_shape(self.x, self.D))
        return start.detach().clone(memory_format=torch.contiguous_format)

    def of(self, b: int) -> "Problem":
        """Return the problem of image b alone, on the CPU."""

        def part(t: Tensor) -> Tensor:  # λ and mask may hold for all images
            return (t[b : b + 1] if len(t) > 1 else t).detach().cpu()

        mask = None if self.mask is None else part(self.mask)
        return Problem(part(self.x), self.D.detach().cpu(), part(self.lam), self.nonneg, mask)

    def known(self, image: Tensor) -> Tensor:
        """Return an image with its missing pixels set to zero."""
        return image if self.mask is None else image * self.mask

    def residual(self, z: Tensor) -> Tensor:
        """Return x − D z at the known pixels."""
        return self.known(self.x - F.conv_transpose2d(z, self.D))

    def certify(self, z: Tensor, r: Tensor | None = None, overshoot: Tensor | None = None) -> Gap:
        """Return the certificate of z, from r = x − D z and max |Dᵀr|/λ if they are at hand."""
        if r is None:
            r = self.residual(z)
        if overshoot is None:
            overshoot = self.overshoot(F.conv2d(r, self.D))
        P = primal(r, z, self.lam, nonneg=self.nonneg)
        xx, xr, rr = inner(self.x, self.x), inner(self.x, r), inner(r, r)
        dual = dual_value(xr, rr, overshoot)
        return Gap(P, P - dual + rounding(xx, rr, r.dtype))

    def overshoot(self, correlation: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image, shape (B,), float64: r over it is feasible.

        A code that does not correlate with r bounds nothing, not even where λ = 0.
        """
        if self.lam.shape[2:] == (1, 1):
            low, high = correlation.flatten(2).aminmax(dim=2)
            peaks = high if self.nonneg else torch.maximum(high, -low)
            peaks = peaks[:, :, None, None]
        else:
            peaks = correlation if self.nonneg else correlation.abs()
        return torch.where(peaks > 0, peaks.double() / self.lam, 0.0).amax((1, 2, 3))


def pose(
    x: Tensor, D: Tensor, lam: Weight, *, nonneg: bool = False, mask: Tensor | None = None
) -> Problem:
    """Check images, dictionary, λ and mask, and return the problem they pose."""
    check_pair(x, D)
    check_weight(lam, code_shape(x, D), dtype=x.dtype)
    if mask is not None:
        check_mask(mask, x)
        x = torch.where(mask, x, 0.0)
        mask = mask.to(x.dtype)
    check_finite(x, "x")
    check_finite(D, "D")
    return Problem(x, D, spread(lam, x), nonneg, mask)


def rounding(xx: Tensor, rr: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what the rounding of r = x − D z may hide of a gap: 8 ε‖x‖‖r‖, from ‖x‖² and ‖r‖².

    It makes a gap in float32 a bound still, and keeps it from being certified below about 1e-5.
    """
    return 8 * torch.finfo(dtype).eps * (xx * rr).sqrt()


def dual_value(xr: Tensor, rr: Tensor, overshoot: Tensor) -> Tensor:
    """Return the largest Δ(s r) of feasible multiples of r, from ⟨x, r⟩, ‖r‖² and max |Dᵀr|/λ."""
    s = dual_scale(xr, rr, overshoot)
    # Δ(s r) = s⟨x, r⟩ − ½s²‖r‖², without the cancellation of ½‖x‖² − ½‖x − s r‖².
    return s * xr - 0.5 * s.square() * rr


def primal(r: Tensor, z: Tensor, lam: Tensor, *, nonneg: bool) -> Tensor:
    """Return ½‖r‖² + Σ λ|z| of each image, in float64; no checks, `lam` broadcasts against z."""
    if lam.shape[2:] == (1, 1):
        l1 = (lam[..., 0, 0].double() * z.abs().sum((2, 3), dtype=torch.float64)).sum(1)
    else:
        l1 = (lam.double() * z.abs()).sum((1, 2, 3))
    P = 0.5 * inner(r, r) + l1
    return torch.where((z < 0).flatten(1).any(1), torch.inf, P) if nonneg else P


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ of each image, shape (B,), in float64."""
    return (a.double() * b.double()).sum((1, 2, 3))


def dual_scale(xr: Tensor, rr: Tensor, overshoot: Tensor) -> Tensor:
    """Return the s ≥ 0 that maximises Δ(s r) subject to s·overshoot ≤ 1."""
    best = torch.where(rr > 0, xr / rr, 0.0)
    return torch.minimum(best.clamp(min=0), 1 / overshoot)


def check_fits(p: Problem, z: Tensor) -> None:
    """Require finite codes of the problem's shape."""
    check_codes(z, p.D)
    fits = code_shape(p.x, p.D)
    if tuple(z.shape) != fits:
        raise ValueError(f"codes of these images and atoms have shape {fits}, got {tuple(z.shape)}")
    check_finite(z, "z")
