"""FISTA: accelerated proximal gradient steps, the solver for GPUs, batches and dense codes.

A step of ISTA from an extrapolated point y,

    z_{k+1} = h_{λ/L}(y_k + Dᵀ(x − D y_k)/L),
    y_{k+1} = z_{k+1} + (t_k − 1)/t_{k+1} (z_{k+1} − z_k),      t_{k+1} = (1 + √(1 + 4t_k²))/2,

with three additions:

- L follows the curvature along the step, ‖D(z − y)‖² ≤ L‖z − y‖².  The test is free, because D y
  is a combination of two known D z.  L shrinks by 3 % a step.  When the test fails, L grows and the
  step is taken again.  With sparse codes L falls to a tenth of the Lipschitz constant.
- Momentum restarts when it opposes the gradient step, ⟨y_k − z_{k+1}, z_{k+1} − z_k⟩ > 0.
- Continuation: from zero, λ comes down to its value step by step, which keeps the codes sparse.

Each image of a batch has its own L, momentum and λ.

To read a number from a GPU is to wait for it.  So a GPU keeps the result of the test: an image that
fails it stays where it is, with a larger L, and its next step takes the place of the repetition.

References
----------
Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
SIAM J. Imaging Sci. 2(1), 2009.  Scheinberg, Goldfarb, Bai, "Fast first-order methods for
composite convex optimization with backtracking", Found. Comput. Math. 14, 2014.  O'Donoghue,
Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.  Hale,
Yin, Zhang, "Fixed-point continuation for ℓ1-minimization", SIAM J. Optim. 19(3), 2008.
"""

from contextlib import nullcontext
from functools import partial
from typing import NamedTuple

import torch
from torch import Tensor

from csc.acceleration import momentum
from csc.checks import Weight
from csc.compiled.threads import one_torch_thread
from csc.precision import full_precision
from csc.problem import Problem, pose
from csc.solution import Solution
from csc.solvers.ista import CHECK_EVERY
from csc.solvers.protocol import OnStep
from csc.solvers.steps import Codes, Spatial, State, Steps, choose, inner
from csc.solvers.stopping import Stopping, warn_of_zero_codes

SHRINK, GROW = 0.97, 1.3  # factors of L after a step, and after a step with a larger curvature
SLACK = 1e-4  # relative curvature above L that still passes
LOWER, LOWER_EVERY = 0.5, 3  # continuation: the factor of λ, and steps between its changes
STALLED = 1e-4  # relative decrease between checks below which bfloat16 gives way to the full dtype


