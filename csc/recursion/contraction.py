"""Certify that a recursion z ← h(u + S ⊗ z) settles, for every u.

h is a soft threshold or ReLU.  Both are proximal maps, so h is 1-Lipschitz.  Two numbers from
:mod:`csc.recursion.spectrum` then decide: the norm ‖S‖ and the monotonicity
μ = λ_min(I − (S + Sᵀ)/2).

* ‖S‖ = q < 1: a contraction.  z_0 = h(u) is the first step from z = 0, so Banach's bound is
  ‖z_K − z*‖ ≤ q^(K+1) ‖z*‖.
* ‖S‖ ≤ 1: non-expansive.  Two starts never drift apart.  ISTA's S is non-expansive.
* μ > 0, for any ‖S‖: z = h(u + S z) has exactly one solution, because the inclusion
  0 ∈ (I − S)z − u + ∂θ‖z‖₁ is strongly monotone.  The recursion may miss it, but the damped one of
  :func:`csc.recursion.settling.fixed_point` finds it.  For every z,
  ‖z − z*‖ ≤ (1 + ‖I − S‖)/μ · ‖z − h(u + S z)‖.

A trained S often satisfies none of these.  Its recursion may still settle on natural images:
:mod:`csc.recursion.settling` runs it and estimates.

References
----------
Winston, Kolter, "Monotone operator equilibrium networks", NeurIPS 2020 (unique fixed points).
Pang, "A posteriori error bounds for the linearly-constrained variational inequality problem",
Math. Oper. Res. 12, 1987 (the error bound).
"""

import math
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from csc.recursion.kernel import Size, check_kernel, complement
from csc.recursion.spectrum import monotonicity, operator_norm

Verdict: TypeAlias = Literal["contraction", "non-expansive", "unproven"]
_ROUNDING = 1e-12  # of the eigenvalues, in float64


@dataclass(frozen=True)
class Certificate:
    """Bounds that hold for a recursion and every input u.

    Attributes
    ----------
    norm : float
        Upper bound on ‖S‖₂.
    mu : float
        Lower bound on λ_min(I − (S + Sᵀ)/2).
    complement : float
        Upper bound on ‖I − S‖₂.
    rounding : float
        Allowance for the rounding of S to its dtype, which may lift ISTA's norm above 1.
    """

    norm: float
    mu: float
    complement: float
    rounding: float = _ROUNDING

    @property
    def verdict(self) -> Verdict:
        """Return what the norm proves about the recursion."""
        if self.norm < 1 - self.rounding:
            return "contraction"
        return "non-expansive" if self.norm <= 1 + self.rounding else "unproven"

    @property
    def unique(self) -> bool:
        """Tell whether exactly one fixed point is certain: a contraction, or μ > 0."""
        return self.verdict == "contraction" or self.mu > self.rounding

    def sufficient(self, tol: float = 1e-3) -> int | None:
        """Return the smallest K with q^(K+1) ≤ tol, so that ‖z_K − z*‖ ≤ tol ‖z*‖ is certain.

        Parameters
        ----------
        tol : float
            Relative distance, in (0, 1).

        Returns
        -------
        int or None
            None if S is not certified as a contraction.

        Raises
        ------
        ValueError
            If tol is not in (0, 1).
        """
        if not 0 < tol < 1:
            raise ValueError(f"tol must be in (0, 1), got {tol}")
        if self.verdict != "contraction":
            return None
        if self.norm <= tol:
            return 0
        return max(0, math.ceil(math.log(tol) / math.log(self.norm) - 1e-9) - 1)

    def distance(self, residual: float) -> float:
        """Return a bound on ‖z − z*‖ from the residual ‖z − h(u + S z)‖.

        It is the smaller of r/(1 − q) and r (1 + ‖I − S‖)/μ, and infinite if neither is certain.
        """
        bounds = [math.inf]
        if self.verdict == "contraction":
            bounds.append(residual / (1 - self.norm))
        if self.mu > self.rounding:
            bounds.append(residual * (1 + self.complement) / self.mu)
        return min(bounds)


def certify(S: Tensor, size: Size | None = None) -> Certificate:
    """Return bounds on ‖S‖, λ_min(I − (S + Sᵀ)/2) and ‖I − S‖ of the zero-padded recursion.

    Parameters
    ----------
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd.
    size : (int, int), optional
        Height and width of the codes.  By default the bounds hold for every size, and are a few
        percent looser.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError, TypeError
        If S is not a finite kernel or the size is not two integers > 0.

    Examples
    --------
    >>> certificate = certify(torch.full((1, 1, 1, 1), 0.5))
    >>> certificate.verdict, certificate.norm, certificate.sufficient(1e-3)  # 2^-10 < 1e-3
    ('contraction', 0.5, 9)
    """
    check_kernel(S)
    S = S.detach()
    rounding = max(_ROUNDING, torch.finfo(S.dtype).eps * float(S.norm()))
    return Certificate(
        norm=operator_norm(S, size),
        mu=monotonicity(S, size),
        complement=operator_norm(complement(S.double()), size),
        rounding=rounding,
    )
