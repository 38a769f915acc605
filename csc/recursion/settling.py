"""Run a recursion z ← h(u + S ⊗ z) and tell where it goes: fixed point, long run, local rates.

:mod:`csc.recursion.contraction` proves what holds for every input.  This module runs a
trained S on the codes of one image.  Its results hold for that image only.

Near codes z, only the active ones pass h.  Small errors then evolve by P S, with P the projection
on the support.  P S may shrink errors even if S does not.  Conversely, codes may circle a fixed
point that repels the recursion; a damped recursion can still find it.
"""

import math
from typing import Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import (
    check_finite,
    check_integer,
    check_mask,
    check_number,
    check_weight,
    spread,
)
from csc.prox import shrink
from csc.recursion.cista import CISTA
from csc.recursion.contraction import Certificate, certify
from csc.recursion.kernel import centre, check_kernel, check_recursion
from csc.recursion.unfold import iterates, last_iterate

_GROWTH = 1e6  # ‖z_k‖/‖z_0‖ at which a run counts as growing and ends
_FEW = 48 * 48  # codes up to this size get a certificate for their size, larger ones for all sizes

Outcome: TypeAlias = Literal["settles", "alternates", "grows", "wanders"]


class FixedPoint(NamedTuple):
    """Codes that a recursion leaves in place.

    codes : (B, M, h, w); residual : ‖z − h(u + S z)‖/‖z‖; iterations : steps taken; converged :
    whether residual ≤ tol.
    """

    codes: Tensor
    residual: float
    iterations: int
    converged: bool


class LocalRates(NamedTuple):
    """Estimates of how P S acts on errors near the codes; they certify nothing.

    norm : ‖P S P‖, the largest growth of an error in one step, estimated from below; radius :
    growth per step of P S in the long run, < 1 if small errors die out; active : fraction of codes
    on the support.
    """

    norm: float
    radius: float
    active: float


class LongRun(NamedTuple):
    """How the codes z_0, …, z_K develop, for a K far beyond the trained one.

    outcome : "settles" if the last change is at most tol, "alternates" if only z_k − z_{k−2} is,
    "grows" if the norm grows a million times, else "wanders"; change : ‖z_k − z_{k−1}‖/‖z_k‖ from
    k = 1; norm : ‖z_k‖ from k = 0.
    """

    outcome: Outcome
    change: list[float]
    norm: list[float]


class Settling(NamedTuple):
    """Certified bounds of a block, and estimates for the codes z_K of its input.

    certificate : bounds for every input; long_run : the recursion from zero; local_rates : at z_K;
    fixed_point : z*, found by the damped recursion from z_K; stability : local rates at z*;
    distance : ‖z_K − z*‖/‖z*‖.  The last two are None if no fixed point was reached.
    """

    certificate: Certificate
    long_run: LongRun
    local_rates: LocalRates
    fixed_point: FixedPoint
    stability: LocalRates | None
    distance: float | None


@torch.no_grad()
def fixed_point(
    u: Tensor,
    S: Tensor,
    theta: Tensor | None,
    *,
    nonneg: bool = False,
    damping: float = 1.0,
    start: Tensor | None = None,
    tol: float = 1e-9,
    max_iter: int = 10_000,
) -> FixedPoint:
    """Iterate z ← h_{αθ}(z + α(u + S ⊗ z − z)), which has the fixed points of the recursion.

    α = 1 is the recursion itself.  If μ > 0, α = μ/‖I − S‖² is certain to converge, by the factor
    √(1 − μ²/‖I − S‖²) per step.  Larger α are often faster.

    Parameters
    ----------
    u, S, theta, nonneg
        As in :func:`csc.recur`.
    damping : float
        α in (0, 1].
    start : Tensor, shape (B, M, h, w), optional
        Codes to start from; zero by default.
    tol : float
        Stop when ‖z − h(u + S z)‖ ≤ tol ‖z‖.
    max_iter : int
        Largest number of steps.

    Returns
    -------
    FixedPoint
        In the dtype of u; float32 reaches a residual of about 1e-6.  If the codes overflow, the
        run ends and `converged` is False.

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, or a number is out of its range.

    Examples
    --------
    >>> u, S = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), -3.0)  # z = 1 − 3z
    >>> theta = torch.zeros(1)
    >>> fixed_point(u, S, theta).converged, fixed_point(u, S, theta, damping=0.25).codes.item()
    (False, 0.25)
    """
    _check(u, S, theta, nonneg)
    if not 0 < damping <= 1:
        raise ValueError(f"damping must be in (0, 1], got {damping}")
    check_number(tol, "tol")
    check_integer(max_iter, "max_iter")
    if start is not None and start.shape != u.shape:
        raise ValueError(f"start must have shape {tuple(u.shape)}, got {tuple(start.shape)}")
    threshold = u.new_zeros(()) if theta is None else spread(theta, u)
    z = torch.zeros_like(u) if start is None else start.detach().clone()
    for k in range(max_iter + 1):
        a = u + _apply(S, z)
        residual = float(torch.linalg.vector_norm(z - shrink(a, threshold, nonneg=nonneg)))
        norm = float(torch.linalg.vector_norm(z))
        converged = residual <= tol * norm
        if converged or k == max_iter or not math.isfinite(residual):
            break
        if damping == 1:
            z = shrink(a, threshold, nonneg=nonneg)
        else:
            z = shrink(z + damping * (a - z), damping * threshold, nonneg=nonneg)
    return FixedPoint(z, residual / norm if norm else residual, k, converged)


