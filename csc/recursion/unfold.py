"""Unfolding: a step of ISTA is a layer of a recurrent convolutional network.

Multiply out the step of convolutional ISTA (Zhang, Liu, Yu, *CRNet*, 2019, eq. 5-8):

    z ← h_θ(z + Dᵀ(x − D z)/L) = h_θ(W ⊗ x + S ⊗ z),
    W = Dᵀ/L,   S = δ − DᵀD/L,   θ = λ/L.

The exact S of kh×kw atoms has sides 2kh−1 and 2kw−1.  The paper prints side k; such an S is a
learned relaxation and equals no ISTA, see :class:`csc.CISTA`.  The equation also needs a grid on
which DᵀD is a convolution.  That of :mod:`csc.conv` is one, with zero padding of kh−1 and kw−1.

The paper starts from z_0 = h(W ⊗ x) and recurs K times, which is K + 1 steps of ISTA from zero.
"""

import math
from collections.abc import Iterator
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.checkpoint import checkpoint as recompute_in_backward

from csc.checks import (
    Weight,
    check_dictionary,
    check_finite,
    check_images,
    check_integer,
    check_weight,
    spread,
)
from csc.conv import gram
from csc.prox import shrink
from csc.recursion.kernel import centre, check_recursion, complement


class Kernels(NamedTuple):
    """The two kernels and the threshold of an unfolded ISTA.

    W : (M, C, kh, kw), correlated with the image; S : (M, M, sh, sw), sh and sw odd, correlated
    with the codes; theta : (M,), or None for θ = 0, as in the paper.
    """

    W: Tensor
    S: Tensor
    theta: Tensor | None


def unfold(D: Tensor, lam: Weight, L: float) -> Kernels:
    """Return (W, S, θ) = (Dᵀ/L, δ − DᵀD/L, λ/L), with which `recur` equals ISTA.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0 of the ℓ1 norm.
    L : float
        Lipschitz constant of the gradient, such as :func:`csc.lipschitz`; the step is 1/L.

    Returns
    -------
    Kernels
        W (M, C, kh, kw), S (M, M, 2kh-1, 2kw-1), theta (M,).

    Raises
    ------
    ValueError, TypeError
        If D is not a dictionary, λ is negative or not finite, or L or 1/L is not finite and > 0.

    References
    ----------
    Zhang, Liu, Yu, "CRNet: image super-resolution using a convolutional sparse coding inspired
    network", arXiv 1908.01166, 2019, eq. 8.  S there is s×s; the exact one is (2s−1)×(2s−1).

    Examples
    --------
    >>> import torch
    >>> W, S, theta = unfold(torch.eye(2).view(1, 1, 2, 2), lam=0.5, L=4.0)
    >>> S[0, 0].diag()  # the delta minus the atom's autocorrelation over L
    tensor([-0.2500,  0.5000, -0.2500])
    >>> theta
    tensor([0.1250])
    """
    check_dictionary(D)
    check_finite(D, "D")
    M = D.shape[0]
    check_weight(lam, (1, M, 1, 1))
    if not torch.finfo(D.dtype).tiny < L < float("inf"):  # for 1/L
        raise ValueError(f"L must be finite and > 0, got {L}; use csc.lipschitz(D, size)")
    theta = (spread(lam, D) / L).flatten().expand(M).clone()
    return Kernels(D / L, complement(gram(D) / L), theta)


