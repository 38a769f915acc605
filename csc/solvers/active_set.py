"""The active set of coordinate descent: a residual, and the coordinates that are swept."""

import copy
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csc.compiled.threads import together
from csc.problem import Problem, dual_value, rounding

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
PROJECTION_EPOCHS = 3  # epochs between the dense passes of a projection
ROUNDS = 4  # of epochs and a dense pass in a projection
PARALLEL_FROM = 20_000  # coordinate updates that are worth a second thread


class ActiveSet:
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
            other.sweep(1.0, PROJECTION_EPOCHS)
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
