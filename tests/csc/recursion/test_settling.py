import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from csc import CISTA, Kernels, objective, recur, unfold
from csc.recursion.contraction import certify
from csc.recursion.settling import fixed_point, local_rates, long_run, settle
from tests.csc.recursion.test_contraction import SIZE, contraction, norm, solution
from tests.csc.recursion.test_spectrum import matrix
from tests.laws import close, lasso_objective
from tests.strategies import Problem, problems

seeds = st.integers(0, 2**16)


@given(seeds, st.floats(0.1, 0.8), st.booleans(), st.sampled_from([1.0, 0.4]))
@settings(max_examples=10)
def test_the_fixed_point_does_not_depend_on_the_way(
    seed: int, q: float, nonneg: bool, damping: float
) -> None:
    u, S, theta = contraction(seed, q)
    found = fixed_point(u, S, theta, nonneg=nonneg, damping=damping, tol=1e-12)
    assert found.converged
    close(found.codes, solution(u, S, theta, nonneg), 1e-9)
    close(recur(u, S, theta, 0, nonneg=nonneg), fixed_point(
        u, 0 * S, theta, nonneg=nonneg, tol=1e-12
    ).codes)  # fmt: skip


@given(seeds, st.booleans())
@settings(max_examples=10)
def test_damping_finds_what_monotonicity_promises(seed: int, nonneg: bool) -> None:
    """‖S‖ = 4, expansive, but skew: the recursion grows, the damped one converges."""
    u, S, theta = contraction(seed, 4.0)
    S = (S - S.transpose(0, 1).flip(2, 3)) / 2
    c = certify(S, SIZE)
    assert (c.verdict, c.unique) == (("unproven" if c.norm > 1 else "contraction"), True)
    assert c.mu == pytest.approx(1, abs=1e-9)
    found = fixed_point(u, S, theta, nonneg=nonneg, damping=c.mu / c.complement**2, tol=1e-10)
    assert found.converged
    start = torch.ones_like(u)
    other = fixed_point(
        u, S, theta, nonneg=nonneg, damping=0.5 * c.mu / c.complement**2, start=start, tol=1e-10
    )
    close(found.codes, other.codes, 1e-7)
    z = recur(u, S, theta, 0, nonneg=nonneg)
    residual = norm(recur(u, S, theta, 1, nonneg=nonneg) - z)
    assert norm(z - found.codes) <= c.distance(residual) * (1 + 1e-6)


@given(problems(weight=(0.3, 0.9), slack=2, batch=1))
@settings(max_examples=10)
def test_the_fixed_point_of_ista_is_optimal(p: Problem) -> None:
    W, S, theta = unfold(p.D, p.lam, p.L)
    found = fixed_point(F.conv2d(p.x, W), S, theta, tol=1e-7, max_iter=3000)
    assert found.converged
    P = objective(p.x, p.D, found.codes, p.lam).item()
    assert P == pytest.approx(lasso_objective(p.x, p.D, p.lam), rel=1e-4)


def test_of_an_expansion_it_says_so() -> None:
    u, S = torch.ones(1, 1, 1, 1), torch.full((1, 1, 1, 1), 2.0)
    found = fixed_point(u, S, torch.zeros(1))
    assert not found.converged
    assert found.iterations < 200  # stops where the codes overflow


@given(seeds, st.floats(0.1, 0.9))
@settings(max_examples=15)
def test_local_rates_are_those_of_the_dense_matrix(seed: int, share: float) -> None:
    g = torch.Generator().manual_seed(seed)
    S = torch.randn(2, 2, 3, 3, generator=g, dtype=torch.float64)
    active = torch.rand(1, 2, *SIZE, generator=g) < share
    P = np.diag(active.flatten().double().numpy())
    J = P @ matrix(S, SIZE, periodic=False)
    rates = local_rates(S, active, steps=300, generator=g)
    exact = np.linalg.norm(J @ P, 2)
    assert rates.active == pytest.approx(active.double().mean().item())
    assert rates.norm <= exact * (1 + 1e-9)
    assert rates.norm >= 0.97 * exact
    radius = float(abs(np.linalg.eigvals(J)).max())
    assert rates.radius == pytest.approx(radius, rel=0.1, abs=1e-6)


def test_off_codes_pass_nothing() -> None:
    S = torch.randn(2, 2, 3, 3)
    assert local_rates(S, torch.zeros(1, 2, 4, 4).bool()) == (0, 0, 0)


