"""Coordinate descent on an active set: the fast solver where codes are sparse.

The residual r = x − D z is kept as an image.  One coordinate is minimised exactly,

    g = ⟨d_m, r at p⟩ + ‖d_m‖² z,     z ← h_λ(g)/(‖d_m‖² + μ),     r ← r − (change of z) d_m at p,

at the cost of one window of pixels.  Sweeps visit an active set only.  Now and then a dense pass
computes Dᵀr, adds coordinates with |Dᵀr| > λ, and estimates the gap.  λ comes down to its value
step by step, which keeps the set small on the way.  If at most a few percent of the codes are
non-zero, an epoch takes microseconds and a dense iteration milliseconds.

At the final λ a few steps of conjugate gradients follow the epochs.  They hold the signs of the
non-zero codes, and resolve groups of overlapping atoms, where coordinate descent is slow.

The dual point is better than a multiple of the residual.  Scaling the residual to feasibility is
ruined by its single worst correlation, so we project it instead.  The feasible point nearest to r
is r − D c with c = argmin ½‖r − D c‖² + λ‖c‖₁.  That is a problem of the same kind with a very
sparse solution, and a few epochs come near enough.  With a ridge every multiple of the residual is
feasible, and the best one is taken.

Many updates leave rounding in r.  So r is recomputed from the codes before a gap is estimated, and
the certificate is computed in float64 from the codes that are returned.

References
----------
Friedman, Hastie, Tibshirani, "Regularization paths for generalized linear models via coordinate
descent", J. Stat. Software 33(1), 2010.  Massias, Gramfort, Salmon, "Celer: a fast solver for the
Lasso with dual extrapolation", ICML 2018 (working sets, certificates).  Moreau, Oudre, Vayatis,
"DICOD: distributed convolutional coordinate descent for convolutional sparse coding", ICML 2018
(stripes).
"""

import numpy as np
import torch
from torch import Tensor

from csc.checks import Weight, check_integer
from csc.compiled.threads import one_torch_thread
from csc.penalty import check_no_penalty
from csc.precision import full_precision
from csc.problem import Gap, Problem, pose
from csc.solution import Solution, joined
from csc.solvers.active_set import ActiveSet, Dual
from csc.solvers.protocol import OnStep
from csc.solvers.stopping import Stopping, warn_of_zero_codes

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
LOWER = 0.6  # continuation: the factor of λ between its changes
LOWER_EPOCHS = 3  # epochs between changes of λ
FIRST_EPOCHS, MOST_EPOCHS = 20, 40  # epochs between dense passes at the final λ
SETTLED = 0.1  # project once the objective falls by less than this part of the tolerance
POLISH = 3  # epochs for each step of conjugate gradients after them


@full_precision
@torch.no_grad()
def coordinate_descent(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    ridge: float = 0.0,
    groups: Tensor | None = None,
    start: Tensor | None = None,
    max_iter: int = 10_000,
    tol: float = 1e-4,
    on_step: OnStep | None = None,
    threads: int | None = None,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ + ½μ‖z‖² by coordinate descent on an active set.

    Parameters, Returns and Raises are those of :func:`csc.ista`, except that `groups` is refused,
    and:

    Parameters
    ----------
    max_iter : int
        Largest number of epochs, sweeps over the active set.
    on_step : callable, optional
        Called with (epochs, z) for the start and after every dense pass.
    threads : int, optional
        Number of threads that share the rows; torch's number by default.  The result depends on it
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
    if threads is not None:
        check_integer(threads, "threads", least=1)
    check_no_penalty("coordinate_descent", groups=groups)
    with one_torch_thread() as team:
        p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge)
        p.check_run(start, max_iter, tol)
        if x.dtype not in (torch.float32, torch.float64):
            raise TypeError(f"coordinate descent is in float32 or float64, got {x.dtype}")
        parts: list[Solution] = []
        for b in range(x.shape[0]):
            first = None if start is None else start[b : b + 1].detach().cpu()
            tell = _tell(on_step, [part.codes for part in parts], x, start) if on_step else None
            parts.append(_solve(p.of(b), first, max_iter, tol, tell, threads or team))
    return warn_of_zero_codes(p, Solution.of_parts(parts, x.device))


def _tell(on_step: OnStep, done: list[Tensor], x: Tensor, start: Tensor | None) -> OnStep:
    """Report the codes of one image together with those of the rest of the batch."""
    first = len(done) + 1

    def tell(epochs: int, codes: Tensor) -> None:
        parts = [*done, codes]
        if first < len(x):
            shape = (len(x) - first, *codes.shape[1:])
            parts.append(codes.new_zeros(shape) if start is None else start[first:].to(codes))
        on_step(epochs, joined(parts).to(x.device))

    return tell


def _solve(
    p: Problem,
    start: Tensor | None,
    max_iter: int,
    tol: float,
    on_step: OnStep | None,
    threads: int,
) -> Solution:
    """Solve for one image, on the CPU."""
    active = ActiveSet(p, start, threads)
    best, objective = Dual(-np.inf, active.r, np.inf), np.inf
    stopping = Stopping(p, start, max_iter, tol, lambda z: active.certify(z, best, tol))
    # The weight is factor · λ.  The factor starts where all codes stay zero, and falls to 1.
    ratio = active.dense_pass(np.inf)[1]
    factor = ratio if np.isfinite(ratio) else 1.0
    epochs, between, arrived = 0, FIRST_EPOCHS // 2, False
    nearby = active.r  # a residual to project
    if on_step:
        on_step(0, active.codes())
    while True:
        factor = max(LOWER * factor, 1.0)
        arrived, final = factor == 1.0, arrived
        if arrived or epochs >= max_iter:
            active.refresh()
        added, ratio = active.dense_pass(factor)
        if arrived or epochs >= max_iter:
            previous, objective = objective, active.objective()
            settled = previous - objective <= SETTLED * tol * objective
            if p.penalty.ridge:
                value = active.ridge_dual() if settled or epochs in (0, max_iter) else -np.inf
            else:
                best = best.better(active.dual(active.r, ratio))
                if settled or epochs in (0, max_iter):
                    best = best.better(active.project(nearby))
                value = best.value
            estimate = Gap(
                torch.tensor([objective], dtype=torch.float64),
                torch.tensor([objective - value], dtype=torch.float64),
            )
            if stopping.over(epochs, active.codes, active.image.tensor(active.r), estimate):
                return stopping.solution()
        if final:
            between = FIRST_EPOCHS if added else min(2 * between, MOST_EPOCHS)
        n = min(between if final else LOWER_EPOCHS, max_iter - epochs)
        active.sweep(factor, n)
        epochs += n
        if final:
            nearby = active.polish(n // POLISH)
        if on_step:
            on_step(epochs, active.codes())
