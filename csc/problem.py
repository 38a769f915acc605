"""The CSC problem, its dual, and the duality gap that certifies codes.

    P(z) = ½‖x − D z‖² + Σ λ|z|              (optionally z ≥ 0),
    Δ(ν) = ½‖x‖² − ½‖x − ν‖²   for  |Dᵀν| ≤ λ   (without |·| where z ≥ 0).

λ is a number, one value per atom, or a weight with four axes that broadcasts to the codes.  For
the other penalties Ω of :mod:`csc.penalty`,

    P(z) = ½‖x − D z‖² + Ω(z),      Δ(ν) = ½‖x‖² − ½‖x − ν‖² − Ω*(Dᵀν).

With a ridge every ν is feasible.  With a mask only the known pixels count: x, D z and ν are zero at
the others.  Each image of a batch is a problem of its own: values have shape (B,).  For any z and
any feasible ν, Δ(ν) ≤ P* ≤ P(z).  So the gap P(z) − Δ(ν) bounds the error P(z) − P*, whatever
produced z.

The gap bounds the error of the objective, not the distance ‖z − z*‖ of the codes.  Where P grows
quadratically around its only minimum, P(z) − P* ≥ (μ/2)‖z − z*‖², the distance is at most
√(2·gap/μ).  A ridge μ is one such case, μ = λ_min(DᵀD) > 0 another: D has full column rank.
With more codes than pixel values D has a null space, and several codes may even be optimal.

References
----------
Kim, Koh, Lustig, Boyd, Gorinevsky, "An interior-point method for large-scale ℓ1-regularized least
squares", IEEE JSTSP 1(4), 2007 (the dual problem and its scaled residual).
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from csc import html
from csc.checks import (
    Weight,
    check_codes,
    check_finite,
    check_mask,
    check_pair,
    check_run,
    check_squares,
    code_shape,
)
from csc.penalty import Penalty, check_penalty

CHUNK = 2**26  # bytes of codes that a certificate works on at a time
NEWTON = 4  # steps towards the best multiple of the residual, for the elastic net
SUMS = 32  # roundings, at most, in a float64 sum over an image


class Gap(NamedTuple):
    """Objective and duality gap of each image, both (B,) float64."""

    objective: Tensor
    gap: Tensor

    def reached(self, tol: float) -> Tensor:
        """Tell for each image whether (P(z) − P*)/P* ≤ tol is certain: gap ≤ tol·Δ(ν)."""
        return self.gap <= tol * (self.objective - self.gap)

    def within(self, tol: float) -> bool:
        """Tell whether all images have reached tol."""
        return bool(self.reached(tol).all())


class Problem(NamedTuple):
    """A CSC problem that has been checked: what the solvers work on.

    Attributes
    ----------
    x : Tensor, shape (B, C, H, W)
        Images, zero at missing pixels.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    penalty : Penalty
        Ω, with λ and z ≥ 0.
    mask : Tensor or None
        1 at known pixels and 0 at missing ones, in the images' dtype; broadcasts against x.
    """

    x: Tensor
    D: Tensor
    penalty: Penalty
    mask: Tensor | None

    @property
    def lam(self) -> Tensor:
        """λ, with four axes that broadcast against codes."""
        return self.penalty.lam

    @property
    def nonneg(self) -> bool:
        """Whether z ≥ 0."""
        return self.penalty.nonneg

    def __repr__(self) -> str:
        """Return the shapes and the type of the problem."""
        extras = ", nonneg" * self.nonneg + ", mask" * (self.mask is not None)
        extras += f", ridge={self.penalty.ridge:g}" * (self.penalty.ridge > 0)
        extras += ", groups" * (self.penalty.groups is not None)
        return f"Problem(x={_shape(self.x)}, D={_shape(self.D)}, {self.x.dtype}{extras})"

    def _repr_html_(self) -> str:
        """Return sizes, λ and atoms for notebooks."""
        lam = f"{float(self.lam.min()):.3g} to {float(self.lam.max()):.3g}"
        row = [_shape(self.x), _shape(self.D), lam, str(self.nonneg), str(self.mask is not None)]
        head = ["images", "dictionary", "λ", "z ≥ 0", "masked"]
        return html.table("CSC problem", head, [row]) + html.atoms(self.D)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width of the images."""
        return (self.x.shape[2], self.x.shape[3])

    def check_run(self, start: Tensor | None, max_iter: int, tol: float) -> None:
        """Check the arguments of a run."""
        check_run(self.x, self.D, start, max_iter, tol)
        if start is not None and self.nonneg and bool((start < 0).any()):
            raise ValueError("start has negative codes but nonneg=True; use start.clamp(min=0)")

    def start(self, start: Tensor | None, max_iter: int, tol: float) -> Tensor:
        """Check the arguments of a run and return its first codes, zero by default."""
        self.check_run(start, max_iter, tol)
        if start is None:
            return self.x.new_zeros(code_shape(self.x, self.D))
        return start.detach().clone(memory_format=torch.contiguous_format)

    def of(self, b: int) -> "Problem":
        """Return the problem of image b alone, on the CPU."""

        def part(t: Tensor) -> Tensor:  # λ and mask may hold for all images
            return (t[b : b + 1] if len(t) > 1 else t).detach().cpu()

        mask = None if self.mask is None else part(self.mask)
        penalty = self.penalty._replace(lam=part(self.lam)).to(self.lam.dtype, "cpu")
        return Problem(part(self.x), self.D.detach().cpu(), penalty, mask)

    def double(self) -> "Problem":
        """Return the same problem in float64."""
        mask = None if self.mask is None else self.mask.double()
        penalty = self.penalty.to(torch.float64, self.lam.device)
        return Problem(self.x.double(), self.D.double(), penalty, mask)

    def known(self, image: Tensor) -> Tensor:
        """Return an image with its missing pixels set to zero."""
        return image if self.mask is None else image * self.mask

    def residual(self, z: Tensor) -> Tensor:
        """Return x − D z at the known pixels."""
        return self.known(self.x - F.conv_transpose2d(z, self.D))

    def objective(self, z: Tensor) -> Tensor:
        """Return P(z) of each image, computed in float64."""
        p, z = self.double(), z.double()
        return p.primal(p.residual(z), z)

    def primal(self, r: Tensor, z: Tensor) -> Tensor:
        """Return ½‖r‖² + Ω(z) of each image, (B,) float64."""
        return 0.5 * inner(r, r) + self.penalty.value(z)

    def estimate(self, z: Tensor, r: Tensor, correlation: Tensor) -> Gap:
        """Return the gap of z from r = x − D z and Dᵀr in the images' dtype.

        It ignores rounding.  It says when :meth:`certify` is worth its cost, and certifies nothing.
        """
        P = self.primal(r, z)
        return Gap(P, P - self.best_dual(r, correlation)[1])

    def estimate_from(self, z: Tensor, r: Tensor, ratio: Tensor) -> Gap:
        """Return the estimate for μ = 0 from max |Dᵀr|/λ instead of Dᵀr."""
        P = self.primal(r, z)
        xr, rr = inner(self.x, r), inner(r, r)
        return Gap(P, P - dual_value(xr, rr, dual_scale(xr, rr, ratio)))

    def best_dual(
        self, r: Tensor, correlation: Tensor, slack: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Return the best s ≥ 0 and Δ(s r) from r and Dᵀr, both (B,) float64.

        `slack` is a bound on the rounding of Dᵀr.  With a ridge Δ(s r) is a concave function of s,
        which Newton's steps from s = 1 maximise; s = 1 is the best s at the optimum.
        """
        xr, rr = inner(self.x, r), inner(r, r)
        if not self.penalty.ridge:
            s = dual_scale(xr, rr, self.penalty.largest_ratio(correlation, slack))
            return s, dual_value(xr, rr, s)
        size, lam = self.penalty.sizes(correlation, slack)
        s = torch.ones_like(rr)
        best_s, best = torch.zeros_like(rr), torch.zeros_like(rr)  # Δ(0) = 0
        for _ in range(NEWTON):
            value, slope, curvature = self.penalty.conjugate(s, size, lam)
            value = dual_value(xr, rr, s) - value
            best_s, best = torch.where(value > best, s, best_s), torch.maximum(value, best)
            step = (xr - s * rr - slope) / (rr + curvature)
            s = torch.where(rr > 0, s + step, s).clamp(min=0)
        return best_s, best

    def certify(self, z: Tensor, dual: Tensor | None = None, tol: float = 0.0) -> Gap:
        """Return the certificate of z, computed afresh in float64.

        The dual point is the best multiple of `dual`, an image; by default of x − D z.  If the
        correlations of the images' dtype already certify `tol`, rounding included, those of float64
        are not computed.
        """
        p = self.double()
        sizes = CodeSizes.of(z, p.penalty)
        r = p.residual(z.double())
        if self.penalty.ridge:
            slack = 2 * p.rounding_of_correlations(r)[:, :, None, None]  # of Dᵀr and of s Dᵀr
            s, value = p.best_dual(r, F.conv2d(r, p.D), slack)
            return p._gap(sizes, r, r, s, value)
        image = self.known((r if dual is None else dual).to(self.x))
        if tol > 0 and self.x.dtype != torch.float64:
            found = p.certificate(sizes, r, image, self.safe_ratio(image))
            if found.within(tol):
                return found
        return p.certificate(sizes, r, image, p.safe_ratio(image.double()))

    def certificate(self, sizes: "CodeSizes", r: Tensor, dual: Tensor, ratio: Tensor) -> Gap:
        """Return the certificate of codes from up-to-date parts; this problem is in float64.

        Parameters
        ----------
        sizes : CodeSizes
            Sizes of the codes.
        r : Tensor, shape (B, C, H, W), float64
            x − D z.
        dual : Tensor, shape (B, C, H, W)
            The dual point is its best multiple.
        ratio : Tensor, shape (B,), float64
            At least max |Dᵀ dual|/λ, rounding included: see :meth:`rounding_of_correlations`.
        """
        v = dual.double()
        xv, vv = inner(self.x, v), inner(v, v)
        s = dual_scale(xv, vv, ratio)
        return self._gap(sizes, r, v, s, dual_value(xv, vv, s))

    def _gap(self, sizes: "CodeSizes", r: Tensor, dual: Tensor, s: Tensor, value: Tensor) -> Gap:
        """Return P(z) − Δ(s dual) with an allowance for the rounding of float64; all in float64.

        r is x − D z, and `value` is Δ(s dual).
        """
        rr = inner(r, r)
        P = 0.5 * rr + sizes.penalty
        # A sum of n products has an error of at most n·ε/2 times the sum of their sizes.  D z has
        # M·kh·kw products a pixel, and Σ ‖d_m‖₁‖z_m‖₂ bounds the norm of their sizes.
        u = 0.5 * torch.finfo(torch.float64).eps
        M, _, kh, kw = self.D.shape
        atoms = self.D.abs().sum((2, 3)).square().sum(1).sqrt()
        error = u * M * kh * kw * (atoms * sizes.norms).sum(1)  # of r, in norm
        rounding = error * (rr.sqrt() + 0.5 * error)
        largest = 1.5 * s * (inner(self.x, self.x) * inner(dual, dual)).sqrt()  # part of Δ
        rounding += u * SUMS * (P + largest)
        return Gap(P, (P - value).clamp(min=0) + rounding)

    def largest_ratio(self, correlation: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image from Dᵀr, (B,) float64; r divided by it is feasible.

        Codes whose correlation is zero do not count, even where λ = 0.
        """
        return self.penalty.largest_ratio(correlation)

    def safe_ratio(self, image: Tensor) -> Tensor:
        """Return a bound on max |Dᵀ image|/λ that includes rounding, shape (B,), float64."""
        h, w = code_shape(self.x, self.D)[2:]
        chunk = max(1, CHUNK // (8 * len(image) * h * w))
        if self.penalty.groups is not None:
            chunk = len(self.D)
        rounding = self.rounding_of_correlations(image)  # (B, M)
        ratios = []
        for first in range(0, len(self.D), chunk):
            atoms = slice(first, first + chunk)
            lam = self.lam[:, atoms] if self.lam.shape[1] > 1 else self.lam
            slack = rounding[:, atoms, None, None]
            penalty = self.penalty._replace(lam=lam)
            ratios.append(penalty.largest_ratio(F.conv2d(image, self.D[atoms]), slack))
        return torch.stack(ratios).amax(0)

    def rounding_of_correlations(self, image: Tensor) -> Tensor:
        """Return a bound on the rounding of ⟨d_m, image⟩ at any position, shape (B, M).

        n products have an error of at most n·ε/2·‖d_m‖‖image in the window‖.  A division by λ adds
        one more rounding.  A window lies in 2×2 tiles of kh×kw pixels.
        """
        eps, (kh, kw) = torch.finfo(image.dtype).eps, self.D.shape[2:]
        norms = self.D.double().square().sum((1, 2, 3)).sqrt()
        squares = image.double().square().sum(1, keepdim=True)
        tiles = F.avg_pool2d(squares, (kh, kw), ceil_mode=True, divisor_override=1)
        tiles = F.avg_pool2d(F.pad(tiles, [0, 1, 0, 1]), 2, stride=1, divisor_override=1)
        window = tiles.amax((1, 2, 3)).sqrt()
        return 0.5 * eps * (self.D[0].numel() + 1) * window[:, None] * norms


class CodeSizes(NamedTuple):
    """What a certificate needs of codes, in float64.

    penalty : Tensor, shape (B,)
        Ω(z); infinite where a code breaks z ≥ 0.
    norms : Tensor, shape (B, M)
        ‖z_m‖₂ of each atom's codes.
    """

    penalty: Tensor
    norms: Tensor

    @staticmethod
    def of(z: Tensor, penalty: Penalty) -> "CodeSizes":
        """Return the sizes of dense codes (B, M, h, w)."""
        norms = torch.linalg.vector_norm(z, dim=(2, 3), dtype=torch.float64)
        return CodeSizes(penalty.value(z), norms)


def pose(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    groups: Tensor | None = None,
) -> Problem:
    """Check images, dictionary, penalty and mask, and return the problem they pose.

    λ is rounded to the dtype of the images.
    """
    check_pair(x, D)
    penalty = check_penalty(lam, code_shape(x, D), x, nonneg=nonneg, ridge=ridge, groups=groups)
    if mask is not None:
        check_mask(mask, x)
        x = torch.where(mask, x, 0.0)
        mask = mask.to(x.dtype)
    check_finite(x, "x")
    check_finite(D, "D")
    check_squares(D, "D")
    check_squares(x, "x", underflow=True)
    return Problem(x, D, penalty, mask)


def inner(a: Tensor, b: Tensor) -> Tensor:
    """Return ⟨a, b⟩ of each image, shape (B,), in float64."""
    return (a.double() * b.double()).sum((1, 2, 3))


def dual_scale(xr: Tensor, rr: Tensor, ratio: Tensor) -> Tensor:
    """Return the s ≥ 0 that maximises Δ(s r) subject to s·max |Dᵀr|/λ ≤ 1."""
    best = torch.where(rr > 0, xr / rr, 0.0)
    return torch.minimum(best.clamp(min=0), 1 / ratio)


def dual_value(xr: Tensor, rr: Tensor, s: Tensor) -> Tensor:
    """Return Δ(s r) from ⟨x, r⟩ and ‖r‖², without the cancellation of ½‖x‖² − ½‖x − s r‖²."""
    return s * xr - 0.5 * s.square() * rr


def check_fits(p: Problem, z: Tensor) -> None:
    """Require finite codes of the problem's shape."""
    check_codes(z, p.D)
    fits = code_shape(p.x, p.D)
    if tuple(z.shape) != fits:
        raise ValueError(f"codes of these images and atoms have shape {fits}, got {tuple(z.shape)}")
    check_finite(z, "z")


def _shape(t: Tensor) -> str:
    return "×".join(map(str, t.shape))
