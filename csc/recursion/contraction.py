"""Does a recursion z ← h(u + S ⊗ z) settle for certain?  A certificate that holds for every u.

h, a soft threshold or ReLU, is a proximal map and so 1-Lipschitz.  Of ‖S‖ and of the monotonicity
μ = λ_min(I − (S + Sᵀ)/2), both from :mod:`csc.recursion.spectrum`, it follows:

* ‖S‖ = q < 1: a contraction.  From z = 0, of which z_0 = h(u) is the first step, Banach's bound is
  ‖z_K − z*‖ ≤ q^(K+1) ‖z*‖.
* ‖S‖ ≤ 1: non-expansive, no two starts drift apart.  ISTA's S is of this kind.
* μ > 0, whatever ‖S‖: z = h(u + S z) has exactly one solution, as 0 ∈ (I − S)z − u + ∂θ‖z‖₁ is
  strongly monotone.  The recursion itself may miss it; the damped one of
  :func:`csc.recursion.settling.fixed_point` finds it.  And ‖z − z*‖ ≤ (1 + ‖I − S‖)/μ · ‖z − h(u +
  S z)‖ for every z.

A trained S is often none of these, and its recursion may settle on natural images all the same:
see :mod:`csc.recursion.settling`, which looks and estimates.

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

from csc.recursion.spectrum import Size, check_kernel, monotonicity, operator_norm

Verdict: TypeAlias = Literal["contraction", "non-expansive", "unproven"]
_ROUNDING = 1e-12  # of the eigenvalues, in float64


@dataclass(frozen=True)
class Certificate:
    """What is certain about a recursion, for every input u.

    Attributes
    ----------
    norm : float
        Upper bound on ‖S‖₂.
    mu : float
        Lower bound on λ_min(I − (S + Sᵀ)/2).
    complement : float
        Upper bound on ‖I − S‖₂.
    rounding : float
        What rounding S to its dtype may add to its norm; ISTA's S has norm 1 but for that.
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
        """Tell whether there is exactly one fixed point: a contraction, or μ > 0."""
        return self.verdict == "contraction" or self.mu > self.rounding

    def recursions(self, tol: float = 1e-3) -> int | None:
        """Return a K for which ‖z_K − z*‖ ≤ tol ‖z*‖ is certain: q^(K+1) ≤ tol, or None.

        Parameters
        ----------
        tol : float
            Relative distance, in (0, 1).

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
        """Return a bound on ‖z − z*‖ from ‖z − h(u + S z)‖; infinite where nothing is certain.

        The smaller of r/(1 − q) and r (1 + ‖I − S‖)/μ.
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
    S : Tensor, shape (M, M, s, s)
        Recursion kernel, s odd.
    size : (int, int), optional
        Height and width of the codes; by default for every size, by bounds that are some percent
        looser.

    Returns
    -------
    Certificate

    Raises
    ------
    ValueError, TypeError
        If S is no finite kernel or the size is not two positive integers.

    Examples
    --------
    >>> certificate = certify(torch.full((1, 1, 1, 1), 0.5))
    >>> certificate.verdict, certificate.norm, certificate.recursions(1e-3)  # 2^-10 < 1e-3
    ('contraction', 0.5, 9)
    """
    check_kernel(S)
    M, middle = S.shape[0], S.shape[-1] // 2
    complement = -S.detach().double()
    complement[torch.arange(M), torch.arange(M), middle, middle] += 1
    rounding = max(_ROUNDING, torch.finfo(S.dtype).eps * float(S.detach().norm()))
    return Certificate(
        operator_norm(S, size), monotonicity(S, size), operator_norm(complement, size), rounding
    )
