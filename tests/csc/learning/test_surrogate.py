"""The surrogate of dictionary learning: its sums, its value, its exact minimiser."""

import itertools

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.optimize import minimize
from torch import Tensor

from csc import random_dictionary, synthesis
from csc.learning.surrogate import (
    _majorant,
    apply_correlations,
    correlation_spectrum,
    correlations,
    minimise_surrogate,
)
from tests.laws import close, dense


def sparse(*shape: int, share: float = 0.2, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    z = torch.randn(shape, generator=g, dtype=torch.float64)
    return z * (torch.rand(shape, generator=g) < share)


@given(
    st.integers(1, 4),
    st.integers(1, 3),
    st.integers(1, 4),
    st.integers(1, 4),
    st.integers(0, 7),
    st.integers(0, 7),
    st.sampled_from([0.0, 0.1, 0.6, 1.0]),
)
def test_the_sums_are_those_of_brute_force(
    M: int, C: int, kh: int, kw: int, down: int, right: int, share: float
) -> None:
    H, W = kh + down, kw + right
    z = sparse(M, H - kh + 1, W - kw + 1, share=share, seed=H + 10 * W)
    x = sparse(C, H, W, share=1.0, seed=1)
    A = np.zeros((M, M, 2 * kh - 1, 2 * kw - 1))
    B = np.zeros((M, C, kh, kw))
    for p, q in np.ndindex(*z.shape[1:]):
        B += np.multiply.outer(z[:, p, q].numpy(), x[:, p : p + kh, q : q + kw].numpy())
        for u, v in itertools.product(range(-kh + 1, kh), range(-kw + 1, kw)):
            if 0 <= p + u < z.shape[1] and 0 <= q + v < z.shape[2]:
                A[:, :, kh - 1 + u, kw - 1 + v] += np.outer(z[:, p, q], z[:, p + u, q + v])
    found = correlations(x, z)
    close(found[0], torch.from_numpy(A), 1e-12)
    close(found[1], torch.from_numpy(B), 1e-12)


def value(A: Tensor, B: Tensor, D: Tensor) -> Tensor:
    AD = apply_correlations(correlation_spectrum(A), D)
    return 0.5 * (D * AD).sum() - (B * D).sum()


@given(*(st.integers(low, high) for low, high in ((1, 3), (1, 2), (1, 4), (1, 4), (0, 6))))
def test_the_surrogate_is_the_squared_error(M: int, C: int, kh: int, kw: int, slack: int) -> None:
    """½‖x − D z‖² = f(D) + ½‖x‖² for any D, with D z by a dense matrix."""
    H, W = kh + slack, kw + slack // 2
    z, x = sparse(M, H - kh + 1, W - kw + 1), sparse(C, H, W, share=1.0, seed=1)
    D = sparse(M, C, kh, kw, share=1.0, seed=2)
    r = x.flatten().numpy() - dense(D, (H, W)) @ z.flatten().numpy()
    found = value(*correlations(x, z), D) + 0.5 * x.square().sum()
    assert float(found) == pytest.approx(0.5 * float(r @ r), rel=1e-10, abs=1e-12)


@pytest.mark.parametrize(("scale", "C"), [(1.0, 1), (0.2, 1), (5.0, 2)])
def test_the_dictionary_step_is_the_exact_minimiser(scale: float, C: int) -> None:
    """SLSQP, on the codes as a least-squares problem, finds no better; constraints bind or not."""
    M, k = 3, 2
    z = scale * sparse(M, 8, 7, share=0.3)
    x = sparse(C, 9, 8, share=1.0, seed=1)
    # x = Z d with d the flattened atoms: the column of an entry is the image of that entry alone
    units = torch.eye(M * C * k * k, dtype=torch.float64).view(-1, M, C, k, k)
    Z = np.stack([synthesis(z[None], unit).flatten().numpy() for unit in units], axis=1)
    y = x.flatten().numpy()
    best = minimize(
        lambda d: 0.5 * np.sum((y - Z @ d) ** 2),
        np.zeros(Z.shape[1]),
        jac=lambda d: Z.T @ (Z @ d - y),
        method="SLSQP",
        constraints={
            "type": "ineq",
            "fun": lambda d: 1 - np.square(d.reshape(M, -1)).sum(1),
            "jac": lambda d: -2 * np.kron(np.eye(M), np.ones((1, C * k * k))) * d,
        },
        options={"ftol": 1e-14, "maxiter": 500},
    )
    assert best.success
    A, B = correlations(x, z)
    first = random_dictionary(
        M, C, k, generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    D = minimise_surrogate(A, B, first, 1e-10)
    norms = torch.linalg.vector_norm(D, dim=(1, 2, 3))
    assert (norms <= 1 + 1e-12).all()
    assert 0.5 * np.sum((y - Z @ D.flatten().numpy()) ** 2) == pytest.approx(best.fun, rel=1e-7)
    close(D.flatten(), torch.from_numpy(best.x), 1e-3)
    assert bool((norms > 0.999).any()) == (scale < 5.0)  # the constraint binds


@given(st.integers(0, 40))
def test_the_gap_holds_at_unequal_atoms(n: int) -> None:
    """Atoms used a thousand times as much as others: f(D) − f* ≤ tol·|f| against a long search."""
    z = sparse(4, 12, 12, seed=n) * torch.tensor([1e-2, 0.1, 1.0, 10.0])[:, None, None]
    A, B = correlations(sparse(1, 14, 14, share=1.0, seed=n + 1), z)
    first = random_dictionary(
        4, 1, 3, generator=torch.Generator().manual_seed(n), dtype=torch.float64
    )
    best = value(A, B, minimise_surrogate(A, B, first, 1e-12))
    for tol in (1e-1, 1e-3):
        found = value(A, B, minimise_surrogate(A, B, first, tol))
        assert float(found - best) <= tol * abs(float(found)) + 1e-11 * abs(float(best))


def test_the_majorant_is_above_the_spectrum() -> None:
    for n in range(20):
        A, _ = correlations(
            torch.zeros(1, 11, 11, dtype=torch.float64),
            sparse(5, 9, 9, seed=n) * torch.logspace(-2, 1, 5)[:, None, None],
        )
        spectrum = correlation_spectrum(A)
        L = torch.diag(_majorant(spectrum).flatten()).to(spectrum)
        assert torch.linalg.eigvalsh(L - spectrum).min() >= -1e-9 * L.real.max()


def test_an_atom_without_codes_stays() -> None:
    z = sparse(3, 9, 9)
    z[1] = 0
    D = random_dictionary(3, 1, 3, generator=torch.Generator().manual_seed(9), dtype=torch.float64)
    found = minimise_surrogate(*correlations(sparse(1, 11, 11, share=1.0), z), D, 1e-6)
    assert torch.equal(found[1], D[1])
    assert not torch.equal(found[0], D[0])
    nothing = minimise_surrogate(*correlations(sparse(1, 11, 11), 0 * z), D, 1e-6)
    assert torch.equal(nothing, D)
