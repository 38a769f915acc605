"""ADMM for CSC: sporco's ``ConvBPDN`` behind the signature and the certificate of our solvers.

sporco is the field's reference.  With ``NoBndryCross`` its codes vanish wherever an atom would
wrap around the image, which is the one grid of :mod:`csc.conv`, so it is an independent oracle.
This is the only file that knows of sporco.

References
----------
Wohlberg, "Efficient algorithms for convolutional sparse representations", IEEE TIP 25(1), 2016.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csc.checks import Weight, check_solver, per_atom
from csc.ista import CHECK_EVERY
from csc.objective import Certificate, certify_codes, gradient
from csc.solution import Solution


@torch.no_grad()
def admm(
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
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by sporco's ADMM in the Fourier domain.

    Parameters, Returns and Raises are those of :func:`csc.ista`.

    Notes
    -----
    Runs on the CPU whatever the device of x, in float32 or float64.  The penalty ρ is sporco's
    automatic one, adapted every 10 steps; it stops on our duality gap, not on its residuals.

    Examples
    --------
    >>> import torch
    >>> from csc import fista, random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(8, 1, 3, generator=g, dtype=torch.float64)
    >>> x = torch.rand(1, 1, 16, 16, generator=g, dtype=torch.float64)
    >>> a, b = (solve(x, D, lam=0.5, tol=1e-7) for solve in (admm, fista))
    >>> torch.allclose(a.objective, b.objective, rtol=1e-6)
    True
    """
    z = check_solver(x, D, lam, nonneg=nonneg, start=start, max_iter=max_iter, tol=tol)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sporco computes in float32 or float64, got {x.dtype}; use x.float()")
    if on_step:
        on_step(0, z)
    certificate = certify_codes(x, D, z, lam, nonneg=nonneg)
    if max_iter == 0 or certificate.within(tol):
        return Solution(z, certificate.objective, certificate.gap, 0, certificate.within(tol))

    # sporco drops exceptions and state into its objects, so the callback keeps ours here.
    reached: list[tuple[int, Tensor, Certificate]] = []

    def after_step(solver: Any) -> bool:
        k = solver.k + 1
        check = k % CHECK_EVERY == 0 or k == max_iter
        if not (check or on_step):
            return False
        z = _from_sporco(solver.Y, x, D)
        if on_step:
            on_step(k, z)
        if not check:
            return False
        reached[:] = [(k, z, certify_codes(x, D, z, lam, nonneg=nonneg))]
        return reached[0][2].within(tol)

    _solver(x, D, lam, z if start is not None else None, nonneg, max_iter, after_step).solve()
    k, z, certificate = reached[0]
    return Solution(z, certificate.objective, certificate.gap, k, certificate.within(tol))


def _solver(
    x: Tensor,
    D: Tensor,
    lam: Weight,
    start: Tensor | None,
    nonneg: bool,
    max_iter: int,
    after_step: Callable[[Any], bool],
) -> Any:
    """Build sporco's solver: images (H, W, C, B), atoms (k, k, C, M), codes (H, W, 1, B, M)."""
    from sporco.admm import cbpdn

    weights = per_atom(lam, D).detach().double().cpu().numpy().reshape(-1)
    typical = float(np.median(weights[weights > 0])) if weights.any() else 0.0
    rho = 50 * typical + 1  # sporco's default
    k = D.shape[-1]
    options: dict[str, Any] = {
        "MaxMainIter": max_iter,
        "RelStopTol": 0.0,
        "rho": rho,
        # sporco adapts ρ at every step by default; run past the rounding of its residuals, that
        # drives ρ to extremes and the objective back up.
        "AutoRho": {"Period": 10},
        "NonNegCoef": nonneg,
        # With 1×1 atoms nothing can cross, and sporco would zero every code.
        "NoBndryCross": k > 1,
        "Callback": after_step,
    }
    if weights.size > 1 and typical > 0:
        options["L1Weight"] = (weights / typical).reshape(1, 1, 1, 1, -1)
    if start is not None:
        # At the optimum the scaled dual variable is Dᵀ(x − D z)/ρ, which is within λ/ρ.
        bound = per_atom(lam, start)
        dual = (-gradient(x, D, start)).clamp(max=bound)
        options["Y0"] = _to_sporco(start, x)
        options["U0"] = _to_sporco((dual if nonneg else dual.clamp(min=-bound)) / rho, x)
    image = np.ascontiguousarray(x.detach().permute(2, 3, 1, 0).cpu().numpy())
    atoms = np.ascontiguousarray(D.detach().permute(2, 3, 1, 0).cpu().numpy())
    return cbpdn.ConvBPDN(atoms, image, typical, cbpdn.ConvBPDN.Options(options), dimK=1, dimN=2)


def _to_sporco(z: Tensor, x: Tensor) -> Any:
    B, M, h, w = z.shape
    Y = np.zeros((x.shape[2], x.shape[3], 1, B, M))
    Y[:h, :w, 0] = z.detach().permute(2, 3, 0, 1).cpu().numpy()
    return Y


def _from_sporco(Y: Any, x: Tensor, D: Tensor) -> Tensor:
    k = D.shape[-1]
    inside = Y[: x.shape[2] - k + 1, : x.shape[3] - k + 1, 0]  # (h, w, B, M)
    return torch.from_numpy(np.array(inside.transpose(2, 3, 0, 1))).to(x)
