"""FISTA: accelerated proximal gradient steps, the solver for GPUs, batches and dense codes.

A step of ISTA from an extrapolated point y,

    z_{k+1} = h_{λ/L}(y_k + Dᵀ(x − D y_k)/L),
    y_{k+1} = z_{k+1} + (t_k − 1)/t_{k+1} (z_{k+1} − z_k),      t_{k+1} = (1 + √(1 + 4t_k²))/2,

with what the textbook leaves to the reader:

- L follows the curvature along the step, ‖D(z − y)‖² ≤ L‖z − y‖²: D y is a combination of two D z
  that are known, so the test is free.  L shrinks by 3 % a step and grows when the test fails, after
  which the step is taken again.  Where codes are sparse it comes to a tenth of the Lipschitz
  constant.
- Momentum restarts when it points uphill, ⟨y_k − z_{k+1}, z_{k+1} − z_k⟩ > 0.
- From zero, λ is lowered to its value in stages, which keeps the codes sparse on the way.

Each image of a batch has an L, a momentum and a stage of its own.

References
----------
Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
SIAM J. Imaging Sci. 2(1), 2009.  Scheinberg, Goldfarb, Bai, "Fast first-order methods for
composite convex optimization with backtracking", Found. Comput. Math. 14, 2014.  O'Donoghue,
Candès, "Adaptive restart for accelerated gradient schemes", Found. Comput. Math. 15, 2015.  Hale,
Yin, Zhang, "Fixed-point continuation for ℓ1-minimization", SIAM J. Optim. 19(3), 2008 (stages).
"""

from collections.abc import Callable

import torch
from torch import Tensor

from csc.checks import Weight
from csc.precision import full_precision
from csc.problem import Problem, pose
from csc.solution import Solution
from csc.solvers.ista import CHECK_EVERY
from csc.solvers.steps import Spatial, Steps, choose, inner

SHRINK, GROW = 0.97, 1.3  # of L, after a step and where the curvature is larger
SLACK = 1e-4  # relative curvature above L that is let pass
STAGE, STAGE_STEPS = 0.5, 3  # factor of λ from stage to stage, and steps in one
STALLED = 1e-4  # relative decrease between checks at which bfloat16 gives way to the full dtype


@full_precision
@torch.no_grad()
def fista(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | None = None,
    start: Tensor | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    on_step: Callable[[int, Tensor], None] | None = None,
    bfloat16: bool = False,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by FISTA with backtracking, restarts and continuation in λ.

    Parameters, Returns and Raises are those of :func:`csc.ista`, and

    Parameters
    ----------
    bfloat16 : bool
        Compute the convolutions in bfloat16 until they no longer lower the objective, then finish
        in the dtype of the images.  Worth it where the hardware has bfloat16 and there are many
        channels.

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
    p = pose(x, D, lam, nonneg=nonneg, mask=mask)
    z = p.start(start, max_iter, tol)
    exact: Steps = Spatial(p) if bfloat16 else choose(p)
    coarse = Spatial(p, bfloat16=True) if bfloat16 else exact
    with exact.running():
        run = _Run(p, z, coarse, exact, cold=start is None)
        objective = torch.inf
        for k in range(max_iter + 1):
            if on_step:
                on_step(k, run.codes())
            # Without a tolerance only the last certificate is of interest.
            if k == max_iter or (k % CHECK_EVERY == 0 and (tol > 0 or run.steps is not exact)):
                z, r = run.codes(), run.residual(exact)
                certificate = p.certify(z, r, exact.overshoot(r))
                converged = certificate.within(tol)
                if converged or k == max_iter:
                    break
                previous, objective = objective, float(certificate.objective.sum())
                if run.steps is not exact and previous - objective < STALLED * objective:
                    run.restart(exact, z)
            run.step()
    return Solution(z, certificate.objective, certificate.gap, k, converged)


class _Run:
    """Codes, images D z and momentum of a run; numbers have shape (B, 1, 1, 1)."""

    def __init__(self, p: Problem, z: Tensor, steps: Steps, exact: Steps, *, cold: bool) -> None:
        self.p, self.taken = p, 0
        self.restart(steps, z)
        self.stage = torch.ones_like(self.share)
        if cold:
            overshoot = exact.overshoot(p.x).to(self.L).view_as(self.L)
            self.stage = torch.where(overshoot.isfinite(), STAGE * overshoot, 1.0).clamp(min=1)

    def restart(self, steps: Steps, z: Tensor) -> None:
        """Take steps from z in another way, without momentum."""
        self.steps, self.image = steps, steps.synthesis(z)
        self.z = self.previous = steps.take(z)
        self.image_before = self.image
        self.share = self.p.x.new_zeros(len(z), 1, 1, 1)  # (t_k − 1)/t_{k+1}
        self.t = torch.ones_like(self.share)
        # ‖D‖² is at least the square of the largest atom.
        least = max(float(self.p.D.square().sum((1, 2, 3)).max()), torch.finfo(self.p.x.dtype).tiny)
        self.L = torch.full_like(self.share, least)
        self.least = torch.finfo(self.p.x.dtype).eps * self.L

    def codes(self) -> Tensor:
        """Return z."""
        return self.steps.give(self.z)

    def residual(self, exact: Steps) -> Tensor:
        """Return x − D z in the dtype of the images."""
        image = self.image if self.steps is exact else exact.synthesis(self.codes())
        return self.p.known(self.p.x - image)

    def step(self) -> None:
        """Take a step, with a larger L until it bounds the curvature along the step."""
        p, L = self.p, self.L
        y_image = torch.lerp(self.image_before, self.image, 1 + self.share)
        r = p.known(p.x - y_image)
        while True:
            step = self.steps.step(self.z, self.previous, self.share, r, L, self.stage)
            change = p.known(step.image - y_image)
            curved = inner(change, change)
            # A step below rounding proves nothing about the curvature, and rounding must not decide
            # whether an L that was set to the curvature is large enough.
            noise = (4 * self.steps.eps) ** 2 * inner(step.image, step.image)
            short = curved > (1 + SLACK) * L * step.moved + noise
            if not bool(short.any()):
                break
            larger = torch.where(step.moved > 0, curved / step.moved, L).clamp(min=GROW * L)
            L = torch.where(short, larger, L)
        t = (1 + (1 + 4 * self.t.square()).sqrt()) / 2
        restart = step.uphill > 0
        self.share = torch.where(restart, 0.0, (self.t - 1) / t)
        self.t = torch.where(restart, 1.0, t)
        self.previous, self.z = self.z, step.z
        self.image_before, self.image = self.image, step.image
        self.L, self.taken = torch.maximum(SHRINK * L, self.least), self.taken + 1
        if self.taken % STAGE_STEPS == 0:
            self.stage = (STAGE * self.stage).clamp(min=1)
