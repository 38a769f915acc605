"""Coordinate descent on an active set: the fast solver where codes are sparse.

The residual r = x − D z is kept as an image.  One coordinate is minimised exactly,

    g = ⟨d_m, r at p⟩ + ‖d_m‖² z,     z ← h_{λ}(g)/‖d_m‖²,     r ← r − (change of z) d_m at p,

at the cost of one window of pixels.  Only an active set is swept: a dense pass computes Dᵀr now
and then, adds coordinates with |Dᵀr| > λ, and certifies.  λ is lowered to its value in stages, so
that the set stays small on the way.  At less than a few percent of non-zero codes this does in one
epoch of microseconds what a dense iteration does in milliseconds.

At the final λ a few steps of conjugate gradients on the non-zero codes, their signs held, follow
the epochs: they resolve what coordinate descent is slow at, groups of overlapping atoms.

The certificate is the duality gap of :mod:`csc.problem` with a better dual point than a multiple
of the residual, which one correlation that is a little above λ anywhere in the image spoils.  The
feasible point nearest to r is r − D c with c = argmin ½‖r − D c‖² + λ‖c‖₁: a problem of the same
kind, with a very sparse solution, for which a few epochs come near enough.

References
----------
Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate
descent", J. Stat. Software 33(1), 2010.  Massias, Gramfort, Salmon, "Celer: a fast solver for the
Lasso with dual extrapolation", ICML 2018 (working sets, certificates).  Moreau, Oudre, Vayatis,
"DICOD: distributed convolutional coordinate descent for convolutional sparse coding", ICML 2018
(stripes).
"""

import copy
from collections.abc import Callable
from numbers import Integral
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csc.checks import Weight
from csc.compiled.threads import one_torch_thread, together
from csc.precision import full_precision
from csc.problem import Problem, dual_value, pose, rounding
from csc.solution import Solution

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
STAGE = 0.6  # factor of λ from stage to stage on the way down
STAGE_EPOCHS = 3  # epochs in a stage
FIRST_EPOCHS, MOST_EPOCHS = 20, 40  # epochs between dense passes at the final λ
SETTLED = 0.1  # decrease of the objective, as a share of the tolerance, that is worth a projection
ROUNDS = 4  # of epochs and a dense pass in a projection
POLISH = 5  # steps of conjugate gradients after the epochs
PARALLEL_FROM = 20_000  # coordinate updates that are worth a second thread


