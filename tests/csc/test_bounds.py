import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from csc import (
    coordinate_descent,
    dual_point,
    duality_gap,
    fista,
    gradient,
    ista,
    lam_max,
    lipschitz,
    objective,
)
from csc.conv import adjoint
from tests.laws import close, dense, lasso_objective
from tests.strategies import Problem, problems

nonnegs = st.booleans()
# Drawn weights may reach λ_max.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")


@given(problems())
def test_objective_is_its_formula(p: Problem) -> None:
    A, z = dense(p.D, p.size), p.draw_codes()
    r = p.x.flatten(1).numpy() - z.flatten(1).numpy() @ A.T
    expected = 0.5 * (r**2).sum(1) + p.lam * np.abs(z.flatten(1).numpy()).sum(1)
    close(objective(p.x, p.D, z, p.lam), torch.from_numpy(expected), 1e-12)


@given(problems())
def test_weights_per_atom_add_up(p: Problem) -> None:
    z = p.draw_codes()
    weights = p.lam * torch.arange(1.0, 1 + p.D.shape[0], dtype=torch.float64)
    l1 = (weights * z.abs().sum((2, 3))).sum(1)
    zero = torch.zeros_like(weights)
    close(objective(p.x, p.D, z, weights), objective(p.x, p.D, z, zero) + l1, 1e-12)


@given(problems())
def test_negative_codes_are_infeasible_where_codes_are_nonnegative(p: Problem) -> None:
    z = p.draw_codes().abs()
    close(objective(p.x, p.D, z, p.lam, nonneg=True), objective(p.x, p.D, z, p.lam))
    z[0, 0, 0, 0] = -1e-9
    assert objective(p.x, p.D, z, p.lam, nonneg=True)[0] == torch.inf


@given(problems())
def test_gradient_is_autograds(p: Problem) -> None:
    z = p.draw_codes().requires_grad_()
    (expected,) = torch.autograd.grad(objective(p.x, p.D, z, 0.0).sum(), z)
    close(gradient(p.x, p.D, z.detach()), expected, 1e-11)


@given(problems(slack=8))
def test_lipschitz_bounds_the_largest_eigenvalue_tightly(p: Problem) -> None:
    """L ≥ ‖DᵀD‖₂ ≥ L Π (n − k + 1)/n, n and k the sides of codes and atoms."""
    A = dense(p.D, p.size)
    largest = np.linalg.norm(A, 2) ** 2
    sides = zip(p.size, p.D.shape[2:], strict=True)
    factor = np.prod([max(0, n - 2 * k + 2) / (n - k + 1) for n, k in sides])
    assert p.L * (1 + 1e-12) >= largest >= factor * p.L * (1 - 1e-12)


@given(problems())
def test_lipschitz_is_exact_for_the_periodic_operator(p: Problem) -> None:
    largest = np.linalg.norm(dense(p.D, p.size, periodic=True), 2) ** 2
    assert p.L == pytest.approx(largest, rel=1e-10)


def test_lipschitz_is_nearly_reached_on_a_large_image() -> None:
    """The bound is about 1.5 % above the dense eigenvalue at 24×24 for 3×3 atoms."""
    g = torch.Generator().manual_seed(3)
    D = torch.randn(2, 1, 3, 3, generator=g, dtype=torch.float64)
    largest = np.linalg.norm(dense(D, (24, 24)), 2) ** 2
    assert largest < lipschitz(D, (24, 24)) < 1.05 * largest


@given(problems(), nonnegs)
def test_dual_point_is_feasible(p: Problem, nonneg: bool) -> None:
    z = p.draw_codes().abs() if nonneg else p.draw_codes()
    c = adjoint(dual_point(p.x, p.D, z, p.lam, nonneg=nonneg), p.D)
    assert float((c if nonneg else c.abs()).max()) <= p.lam * (1 + 1e-12)


