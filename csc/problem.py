"""The CSC problem, its dual, and the duality gap that certifies codes.

    P(z) = ½‖x − D z‖² + Σ λ|z|              (optionally z ≥ 0),
    Δ(ν) = ½‖x‖² − ½‖x − ν‖²   for  |Dᵀν| ≤ λ   (without |·| where z ≥ 0).

λ is a number, one value per atom, or a weight with four axes that broadcasts to the codes.  With a
mask only the known pixels count: x, D z and ν are zero at the others.  Each image of a batch is a
problem of its own: values have shape (B,).  For any z and any feasible ν, Δ(ν) ≤ P* ≤ P(z).  So the
gap P(z) − Δ(ν) bounds the error P(z) − P*, whatever produced z.

The gap bounds the error of the objective, not the distance ‖z − z*‖ of the codes.  Where P grows
quadratically around its only minimum, P(z) − P* ≥ (μ/2)‖z − z*‖², the distance is at most
√(2·gap/μ).  One such case is μ = λ_min(DᵀD) > 0: D has full column rank.  With more codes than
pixel values D has a null space, and several codes may even be optimal.

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
    check_weight,
    code_shape,
    spread,
)

CANDIDATES = 2**14  # correlations that are worth computing one by one
CHUNK = 2**26  # bytes of codes that a certificate works on at a time
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

    def __repr__(self) -> str:
        """Return the shapes and the type of the problem."""
        extras = ", nonneg" * self.nonneg + ", mask" * (self.mask is not None)
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
        return Problem(part(self.x), self.D.detach().cpu(), part(self.lam), self.nonneg, mask)

    def double(self) -> "Problem":
        """Return the same problem in float64."""
        mask = None if self.mask is None else self.mask.double()
        return Problem(self.x.double(), self.D.double(), self.lam.double(), self.nonneg, mask)

    def known(self, image: Tensor) -> Tensor:
        """Return an image with its missing pixels set to zero."""
        return image if self.mask is None else image * self.mask

    def residual(self, z: Tensor) -> Tensor:
        """Return x − D z at the known pixels."""
        return self.known(self.x - F.conv_transpose2d(z, self.D))

    def objective(self, z: Tensor) -> Tensor:
        """Return P(z) of each image, computed in float64."""
        p, z = self.double(), z.double()
        return primal(p.residual(z), z, p.lam, nonneg=p.nonneg)

    def estimate(self, z: Tensor, r: Tensor, ratio: Tensor) -> Gap:
        """Return the gap of z from r = x − D z and max |Dᵀr|/λ in the images' dtype.

        It ignores rounding.  It says when :meth:`certify` is worth its cost, and certifies nothing.
        """
        P = primal(r, z, self.lam, nonneg=self.nonneg)
        xr, rr = inner(self.x, r), inner(r, r)
        s = dual_scale(xr, rr, ratio)
        return Gap(P, P - dual_value(xr, rr, s))

    def certify(self, z: Tensor, dual: Tensor | None = None, tol: float = 0.0) -> Gap:
        """Return the certificate of z, computed afresh in float64.

        The dual point is the best multiple of `dual`, an image; by default of x − D z.  If the
        correlations of the images' dtype already certify `tol`, rounding included, those of float64
        are not computed.
        """
        p = self.double()
        sizes = CodeSizes.of(z, p.lam, nonneg=p.nonneg)
        r = p.residual(z.double())
        direction = r if dual is None else dual
        coarse = self.known(direction.to(self.x))
        return self.certificate(sizes, r, coarse, self.safe_ratio(coarse), tol)

    def certificate(
        self, sizes: "CodeSizes", r: Tensor, dual: Tensor, ratio: Tensor, tol: float = 0.0
    ) -> Gap:
        """Return the certificate of codes from up-to-date parts.

        Parameters
        ----------
        sizes : CodeSizes
            Sizes of the codes.
        r : Tensor, shape (B, C, H, W), float64
            x − D z.
        dual : Tensor, shape (B, C, H, W), in the images' dtype
            The dual point is its best multiple.
        ratio : Tensor, shape (B,), float64
            At least max |Dᵀ dual|/λ, rounding included: see :meth:`rounding_of_correlations`.
        tol : float
            If `ratio` does not certify it, the correlations are computed in float64.
        """
        p, image = self.double(), dual.double()
        P = 0.5 * inner(r, r) + sizes.l1
        xv, vv = inner(p.x, image), inner(image, image)
        # A sum of n products has an error of at most n·ε/2 times the sum of their sizes.  D z has
        # M·k² products a pixel, and Σ ‖d_m‖₁‖z_m‖₂ bounds the norm of their sizes.
        u = 0.5 * torch.finfo(torch.float64).eps
        M, _, k, _ = p.D.shape
        atoms = p.D.abs().sum((2, 3)).square().sum(1).sqrt()
        error = u * M * k * k * (atoms * sizes.norms).sum(1)  # of r, in norm

        def gap(ratio: Tensor) -> Gap:
            s = dual_scale(xv, vv, ratio)
            rounding = error * (inner(r, r).sqrt() + 0.5 * error)
            rounding += u * SUMS * (P + 1.5 * s * (inner(p.x, p.x) * vv).sqrt())
            return Gap(P, (P - dual_value(xv, vv, s)).clamp(min=0) + rounding)

        found = gap(ratio)
        if self.x.dtype == torch.float64 or bool(found.reached(tol).all()):
            return found
        return gap(self.exact_ratio(dual))

    def largest_ratio(self, correlation: Tensor) -> Tensor:
        """Return max |Dᵀr|/λ of each image from Dᵀr, (B,) float64; r divided by it is feasible.

        Codes whose correlation is zero do not count, even where λ = 0.
        """
        return _largest_ratio(correlation, self.lam, nonneg=self.nonneg)

    def safe_ratio(self, image: Tensor) -> Tensor:
        """Return a bound on max |Dᵀ image|/λ that includes rounding, shape (B,), float64."""
        h, w = code_shape(self.x, self.D)[2:]
        chunk = max(1, CHUNK // (8 * len(image) * h * w))
        rounding = self.rounding_of_correlations(image)  # (B, M)
        ratios = []
        for first in range(0, len(self.D), chunk):
            atoms = slice(first, first + chunk)
            lam = self.lam[:, atoms] if self.lam.shape[1] > 1 else self.lam
            correlation = F.conv2d(image, self.D[atoms])
            ratios.append(
                _largest_ratio(
                    correlation, lam, nonneg=self.nonneg, slack=rounding[:, atoms, None, None]
                )
            )
        return torch.stack(ratios).amax(0)

    def exact_ratio(self, image: Tensor) -> Tensor:
        """Return `safe_ratio` in float64, from the few correlations that may be the largest.

        Correlations in the images' dtype, with bounds on their rounding, tell which these are.
        """
        p, image64 = self.double(), image.double()
        if bool((p.lam == 0).any()):
            return p.safe_ratio(image64)
        correlation = F.conv2d(image, self.D).double()
        size = correlation if self.nonneg else correlation.abs()
        slack = self.rounding_of_correlations(image)[:, :, None, None]
        least = ((size - slack) / p.lam).amax((1, 2, 3), keepdim=True)
        b, m, i, j = ((size + slack) / p.lam >= least).nonzero(as_tuple=True)
        if len(b) > CANDIDATES:
            return p.safe_ratio(image64)
        k = self.D.shape[-1]
        windows = image64.unfold(2, k, 1).unfold(3, k, 1)[b, :, i, j]  # (n, C, k, k)
        dots = (windows * p.D[m]).sum((1, 2, 3))
        dots = dots if self.nonneg else dots.abs()
        ratios = (dots + p.rounding_of_correlations(image64)[b, m]) / p.lam.expand(size.shape)[
            b, m, i, j
        ]
        return (
            torch.full((len(image),), -torch.inf, dtype=torch.float64, device=image.device)
            .scatter_reduce(0, b, ratios, "amax")
            .clamp(min=0)
        )

    def rounding_of_correlations(self, image: Tensor) -> Tensor:
        """Return a bound on the rounding of ⟨d_m, image⟩ at any position, shape (B, M).

        n products have an error of at most n·ε/2·‖d_m‖‖image in the window‖.
        """
        eps, k = torch.finfo(image.dtype).eps, self.D.shape[-1]
        norms = self.D.double().square().sum((1, 2, 3)).sqrt()
        squares = image.double().square().sum(1, keepdim=True)
        windows = F.avg_pool2d(squares, k, stride=1, divisor_override=1).amax((1, 2, 3))
        return 0.5 * eps * self.D[0].numel() * windows.sqrt()[:, None] * norms


class CodeSizes(NamedTuple):
    """What a certificate needs of codes, in float64.

    l1 : Tensor, shape (B,)
        Σ λ|z|; infinite where a code breaks z ≥ 0.
    norms : Tensor, shape (B, M)
        ‖z_m‖₂ of each atom's codes.
    """

    l1: Tensor
    norms: Tensor

    @staticmethod
    def of(z: Tensor, lam: Tensor, *, nonneg: bool) -> "CodeSizes":
        """Return the sizes of dense codes (B, M, h, w)."""
        norms = torch.linalg.vector_norm(z, dim=(2, 3), dtype=torch.float64)
        return CodeSizes(_l1(z, lam, nonneg=nonneg), norms)


def pose(
    x: Tensor, D: Tensor, lam: Weight, *, nonneg: bool = False, mask: Tensor | None = None
) -> Problem:
    """Check images, dictionary, λ and mask, and return the problem they pose.

    λ is rounded to the dtype of the images.
    """
    check_pair(x, D)
    check_weight(lam, code_shape(x, D), dtype=x.dtype)
    if mask is not None:
        check_mask(mask, x)
        x = torch.where(mask, x, 0.0)
        mask = mask.to(x.dtype)
    check_finite(x, "x")
    check_finite(D, "D")
    check_squares(D, "D")
    check_squares(x, "x", underflow=True)
    return Problem(x, D, spread(lam, x), nonneg, mask)


def primal(r: Tensor, z: Tensor, lam: Tensor, *, nonneg: bool) -> Tensor:
    """Return ½‖r‖² + Σ λ|z| of each image, in float64; no checks, `lam` broadcasts against z."""
    return 0.5 * inner(r, r) + _l1(z, lam, nonneg=nonneg)


def _l1(z: Tensor, lam: Tensor, *, nonneg: bool) -> Tensor:
    """Return Σ λ|z| of each image, in float64; infinite where a code breaks z ≥ 0."""
    if lam.shape[2:] == (1, 1):
        l1 = (lam[..., 0, 0].double() * z.abs().sum((2, 3), dtype=torch.float64)).sum(1)
    else:
        l1 = (lam.double() * z.abs()).sum((1, 2, 3))
    return torch.where((z < 0).flatten(1).any(1), torch.inf, l1) if nonneg else l1


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


def _largest_ratio(
    correlation: Tensor, lam: Tensor, *, nonneg: bool, slack: Tensor | None = None
) -> Tensor:
    if lam.shape[2:] == (1, 1):
        low, high = correlation.flatten(2).aminmax(dim=2)
        peaks = (high if nonneg else torch.maximum(high, -low))[:, :, None, None]
    else:
        peaks = correlation if nonneg else correlation.abs()
    if slack is not None:
        peaks = peaks + torch.where(lam > 0, slack, 0.0)
    return torch.where(peaks > 0, peaks.double() / lam, 0.0).amax((1, 2, 3))


def _shape(t: Tensor) -> str:
    return "×".join(map(str, t.shape))