@full_precision
def coordinate_descent(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    max_iter: int = 10_000,
    tol: float = 1e-4,
    on_step: Callable[[int, Tensor], None] | None = None,
    threads: int | None = None,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by coordinate descent on an active set.

    Parameters, Returns and Raises are those of :func:`csc.ista`, except:

    Parameters
    ----------
    max_iter : int
        Largest number of epochs, sweeps over the active set.
    on_step : callable, optional
        Called with (epochs, z) for the start and after every dense pass.
    threads : int, optional
        Rows are split among so many threads; torch's number by default.  The result depends on it
        by rounding only, and is the same from run to run.

    Notes
    -----
    Runs on the CPU whatever the device of x, in float32 or float64; the images of a batch are
    solved one after the other.  The first call for an atom size compiles for some seconds; the
    result is cached on disk.

    Examples
    --------
    >>> import torch
    >>> from csc import fista, random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g, dtype=torch.float64)
    >>> x = torch.rand(1, 1, 16, 16, generator=g, dtype=torch.float64)
    >>> a, b = (solve(x, D, lam=0.5, tol=1e-8) for solve in (coordinate_descent, fista))
    >>> torch.allclose(a.objective, b.objective, rtol=1e-7), a.converged
    (True, True)
    """
    if threads is not None and not isinstance(threads, Integral):
        raise TypeError(f"threads must be an integer, got {threads!r}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be ≥ 1, got {threads}")
    with one_torch_thread() as team:
        p = pose(x, D, lam, nonneg=nonneg, mask=mask)
        p.check_run(start, max_iter, tol)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"coordinate descent is in float32 or float64, got {x.dtype}")
        parts: list[Solution] = []

        for b in range(x.shape[0]):
            first = None if start is None else start[b : b + 1].detach().cpu()
            tell = _tell(on_step, [part.codes for part in parts], x, start) if on_step else None
            parts.append(_solve(p.of(b), first, max_iter, tol, tell, threads or team))
    codes, objective, gap = (
        (values[0] if len(values) == 1 else torch.cat(values)).to(x.device)
        for values in zip(*((s.codes, s.objective, s.gap) for s in parts), strict=True)
    )
    iterations = max(part.iterations for part in parts)
    return Solution(codes, objective, gap, iterations, all(part.converged for part in parts))


def _tell(
    on_step: Callable[[int, Tensor], None], done: list[Tensor], x: Tensor, start: Tensor | None
) -> Callable[[int, Tensor], None]:
    """Report the codes of the image at work among those of the batch."""

    def tell(epochs: int, codes: Tensor) -> None:
        others = codes.new_zeros(len(x), *codes.shape[1:]) if start is None else start.detach()
        left = others[len(done) + 1 :].to(codes)
        on_step(epochs, torch.cat([*done, codes, left]).to(x.device))

    return tell


def _solve(
    p: Problem,
    start: Tensor | None,
    max_iter: int,
    tol: float,
    on_step: Callable[[int, Tensor], None] | None,
    threads: int,
) -> Solution:
    """Solve for one image, on the CPU."""
    active = _ActiveSet(p, start, threads)
    # The weight is stage · λ, and stage falls to 1 from where no code would leave zero.
    overshoot = active.dense_pass(np.inf)[1]
    stage = overshoot if np.isfinite(overshoot) else 1.0
    best_dual, objective = -np.inf, np.inf
    epochs, between, arrived = 0, FIRST_EPOCHS // 2, False
    nearby = active.r  # a residual to project
    if on_step:
        on_step(0, active.codes())
    while True:
        stage = max(STAGE * stage, 1.0)
        arrived, final = stage == 1.0, arrived
        added, overshoot = active.dense_pass(stage)
        if arrived or epochs >= max_iter:
            previous, objective = objective, active.objective()
            best_dual = max(best_dual, active.dual(active.r, overshoot))
            if epochs in (0, max_iter) or previous - objective <= SETTLED * tol * objective:
                best_dual = max(best_dual, active.project(nearby))
            gap = objective - best_dual + active.rounding()
            converged = gap <= tol * (objective - gap)
            if converged or epochs >= max_iter:
                break
        if final:
            between = FIRST_EPOCHS if added else min(2 * between, MOST_EPOCHS)
        n = min(between if final else STAGE_EPOCHS, max_iter - epochs)
        active.sweep(stage, n)
        epochs += n
        if final:
            nearby = active.polish(POLISH)
        if on_step:
            on_step(epochs, active.codes())
    return Solution(
        active.codes(),
        torch.tensor([objective], dtype=torch.float64),
        torch.tensor([gap], dtype=torch.float64),
        epochs,
        bool(converged),
    )


class _ActiveSet:
    """The residual of one image and the list of coordinates that are swept, sorted by row."""

    def __init__(self, p: Problem, start: Tensor | None, threads: int) -> None:
        from csc.compiled import image, kernels

        self.kernels = kernels
        self.image = image.Image(p, threads)
        self.listed = np.zeros(self.image.codes, bool)
        at, values = np.zeros((3, 0), np.int32), np.zeros(0, self.image.dtype)
        if start is not None:
            self.listed[:] = start[0] != 0
            rows, atoms, columns = np.nonzero(self.listed.transpose(1, 0, 2))
            at = np.stack([atoms, rows, columns]).astype(np.int32)
            values = start[0].numpy()[tuple(at)]
        self._list(at, values)
        self.r = self.image.flat()
        self.refresh()

    def dense_pass(self, stage: float) -> tuple[int, float]:
        """List the coordinates with |Dᵀr| > stage · λ; return their number and max |Dᵀr|/λ.

        Coordinates that have come to zero leave the list where they are many.
        """
        found, overshoot = self.image.dense_pass(self.r, stage, self.listed)
        zeros = len(self.values) - np.count_nonzero(self.values)
        dropped = zeros > 1000 and 2 * zeros > len(self.values)
        if found.size or dropped:
            merged = self.kernels.relist(
                self.atoms, self.rows, self.columns, self.values, found, dropped, self.listed
            )
            self._list(*merged)
        return found.shape[1], overshoot

    def _list(self, at: Any, values: Any) -> None:
        """Take a list of coordinates (atoms, rows, columns), sorted by row, and their codes."""
        self.atoms, self.rows, self.columns = at
        self.values = values
        self.at = self.rows.astype(np.int64) * self.image.shape[2] + self.columns
        self.lam, self.norm2 = self.image.lam[tuple(at)], self.image.norm2[tuple(at)]

    def sweep(self, stage: float, epochs: int) -> None:
        """Minimise over every listed coordinate in turn, `epochs` times over."""

        def run(span: tuple[int, int]) -> None:
            self.kernels.sweep(
                self.r, self.image.D, *self.image.frame, self.image.mask, self.image.nonneg,
                self.r.dtype.type(stage), self.atoms, self.at, self.lam, self.norm2, self.values,
                *span, epochs,
            )  # fmt: skip

        self._striped(run, epochs)

    def project(self, r: Any) -> float:
        """Return the largest Δ of multiples of r − D c, c near argmin ½‖r − D c‖² + λ‖c‖₁."""
        other = copy.copy(self)
        other.r, other.listed, other.values = r.copy(), self.listed.copy(), 0 * self.values
        best = -np.inf
        for _ in range(ROUNDS):
            other.sweep(1.0, STAGE_EPOCHS)
            added, overshoot = other.dense_pass(1.0)
            best = max(best, self.dual(other.r, overshoot))
            if not added:
                break
        return best

    def polish(self, steps: int) -> Any:
        """Solve for the non-zero codes with their signs held, by conjugate gradients.

        Codes that change sign on the way become zero, if that lowers the objective; otherwise the
        codes stay.  Return the residual before they do, which is nearer to the dual optimum.
        """
        on = np.flatnonzero(self.values)
        before, objective = self.values.copy(), self.objective()
        signs, inverse = np.sign(before[on]), 1 / self.norm2[on]
        r = self.r.copy()
        b = self._gather(r)[on] - self.lam[on] * signs
        direction, moved = inverse * b, np.zeros_like(b)
        slope = float(b @ direction)
        full = np.zeros_like(before)
        for _ in range(steps):
            if not slope > 0:
                break
            full[on] = -direction
            image = np.zeros_like(r)
            self._scatter(image, full)
            curved = self._gather(image)[on]
            curvature = float(direction @ curved)
            # Along what is no change of the image, such as between equal atoms, is nothing to gain.
            if not curvature > np.finfo(r.dtype).eps * float(direction @ (direction / inverse)):
                break
            step = slope / curvature
            moved += b.dtype.type(step) * direction
            b -= b.dtype.type(step) * curved
            r -= r.dtype.type(step) * image
            preconditioned = inverse * b
            previous, slope = slope, float(b @ preconditioned)
            direction = preconditioned + b.dtype.type(slope / previous) * direction
        new = before[on] + moved
        self.values[on] = np.where(np.sign(new) == signs, new, 0)
        self.refresh()
        if not self.objective() < objective:
            self.values = before
            self.refresh()
        return r

    def _gather(self, r: Any) -> Any:
        out = np.empty_like(self.values)

        def run(span: tuple[int, int]) -> None:
            self.kernels.gather(r, self.image.D, *self.image.frame, self.atoms, self.at, out, *span)

        n = len(out)
        T = self.image.threads if n >= PARALLEL_FROM // 4 else 1
        together(run, [(n * t // T, n * (t + 1) // T) for t in range(T)])
        return out

    def _scatter(self, r: Any, values: Any) -> None:
        def run(span: tuple[int, int]) -> None:
            self.kernels.subtract_all(
                r,
                self.image.D,
                *self.image.frame,
                self.image.mask,
                self.atoms,
                self.at,
                values,
                *span,
            )

        self._striped(run, 1)

    def _striped(self, run: Callable[[tuple[int, int]], None], epochs: int) -> None:
        stripes, seams = self._split(epochs)
        together(run, stripes)
        together(run, seams)

    def _split(self, epochs: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Cut the list into stripes of rows, and the seams of k − 1 rows between them.

        Windows of different stripes share no pixel, and neither do those of different seams.
        """
        n, k = len(self.rows), self.image.k
        T = self.image.threads if n * epochs >= PARALLEL_FROM else 1
        stripes, seams, low, row = [], [], 0, 0
        for t in range(1, T):
            cut = int(self.rows[n * t // T])
            if cut - row < k:
                continue
            a, b = np.searchsorted(self.rows, (cut, cut + k - 1))
            stripes.append((low, int(a)))
            seams.append((int(a), int(b)))
            low, row = int(b), cut + k - 1
        stripes.append((low, n))
        return stripes, seams

    def refresh(self) -> None:
        """Recompute r = x − D z from the list, which clears the rounding of many updates."""
        self.r[:] = self.image.x
        self._scatter(self.r, self.values)

    def objective(self) -> float:
        """Return P(z)."""
        l1 = self.kernels.inner(self.lam, np.abs(self.values), len(self.values))
        return 0.5 * self._inner(self.r, self.r) + float(l1)

    def dual(self, r: Any, overshoot: float) -> float:
        """Return the largest Δ of feasible multiples of r, max |Dᵀr|/λ being `overshoot`."""
        if not self.image.floor.all():
            overshoot = np.inf
        parts = self._inner(self.image.x, r), self._inner(r, r), overshoot
        return float(dual_value(*(torch.tensor(part, dtype=torch.float64) for part in parts)))

    def rounding(self) -> float:
        """Return what rounding may hide of a gap."""
        xx, rr = (
            torch.tensor(self._inner(a, a), dtype=torch.float64) for a in (self.image.x, self.r)
        )
        return float(rounding(xx, rr, torch.from_numpy(self.r).dtype))

    def _inner(self, a: Any, b: Any) -> float:
        return float(self.kernels.inner(a, b, self.image.n))

    def codes(self) -> Tensor:
        """Return z, (1, M, h, w)."""
        z = np.zeros(self.listed.shape, self.values.dtype)
        z[self.atoms, self.rows, self.columns] = self.values
        return torch.from_numpy(z)[None]