def test_dual_point_is_feasible_where_the_residual_opposes_the_image() -> None:
    one = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    for nonneg in (False, True):
        assert abs(dual_point(one, one, 10 * one, 0.5, nonneg=nonneg).item()) <= 0.5
        assert duality_gap(one, one, 10 * one, 0.5, nonneg=nonneg).item() >= 40


@given(problems(), nonnegs)
def test_zero_is_certified_above_lam_max(p: Problem, nonneg: bool) -> None:
    """The best multiple of the residual is the image itself, not the largest feasible one."""
    lam = 2 * lam_max(p.x, p.D, nonneg=nonneg)
    zero = torch.zeros(p.code_shape, dtype=torch.float64)
    gap = duality_gap(p.x, p.D, zero, lam, nonneg=nonneg)
    assert (gap <= 1e-14 * p.x.square().sum((1, 2, 3))).all()


@given(problems(batch=1, weight=(0.2, 0.6)), nonnegs, st.integers(0, 2**16))
def test_gap_bounds_the_true_error_with_weights_per_atom(
    p: Problem, nonneg: bool, seed: int
) -> None:
    """Scaling atom m by λ/λ_m turns the weights λ_m into one λ, for scikit-learn's sake."""
    g = torch.Generator().manual_seed(seed)
    weights = p.lam * (0.3 + 2 * torch.rand(p.D.shape[0], generator=g, dtype=torch.float64))
    scaled = p.D * (p.lam / weights)[:, None, None, None]
    optimum = lasso_objective(p.x, scaled, p.lam, nonneg=nonneg)
    for steps in (0, 3, 300):
        s = ista(p.x, p.D, weights, nonneg=nonneg, max_iter=steps, tol=1e-7)
        assert float(s.objective) >= optimum * (1 - 1e-9)
        assert float(s.objective - s.gap) <= optimum * (1 + 1e-9)


@given(problems(), nonnegs)
def test_certificates_scale_with_their_problem_to_the_bit(p: Problem, nonneg: bool) -> None:
    """Their allowance for rounding, too: powers of two are exact."""
    z = p.draw_codes().abs()
    gap = duality_gap(p.x, p.D, z, p.lam, nonneg=nonneg)
    for s in (2.0**-20, 2.0**30):
        larger = duality_gap(s * p.x, p.D, s * z, s * p.lam, nonneg=nonneg)
        assert torch.equal(larger, s**2 * gap)
        larger = duality_gap(p.x, s * p.D, z / s, s * p.lam, nonneg=nonneg)
        assert torch.equal(larger, gap)


@given(problems(batch=1, weight=(0.2, 0.9)), nonnegs)
def test_gap_bounds_the_true_error(p: Problem, nonneg: bool) -> None:
    """P(z) − P* ≤ gap, at random codes and along ISTA, with P* from scikit-learn."""
    optimum = lasso_objective(p.x, p.D, p.lam, nonneg=nonneg)
    tried = [p.draw_codes().abs()]
    ista(p.x, p.D, p.lam, nonneg=nonneg, max_iter=20, on_step=lambda _, z: tried.append(z))
    for z in tried:
        error = float(objective(p.x, p.D, z, p.lam, nonneg=nonneg)) - optimum
        gap = float(duality_gap(p.x, p.D, z, p.lam, nonneg=nonneg))
        assert gap >= -1e-12
        assert error <= gap + 1e-9 * max(1.0, optimum)


@given(problems(weight=(0.02, 0.9)), nonnegs, st.integers(0, 400))
def test_gap_in_float32_still_bounds_the_true_error(p: Problem, nonneg: bool, steps: int) -> None:
    """The codes of a float32 run, judged in float64; no rounding passes for convergence."""
    x, D = p.x.float(), p.D.float()
    p = p._replace(lam=float(torch.tensor(p.lam).float()))  # λ is rounded to the images' dtype
    found = fista(x, D, p.lam, nonneg=nonneg, max_iter=steps, tol=0.0)
    exact = fista(x.double(), D.double(), p.lam, nonneg=nonneg, tol=1e-10, max_iter=20_000)
    lower = exact.objective - exact.gap
    error = objective(x.double(), D.double(), found.codes.double(), p.lam, nonneg=nonneg) - lower
    assert (error <= found.gap + exact.gap).all()
    assert not found.converged or (found.gap == 0).all()


