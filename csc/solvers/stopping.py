"""When a solver stops, why, and what it returns.

During a run the gap is estimated in the dtype of the images.  Where the run may end, the
certificate is computed afresh from the codes.
"""

import functools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.bounds import lipschitz
from csc.problem import Gap, Problem, inner
from csc.solution import Solution, Status

# Below this part of P(0) the error of an uncertified objective is measured against P(0).
SMALL = 1e-3
# An objective has reached the floor of its dtype if it has not fallen for PATIENCE checks, and the
# relative gap is at most NEAR · ε.
PATIENCE, NEAR = 10, 100


class Stopping:
    """The end of one run: `over` decides when, `solution` returns what was found.

    Parameters
    ----------
    p : Problem
        What is solved.
    start : Tensor or None
        Codes that the run starts from, None for zero.
    max_iter, tol
        As in :func:`csc.ista`.
    certify : callable, optional
        Computes the certificate of codes; :meth:`csc.problem.Problem.certify` by default.
    """

    def __init__(
        self,
        p: Problem,
        start: Tensor | None,
        max_iter: int,
        tol: float,
        certify: Callable[[Tensor], Gap] | None = None,
    ) -> None:
        self.p, self.start, self.max_iter, self.tol = p, start, max_iter, tol
        self.certify = certify or functools.partial(p.certify, tol=tol)
        self.first: Tensor | None = None  # estimate of the objective at the start
        B = len(p.x)
        self.lowest = torch.full((B,), torch.inf, dtype=torch.float64, device=p.x.device)
        self.looks = torch.zeros_like(self.lowest)
        self.statuses = [Status.ITERATIONS] * B
        # Images where λ = 0 for an atom that is not zero; with a ridge the gap needs no λ.
        atoms = p.D.flatten(1).any(1)[:, None, None] & (p.penalty.ridge == 0)
        self.free = ((p.lam == 0) & atoms).flatten(1).any(1).expand(B)
        self.any_free = bool(self.free.any())
        self.L = (lipschitz(p.D, p.size) or 1.0) if self.any_free else 1.0

    def over(self, k: int, codes: Callable[[], Tensor], r: Tensor, estimate: Gap) -> bool:
        """Return whether the run ends after step k, at codes z with r = x − D z.

        `codes` returns z, and is called where z is needed.  r and the estimate of the gap may be in
        the dtype of the images.
        """
        last = k >= self.max_iter
        if k == 0:
            self.first = estimate.objective
        stalled = self._stalled(estimate, torch.finfo(self.p.x.dtype).eps)
        settled = self._settled(codes, r, estimate)
        likely = estimate.reached(self.tol)
        if not last and (self.tol == 0 or not bool((likely | stalled | settled).all())):
            return False
        self.k, self.z = k, codes()
        self.found = self.certify(self.z)
        # If the estimate is at half the tolerance, only rounding keeps the certificate above it.
        floor = stalled | estimate.reached(self.tol / 2)
        self.statuses = [
            Status.CONVERGED if done
            else Status.UNCERTIFIED if uncertified
            else Status.FLOOR if rounded and self.tol > 0
            else Status.ITERATIONS
            for done, uncertified, rounded in zip(
                self.found.reached(self.tol).tolist(), settled.tolist(), floor.tolist(), strict=True
            )
        ]  # fmt: skip
        return last or Status.ITERATIONS not in self.statuses

    def solution(self) -> Solution:
        """Return the solution after the run; images where the start is better keep the start."""
        z, found = self.z, self.found
        worse = self._worse_than_start()
        if bool(worse.any()):
            start = torch.zeros_like(z) if self.start is None else self.start.to(z)
            z = torch.where(worse[:, None, None, None], start, z)
            found = self.p.certify(z)
            for b, done in enumerate(found.reached(self.tol).tolist()):
                if done:
                    self.statuses[b] = Status.CONVERGED
        return Solution(z, found.objective, found.gap, self.k, tuple(self.statuses))

    def _worse_than_start(self) -> Tensor:
        """Tell for each image whether the objective is above that of the start."""
        now = self.found.objective
        if self.start is None:
            return now > self._objective_at_zero()
        precise = torch.finfo(self.z.dtype).eps < 1e-6
        if precise and self.first is not None and bool((now < 0.99 * self.first).all()):
            return torch.zeros_like(now, dtype=torch.bool)  # more than rounding can explain
        return now > self.p.objective(self.start)

    def _stalled(self, estimate: Gap, eps: float) -> Tensor:
        """Tell for each image whether its objective has not fallen for PATIENCE checks.

        Falls of less than a quarter of ε count as rounding.  The gap must be near ε, too.
        """
        fell = estimate.objective < self.lowest * (1 - eps / 4)
        self.lowest = torch.where(fell, estimate.objective, self.lowest)
        self.looks = torch.where(fell, 0, self.looks + 1)
        return (self.looks >= PATIENCE) & estimate.reached(NEAR * eps)

    def _settled(self, codes: Callable[[], Tensor], r: Tensor, estimate: Gap) -> Tensor:
        """Tell for each image with λ = 0 whether a step of ISTA changes little.

        With z⁺ the step from z, P(z⁺) − P* ≤ L‖z − z⁺‖‖z − z*‖.  ‖z‖ + ‖z⁺‖ stands for the unknown
        ‖z − z*‖.
        """
        if not self.any_free:
            return self.free
        p, L, z = self.p, self.L, codes()
        after = p.penalty.prox(z + F.conv2d(r, p.D) / L, p.lam / L, L)
        sizes = inner(z, z).sqrt() + inner(after, after).sqrt()
        error = L * sizes * inner(after - z, after - z).sqrt()
        scale = torch.maximum(estimate.objective, SMALL * self._objective_at_zero())
        return self.free & (error <= self.tol * scale)

    def _objective_at_zero(self) -> Tensor:
        return 0.5 * inner(self.p.x, self.p.x)


def warn_of_zero_codes(p: Problem, solution: Solution) -> Solution:
    """Warn if all codes are zero because λ ≥ λ_max, and pass the solution on."""
    below_zero = solution.objective < 0.5 * inner(p.x, p.x)  # than that of zero codes
    if bool(below_zero.any()) or bool(solution.codes.any()) or not bool(p.x.any()):
        return solution
    correlation = F.conv2d(p.x, p.D)
    ratio = float(p.largest_ratio(correlation).max())
    if 0 < ratio <= 1 + 8 * torch.finfo(p.x.dtype).eps:
        largest = float(p.penalty.sizes(correlation)[0].max())
        warnings.warn(
            f"all codes are zero, because lam is at least λ_max = {largest:.4g}; use a smaller lam",
            UserWarning,
            stacklevel=5,  # the caller of the solver, above its two decorators
        )
    return solution
