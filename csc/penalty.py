"""The penalty Ω of the CSC problem: value, proximal map and conjugate.

    Ω(z) = Σ λ|z| + ½μ‖z‖²              ℓ1; with μ > 0 the elastic net
    Ω(z) = Σ λ‖z_g‖₂ + ½μ‖z‖²           ℓ1,2: joint sparsity of groups of atoms

optionally with z ≥ 0.  The second sum is over groups g and positions; z_g holds the codes of the
atoms of g at one position.  Both penalties have the same formulas in the size |w| of correlations
w = Dᵀν.  |w| is the absolute value, or the norm ‖w_g‖₂ of a group.  Where z ≥ 0, negative
correlations count as zero.

    prox         argmin_v ½‖v − a‖² + tΩ(v) = h(a)/(1 + tμ),     h the threshold at tλ,
    conjugate    Ω*(w) = 0 where |w| ≤ λ everywhere, else ∞        (μ = 0),
                 Ω*(w) = Σ max(|w| − λ, 0)²/(2μ)                  (μ > 0).

References
----------
Zou, Hastie, "Regularization and variable selection via the elastic net", JRSS B 67(2), 2005.  Yuan,
Lin, "Model selection and estimation in regression with grouped variables", JRSS B 68(1), 2006.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from csc.checks import Weight, check_number, check_weight, spread
from csc.prox import shrink


class Groups(NamedTuple):
    """A partition of the atoms into G groups.

    number : (M,) int64, the group of each atom, from 0 to G − 1.
    first : (G,) int64, the first atom of each group.
    """

    number: Tensor
    first: Tensor

    def norms(self, a: Tensor) -> Tensor:
        """Return the norms of codes (B, M, h, w) in each group, (B, G, h, w)."""
        squares = a.new_zeros(len(a), len(self.first), *a.shape[2:])
        return squares.index_add_(1, self.number, a.square()).sqrt_()

    def of_groups(self, weight: Tensor) -> Tensor:
        """Return weights of groups from weights of atoms, which agree within a group."""
        return weight[:, self.first] if weight.shape[1] > 1 else weight

    def shrink(self, a: Tensor, theta: Tensor) -> Tensor:
        """Return max(1 − θ/‖a_g‖, 0) a_g, with θ as for atoms."""
        norms, theta = self.norms(a), self.of_groups(theta)
        scale = torch.where(norms > theta, 1 - theta / norms, 0.0)
        return a * scale[:, self.number]


class Penalty(NamedTuple):
    """Ω, checked.

    lam : λ, with four axes that broadcast against codes.
    nonneg : whether z ≥ 0.
    ridge : μ ≥ 0.
    groups : the groups of ℓ1,2; None for ℓ1.
    """

    lam: Tensor
    nonneg: bool
    ridge: float = 0.0
    groups: Groups | None = None

    def to(self, dtype: torch.dtype, device: torch.device | str) -> "Penalty":
        """Return the same penalty with λ in a dtype, on a device."""
        groups = self.groups
        if groups is not None:
            groups = Groups(groups.number.to(device), groups.first.to(device))
        return self._replace(lam=self.lam.to(device, dtype), groups=groups)

    def value(self, z: Tensor) -> Tensor:
        """Return Ω(z) of each image, (B,) float64; infinite where a code breaks z ≥ 0."""
        lam = self.lam
        if self.groups is not None:
            sizes = self.groups.norms(z.double())
            total = (self.groups.of_groups(lam).double() * sizes).sum((1, 2, 3))
        elif lam.shape[2:] == (1, 1):
            total = (lam[..., 0, 0].double() * z.abs().sum((2, 3), dtype=torch.float64)).sum(1)
        else:
            total = (lam.double() * z.abs()).sum((1, 2, 3))
        if self.ridge:
            total = total + 0.5 * self.ridge * z.double().square().sum((1, 2, 3))
        return torch.where((z < 0).flatten(1).any(1), torch.inf, total) if self.nonneg else total

    def prox(self, a: Tensor, theta: Tensor, L: float | Tensor) -> Tensor:
        """Return h_θ(a)/(1 + μ/L), the proximal map after a step 1/L; no checks.

        θ is λ/L, or larger during continuation, and broadcasts to codes `a` (B, M, h, w).
        """
        if self.groups is None:
            z = shrink(a, theta, nonneg=self.nonneg)
        else:
            z = self.groups.shrink(a.clamp(min=0) if self.nonneg else a, theta)
        return z / (1 + self.ridge / L) if self.ridge else z

    def sizes(self, w: Tensor, slack: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return sizes |w| of correlations (B, M, h, w), and λ, which broadcasts to them.

        Sizes are (B, G, h, w) for groups, else as w.  `slack` is added to each |entry|.
        """
        size = w.clamp(min=0) if self.nonneg else w.abs()
        if slack is not None:
            size = size + slack
        if self.groups is None:
            return size, self.lam
        return self.groups.norms(size.double()), self.groups.of_groups(self.lam)

    def largest_ratio(self, w: Tensor, slack: Tensor | None = None) -> Tensor:
        """Return max |w|/λ of each image, (B,) float64; w divided by it is feasible if μ = 0.

        Correlations that are zero do not count, even where λ = 0.
        """
        if self.groups is not None:
            peaks, lam = self.sizes(w, slack)
            return torch.where(peaks > 0, peaks / lam, 0.0).amax((1, 2, 3))
        lam = self.lam
        if lam.shape[2:] == (1, 1):
            low, high = w.flatten(2).aminmax(dim=2)
            peaks = (high if self.nonneg else torch.maximum(high, -low))[:, :, None, None]
        else:
            peaks = w if self.nonneg else w.abs()
        if slack is not None:
            peaks = peaks + torch.where(lam > 0, slack, 0.0)
        return torch.where(peaks > 0, peaks.double() / lam, 0.0).amax((1, 2, 3))

    def conjugate(self, s: Tensor, size: Tensor, lam: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Return Ω*(s w) of each image for μ > 0, and its two derivatives in s, (B,) float64.

        `size` and `lam` are those of :meth:`sizes`.
        """
        excess = (s[:, None, None, None] * size.double() - lam).clamp_(min=0)
        value = 0.5 * excess.square().sum((1, 2, 3))
        slope = (size * excess).sum((1, 2, 3))
        curvature = torch.where(excess > 0, size, 0.0).double().square().sum((1, 2, 3))
        return value / self.ridge, slope / self.ridge, curvature / self.ridge


def check_penalty(
    lam: Weight,
    shape: tuple[int, int, int, int],
    like: Tensor,
    *,
    nonneg: bool = False,
    ridge: float = 0.0,
    groups: Tensor | None = None,
) -> Penalty:
    """Check λ, μ and groups for codes of a shape, and return Ω in the dtype of `like`."""
    check_weight(lam, shape, dtype=like.dtype)
    check_number(ridge, "ridge")
    penalty = Penalty(spread(lam, like), nonneg, float(ridge))
    if groups is None:
        return penalty
    partition = _check_groups(groups, shape[1], like.device)
    own = penalty.lam.expand(-1, shape[1], -1, -1)
    if not bool((own == own[:, partition.first[partition.number]]).all()):
        raise ValueError("lam differs between the atoms of a group; give one value per group")
    return penalty._replace(groups=partition)


def check_no_penalty(solver: str, *, ridge: float = 0.0, groups: Tensor | None = None) -> None:
    """Refuse a ridge or groups for a solver that has no such penalty."""
    for name, given in (("ridge", ridge != 0), ("groups", groups is not None)):
        if given:
            raise ValueError(f"{solver} has no penalty {name}=; use csc.fista or csc.ista")


def _check_groups(groups: Tensor, M: int, device: torch.device) -> Groups:
    integers = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
    if not isinstance(groups, Tensor) or groups.dtype not in integers:
        raise TypeError("groups must be an integer torch.Tensor, the group of each atom")
    if tuple(groups.shape) != (M,):
        raise ValueError(
            f"groups must have one number per atom, shape ({M},); got {tuple(groups.shape)}"
        )
    index = torch.unique(groups.to(device), return_inverse=True)[1]
    atoms = torch.arange(M, device=device)
    first = torch.full((int(index.max()) + 1,), M, device=device)
    return Groups(index, first.scatter_reduce(0, index, atoms, "amin"))
