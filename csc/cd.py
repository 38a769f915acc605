"""Coordinate descent on an active set: the fast solver where codes are sparse.

The residual r = x − D z is kept as an image.  One coordinate is minimised exactly,

    g = ⟨d_m, r at p⟩ + ‖d_m‖² z,     z ← h_{λ}(g)/‖d_m‖²,     r ← r − (change of z) d_m at p,

at the cost of one window of pixels.  Only an active set is swept: a dense pass computes Dᵀr now
and then, adds the coordinates with |Dᵀr| > λ, and certifies.  λ is lowered to its value in stages,
so that the set stays small on the way.  At less than a few percent of non-zero codes this does in
one epoch of microseconds what a dense iteration does in milliseconds.

At the final λ a few steps of conjugate gradients on the non-zero codes, their signs held, follow
the epochs: they resolve what coordinate descent is slow at, groups of overlapping atoms, and those
are what spoils a certificate.  The certificate is the duality gap of :mod:`csc.objective` with the
best dual point so far, among the residuals after the epochs and after the conjugate gradients.

References
----------
Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate
descent", J. Stat. Software 33(1), 2010.  Massias, Gramfort, Salmon, "Celer: a fast solver for the
Lasso with dual extrapolation", ICML 2018 (working sets, certificates).  Moreau, Oudre, Vayatis,
"DICOD: distributed convolutional coordinate descent for convolutional sparse coding", ICML 2018
(stripes).
"""

import functools
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import Weight, check_solver, per_atom
from csc.objective import dual_value, rounding
from csc.solution import Solution

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
STAGE = 0.5  # factor of λ from stage to stage on the way down
STAGE_EPOCHS = 3  # epochs in a stage
FIRST_EPOCHS, MOST_EPOCHS = 10, 40  # epochs between dense passes at the final λ
POLISH = 10  # steps of conjugate gradients after the epochs
PARALLEL_FROM = 20_000  # coordinate updates that are worth a second thread


def coordinate_descent(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
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
    solved one after the other.  The first call for an atom size compiles for about two seconds;
    the result is cached on disk.

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
    z = check_solver(x, D, lam, nonneg=nonneg, start=start, max_iter=max_iter, tol=tol)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"coordinate descent is in float32 or float64, got {x.dtype}")
    if threads is not None and threads < 1:
        raise ValueError(f"threads must be ≥ 1, got {threads}")
    weights = per_atom(lam, z).detach().flatten().expand(D.shape[0]).cpu()
    atoms, team = D.detach().cpu().contiguous(), threads or torch.get_num_threads()
    parts = []
    for b in range(x.shape[0]):
        tell = _tell(on_step, z, b) if on_step else None
        image, first = (t.detach().cpu().contiguous() for t in (x[b : b + 1], z[b : b + 1]))
        part = _solve(image, atoms, weights, nonneg, first, max_iter, tol, tell, team)
        z[b : b + 1] = part.codes
        parts.append(part)
    return Solution(
        z,
        torch.cat([part.objective for part in parts]).to(x.device),
        torch.cat([part.gap for part in parts]).to(x.device),
        max(part.iterations for part in parts),
        all(part.converged for part in parts),
    )


def _tell(
    on_step: Callable[[int, Tensor], None], z: Tensor, b: int
) -> Callable[[int, Tensor], None]:
    """Report the codes of image b among those of the batch."""

    def tell(epochs: int, codes: Tensor) -> None:
        told = z.clone()
        told[b : b + 1] = codes
        on_step(epochs, told)

    return tell