def test_rates_predict_the_recursion_near_its_fixed_point(seeded: torch.Generator) -> None:
    """‖S‖ > 1, unproven; on the support it contracts, at the estimated rate."""
    u, S, theta = contraction(3, 1.6)
    u = u - 0.5
    run = long_run(u, S, theta, 400, nonneg=True, tol=1e-9)
    assert certify(S, SIZE).verdict == "unproven"
    assert run.outcome == "settles"
    z = recur(u, S, theta, 400, nonneg=True)
    rates = local_rates(S, z != 0, steps=400, generator=seeded)
    observed = (run.change[20] / run.change[10]) ** 0.1
    assert rates.radius < 1
    assert observed == pytest.approx(rates.radius, rel=0.1)


def test_long_runs_by_hand() -> None:
    u = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    run = long_run(u, torch.full_like(u, 0.5), None, 30, nonneg=True)  # 2 − 2^-k
    assert run.outcome == "settles"
    assert run.norm[:3] == [1, 1.5, 1.75]
    assert run.change[:2] == pytest.approx([0.5 / 1.5, 0.25 / 1.75])
    run = long_run(u, torch.full_like(u, -1.0), None, 31, nonneg=True)  # 1, 0, 1, 0, …
    assert (run.outcome, run.norm[:4]) == ("alternates", [1, 0, 1, 0])
    run = long_run(u, torch.full_like(u, 2.0), None, 100, nonneg=True)
    assert (run.outcome, run.norm[:3]) == ("grows", [1, 3, 7])
    assert len(run.norm) < 30
    S = torch.tensor([[0.0, -2.0], [1.0, 0.0]], dtype=torch.float64).view(2, 2, 1, 1)
    u = torch.tensor([1.0, 0.0], dtype=torch.float64).view(1, 2, 1, 1)  # 10, 11, 01, 00, 10, …
    run = long_run(u, S, None, 60, nonneg=True)
    assert run.outcome == "wanders"
    assert run.norm[:5] == pytest.approx([1, 2**0.5, 1, 0, 1])


def test_settle_is_its_parts(seeded: torch.Generator) -> None:
    u, S, theta = contraction(5, 0.6)
    one = torch.zeros(3, 3, 1, 1, dtype=torch.float64)
    one[range(3), range(3)] = 1
    block = CISTA(Kernels(one, S, theta), 4)
    s = settle(block, u, times=30, tol=1e-10, generator=seeded)
    assert s.certificate == certify(S, SIZE)
    assert s.long_run == long_run(u, S, theta, 150, tol=1e-10)
    star = solution(u, S, theta, False)
    z = recur(u, S, theta, 4)
    assert s.distance == pytest.approx(norm(z - star) / norm(star), rel=1e-6)
    assert s.local_rates.active == pytest.approx((z != 0).double().mean().item())
    assert s.distance <= s.certificate.norm**5
    assert s.stability.radius < 1


def test_a_circled_fixed_point_is_found_by_damping() -> None:
    """z = 1 − 2z: the recursion alternates 1, 0, 1, 0, …; z* = 1/3 repels it, at the rate 2."""
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    s = settle(CISTA(Kernels(one, -2 * one, None), 2, nonneg=True), one, tol=1e-12)
    assert s.long_run.outcome == "alternates"
    assert s.fixed_point.codes.item() == pytest.approx(1 / 3)
    assert s.stability == pytest.approx((2, 2, 1))
    assert s.distance == pytest.approx(2)  # z_2 = 1
    # z = 1 + 2z has none to find.
    s = settle(CISTA(Kernels(one, 2 * one, None), 2, nonneg=True), one)
    assert (s.long_run.outcome, s.stability, s.distance) == ("grows", None, None)


U, S1 = torch.ones(1, 1, 2, 2), torch.ones(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: fixed_point(U, S1, None), ValueError, "makes? h the identity"),
        (lambda: fixed_point(U, S1, torch.ones(1), damping=0.0), ValueError, "damping must be in"),
        (
            lambda: fixed_point(U, S1, torch.ones(1), tol=-1.0),
            ValueError,
            "tol must be finite and ≥ 0",
        ),
        (lambda: fixed_point(U, S1, torch.ones(1), start=S1), ValueError, "start must have shape"),
        (
            lambda: fixed_point(U, torch.ones(2, 2, 1, 1), torch.ones(1)),
            ValueError,
            r"\(1, 1, sh, sw\)",
        ),
        (lambda: local_rates(S1, U), TypeError, "mask must be a bool"),
        (lambda: local_rates(S1, U.expand(1, 2, 2, 2).bool()), ValueError, r"\(B, 1, h, w\)"),
        (lambda: local_rates(S1, U.bool(), steps=1), ValueError, "steps must be ≥ 2"),
        (lambda: long_run(U, S1, torch.ones(1), 1), ValueError, "K must be ≥ 2, got 1"),
        (lambda: settle(CISTA(Kernels(S1, S1, S1[0, 0, 0]), 1), U, times=1), ValueError, "times"),
    ],
)
def test_bad_input_is_named(call, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call()