@given(problems(weight=(0.3, 0.9)), nonnegs)
def test_gap_tends_to_zero(p: Problem, nonneg: bool) -> None:
    first, last = (
        fista(p.x, p.D, p.lam, nonneg=nonneg, tol=5e-5, max_iter=n).relative_gap.max()
        for n in (0, 3000)
    )
    assert last < 1e-4
    assert last <= first


@given(problems(), nonnegs)
def test_codes_vanish_exactly_at_lam_max_and_not_below(p: Problem, nonneg: bool) -> None:
    largest = lam_max(p.x, p.D, nonneg=nonneg)
    if largest == 0:  # non-negative codes cannot reduce the error at all
        assert not ista(p.x, p.D, 0.0, nonneg=nonneg, max_iter=5).codes.any()
        return
    above = ista(p.x, p.D, largest, nonneg=nonneg)
    assert not above.codes.any()
    assert above.converged
    assert above.iterations == 0
    assert ista(p.x, p.D, 0.999 * largest, nonneg=nonneg, max_iter=1, tol=0.0).codes.any()


def test_an_image_that_opposes_every_atom_needs_no_weight() -> None:
    one = torch.ones(1, 1, 3, 3)
    assert lam_max(-one, one[..., :1, :1], nonneg=True) == 0.0


def test_tiny_float32_images_are_not_certified_falsely() -> None:
    x, one = 1e-25 * torch.rand(1, 1, 8, 8), torch.ones(1, 1, 1, 1)
    for solve in (fista, coordinate_descent):
        s = solve(x, one, 1e-26, max_iter=5)
        assert (s.gap >= 0).all()
        assert s.objective.item() > 1e-50


def test_sums_of_float32_images_are_taken_in_float64() -> None:
    x = torch.full((1, 1, 400, 400), 0.1)
    one = torch.ones(1, 1, 1, 1)
    value = objective(x, one, torch.zeros_like(x), 1.0)
    assert value.dtype == torch.float64
    assert value.item() == pytest.approx(0.5 * 160_000 * 0.01, rel=1e-7)


@given(problems(slack=3), nonnegs)
def test_codes_vanish_above_lam_max_from_any_start(p: Problem, nonneg: bool) -> None:
    lam = 1.1 * lam_max(p.x, p.D, nonneg=nonneg) + 0.1
    start = p.draw_codes().abs()
    for solve in (ista, fista):
        s = solve(p.x, p.D, lam, nonneg=nonneg, start=start, tol=1e-9, max_iter=5000)
        assert s.converged
        assert not s.codes.any()


@pytest.mark.parametrize("lam", [-0.1, float("nan"), float("inf")])
def test_bad_weight_is_refused(lam: float) -> None:
    x, D = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match="lam must be finite and ≥ 0"):
        objective(x, D, torch.zeros(1, 1, 3, 3), lam)


def test_codes_off_the_grid_are_refused() -> None:
    x, D = torch.ones(1, 1, 4, 4), torch.ones(1, 1, 2, 2)
    with pytest.raises(ValueError, match=r"have shape \(1, 1, 3, 3\), got \(1, 1, 4, 4\)"):
        duality_gap(x, D, torch.zeros(1, 1, 4, 4), 0.1)
    for size in ((1, 4), (4, 1)):
        with pytest.raises(
            ValueError, match=f"2x2 does not fit in an image of {size[0]}x{size[1]}"
        ):
            lipschitz(D, size)
    with pytest.raises(ValueError, match="NaN or infinite"):
        lam_max(x * torch.nan, D)
