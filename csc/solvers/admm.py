"""ADMM for CSC: sporco's ``ConvBPDN`` behind the signature and the certificate of our solvers.

sporco is the field's reference.  With ``NoBndryCross`` its codes vanish wherever an atom would
wrap around the image.  That is the grid of :mod:`csc.conv`, so sporco is an independent oracle.
In this package only this file and :mod:`csc.learning.sporco` import sporco.

The choice of ρ decides how fast ADMM is, and no absolute number suits all problems.  So sporco
solves the problem at unit size: images with a largest pixel of 1 and, with equal weights, atoms of
unit norm.  The codes scale accordingly,

    x' = x/σ,     d'_m = d_m/a_m,     λ'_m = λ_m/(σ a_m),     z_m = (σ/a_m) z'_m,

with a_m = ‖d_m‖ √(w_m/w̄), w_m = λ_m/‖d_m‖, and w̄ the geometric mean of w_m over the atoms.

References
----------
Wohlberg, "Efficient algorithms for convolutional sparse representations", IEEE TIP 25(1), 2016.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from csc.checks import Weight, code_shape
from csc.penalty import check_no_penalty
from csc.precision import full_precision
from csc.problem import Gap, Problem, pose
from csc.solution import Solution
from csc.solvers.ista import CHECK_EVERY
from csc.solvers.protocol import OnStep
from csc.solvers.stopping import Stopping, warn_of_zero_codes

ADAPT = 300  # steps in which ρ may change; after them ADMM with a fixed ρ converges
RHO_RANGE = 1e3  # largest factor between ρ and its first value
LEAST = 1e-2  # smallest relative weight that an atom is scaled by
NEEDS_SPORCO = "needs sporco, which cannot be imported; run: pip install sporco"


@full_precision
@torch.no_grad()
def admm(
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
    """Minimise ½‖x − D z‖² + λ‖z‖₁ by sporco's ADMM in the Fourier domain.

    Parameters, Returns, Raises and Warns are those of :func:`csc.ista`.  `ridge` and `groups` are
    refused.

    Notes
    -----
    Runs on the CPU in float64, whatever the device and dtype of x.  sporco adapts the penalty ρ
    every 10 steps, for the first 300.  The run stops on our duality gap, not on sporco's residuals,
    and returns the best of the codes that were checked.  With a mask it runs
    sporco's ``ConvBPDNMaskDcpl``, which splits off the known pixels as well.

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
    check_no_penalty("admm", ridge=ridge, groups=groups)
    p = pose(x, D, lam, nonneg=nonneg, mask=mask)
    z = p.start(start, max_iter, tol)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sporco takes float32 or float64, got {x.dtype}; use x.float()")
    stopping = Stopping(p, start, max_iter, tol)
    best = Best(p)
    if on_step:
        on_step(0, z)
    if not stopping.over(0, *best.update(z)):
        unit, factor = _unit_problem(p)
        typical = _typical_weight(unit)
        rho = 50 * typical + 1  # sporco's default

        # sporco drops exceptions of its callback, and uses its result only to stop.
        def after_step(solver: Any) -> bool:
            k = solver.k + 1
            _limit_penalty(solver, k, rho)
            check = k % CHECK_EVERY == 0 or k == max_iter
            if not (check or on_step):
                return False
            Y = solver.Y if mask is None else solver.block_sep1(solver.Y)
            codes = (_from_sporco(Y, unit) * factor).to(x)
            if on_step:
                on_step(k, codes)
            return check and stopping.over(k, *best.update(codes))

        first = None if start is None else z.double().cpu() / factor
        _solver(unit, first, typical, rho, max_iter, after_step).solve()
    return warn_of_zero_codes(p, stopping.solution())


class Best:
    """The best codes so far of each image."""

    def __init__(self, p: Problem) -> None:
        self.p = p
        self.codes: Tensor | None = None

    def update(self, z: Tensor) -> tuple[Callable[[], Tensor], Tensor, Gap]:
        """Take codes into account; return what `Stopping.over` takes of the best codes."""
        found = self.p.certify(z)
        if self.codes is None:
            self.codes, self.found = z, found
        better = found.objective < self.found.objective
        self.codes = torch.where(better[:, None, None, None], z, self.codes)
        self.found = Gap(
            torch.where(better, found.objective, self.found.objective),
            torch.where(better, found.gap, self.found.gap),
        )
        return self.codes.detach, self.p.residual(self.codes), self.found


def _unit_problem(p: Problem) -> tuple[Problem, Tensor]:
    """Return the problem at unit size, in float64 on the CPU, and z/z' (B, M, 1, 1)."""
    p = p.double()
    mask = None if p.mask is None else p.mask.cpu()
    p = Problem(p.x.cpu(), p.D.cpu(), p.penalty.to(torch.float64, "cpu"), mask)
    size = p.x.abs().amax((1, 2, 3))
    size = torch.where(size > 0, size, 1.0)[:, None, None, None]  # (B, 1, 1, 1)
    norms = p.D.square().sum((1, 2, 3)).sqrt()
    norms = torch.where(norms > 0, norms, 1.0)
    weights = p.lam.mean((0, 2, 3)).expand(len(norms)) / norms  # (M,)
    if bool((weights > 0).any()):
        relative = (weights / weights[weights > 0].log().mean().exp()).clamp(LEAST, 1 / LEAST)
    else:
        relative = torch.ones_like(weights)
    atoms = (norms * relative.sqrt())[:, None, None]  # (M, 1, 1)
    penalty = p.penalty._replace(lam=p.lam / (size * atoms))
    unit = Problem(p.x / size, p.D / atoms[..., None], penalty, p.mask)
    return _widened(unit), size / atoms


