import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from csc import recur, unfold
from csc.recursion.contraction import Certificate, certify
from csc.recursion.kernel import centre
from csc.recursion.spectrum import operator_norm
from tests.laws import close
from tests.strategies import Problem, problems

seeds = st.integers(0, 2**16)
SIZE = (5, 4)


def contraction(seed: int, q: float) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Input, a kernel of norm q on codes of SIZE, and a threshold."""
    g = torch.Generator().manual_seed(seed)
    S = torch.randn(3, 3, 3, 3, generator=g, dtype=torch.float64)
    u = torch.randn(1, 3, *SIZE, generator=g, dtype=torch.float64)
    return u, S * (q / operator_norm(S, SIZE)), 0.1 * torch.rand(3, generator=g).double()


def solution(u: torch.Tensor, S: torch.Tensor, theta: torch.Tensor, nonneg: bool) -> torch.Tensor:
    return recur(u, S, theta, 600, nonneg=nonneg)


def norm(z: torch.Tensor) -> float:
    return float(torch.linalg.vector_norm(z))


@given(seeds, st.floats(0.05, 0.95), st.booleans())
@settings(max_examples=20)
def test_a_contraction_keeps_its_word(seed: int, q: float, nonneg: bool) -> None:
    """Of the K that Banach's bound names, z_K is within 1e-3 of the fixed point."""
    u, S, theta = contraction(seed, q)
    c = certify(S, SIZE)
    assert c.verdict == "contraction"
    assert c.unique
    assert c.norm == pytest.approx(q, rel=1e-9)
    K = c.sufficient(1e-3)
    assert K is not None
    star = solution(u, S, theta, nonneg)
    assert norm(recur(u, S, theta, K, nonneg=nonneg) - star) <= 1e-3 * norm(star) + 1e-12


def test_the_named_K_is_the_smallest_and_sharp() -> None:
    """z = 1 + q z: ‖z_K − z*‖ = q^(K+1) ‖z*‖ exactly, so no smaller K would do."""
    S = torch.full((1, 1, 1, 1), 0.7, dtype=torch.float64)
    K = certify(S).sufficient(1e-3)
    u, star = torch.ones(1, 1, 1, 1, dtype=torch.float64), 1 / 0.3
    off = [1 - recur(u, S, None, k, nonneg=True).item() / star for k in (K - 1, K)]
    assert off[1] <= 1e-3 < off[0]
    assert certify(0 * S).sufficient() == 0
    assert Certificate(0.1, 0.9, 0.9).sufficient(0.1) == 0
    assert Certificate(0.1, 0.9, 0.9).sufficient(0.01) == 1


@given(seeds, st.floats(0.1, 0.9), st.booleans())
@settings(max_examples=20)
def test_the_residual_bounds_the_distance(seed: int, q: float, nonneg: bool) -> None:
    u, S, theta = contraction(seed, q)
    c, star = certify(S, SIZE), solution(u, S, theta, nonneg)
    for K in (0, 1, 4):
        z = recur(u, S, theta, K, nonneg=nonneg)
        residual = norm(recur(u, S, theta, K + 1, nonneg=nonneg) - z)
        assert norm(z - star) <= c.distance(residual) * (1 + 1e-9) + 1e-12
    only_norm = Certificate(c.norm, -1.0, c.complement)
    assert only_norm.distance(2.0) == pytest.approx(2 / (1 - c.norm))
    only_mu = Certificate(2.0, 0.5, 3.0)
    assert only_mu.distance(2.0) == pytest.approx(2 * (1 + 3) / 0.5)


@given(problems(), st.booleans())
def test_ista_is_nonexpansive(p: Problem, nonneg: bool) -> None:
    """And contracts where every frequency has full rank; then μ > 0 too."""
    S = unfold(p.D, p.lam, p.L).S
    size = (p.code_shape[2], p.code_shape[3])
    c = certify(S, size)
    assert c.verdict in ("non-expansive", "contraction")
    assert c.mu >= -1e-9
    if p.D.shape[0] > p.D.shape[1]:
        assert c.verdict == "non-expansive"
        assert not c.unique
        assert c.sufficient() is None
    u = F.conv2d(p.x, p.D / p.L)
    a, b = p.draw_codes(1), p.draw_codes(2)
    theta = torch.full((p.D.shape[0],), p.lam / p.L, dtype=torch.float64)
    apart = recur_from(u, S, theta, a, nonneg) - recur_from(u, S, theta, b, nonneg)
    assert norm(apart) <= norm(a - b) * (1 + 1e-9)


def recur_from(
    u: torch.Tensor, S: torch.Tensor, theta: torch.Tensor, z: torch.Tensor, nonneg: bool
) -> torch.Tensor:
    """h(u + S ⊗ z), as the first recursion of u + S ⊗ z."""
    return recur(u + F.conv2d(z, S, padding=centre(S)), 0 * S, theta, 0, nonneg=nonneg)


def test_float32_ista_is_nonexpansive_but_for_rounding(seeded: torch.Generator) -> None:
    D = torch.randn(8, 1, 3, 3, generator=seeded)
    S = unfold(D, 0.1, 1.1 * operator_norm(torch.eye(8).view(8, 8, 1, 1)) * 80).S
    assert certify(S, (6, 6)).verdict == "non-expansive"


def test_a_rotation_is_monotone_but_no_contraction() -> None:
    S = torch.zeros(2, 2, 1, 1, dtype=torch.float64)
    S[0, 1], S[1, 0] = 5, -5
    c = certify(S, (2, 2))
    assert (c.verdict, c.unique) == ("unproven", True)
    assert c.mu == pytest.approx(1)
    assert c.complement == pytest.approx(math.sqrt(26))
    assert c.sufficient() is None


def test_an_expansion_is_unproven() -> None:
    c = certify(torch.full((1, 1, 1, 1), 1.5))
    assert (c.verdict, c.unique, c.distance(1.0)) == ("unproven", False, math.inf)
    close(torch.tensor([c.norm, c.mu, c.complement]), torch.tensor([1.5, -0.5, 0.5]), 1e-6)


def test_bad_input_is_named() -> None:
    with pytest.raises(ValueError, match="sh and sw odd"):
        certify(torch.ones(1, 1, 2, 2))
    for tol in (0.0, 1.0, -1.0):
        with pytest.raises(ValueError, match="tol must be in"):
            certify(torch.zeros(1, 1, 1, 1)).sufficient(tol)
