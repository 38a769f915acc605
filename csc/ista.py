"""ISTA and FISTA: the textbook proximal gradient iterations, certified by the duality gap.

ISTA with step 1/L,

    z_{k+1} = h_{λ/L}(z_k + Dᵀ(x − D z_k)/L),        P(z_k) − P* ≤ L‖z_0 − z*‖²/(2k),

is the iteration that :mod:`csc.unfold` turns into a network.  FISTA takes the same step from an
extrapolated point,

    y_{k+1} = z_{k+1} + (t_k − 1)/t_{k+1} (z_{k+1} − z_k),   t_{k+1} = (1 + √(1 + 4t_k²))/2,

for P(z_k) − P* ≤ 2L‖z_0 − z*‖²/(k+1)².

References
----------
Daubechies, Defrise, De Mol, "An iterative thresholding algorithm for linear inverse problems with
a sparsity constraint", CPAM 57(11), 2004.  Beck, Teboulle, "A fast iterative
shrinkage-thresholding algorithm for linear inverse problems", SIAM J. Imaging Sci. 2(1), 2009.
"""

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import Weight, check_solver, per_atom
from csc.objective import certify, certify_codes, lipschitz
from csc.prox import shrink
from csc.solution import Solution

# The gap is checked at the start, every so many steps and at the end; it costs about a step.
CHECK_EVERY = 10


def ista(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    start: Tensor | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by z ← h_{λ/L}(z + Dᵀ(x − D z)/L).

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images; each is a problem of its own.
    D : Tensor, shape (M, C, k, k)
        Dictionary.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0.
    nonneg : bool
        Require z ≥ 0.
    start : Tensor, shape (B, M, H-k+1, W-k+1), optional
        Codes to start from; zero by default.
    max_iter : int
        Largest number of steps, ≥ 0.
    tol : float
        Stop once (P(z) − P*)/P* ≤ tol is certified by the duality gap, for all images.  float32
        certifies down to about 1e-5; use float64 below that.
    on_step : callable, optional
        Called with (k, z_k) for the start, k = 0, and after every step; keep z_k, do not change it.

    Returns
    -------
    Solution

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, x or D or `start` holds NaN, or λ, `tol` or
        `max_iter` is negative or not finite.

    Notes
    -----
    The codes carry no gradient; :class:`csc.CISTA` is the iteration to differentiate.

    Where a λ is zero no multiple of the residual is feasible but zero, so nothing is certified and
    the solver runs to `max_iter`.

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
    return _proximal_gradient(x, D, lam, nonneg, start, max_iter, tol, on_step, momentum=False)


def fista(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    start: Tensor | None = None,
    max_iter: int = 1000,
    tol: float = 1e-4,
    on_step: Callable[[int, Tensor], None] | None = None,
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by ISTA steps from Nesterov's extrapolated points.

    Parameters, Returns and Raises are those of :func:`ista`.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g)
    >>> x = torch.rand(1, 1, 16, 16, generator=g)
    >>> fista(x, D, lam=0.5).iterations < ista(x, D, lam=0.5).iterations
    True
    """
    return _proximal_gradient(x, D, lam, nonneg, start, max_iter, tol, on_step, momentum=True)


@torch.no_grad()
def _proximal_gradient(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    nonneg: bool,
    start: Tensor | None,
    max_iter: int,
    tol: float,
    on_step: Callable[[int, Tensor], None] | None,
    *,
    momentum: bool,
) -> Solution:
    z = check_solver(x, D, lam, nonneg=nonneg, start=start, max_iter=max_iter, tol=tol)
    weight = per_atom(lam, z)
    # L = 0 only for a dictionary of zeros, whose gradient is zero: any step will do.
    L = lipschitz(D, (x.shape[2], x.shape[3])) or 1.0
    y, t = z, 1.0
    for k in range(max_iter + 1):
        if on_step:
            on_step(k, z)
        r = x - F.conv_transpose2d(y, D)
        g = F.conv2d(r, D)  # minus the gradient at y
        if k % CHECK_EVERY == 0 or k == max_iter:
            if y is z:
                certificate = certify(x, r, g, z, weight, nonneg=nonneg)
            else:
                certificate = certify_codes(x, D, z, lam, nonneg=nonneg)
            converged = certificate.within(tol)
            if converged or k == max_iter:
                break
        previous, z = z, shrink(y + g / L, weight / L, nonneg=nonneg)
        if momentum:
            t_next = (1 + (1 + 4 * t * t) ** 0.5) / 2
            y, t = torch.lerp(previous, z, 1 + (t - 1) / t_next), t_next
        else:
            y = z
    return Solution(z, certificate.objective, certificate.gap, k, converged)