@full_precision
@torch.no_grad()
def fista(
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
    bfloat16: bool = False,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ + ½μ‖z‖² by FISTA with backtracking, restarts, continuation.

    Parameters, Returns and Raises are those of :func:`csc.ista`, and one more:

    Parameters
    ----------
    bfloat16 : bool
        Compute the convolutions in bfloat16 until they no longer lower the objective, then finish
        in the dtype of the images.  It pays on hardware with bfloat16, with many channels.

    Notes
    -----
    :mod:`csc.solvers.steps` says when D is applied by compiled kernels (large problems on a CPU),
    in the Fourier domain, or by convolutions.  With `tol` zero only the last gap is computed.

    Examples
    --------
    >>> import torch
    >>> from csc import ista, random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g)
    >>> x = torch.rand(1, 1, 16, 16, generator=g)
    >>> fista(x, D, lam=0.1).iterations < ista(x, D, lam=0.1).iterations
    True
    """
    p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
    z = p.start(start, max_iter, tol)
    exact: Steps = Spatial(p) if bfloat16 else choose(p)
    stopping = Stopping(p, start, max_iter, tol, partial(exact.certify, tol=tol))
    steps = Spatial(p, bfloat16=True) if bfloat16 else exact
    with one_torch_thread() if exact.own_threads else nullcontext():
        at = _begin(p, steps, z, _first_factor(p, exact) if start is None else x.new_ones(1))
        objective = torch.inf
        for k in range(max_iter + 1):
            if on_step:
                on_step(k, at.codes())
            # Without a tolerance only the last gap is of interest.
            if k == max_iter or (k % CHECK_EVERY == 0 and (tol > 0 or steps is not exact)):
                z = at.state.now.z
                r = p.known(p.x - (at.image if steps is exact else exact.synthesis(z)))
                estimate = exact.estimate(z, r)
                if stopping.over(k, at.codes, r, estimate):
                    break
                previous, objective = objective, float(estimate.objective.sum())
                if steps is not exact and previous - objective < STALLED * objective:
                    steps = exact
                    at = _begin(p, steps, z, at.factor)
            at = _advance(p, steps, at) if _reads_at_once(x) else _try_to_advance(p, steps, at)
            if (k + 1) % LOWER_EVERY == 0:
                at = at._replace(factor=(LOWER * at.factor).clamp(min=1))
    return warn_of_zero_codes(p, stopping.solution())


class Iterate(NamedTuple):
    """What a step starts from; numbers have shape (B, 1, 1, 1)."""

    state: State
    image: Tensor  # D z
    image_before: Tensor  # D z of the step before
    momentum: Tensor  # (t_{k−1} − 1)/t_k
    t: Tensor
    L: Tensor
    least_L: float  # L shrinks no further
    factor: Tensor  # the weight is factor · λ

    def codes(self) -> Tensor:
        """Return a copy of z, which later steps do not change."""
        return self.state.now.z.clone()


def _begin(p: Problem, steps: Steps, z: Tensor, factor: Tensor) -> Iterate:
    """Return the first iterate at z, without momentum."""
    image = steps.synthesis(z)
    zero = p.x.new_zeros(len(z), 1, 1, 1)
    curvature = _least_curvature(p)
    return Iterate(
        state=steps.begin(z),
        image=image,
        image_before=image,
        momentum=zero,
        t=zero + 1,
        L=zero + curvature,
        least_L=torch.finfo(p.x.dtype).eps * curvature,
        factor=zero + factor,
    )


def _first_factor(p: Problem, steps: Steps) -> Tensor:
    """Return the factor of λ from which continuation starts, (B, 1, 1, 1)."""
    ratio = steps.largest_ratio(p.x).to(p.x)
    factor = torch.where(ratio.isfinite(), LOWER * ratio, 1.0).clamp(min=1)
    return factor.view(-1, 1, 1, 1)


def _least_curvature(p: Problem) -> float:
    """Return the square of the largest atom, which is at most ‖D‖², but not zero."""
    return max(float(p.D.square().sum((1, 2, 3)).max()), torch.finfo(p.x.dtype).tiny)


def _reads_at_once(x: Tensor) -> bool:
    """Tell whether a number is read from x without waiting for a GPU."""
    return x.device.type == "cpu"


def _advance(p: Problem, steps: Steps, at: Iterate) -> Iterate:
    """Return the iterate after a step, which is repeated until L bounds the curvature along it."""
    while True:
        after, short, L = _attempt(p, steps, at)
        if not bool(short.any()):
            return after
        at = at._replace(L=L)


def _try_to_advance(p: Problem, steps: Steps, at: Iterate) -> Iterate:
    """Return the iterate after a step; where L is too small, the same codes with a larger L."""
    after, short, L = _attempt(p, steps, at)

    def kept(old: Tensor, new: Tensor) -> Tensor:
        return torch.where(short, old, new)

    (now, before, _), new = at.state, after.state.now
    state = State(
        now=Codes(kept(now.z, new.z), now.in_use),
        before=Codes(kept(before.z, now.z), before.in_use),
        spare=new,
    )
    return Iterate(
        state=state,
        image=kept(at.image, after.image),
        image_before=kept(at.image_before, after.image_before),
        momentum=kept(at.momentum, after.momentum),
        t=kept(at.t, after.t),
        L=kept(L, after.L),
        least_L=at.least_L,
        factor=at.factor,
    )


def _attempt(p: Problem, steps: Steps, at: Iterate) -> tuple[Iterate, Tensor, Tensor]:
    """Return the iterate after a step, where L is below the curvature along it, and a larger L.

    Momentum restarts where it opposes the step.
    """
    y_image = torch.lerp(at.image_before, at.image, 1 + at.momentum)
    L = at.L
    step = steps.step(at.state, at.momentum, p.known(p.x - y_image), L, at.factor)
    change = p.known(step.image - y_image)
    curved = inner(change, change)
    # A step smaller than rounding says nothing about the curvature.  Nor may rounding
    # reject an L that was set to the curvature.
    noise = (4 * steps.eps) ** 2 * inner(step.image, step.image)
    short = curved > (1 + SLACK) * L * step.squared_move + noise
    larger = torch.where(step.squared_move > 0, curved / step.squared_move, L)
    coefficient, t = momentum(at.t)
    restart = step.restart_test > 0
    after = Iterate(
        state=step.state,
        image=step.image,
        image_before=at.image,
        momentum=torch.where(restart, 0.0, coefficient),
        t=torch.where(restart, 1.0, t),
        # At an optimum steps are zero and have no curvature, but L must not shrink to zero.
        L=(SHRINK * L).clamp(min=at.least_L),
        least_L=at.least_L,
        factor=at.factor,
    )
    return after, short, torch.where(short, larger.clamp(min=GROW * L), L)
