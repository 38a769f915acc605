"""ADMM for CSC: sporco's ``ConvBPDN`` behind the signature and the certificate of our solvers.

sporco is the field's reference.  With ``NoBndryCross`` its codes vanish wherever an atom would
wrap around the image, which is the one grid of :mod:`csc.conv`, so it is an independent oracle.
This file and :mod:`csc.learning.sporco` are the only ones that know of sporco.

References
----------
Wohlberg, "Efficient algorithms for convolutional sparse representations", IEEE TIP 25(1), 2016.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import Weight, code_shape
from csc.precision import full_precision
from csc.problem import Gap, Problem, pose
from csc.solution import Solution
from csc.solvers.ista import CHECK_EVERY


@full_precision
@torch.no_grad()
def admm(
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
) -> Solution:
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by sporco's ADMM in the Fourier domain.

    Parameters, Returns and Raises are those of :func:`csc.ista`.

    Notes
    -----
    Runs on the CPU whatever the device of x, in float32 or float64.  The penalty ρ is sporco's
    automatic one, adapted every 10 steps; it stops on our duality gap, not on its residuals.
    With a mask it is sporco's ``ConvBPDNMaskDcpl``, which splits off the known pixels as well.

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
    p = pose(x, D, lam, nonneg=nonneg, mask=mask)
    z = p.start(start, max_iter, tol)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sporco computes in float32 or float64, got {x.dtype}; use x.float()")
    if on_step:
        on_step(0, z)
    certificate = p.certify(z)
    if max_iter == 0 or certificate.within(tol):
        return Solution(z, certificate.objective, certificate.gap, 0, certificate.within(tol))

    # sporco drops exceptions and state into its objects, so the callback keeps ours here.
    reached: list[tuple[int, Tensor, Gap]] = []

    def after_step(solver: Any) -> bool:
        k = solver.k + 1
        check = k % CHECK_EVERY == 0 or k == max_iter
        if not (check or on_step):
            return False
        z = _from_sporco(solver.Y if mask is None else solver.block_sep1(solver.Y), p)
        if on_step:
            on_step(k, z)
        if not check:
            return False
        reached[:] = [(k, z, p.certify(z))]
        return reached[0][2].within(tol)

    _solver(p, z if start is not None else None, max_iter, after_step).solve()
    k, z, certificate = reached[0]
    return Solution(z, certificate.objective, certificate.gap, k, certificate.within(tol))


def _solver(
    p: Problem, start: Tensor | None, max_iter: int, after_step: Callable[[Any], bool]
) -> Any:
    """Build sporco's solver: images (H, W, C, B, 1), atoms (k, k, C, M), codes (H, W, 1, B, M)."""
    from sporco.admm import cbpdn

    weights = p.lam.detach().double().cpu().numpy()
    typical = float(np.median(weights[weights > 0])) if weights.any() else 0.0
    rho = 50 * typical + 1  # sporco's default
    k = p.D.shape[-1]
    options: dict[str, Any] = {
        "MaxMainIter": max_iter,
        "RelStopTol": 0.0,
        "rho": rho,
        # sporco adapts ρ at every step by default; run past the rounding of its residuals, that
        # drives ρ to extremes and the objective back up.
        "AutoRho": {"Enabled": True, "Period": 10},
        "NonNegCoef": p.nonneg,
        # With 1×1 atoms nothing can cross, and sporco would zero every code.
        "NoBndryCross": k > 1,
        "Callback": after_step,
    }
    if weights.size > 1 and typical > 0:
        options["L1Weight"] = _to_sporco(p.lam.expand(code_shape(p.x, p.D)) / typical, p)
    image = np.ascontiguousarray(p.x.detach().permute(2, 3, 1, 0).cpu().numpy())
    atoms = np.ascontiguousarray(p.D.detach().permute(2, 3, 1, 0).cpu().numpy())
    if p.mask is None:
        solver = cbpdn.ConvBPDN(
            atoms, image, typical, cbpdn.ConvBPDN.Options(options), dimK=1, dimN=2
        )
    else:
        known = p.mask.expand_as(p.x).permute(2, 3, 1, 0)[..., None].cpu().numpy()
        decoupled = cbpdn.ConvBPDNMaskDcpl.Options(options)
        solver = cbpdn.ConvBPDNMaskDcpl(atoms, image, typical, known, decoupled, dimK=1, dimN=2)
    if start is not None:
        # At the optimum the scaled dual variable is Dᵀ(x − D z)/ρ, which is within λ/ρ but where an
        # atom would wrap around and the code is held at zero.
        r = p.residual(start)
        dual = F.conv2d(F.pad(r, [0, k - 1, 0, k - 1], mode="circular"), p.D)
        inside = dual[..., : start.shape[2], : start.shape[3]]
        torch.minimum(inside, p.lam, out=inside)
        if not p.nonneg:
            torch.maximum(inside, -p.lam, out=inside)
        codes, multipliers = _to_sporco(start, p), _to_sporco(dual / rho, p)
        if p.mask is not None:  # the block of images comes first, as D z − x everywhere
            error = F.conv_transpose2d(start, p.D) - p.x
            images = [e.permute(2, 3, 1, 0)[..., None].cpu().numpy() for e in (error, -r / rho)]
            codes = solver.block_cat(images[0], codes)
            multipliers = solver.block_cat(images[1], multipliers)
        solver.Y[...], solver.Yprev[...], solver.U[...] = codes, codes, multipliers
    return solver


def _to_sporco(z: Tensor, p: Problem) -> Any:
    B, M, h, w = z.shape
    Y = np.zeros((*p.size, 1, B, M))
    Y[:h, :w, 0] = z.detach().permute(2, 3, 0, 1).cpu().numpy()
    return Y


def _from_sporco(Y: Any, p: Problem) -> Tensor:
    k = p.D.shape[-1]
    inside = Y[: p.size[0] - k + 1, : p.size[1] - k + 1, 0]  # (h, w, B, M)
    return torch.from_numpy(np.array(inside.transpose(2, 3, 0, 1))).to(p.x)