def _solve(
    x: Tensor,
    D: Tensor,
    lam: Tensor,
    nonneg: bool,
    start: Tensor,
    max_iter: int,
    tol: float,
    on_step: Callable[[int, Tensor], None] | None,
    threads: int,
) -> Solution:
    """Solve one image (1, C, H, W); `lam` has shape (M,)."""
    active = _ActiveSet(x, D, nonneg, start, threads)
    weights = lam.numpy()
    nothing = np.full_like(weights, np.inf)
    # λ is max(lam, stage), and stage falls from where all codes are zero.
    stage = highest_stage = float(active.dense_pass(nothing)[1].max())
    best_dual, accelerated = -np.inf, None
    epochs, between, arrived = 0, FIRST_EPOCHS // 2, False
    if on_step:
        on_step(0, start)
    while True:
        stage = STAGE * stage if stage > highest_stage * 1e-6 else 0.0
        level = np.maximum(weights, weights.dtype.type(stage))
        arrived, final = stage <= weights.min(), arrived
        added, peaks = active.dense_pass(level)
        if arrived or epochs >= max_iter:
            objective = active.objective(weights)
            for point, highest in [(active.r, peaks), *([accelerated] if accelerated else [])]:
                value = dual_value(x, active.image(point), highest[None], lam)
                best_dual = max(best_dual, float(value))
            gap = objective - best_dual + float(rounding(x, active.image(active.r)))
            converged = gap <= tol * best_dual
            if converged or epochs >= max_iter:
                break
        if final:
            between = FIRST_EPOCHS if added else min(2 * between, MOST_EPOCHS)
        n = min(between if final else STAGE_EPOCHS, max_iter - epochs)
        active.sweep(level, n)
        epochs += n
        if final:
            point = active.polish(weights, POLISH)
            accelerated = (point, active.dense_pass(nothing, point)[1])
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

    def __init__(self, x: Tensor, D: Tensor, nonneg: bool, start: Tensor, threads: int) -> None:
        from csc import cd_kernels

        self.compiled, self.nonneg, self.threads = cd_kernels, nonneg, threads
        self.x, (M, C, k, _) = x, D.shape
        H, W = x.shape[-2:]
        self.k, self.lanes = k, cd_kernels.lanes(x.numpy().dtype)
        # Images are flat, with some entries to spare, so that a dense pass may read over the end.
        self.r = np.zeros(x.numel() + self.lanes, x.numpy().dtype)
        self.D = D.numpy().ravel()
        self.norm2 = D.square().sum((1, 2, 3)).numpy()
        # What the kernels are compiled for: the lengths of the two tuples are k and C.
        self.frame = ((np.int64(W), np.int64(H * W)), (0,) * k, (0,) * C)
        groups = -(-M // cd_kernels.ATOMS)
        padded = F.pad(D, [0, 0, 0, 0, 0, 0, 0, groups * cd_kernels.ATOMS - M])
        padded = padded.view(groups, cd_kernels.ATOMS, C, k, k).permute(0, 2, 3, 4, 1)
        self.groups = padded.contiguous().numpy().ravel()  # (groups, C, k, k, ATOMS)
        self.listed = (start[0] != 0).numpy()  # (M, h, w)
        m, p, q = np.nonzero(self.listed)
        self.atoms, self.rows, self.columns = (a.astype(np.int32) for a in (m, p, q))
        self.values = start[0].numpy()[m, p, q]
        self._sort()
        self.refresh()

    def dense_pass(self, level: Any, r: Any = None) -> tuple[int, Any]:
        """List the coordinates with |Dᵀr| > level, and return their number and max |Dᵀr|, (M,).

        Coordinates that have come to zero leave the list where they are many.
        """
        zero = self.values == 0
        if len(zero) > 1000 and zero.mean() > 0.5:
            self.listed[self.atoms[zero], self.rows[zero], self.columns[zero]] = False
            self._keep(~zero)
        r = self.r if r is None else r

        def run(span: tuple[int, int]) -> Any:
            return self.compiled.dense_pass(
                r, self.groups, *self.frame, self.lanes, level, self.nonneg, self.listed, *span
            )

        h, T = self.listed.shape[1], min(self.threads, self.listed.shape[1])
        parts = _together(run, [(h * t // T, h * (t + 1) // T) for t in range(T)])
        found = np.concatenate([part[0] for part in parts], axis=1)
        n = found.shape[1]
        if n:
            self.atoms, self.rows, self.columns = (
                np.concatenate(pair)
                for pair in zip((self.atoms, self.rows, self.columns), found, strict=True)
            )
            self.values = np.concatenate([self.values, np.zeros(n, self.values.dtype)])
        if n or len(self.at) != len(self.rows):
            self._sort()
        return n, torch.from_numpy(np.max([part[1] for part in parts], axis=0))

    def sweep(self, level: Any, epochs: int) -> None:
        """Minimise over every listed coordinate in turn, `epochs` times over."""

        def run(span: tuple[int, int]) -> None:
            self.compiled.sweep(
                self.r, self.D, *self.frame, self.norm2, level, self.nonneg,
                self.atoms, self.at, self.values, *span, epochs,
            )  # fmt: skip

        self._striped(run, epochs)

    def polish(self, lam: Any, steps: int) -> Any:
        """Solve for the non-zero codes with their signs held, by conjugate gradients.

        Codes that change sign on the way become zero, if that lowers the objective; otherwise the
        codes stay.  Return the residual before they do, a dual point.
        """
        on = np.flatnonzero(self.values)
        before, objective = self.values.copy(), self.objective(lam)
        signs, inverse = np.sign(before[on]), 1 / self.norm2[self.atoms[on]]
        r = self.r.copy()
        b = self._gather(r)[on] - lam[self.atoms[on]] * signs
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
            step = slope / float(direction @ curved)
            moved += b.dtype.type(step) * direction
            b -= b.dtype.type(step) * curved
            r -= r.dtype.type(step) * image
            preconditioned = inverse * b
            previous, slope = slope, float(b @ preconditioned)
            direction = preconditioned + b.dtype.type(slope / previous) * direction
        new = before[on] + moved
        self.values[on] = np.where(np.sign(new) == signs, new, 0)
        self.refresh()
        if not self.objective(lam) < objective:
            self.values = before
            self.refresh()
        return r

    def _gather(self, r: Any) -> Any:
        out = np.empty_like(self.values)

        def run(span: tuple[int, int]) -> None:
            self.compiled.gather(r, self.D, *self.frame, self.atoms, self.at, out, *span)

        n = len(out)
        T = self.threads if n >= PARALLEL_FROM // 4 else 1
        _together(run, [(n * t // T, n * (t + 1) // T) for t in range(T)])
        return out

    def _scatter(self, r: Any, values: Any) -> None:
        def run(span: tuple[int, int]) -> None:
            self.compiled.subtract_all(r, self.D, *self.frame, self.atoms, self.at, values, *span)

        self._striped(run, 1)

    def _striped(self, run: Callable[[tuple[int, int]], None], epochs: int) -> None:
        stripes, seams = self._split(epochs)
        _together(run, stripes)
        _together(run, seams)

    def _split(self, epochs: int) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Cut the list into stripes of rows, and the seams of k − 1 rows between them.

        Windows of different stripes share no pixel, and neither do those of different seams.
        """
        n, k = len(self.rows), self.k
        T = self.threads if n * epochs >= PARALLEL_FROM else 1
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
        self.r[: self.x.numel()] = self.x.numpy().ravel()
        self._scatter(self.r, self.values)

    def image(self, r: Any) -> Tensor:
        """Return a flat residual as an image (1, C, H, W)."""
        return torch.from_numpy(r[: self.x.numel()]).view_as(self.x)

    def objective(self, lam: Any) -> float:
        """Return P(z) in float64."""
        l1 = float((lam.astype(np.float64)[self.atoms] * np.abs(self.values)).sum())
        return 0.5 * float(self.image(self.r).double().square().sum()) + l1

    def codes(self) -> Tensor:
        """Return z, (1, M, h, w)."""
        z = np.zeros(self.listed.shape, self.values.dtype)
        z[self.atoms, self.rows, self.columns] = self.values
        return torch.from_numpy(z)[None]

    def _keep(self, chosen: Any) -> None:
        self.atoms, self.rows, self.columns, self.values = (
            a[chosen] for a in (self.atoms, self.rows, self.columns, self.values)
        )

    def _sort(self) -> None:
        self._keep(np.argsort(self.rows, kind="stable"))
        self.at = self.rows.astype(np.int64) * self.x.shape[-1] + self.columns


def _together(run: Callable[[tuple[int, int]], Any], spans: list[tuple[int, int]]) -> list[Any]:
    """Run the spans at the same time, the last one on this thread; return what they return."""
    if len(spans) < 2:
        return [run(span) for span in spans]
    waiting = [_pool().submit(run, span) for span in spans[:-1]]
    last = run(spans[-1])
    return [*(other.result() for other in waiting), last]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="csc-cd")
