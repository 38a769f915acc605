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

from collections.abc import Callable
from numbers import Integral

import numpy as np
import torch
from torch import Tensor

from csc.checks import Weight
from csc.compiled.threads import one_torch_thread
from csc.precision import full_precision
from csc.problem import Problem, pose
from csc.solution import Solution
from csc.solvers.active_set import ActiveSet

# Tuned on photographs of 256² to 512² pixels with 32 to 64 atoms of 8×8 to 12×12.
STAGE = 0.6  # factor of λ from stage to stage on the way down
STAGE_EPOCHS = 3  # epochs in a stage
FIRST_EPOCHS, MOST_EPOCHS = 20, 40  # epochs between dense passes at the final λ
SETTLED = 0.1  # decrease of the objective, as a share of the tolerance, that is worth a projection
POLISH = 5  # steps of conjugate gradients after the epochs


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
    active = ActiveSet(p, start, threads)
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