def recur(u: Tensor, S: Tensor, theta: Tensor | None, K: int, *, nonneg: bool = False) -> Tensor:
    """Return z_K of z_0 = h(u), z_k = h(u + S ⊗ z_{k−1}).

    Parameters
    ----------
    u : Tensor, shape (B, M, h, w)
        W ⊗ x, computed once.
    S : Tensor, shape (M, M, sh, sw)
        Recursion kernel, sh and sw odd, applied with zero padding sh // 2 and sw // 2.
    theta : Tensor, shape () or (M,), or None
        Threshold.  None means θ = 0 and needs `nonneg`: h is then the ReLU of eq. 10.
    K : int
        Number of recursions, ≥ 0.
    nonneg : bool
        h is max(a − θ, 0) instead of sign(a) max(|a| − θ, 0).

    Returns
    -------
    Tensor, shape (B, M, h, w)

    Raises
    ------
    ValueError, TypeError
        If shapes do not fit, a side of S is even, K is negative, or h would be the identity.

    Examples
    --------
    >>> import torch
    >>> u = torch.ones(1, 1, 1, 1)
    >>> recur(u, torch.full((1, 1, 1, 1), 0.5), None, 2, nonneg=True).item()  # 1 + ½(1 + ½)
    1.75
    """
    check_images(u, "u")
    if theta is not None:
        check_weight(theta, u.shape, "theta")
    _check(u, S, theta, K, nonneg)
    return last_iterate(u, S, None if theta is None else spread(theta, u), K, nonneg)


def iterates(
    u: Tensor, S: Tensor, theta: Tensor | None, K: int, *, nonneg: bool = False
) -> Iterator[Tensor]:
    """Yield z_0, z_1, …, z_K.  The parameters are those of :func:`recur`."""
    _check(u, S, theta, K, nonneg)
    return _iterates(u, S, None if theta is None else spread(theta, u), K, nonneg)


_PARTS = 8  # of a batch; more parts save memory, but make the convolutions small


def last_iterate(u: Tensor, S: Tensor, theta: Tensor | None, K: int, nonneg: bool) -> Tensor:
    """Return z_K of :func:`recur` without checks; theta is None or broadcasts to u."""
    return _run(_threshold(u, theta, nonneg), u, S, theta, K, nonneg)


def recur_recomputed(u: Tensor, S: Tensor, theta: Tensor | None, K: int, nonneg: bool) -> Tensor:
    """Return z_K as `last_iterate`; the backward pass recomputes codes instead of storing them.

    The batch is cut into up to eight parts, and the K recursions into runs of √(8 K).  Only the
    first codes of each run are stored.  The backward pass recomputes one run of one part at a time.
    The peak is 2 √(K/8) codes of the whole batch instead of K, at the price of a forward pass.
    """
    chunks = torch.split(u, -(-len(u) // _PARTS))
    length = max(1, math.ceil(math.sqrt(K * len(chunks))))
    parts = []
    for one in chunks:
        z = _threshold(one, theta, nonneg)
        for k in range(0, K, length):
            z = recompute_in_backward(
                _run, z, one, S, theta, min(length, K - k), nonneg,
                use_reentrant=False, preserve_rng_state=False,
            )  # fmt: skip
        parts.append(z)
    return torch.cat(parts)


def _run(z: Tensor, u: Tensor, S: Tensor, theta: Tensor | None, K: int, nonneg: bool) -> Tensor:
    for _ in range(K):
        z = _step(z, u, S, theta, nonneg)
    return z


def _iterates(u: Tensor, S: Tensor, theta: Tensor | None, K: int, nonneg: bool) -> Iterator[Tensor]:
    z = _threshold(u, theta, nonneg)
    yield z
    for _ in range(K):
        z = _step(z, u, S, theta, nonneg)
        yield z


def _threshold(a: Tensor, theta: Tensor | None, nonneg: bool) -> Tensor:
    return a.relu() if theta is None else shrink(a, theta, nonneg=nonneg)


def _step(z: Tensor, u: Tensor, S: Tensor, theta: Tensor | None, nonneg: bool) -> Tensor:
    """Return h(u + S ⊗ z)."""
    a = F.conv2d(z, S, padding=centre(S)).add_(u)
    return a.relu_() if theta is None else shrink(a, theta, nonneg=nonneg)


def _check(u: Tensor, S: Tensor, theta: Tensor | None, K: int, nonneg: bool) -> None:
    check_recursion(u, S, theta, nonneg)
    check_integer(K, "K")