def _widened(p: Problem) -> Problem:
    """Return the same problem with atoms larger than one pixel along both axes, or along none.

    Along an axis where atoms have one pixel, sporco's ``NoBndryCross`` would zero every code.  So a
    row or column of zeros is added there to atoms and images, and the codes stay the same.
    """
    kh, kw = p.D.shape[2:]
    if kh == kw == 1:
        return p
    extra = (0, int(kw == 1), 0, int(kh == 1))
    mask = p.mask if p.mask is None else F.pad(p.mask.expand_as(p.x), extra)
    return Problem(F.pad(p.x, extra), F.pad(p.D, extra), p.penalty, mask)


def _typical_weight(unit: Problem) -> float:
    """Return the median of the positive weights, by which sporco chooses ρ and its adaptation."""
    positive = unit.lam[unit.lam > 0]
    return float(positive.median()) if positive.numel() else 0.0


def _limit_penalty(solver: Any, k: int, first: float) -> None:
    """Keep ρ near its first value, and constant after ADAPT steps."""
    if k >= ADAPT:
        solver.opt["AutoRho", "Enabled"] = False
    limited = min(max(float(solver.rho), first / RHO_RANGE), first * RHO_RANGE)
    if limited != float(solver.rho):
        solver.U *= solver.rho / limited
        solver.rho = type(solver.rho)(limited)
        solver.rhochange()


def _solver(
    p: Problem,
    start: Tensor | None,
    typical: float,
    rho: float,
    max_iter: int,
    after_step: Callable[[Any], bool],
) -> Any:
    """Build sporco's solver.

    Images are (H, W, C, B, 1), atoms (kh, kw, C, M), codes (H, W, 1, B, M).
    """
    try:
        from sporco.admm import cbpdn
    except ImportError as error:
        raise ImportError(f"ADMM {NEEDS_SPORCO}: {error}") from error

    options: dict[str, Any] = {
        "MaxMainIter": max_iter,
        "RelStopTol": 0.0,
        "rho": rho,
        # sporco adapts ρ at every step by default.  Once its residuals are mere rounding, that
        # drives ρ to extremes and raises the objective again.
        "AutoRho": {"Enabled": True, "Period": 10},
        "NonNegCoef": p.nonneg,
        # With 1×1 atoms nothing can cross, and sporco would zero every code.
        "NoBndryCross": p.D.shape[2] > 1,
        "Callback": after_step,
    }
    if typical > 0:
        options["L1Weight"] = _to_sporco(p.lam.expand(code_shape(p.x, p.D)) / typical, p)
    image = np.ascontiguousarray(p.x.permute(2, 3, 1, 0).numpy())
    atoms = np.ascontiguousarray(p.D.permute(2, 3, 1, 0).numpy())
    if p.mask is None:
        solver = cbpdn.ConvBPDN(
            atoms, image, typical, cbpdn.ConvBPDN.Options(options), dimK=1, dimN=2
        )
    else:
        known = p.mask.expand_as(p.x).permute(2, 3, 1, 0)[..., None].numpy()
        decoupled = cbpdn.ConvBPDNMaskDcpl.Options(options)
        solver = cbpdn.ConvBPDNMaskDcpl(atoms, image, typical, known, decoupled, dimK=1, dimN=2)
    if start is not None:
        _set_start(solver, p, start, rho)
    return solver


def _set_start(solver: Any, p: Problem, start: Tensor, rho: float) -> None:
    """Set codes and multipliers of sporco's solver.

    At the optimum the scaled dual variable is Dᵀ(x − D z)/ρ.  It is within λ/ρ, except where an
    atom would wrap around and the code is held at zero.
    """
    kh, kw = p.D.shape[2:]
    r = p.residual(start)
    dual = F.conv2d(F.pad(r, [0, kw - 1, 0, kh - 1], mode="circular"), p.D)
    inside = dual[..., : start.shape[2], : start.shape[3]]
    torch.minimum(inside, p.lam, out=inside)
    if not p.nonneg:
        torch.maximum(inside, -p.lam, out=inside)
    codes, multipliers = _to_sporco(start, p), _to_sporco(dual / rho, p)
    if p.mask is not None:  # the block of images comes first: D z − x at every pixel
        error = F.conv_transpose2d(start, p.D) - p.x
        images = [e.permute(2, 3, 1, 0)[..., None].numpy() for e in (error, -r / rho)]
        codes = solver.block_cat(images[0], codes)
        multipliers = solver.block_cat(images[1], multipliers)
    solver.Y[...], solver.Yprev[...], solver.U[...] = codes, codes, multipliers


def _to_sporco(z: Tensor, p: Problem) -> NDArray[np.float64]:
    B, M, h, w = z.shape
    Y = np.zeros((*p.size, 1, B, M))
    Y[:h, :w, 0] = z.permute(2, 3, 0, 1).numpy()
    return Y


def _from_sporco(Y: NDArray[np.float64], p: Problem) -> Tensor:
    h, w = code_shape(p.x, p.D)[2:]
    inside = Y[:h, :w, 0]  # (h, w, B, M)
    return torch.from_numpy(np.array(inside.transpose(2, 3, 0, 1)))
