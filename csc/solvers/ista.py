"""ISTA: the textbook proximal gradient iteration, certified by the duality gap.

With step 1/L,

    z_{k+1} = h_{λ/L}(z_k + Dᵀ(x − D z_k)/L),        P(z_k) − P* ≤ L‖z_0 − z*‖²/(2k).

With a ridge μ the step ends with a division by 1 + μ/L (:mod:`csc.penalty`).

:mod:`csc.recursion.unfold` turns this iteration into a network.  To solve a problem fast, use
:func:`csc.coordinate_descent` or :func:`csc.fista`.

References
----------
Daubechies, Defrise, De Mol, "An iterative thresholding algorithm for linear inverse problems with
a sparsity constraint", CPAM 57(11), 2004.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.bounds import lipschitz
from csc.checks import Weight
from csc.precision import full_precision
from csc.problem import pose
from csc.solution import Solution
from csc.solvers.protocol import OnStep
from csc.solvers.stopping import Stopping, warn_of_zero_codes

# Steps between checks of the gap, which cost about a step.  Start and end are checked as well.
CHECK_EVERY = 10


@full_precision
@torch.no_grad()
def ista(
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
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ + ½μ‖z‖² by z ← h_{λ/L}(z + Dᵀ(x − D z)/L)/(1 + μ/L).

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images; each is a problem of its own.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    lam : float or Tensor
        Weight λ ≥ 0: a number, one value per atom (M,), or four axes that broadcast to the codes;
        rounded to the dtype of x.
    nonneg : bool
        Require z ≥ 0.
    mask : Tensor of bool, optional
        Broadcasts to x; True where a pixel is known.  The others do not count, whatever x holds.
    ridge : float
        Weight μ ≥ 0 of ½‖z‖², as in the elastic net.
    groups : Tensor of integers, shape (M,), optional
        The group of each atom.  Atoms of a group are zero or non-zero together: at each position
        λ‖z_g‖₂ of their codes replaces λ‖z_g‖₁.  They must have the same λ.
    start : Tensor, shape (B, M, H-kh+1, W-kw+1), optional
        Codes to start from; zero by default.
    max_iter : int
        Largest number of steps, ≥ 0.
    tol : float
        Stop once (P(z) − P*)/P* ≤ tol is certified by the duality gap, for all images.  The codes
        of float32 reach about 1e-6; use float64 below that.  0 runs to `max_iter`.
    on_step : callable, optional
        Called with (k, z_k) for the start, k = 0, and after every step.  Do not change z_k.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, x or D or `start` holds NaN, or λ, μ, `tol`
        or `max_iter` is negative or not finite.

    Warns
    -----
    UserWarning
        If all codes are zero because λ ≥ λ_max.

    Notes
    -----
    The codes carry no gradient; :class:`csc.CISTA` is the iteration to differentiate.

    The objective of the result is at most that of the start: if a run ends higher, the start is
    returned.

    If λ = 0 for an atom and μ = 0, usually only the zero multiple of the residual is feasible, and
    the gap proves nothing.  The solver then stops once a step of ISTA changes little, with
    ``Status.UNCERTIFIED``.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g)
    >>> x = torch.rand(1, 1, 16, 16, generator=g)
    >>> solution = ista(x, D, lam=0.5, tol=1e-3)
    >>> solution.converged, bool(solution.relative_gap < 1e-3)
    (True, True)
    """
    p = pose(x, D, lam, nonneg=nonneg, mask=mask, ridge=ridge, groups=groups)
    z = p.start(start, max_iter, tol)
    stopping = Stopping(p, start, max_iter, tol)
    # L = 0 only for a dictionary of zeros, whose gradient is zero: any step will do.
    L = lipschitz(D, p.size) or 1.0
    theta = p.lam / L
    for k in range(max_iter + 1):
        if on_step:
            on_step(k, z)
        r = p.residual(z)
        g = F.conv2d(r, D)  # minus the gradient
        check = k % CHECK_EVERY == 0 or k == max_iter
        if check and stopping.over(k, z.detach, r, p.estimate(z, r, g)):
            break
        z = p.penalty.prox(z + g / L, theta, L)
    return warn_of_zero_codes(p, stopping.solution())
