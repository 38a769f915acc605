"""Describe codes, atoms and recursions by numbers.

    sparsity      ‖z‖₀/n, ‖z‖₀ per position, Hoyer's (√n − ‖z‖₁/‖z‖₂)/(√n − 1)
    usage         fraction of positions with atom m on, part p_m of ‖z‖₁, entropy −Σ p_m log₂ p_m
    coherence     max |⟨d_i, d_j shifted⟩|/(‖d_i‖‖d_j‖) over atoms and shifts
    convergence   ‖z_k − z_{k−1}‖, support changes, objective and duality gap of z_0, z_1, …

Codes have shape (B, M, h, w) and any floating-point dtype.  All results are float64.
"""

import math
from collections.abc import Iterable
from typing import NamedTuple

import torch
from torch import Tensor

from csc.checks import Weight, check_dictionary, check_finite, check_images
from csc.conv import gram
from csc.dictionary import unit_norm
from csc.problem import check_fits, pose


class Sparsity(NamedTuple):
    """Sparsity of the codes of each image, each (B,) float64.

    nonzero : fraction of the codes that are not zero; per_position : non-zero codes per position,
    M times as much; hoyer : 0 for codes of equal magnitude, 1 for a single non-zero code.
    """

    nonzero: Tensor
    per_position: Tensor
    hoyer: Tensor


class Usage(NamedTuple):
    """How much codes use each of the M atoms.

    on : (M,), fraction of the positions at which the code of the atom is not zero; weight : (M,),
    the atom's part of ‖z‖₁; energy : (M,), its part of ‖z‖₂².  All are zero if z is zero.
    """

    on: Tensor
    weight: Tensor
    energy: Tensor

    @property
    def entropy(self) -> float:
        """Return −Σ p log₂ p of `weight`, in bits: log₂ M if all atoms are used alike."""
        p = self.weight[self.weight > 0]
        return abs(float(-(p * p.log2()).sum()))

    @property
    def effective(self) -> float:
        """Return 2^entropy: this many equally used atoms would have the same entropy."""
        return float(2**self.entropy) if bool(self.weight.any()) else 0.0

    @property
    def dead(self) -> list[int]:
        """Return the atoms that are never on."""
        return [int(m) for m in (self.on == 0).nonzero()]

    @property
    def order(self) -> list[int]:
        """Return the atoms in descending order of `weight`."""
        return [int(m) for m in self.weight.argsort(descending=True, stable=True)]


class Convergence(NamedTuple):
    """How codes z_0, …, z_K change from recursion to recursion.

    From k = 1: change, ‖z_k − z_{k−1}‖; relative, ‖z_k − z_{k−1}‖/‖z_k‖; switched, the number of
    codes that turned on or off.  From k = 0: nonzero, the fraction of non-zero codes; objective and
    gap, P(z_k) and its duality gap, summed over the batch; empty if no problem is given.
    """

    change: list[float]
    relative: list[float]
    switched: list[int]
    nonzero: list[float]
    objective: list[float]
    gap: list[float]


def sparsity(z: Tensor) -> Sparsity:
    """Return ‖z‖₀/n, ‖z‖₀/(h w) and (√n − ‖z‖₁/‖z‖₂)/(√n − 1) of each image, n = M h w.

    Parameters
    ----------
    z : Tensor, shape (B, M, h, w)
        Codes.

    Returns
    -------
    Sparsity
        For all-zero codes, Hoyer's measure is 1.

    Raises
    ------
    ValueError, TypeError
        If z is not a finite floating-point (B, M, h, w).

    References
    ----------
    Hoyer, "Non-negative matrix factorization with sparseness constraints", JMLR 5, 2004.

    Examples
    --------
    >>> sparsity(torch.tensor([3.0, 4.0, 0.0, 0.0]).view(1, 2, 1, 2)).hoyer  # (2 − 7/5)/(2 − 1)
    tensor([0.6000], dtype=torch.float64)
    """
    _check_codes(z)
    flat = z.detach().flatten(1).double()
    n = flat.shape[1]
    on = (flat != 0).sum(1).double()
    l2 = torch.linalg.vector_norm(flat, dim=1)
    ratio = torch.where(l2 > 0, flat.abs().sum(1) / l2, 1.0)
    hoyer = (math.sqrt(n) - ratio) / (math.sqrt(n) - 1) if n > 1 else torch.ones_like(l2)
    return Sparsity(on / n, on / (z.shape[2] * z.shape[3]), hoyer)


