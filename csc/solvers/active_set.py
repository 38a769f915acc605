"""The active set of coordinate descent: the residual of an image and a list of coordinates.

Sweeps visit only the coordinates in the list.  A dense pass computes Dᵀr and adds coordinates that
violate |Dᵀr| ≤ λ.
"""

import copy
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from csc.compiled.records import Floats, Marks, Span
from csc.compiled.threads import together
from csc.problem import Gap, Problem, dual_scale, dual_value

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
PROJECTION_EPOCHS = 3  # epochs between the dense passes of a projection
ROUNDS = 4  # of epochs and a dense pass in a projection
PARALLEL_FROM = 20_000  # coordinate updates that are worth a second thread
TURN = 5  # epochs, at most, of the stripes before the seams between them have their turn
FEW_ZEROS = 1000  # zero codes that may stay in the list


class Dual(NamedTuple):
    """Δ at the best multiple of an image, the image, and its max |Dᵀ image|/λ."""

    value: float
    image: Floats
    ratio: float

    def better(self, other: "Dual") -> "Dual":
        """Return the one with the larger Δ."""
        return other if other.value > self.value else self


class ActiveSet:
    """The residual r = x − D z of one image, and the list of its codes, sorted by row.

    Attributes
    ----------
    r : array
        The residual, flat.
    active : Active
        The list of coordinates and their codes.
    """

    def __init__(self, p: Problem, start: Tensor | None, threads: int) -> None:
        from csc.compiled import certificate, image, kernels

        self.kernels, self.certifier = kernels, certificate
        self.problem, self.image = p, image.Image(p, threads)
        self.ridge = self.image.scalar(p.penalty.ridge)
        self.in_list: Marks = np.zeros(self.image.codes, bool)
        at, values = np.zeros((3, 0), np.int32), np.zeros(0, self.image.dtype)
        if start is not None:
            self.in_list[:] = start[0] != 0
            rows, atoms, columns = np.nonzero(self.in_list.transpose(1, 0, 2))
            at = np.stack([atoms, rows, columns]).astype(np.int32)
            values = start[0].numpy()[tuple(at)]
        self.active = self.image.active(at, values)
        self.r = self.image.flat()
        self.refresh()

    def dense_pass(self, factor: float) -> tuple[int, float]:
        """Add coordinates with |Dᵀr| > factor · λ; return their number and max |Dᵀr|/λ.

        If more than half of the codes are zero, the zeros leave the list.
        """
        found, ratio = self.image.dense_pass(self.r, factor, self.in_list)
        values = self.active.values
        zeros = len(values) - int(np.count_nonzero(values))
        drop_zeros = zeros > FEW_ZEROS and 2 * zeros > len(values)
        if found.size or drop_zeros:
            self.active = self.image.active(
                *self.kernels.relist(self.active, found, drop_zeros, self.in_list)
            )
        return found.shape[1], ratio

    def sweep(self, factor: float, epochs: int) -> None:
        """Minimise over each coordinate of the list, `epochs` times; the weight is factor·λ."""
        image = self.image

        def run(epochs: int, span: Span) -> None:
            self.kernels.sweep(
                self.r, image.mask, image.atoms, self.active, image.weights.nonneg,
                image.scalar(factor), self.ridge, span, epochs,
            )  # fmt: skip

        self._striped(run, epochs)

    def project(self, r: Floats) -> Dual:
        """Return the dual point along r − D c, with c near argmin ½‖r − D c‖² + λ‖c‖₁."""
        other = copy.copy(self)
        other.r, other.in_list = r.copy(), self.in_list.copy()
        other.active = self.active._replace(values=np.zeros_like(self.active.values))
        best = Dual(-np.inf, r, np.inf)
        for _ in range(ROUNDS):
            other.sweep(1.0, PROJECTION_EPOCHS)
            added, ratio = other.dense_pass(1.0)
            best = best.better(self.dual(other.r, ratio))
            if not added:
                break
        return best

    def polish(self, steps: int) -> Floats:
        """Solve for the non-zero codes with their signs held, by conjugate gradients.

        Codes that change sign become zero.  If the objective does not fall, all codes stay as they
        were.  Return the residual before codes become zero; it is nearer to the dual optimum.
        """
        before, objective = self.active.values, self.objective()
        on = np.flatnonzero(before)
        signs = np.sign(before[on])
        change, r = self._conjugate_gradients(on, signs, steps)
        new = before[on] + change
        values = before.copy()
        values[on] = np.where(np.sign(new) == signs, new, 0)
        self._set_values(values)
        if not self.objective() < objective:
            self._set_values(before)
        return r

    def _conjugate_gradients(
        self, on: NDArray[np.intp], signs: Floats, steps: int
    ) -> tuple[Floats, Floats]:
        """Return the change of the codes `on` with these signs, and the residual after it."""
        inverse = 1 / (self.active.norm2[on] + self.ridge)
        r = self.r.copy()
        b = self._gather(r)[on] - self.active.lam[on] * signs - self.ridge * self.active.values[on]
        direction, change = inverse * b, np.zeros_like(b)
        slope = float(b @ direction)
        codes = np.zeros_like(self.active.values)
        for _ in range(steps):
            if not slope > 0:
                break
            codes[on] = -direction
            image = np.zeros_like(r)
            self._subtract(image, codes)
            curved = self._gather(image)[on] + self.ridge * direction
            curvature = float(direction @ curved)
            # A direction that does not change the image, as between equal atoms, gains nothing.
            if not curvature > np.finfo(r.dtype).eps * float(direction @ (direction / inverse)):
                break
            step = b.dtype.type(slope / curvature)
            change += step * direction
            b -= step * curved
            r -= step * image
            preconditioned = inverse * b
            previous, slope = slope, float(b @ preconditioned)
            direction = preconditioned + b.dtype.type(slope / previous) * direction
        return change, r

    def _gather(self, r: Floats) -> Floats:
        """Return ⟨d_m, window of r⟩ of all coordinates in the list."""
        out = np.empty_like(self.active.values)

        def run(span: Span) -> None:
            self.kernels.gather(r, self.image.atoms, self.active, out, span)

        n = len(out)
        T = self.image.threads if n >= PARALLEL_FROM // 4 else 1
        together(run, [(n * t // T, n * (t + 1) // T) for t in range(T)])
        return out

    def _subtract(self, r: Floats, values: Floats) -> None:
        """Subtract D z from r in place, with `values` as the codes of the list."""
        image = self.image

        def run(epochs: int, span: Span) -> None:
            self.kernels.subtract_all(r, image.mask, image.atoms, self.active, values, span)

        self._striped(run, 1)

    def _striped(self, run: Callable[[int, Span], None], epochs: int) -> None:
        """Run over all coordinates, in parallel where no two threads touch the same pixel.

        Stripes and seams take turns.  Each turn is short, because codes near a seam settle only as
        the two hear of each other.
        """
        stripes, seams = self._split(min(epochs, TURN))
        turn = TURN if seams else epochs
        for done in range(0, epochs, turn):
            for spans in (stripes, seams):
                together(partial(run, min(turn, epochs - done)), spans)

    def _split(self, epochs: int) -> tuple[list[Span], list[Span]]:
        """Cut the list into stripes of rows, and the seams of kh − 1 rows between them.

        Windows of different stripes share no pixel, and neither do those of different seams.
        """
        sorted_rows = self.active.rows
        n, kh = len(sorted_rows), self.image.kh
        T = self.image.threads if n * epochs >= PARALLEL_FROM else 1
        stripes, seams, low, row = [], [], 0, 0
        for t in range(1, T):
            cut = int(sorted_rows[n * t // T])
            if cut - row < kh:
                continue
            a, b = np.searchsorted(sorted_rows, (cut, cut + kh - 1))
            stripes.append((low, int(a)))
            seams.append((int(a), int(b)))
            low, row = int(b), cut + kh - 1
        stripes.append((low, n))
        return stripes, seams

    def _set_values(self, values: Floats) -> None:
        self.active = self.active._replace(values=values)
        self.refresh()

    def refresh(self) -> None:
        """Recompute r = x − D z from the list, which clears the rounding of many updates."""
        self.r[:] = self.image.x
        self._subtract(self.r, self.active.values)

    def objective(self) -> float:
        """Return P(z)."""
        values = self.active.values
        n = len(values)
        l1 = self.kernels.inner(self.active.lam, np.abs(values), n)
        l2 = self.kernels.inner(values, values, n)
        squared = self._inner(self.r, self.r)
        return 0.5 * squared + float(l1) + 0.5 * float(self.ridge) * float(l2)

    def dual(self, r: Floats, ratio: float) -> Dual:
        """Return the best feasible multiple of r, given max |Dᵀr|/λ where λ > 0."""
        if not self.image.weights.least.all():
            ratio = np.inf
        xr, rr, largest = (
            torch.tensor(part, dtype=torch.float64)
            for part in (self._inner(self.image.x, r), self._inner(r, r), ratio)
        )
        value = float(dual_value(xr, rr, dual_scale(xr, rr, largest)))
        return Dual(value, r.copy(), ratio)

    def ridge_dual(self) -> float:
        """Return Δ at the best multiple of the residual, for a ridge μ > 0."""
        r = self.image.tensor(self.r)
        return float(self.problem.best_dual(r, F.conv2d(r, self.problem.D))[1])

    def _inner(self, a: Floats, b: Floats) -> float:
        return float(self.kernels.inner(a, b, self.image.n))

    def certify(self, z: Tensor, dual: Dual, tol: float) -> Gap:
        """Return the certificate of the codes z of the list."""
        p = self.problem
        if p.penalty.ridge:
            return p.certify(z)
        if not np.isfinite(dual.ratio):  # λ = 0 for some codes
            return p.certify(z, self.image.tensor(dual.image), tol)
        a = self.active
        at = np.stack([a.atoms, a.rows, a.columns])
        return self.certifier.certify(self.image, at, a.values, tol, (dual.image, dual.ratio))

    def codes(self) -> Tensor:
        """Return z, (1, M, h, w)."""
        z = np.zeros(self.in_list.shape, self.active.values.dtype)
        z[self.active.atoms, self.active.rows, self.active.columns] = self.active.values
        return torch.from_numpy(z)[None]