@torch.no_grad()
def local_rates(
    S: Tensor,
    active: Tensor,
    *,
    steps: int = 200,
    generator: torch.Generator | None = None,
) -> LocalRates:
    """Estimate ‖P S P‖ and the spectral radius of P S; P sets inactive codes to zero.

    P S is the Jacobian of z ↦ h(u + S z), because h passes only the active codes.  The norm comes
    from power iteration on (P S P)ᵀ(P S P), the radius from the mean growth of ‖(P S)ⁿ v‖ over the
    last half of the steps.  Both start at random.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    active : Tensor of bool, shape (B, M, h, w)
        True where h(u + S z) is not zero, such as ``z_K != 0``.  The result is the largest over
        the batch.
    steps : int
        Steps of each power iteration, ≥ 2.
    generator : torch.Generator, optional
        Source of the random start.

    Returns
    -------
    LocalRates
        All zero if no code is active.

    Raises
    ------
    ValueError, TypeError
        If S is not a kernel, `active` is not a bool mask of its codes, or `steps` < 2.

    Examples
    --------
    >>> S = torch.tensor([[0.5, 8.0], [8.0, 0.5]]).view(2, 2, 1, 1)
    >>> active = torch.tensor([True, False]).view(1, 2, 1, 1)  # atom 2 is off and blocks the 8
    >>> local_rates(S, active)[:2], round(local_rates(S, active | True).radius, 4)
    ((0.5, 0.5), 8.5)
    """
    check_kernel(S)
    if not isinstance(active, Tensor) or active.ndim != 4 or active.shape[1] != S.shape[0]:
        raise ValueError(f"active must be a bool mask (B, {S.shape[0]}, h, w), as codes of S")
    check_mask(active, active)
    check_integer(steps, "steps", 2)
    P = active.to(S.dtype)
    start = torch.randn(P.shape, generator=generator, dtype=S.dtype, device=S.device) * P
    on = float(P.mean())
    if not on:
        return LocalRates(0.0, 0.0, 0.0)
    v, norm = _unit(start)[0], P.new_zeros(())
    for _ in range(steps):
        w, norm = _unit(P * _apply(S, v))
        v = _unit(P * _transposed(S, w))[0]
    v, growth = _unit(start)[0], []
    for _ in range(steps):
        v, factor = _unit(P * _apply(S, v))
        growth.append(factor)
    late = torch.stack(growth[steps // 2 :])  # (steps/2, B)
    radius = torch.exp(late.double().log().mean(0))
    return LocalRates(float(norm.max()), float(radius.max()), on)


@torch.no_grad()
def long_run(
    u: Tensor,
    S: Tensor,
    theta: Tensor | None,
    K: int,
    *,
    nonneg: bool = False,
    tol: float = 1e-4,
) -> LongRun:
    """Run K recursions, many more than trained, and classify how the codes develop.

    Parameters
    ----------
    u, S, theta, nonneg
        As in :func:`csc.recur`.
    K : int
        Number of recursions, ≥ 2.  The run ends early if the codes grow 10⁶ times.
    tol : float
        Relative change at which codes count as settled.

    Returns
    -------
    LongRun

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit or K < 2.

    Examples
    --------
    >>> u = torch.ones(1, 1, 1, 1)
    >>> for s in (0.5, -1.0, 2.0):
    ...     print(long_run(u, torch.full((1, 1, 1, 1), s), None, 40, nonneg=True).outcome)
    settles
    alternates
    grows
    """
    _check(u, S, theta, nonneg)
    check_integer(K, "K", 2)
    last: list[Tensor] = []
    change: list[float] = []
    norms: list[float] = []
    for z in iterates(u, S, theta, K, nonneg=nonneg):
        norms.append(float(torch.linalg.vector_norm(z)))
        if last:
            change.append(_relative(z, last[-1]))
        last = [*last[-2:], z]
        if not norms[-1] <= _GROWTH * max(norms[0], torch.finfo(z.dtype).tiny):
            return LongRun("grows", change, norms)
    outcome: Outcome = "wanders"
    if change[-1] <= tol:
        outcome = "settles"
    elif _relative(last[-1], last[-3]) <= tol:
        outcome = "alternates"
    return LongRun(outcome, change, norms)


@torch.no_grad()
def settle(
    block: CISTA,
    x: Tensor,
    *,
    times: int = 20,
    damping: float = 0.5,
    tol: float = 1e-5,
    generator: torch.Generator | None = None,
) -> Settling:
    """Certify a trained block, run it `times` as long as trained, and find its fixed point.

    The certificate is for the size of the codes up to 48×48, and for every size above that.

    Parameters
    ----------
    block : CISTA
        Trained block.
    x : Tensor, shape (B, C, H, W)
        Its input, such as the features of a CRNet.  All is computed in its dtype.
    times : int
        Length of the long run, in multiples of the block's own K + 1 steps, ≥ 2.
    damping : float
        α of :func:`fixed_point`.  If the radius of `stability` is above 1, the recursion itself
        leaves the fixed point; damping often reaches it.
    tol : float
        Relative residual and change that count as settled; float32 reaches about 1e-6.
    generator : torch.Generator, optional
        Source of the random start of the local rates.

    Returns
    -------
    Settling

    Raises
    ------
    ValueError, TypeError
        If x does not fit the block, or `times` < 2.

    Examples
    --------
    >>> from csc import Kernels
    >>> one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    >>> block = CISTA(Kernels(one, 0.5 * one, 0 * one[0, 0, 0]), recursions=9)
    >>> s = settle(block, one, tol=1e-8)  # z = x + z/2
    >>> s.certificate.verdict, s.long_run.outcome, round(1 / s.distance)  # 2⁻¹⁰ from z* = 2
    ('contraction', 'settles', 1024)
    """
    check_integer(times, "times", 2)
    u, theta = block.drive(x)
    S, K = block.S.detach(), times * (block.recursions + 1)
    z = last_iterate(
        u, S, None if theta is None else spread(theta, u), block.recursions, block.nonneg
    )
    size = (u.shape[2], u.shape[3])
    certificate = certify(S, size if size[0] * size[1] <= _FEW else None)
    run = long_run(u, S, theta, K, nonneg=block.nonneg, tol=tol)
    rates = local_rates(S, z != 0, generator=generator)
    found = fixed_point(
        u, S, theta, nonneg=block.nonneg, damping=damping, start=z, tol=tol, max_iter=4 * K
    )
    if not found.converged:
        return Settling(certificate, run, rates, found, None, None)
    stability = local_rates(S, found.codes != 0, generator=generator)
    return Settling(certificate, run, rates, found, stability, _relative(found.codes, z))


def _relative(z: Tensor, before: Tensor) -> float:
    change, norm = (float(torch.linalg.vector_norm(v)) for v in (z - before, z))
    return change / norm if norm else (math.inf if change else 0.0)


def _unit(v: Tensor) -> tuple[Tensor, Tensor]:
    """Return v/‖v‖ and ‖v‖ of each image; zero stays zero."""
    norm = torch.linalg.vector_norm(v.flatten(1), dim=1)
    return v / torch.where(norm > 0, norm, 1.0)[:, None, None, None], norm


def _apply(S: Tensor, z: Tensor) -> Tensor:
    return F.conv2d(z, S, padding=centre(S))


def _transposed(S: Tensor, z: Tensor) -> Tensor:
    return F.conv_transpose2d(z, S, padding=centre(S))


def _check(u: Tensor, S: Tensor, theta: Tensor | None, nonneg: bool) -> None:
    check_recursion(u, S, theta, nonneg)
    check_finite(u, "u")
    check_finite(S, "S")
    if theta is not None:
        check_weight(theta, u.shape, "theta")