def usage(z: Tensor | Iterable[Tensor]) -> Usage:
    """Return how often each atom is on, and its parts of ‖z‖₁ and ‖z‖₂².

    Parameters
    ----------
    z : Tensor, shape (B, M, h, w), or iterable of such
        Codes.  Several tensors, of any h and w, are pooled; every position counts alike.

    Returns
    -------
    Usage

    Raises
    ------
    ValueError, TypeError
        If there are no codes, they differ in M, or are not finite floating-point (B, M, h, w).

    Examples
    --------
    >>> u = usage(torch.tensor([3.0, -1.0, 0.0, 0.0, 0.0, 4.0]).view(1, 3, 1, 2))
    >>> u.on.tolist(), u.weight.tolist(), u.entropy, u.dead
    ([1.0, 0.0, 0.5], [0.5, 0.0, 0.5], 1.0, [1])
    """
    positions, sums = 0, torch.empty(0)
    for one in (z,) if isinstance(z, Tensor) else z:
        _check_codes(one)
        maps = one.detach().transpose(0, 1).flatten(1).double()  # (M, B h w)
        found = torch.stack([(maps != 0).sum(1).double(), maps.abs().sum(1), maps.square().sum(1)])
        if positions and found.shape != sums.shape:
            raise ValueError(
                f"codes of {sums.shape[1]} and of {found.shape[1]} atoms cannot be pooled"
            )
        sums = sums + found if positions else found
        positions += maps.shape[1]
    if not positions:
        raise ValueError("no codes were given; usage needs at least one tensor of codes")
    total = sums.sum(1, keepdim=True)
    parts = torch.where(total > 0, sums / total, 0.0)
    return Usage(sums[0] / positions, parts[1], parts[2])


def cross_coherence(D: Tensor) -> Tensor:
    """Return max |⟨d_i, d_j⟩|/(‖d_i‖‖d_j‖) over all shifts of d_j, for each pair of atoms.

    The diagonal compares an atom with its own shifts, other than zero.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    Tensor, shape (M, M), float64
        Symmetric, in [0, 1].

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary, or an atom is zero.

    Examples
    --------
    >>> cross_coherence(torch.tensor([[3.0, 4.0], [0.0, 0.0]]).view(1, 1, 2, 2)).item()  # 12/25
    0.48
    """
    check_dictionary(D)
    G = gram(unit_norm(D.detach().double())).abs()
    atoms = torch.arange(len(D))
    G[atoms, atoms, D.shape[2] - 1, D.shape[3] - 1] = 0
    return G.amax((2, 3)).clamp(max=1)


def coherence(D: Tensor) -> float:
    """Return μ(D) = max |⟨d_i, d_j⟩|/(‖d_i‖‖d_j‖) over distinct pairs of shifted atoms.

    If ‖z‖₀ < (1 + 1/μ)/2, z is the unique sparsest code of D z, and ℓ1 minimisation finds it.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.

    Returns
    -------
    float
        In [0, 1].

    Raises
    ------
    ValueError, TypeError
        As in :func:`cross_coherence`.

    References
    ----------
    Papyan, Sulam, Elad, "Working locally thinking globally: theoretical guarantees for
    convolutional sparse coding", IEEE TSP 65(21), 2017.

    Examples
    --------
    >>> coherence(torch.eye(4).view(4, 1, 2, 2))  # single pixels are shifts of each other
    1.0
    """
    return float(cross_coherence(D).max())


def convergence(
    codes: Iterable[Tensor],
    *,
    x: Tensor | None = None,
    D: Tensor | None = None,
    lam: Weight | None = None,
    nonneg: bool = False,
) -> Convergence:
    """Return ‖z_k − z_{k−1}‖, support changes, P(z_k) and its duality gap along recursions.

    Parameters
    ----------
    codes : iterable of Tensor, shape (B, M, h, w)
        z_0, z_1, …, as :meth:`csc.CISTA.codes` yields them.  Two are in memory at a time.
    x, D, lam, nonneg
        The problem, as in :func:`csc.objective`; needed for objective and gap only.  For kernels
        of an ISTA, :func:`csc.recursion.distance.problem_of` returns D and λ.

    Returns
    -------
    Convergence

    Raises
    ------
    ValueError, TypeError
        If only some of x, D and lam are given, codes differ in shape, or do not fit the problem.

    Examples
    --------
    >>> one = torch.ones(1, 1, 1, 1)
    >>> c = convergence([0 * one, 2 * one, 2.5 * one], x=3 * one, D=one, lam=0.5)
    >>> c.change, c.switched, c.objective, [g < 1e-5 for g in c.gap]
    ([2.0, 0.5], [1, 0], [4.5, 1.5, 1.375], [False, False, True])
    """
    given = [part is not None for part in (x, D, lam)]
    if any(given) and not all(given):
        raise ValueError("objective and gap need all of x, D and lam; give all or none")
    posed = None
    if x is not None and D is not None and lam is not None:
        posed = pose(x, D, lam, nonneg=nonneg)
    c = Convergence([], [], [], [], [], [])
    previous: Tensor | None = None
    for z in codes:
        _check_codes(z)
        z = z.detach()
        c.nonzero.append(float((z != 0).double().mean()))
        if posed is not None:
            check_fits(posed, z)
            certificate = posed.certify(z)
            c.objective.append(float(certificate.objective.sum()))
            c.gap.append(float(certificate.gap.sum()))
        if previous is not None:
            if z.shape != previous.shape:
                raise ValueError(
                    f"codes must keep their shape; {tuple(previous.shape)} became {tuple(z.shape)}"
                )
            change = float(torch.linalg.vector_norm(z.double() - previous.double()))
            norm = float(torch.linalg.vector_norm(z.double()))
            c.change.append(change)
            c.relative.append(change / norm if norm else math.inf if change else 0.0)
            c.switched.append(int(((z != 0) != (previous != 0)).sum()))
        previous = z
    return c


def _check_codes(z: Tensor) -> None:
    check_images(z, "z")
    check_finite(z, "z")
