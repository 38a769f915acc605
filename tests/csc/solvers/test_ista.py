from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from csc import (
    Solver,
    admm,
    coordinate_descent,
    duality_gap,
    fista,
    gradient,
    ista,
    lam_max,
    objective,
)
from tests.laws import close, dense, lasso, lasso_objective
from tests.strategies import Problem, problems

# Drawn weights may reach λ_max.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")
solvers = pytest.mark.parametrize("solve", [ista, fista, admm, coordinate_descent])
nonnegs = st.booleans()


def history(solve: Solver, p: Problem, steps: int, nonneg: bool) -> list[Tensor]:
    kept: list[Tensor] = []
    options = {"nonneg": nonneg, "max_iter": steps, "tol": 0.0}
    solve(p.x, p.D, p.lam, on_step=lambda k, z: kept.append(z), **options)
    return kept


def optimum(p: Problem, nonneg: bool) -> Tensor:
    """Codes certified to 1e-12."""
    return fista(p.x, p.D, p.lam, nonneg=nonneg, tol=1e-12, max_iter=20_000).codes


@given(problems(), nonnegs)
def test_ista_never_increases_the_objective(p: Problem, nonneg: bool) -> None:
    values = [objective(p.x, p.D, z, p.lam, nonneg=nonneg) for z in history(ista, p, 30, nonneg)]
    for before, after in zip(values, values[1:], strict=False):
        assert (after <= before + 1e-12 * before.abs()).all()


@given(problems(), nonnegs)
def test_ista_steps_shrink(p: Problem, nonneg: bool) -> None:
    """A step is non-expansive, so ‖z_{k+1} − z_k‖ never grows: the codes converge."""
    zs = history(ista, p, 40, nonneg)
    moves = [float((b - a).norm()) for a, b in zip(zs, zs[1:], strict=False)]
    for before, after in zip(moves, moves[1:], strict=False):
        assert after <= before * (1 + 1e-9) + 1e-14


@given(problems(batch=1, weight=(0.2, 0.9)), nonnegs)
@settings(max_examples=15)
def test_rate_of_convergence(p: Problem, nonneg: bool) -> None:
    """From zero, k steps of ISTA are within L‖z*‖²/2k of the optimum."""
    z = optimum(p, nonneg)
    best, square = float(objective(p.x, p.D, z, p.lam)), float(z.square().sum())
    for k, z in enumerate(history(ista, p, 40, nonneg)[1:], 1):
        error = float(objective(p.x, p.D, z, p.lam)) - best
        assert error <= p.L * square / (2 * k) + 1e-10 * best


@given(problems(batch=1), nonnegs)
def test_it_is_the_textbook_iteration(p: Problem, nonneg: bool) -> None:
    """Step by step on the dense matrix in numpy."""
    A, b, step = dense(p.D, p.size), p.x.flatten().numpy(), 1 / p.L
    z = np.zeros(A.shape[1])
    for found in history(ista, p, 25, nonneg)[1:]:
        a = z + step * A.T @ (b - A @ z)
        z = np.maximum((a if nonneg else np.abs(a)) - step * p.lam, 0)
        z = z if nonneg else z * np.sign(a)
        close(found.flatten(), torch.from_numpy(z), 1e-9)


@given(problems(weight=(0.2, 0.9)), nonnegs)
@settings(max_examples=15)
def test_optimality_conditions_hold_at_the_limit(p: Problem, nonneg: bool) -> None:
    """|dᵀ(x − D z)| ≤ λ, with equality and the sign of the code where the code is not zero."""
    z = optimum(p, nonneg)
    g = -gradient(p.x, p.D, z)
    tol = 1e-4 * p.lam
    assert float((g if nonneg else g.abs()).max()) <= p.lam + tol
    on = z.abs() > 1e-3 * z.abs().max()
    close(g[on], p.lam * z[on].sign(), tol)


@solvers
@given(p=problems(batch=1, weight=(0.3, 0.9), slack=5), nonneg=nonnegs)
@settings(max_examples=12)
def test_every_solver_finds_scikit_learns_objective(
    solve: Solver, p: Problem, nonneg: bool
) -> None:
    """Agreement to 1e-6 with coordinate descent on the dense matrix, and certified to be so."""
    found = solve(p.x, p.D, p.lam, nonneg=nonneg, tol=5e-7, max_iter=30_000)
    assert found.converged, found.relative_gap
    assert float(found.objective) == pytest.approx(
        lasso_objective(p.x, p.D, p.lam, nonneg=nonneg), rel=1e-6
    )


@solvers
@given(
    p=problems(batch=1, weight=(0.3, 0.9), slack=5),
    nonneg=nonnegs,
    shape=st.sampled_from(["number", "atoms", "columns", "codes"]),
    masked=st.sampled_from([None, "pixels", "values"]),
)
@settings(max_examples=20)
def test_every_option_agrees_with_scikit_learn(
    solve: Solver, p: Problem, nonneg: bool, shape: str, masked: str | None
) -> None:
    """Any weights, known pixels and non-negative codes together, to 1e-8 of the optimum.

    Scaling column i of the dense matrix by λ/λ_i turns weights into one λ; a missing pixel is a
    row left out.  What the image holds there does not matter.
    """
    g = torch.Generator().manual_seed(int(1e6 * p.lam))
    _, M, h, w = p.code_shape
    of = {"number": (), "atoms": (M,), "columns": (1, 1, 1, w), "codes": (1, M, h, w)}[shape]
    lam = p.lam * (0.5 + torch.rand(of, generator=g, dtype=torch.float64))
    x, mask, kept = p.x, None, torch.ones_like(p.x, dtype=torch.bool)
    if masked:
        C = p.x.shape[1] if masked == "values" else 1
        mask = torch.rand(1, C, *p.size, generator=g) < 0.7
        mask[..., 0, 0] = True
        kept = mask.expand_as(x)
        x = torch.where(kept, x, torch.nan)
    weights = lam[:, None, None] if shape == "atoms" else lam
    scale = p.lam / weights.expand(p.code_shape).flatten().numpy()
    A = dense(p.D, p.size)[kept.flatten().numpy()] * scale
    best = lasso(A, p.x[kept].numpy(), p.lam, nonneg=nonneg)
    found = solve(x, p.D, lam, nonneg=nonneg, mask=mask, tol=5e-9, max_iter=50_000)
    assert found.converged, found.relative_gap
    assert float(found.objective) == pytest.approx(best, rel=1e-8)
    value = objective(x, p.D, found.codes, lam, nonneg=nonneg, mask=mask)
    close(found.objective, value, 1e-12)
    again = solve(x, p.D, lam, nonneg=nonneg, mask=mask, start=found.codes, tol=1e-6)
    assert again.iterations == 0


@solvers
@given(p=problems(weight=(0.3, 0.9)), nonneg=nonnegs)
@settings(max_examples=10)
def test_solution_describes_its_codes(solve: Solver, p: Problem, nonneg: bool) -> None:
    s = solve(p.x, p.D, p.lam, nonneg=nonneg, max_iter=25)
    close(s.objective, objective(p.x, p.D, s.codes, p.lam, nonneg=nonneg), 1e-12)
    gap = duality_gap(p.x, p.D, s.codes, p.lam, nonneg=nonneg)
    if solve is coordinate_descent:  # it has better dual points than the residual
        assert (s.gap <= gap + 1e-9).all()
    else:
        close(s.gap, gap, 1e-9)
    assert s.codes.shape == p.code_shape
    assert s.converged == bool((s.relative_gap <= 1e-4).all())
    assert s.iterations == 25 or s.converged
    assert not nonneg or (s.codes >= 0).all()


@solvers
@given(p=problems(weight=(0.3, 0.9)))
@settings(max_examples=8)
def test_start_at_the_optimum_stops_at_once(solve: Solver, p: Problem) -> None:
    first = fista(p.x, p.D, p.lam, tol=1e-7, max_iter=20_000)
    again = solve(p.x, p.D, p.lam, start=first.codes, tol=1e-6)
    assert again.iterations == 0
    assert torch.equal(again.codes, first.codes)


@solvers
@given(p=problems(weight=(0.3, 0.9)))
@settings(max_examples=8)
def test_start_near_the_optimum_helps(solve: Solver, p: Problem) -> None:
    z = optimum(p, nonneg=False)
    best = objective(p.x, p.D, z, p.lam)
    at_zero = objective(p.x, p.D, 0 * z, p.lam)
    warm = solve(p.x, p.D, p.lam, start=z * (1 + 1e-3), max_iter=1, tol=0.0)
    assert (warm.objective - best <= 1e-3 * (at_zero - best) + 1e-9 * best).all()


@solvers
@given(p=problems(weight=(0.4, 0.8), slack=4))
@settings(max_examples=8)
def test_weights_per_atom(solve: Solver, p: Problem) -> None:
    """Equal weights are the scalar; an atom with a large weight is as good as absent."""
    M = p.D.shape[0]
    options = {"tol": 1e-7, "max_iter": 30_000}
    scalar = solve(p.x, p.D, p.lam, **options)
    equal = solve(p.x, p.D, torch.full((M,), p.lam), **options)
    close(equal.objective, scalar.objective, 1e-6)
    weights = torch.full((M,), p.lam, dtype=torch.float64)
    weights[0] = 10 * lam_max(p.x, p.D)
    without = solve(p.x, p.D, weights, **options)
    assert not without.codes[:, 0].any()
    if M > 1:
        alone = solve(p.x, p.D[1:], p.lam, **options)
        close(without.objective, alone.objective, 1e-6)


@solvers
def test_images_of_a_batch_are_problems_of_their_own(
    solve: Solver, seeded: torch.Generator
) -> None:
    x = torch.randn(3, 1, 9, 8, generator=seeded, dtype=torch.float64)
    D = torch.randn(3, 1, 3, 3, generator=seeded, dtype=torch.float64)
    together = solve(x, D, 1.0, tol=1e-7, max_iter=20_000)
    assert together.converged
    for b in range(3):
        alone = solve(x[b : b + 1], D, 1.0, tol=1e-7, max_iter=20_000)
        close(together.objective[b : b + 1], alone.objective, 1e-6)


@solvers
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_dtype_follows_the_image(
    solve: Solver, dtype: torch.dtype, seeded: torch.Generator
) -> None:
    x = torch.randn(1, 1, 12, 11, generator=seeded).to(dtype)
    D = torch.randn(4, 1, 3, 3, generator=seeded).to(dtype)
    s = solve(x, D, 0.5 * lam_max(x, D), tol=1e-4, max_iter=5000)
    assert s.codes.dtype == dtype
    assert s.converged


@pytest.mark.parametrize("solve", [ista, fista, admm])
def test_on_step_hears_the_start_and_every_step(solve: Solver, seeded: torch.Generator) -> None:
    x = torch.randn(1, 1, 8, 8, generator=seeded, dtype=torch.float64)
    D = torch.randn(2, 1, 3, 3, generator=seeded, dtype=torch.float64)
    heard: list[tuple[int, Tensor]] = []
    s = solve(x, D, 0.1, max_iter=13, tol=0.0, on_step=lambda k, z: heard.append((k, z)))
    assert [k for k, _ in heard] == list(range(14))
    assert torch.equal(heard[-1][1], s.codes)
    assert not heard[0][1].any()
    assert solve(x, D, 0.1, max_iter=0).iterations == 0


@solvers
@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lam": -1.0}, "lam must be finite"),
        ({"lam": float("nan")}, "lam must be finite"),
        ({"lam": torch.ones(5)}, r"one value per atom, shape \(2,\)"),
        ({"lam": torch.ones(1, 2, 6, 5)}, r"4-D and broadcast to the codes' \(1, 2, 6, 6\)"),
        ({"lam": -torch.ones(1, 2, 6, 6)}, "lam must be finite"),
        ({"mask": torch.ones(1, 1, 8, 7) > 0}, r"broadcast to the images \(1, 1, 8, 8\)"),
        ({"mask": torch.ones(8, 8) > 0}, "mask must be 4-D"),
        ({"x": torch.full((1, 1, 8, 8), torch.nan)}, "x has 64 NaN or infinite entries"),
        ({"D": torch.full((2, 1, 3, 3), torch.inf)}, "D has 18 NaN or infinite entries"),
        ({"max_iter": -1}, "max_iter must be ≥ 0"),
        ({"tol": -1e-3}, "tol must be finite and ≥ 0"),
        ({"start": torch.zeros(1, 2, 8, 8)}, r"start must have shape \(1, 2, 6, 6\)"),
        ({"start": torch.full((1, 2, 6, 6), torch.nan)}, "start has 72 NaN"),
        ({"start": -torch.ones(1, 2, 6, 6), "nonneg": True}, "start has negative codes"),
        ({"x": torch.ones(8, 8)}, r"\(B, C, H, W\), got \(8, 8\)"),
    ],
)
def test_bad_input_is_refused_before_any_step(solve: Solver, change: dict, says: str) -> None:
    good = {"x": torch.ones(1, 1, 8, 8), "D": torch.ones(2, 1, 3, 3), "lam": 0.1}

    def never(k: int, z: Tensor) -> None:
        pytest.fail("a step was taken")

    with pytest.raises(ValueError, match=says):
        solve(**{**good, **change}, on_step=never)


@solvers
@pytest.mark.parametrize(
    ("x", "D"), [(1e19, 1.0), (1.0, 1e19), (1.0, 1e-30)], ids=["large", "atoms", "small atoms"]
)
def test_what_cannot_be_squared_is_refused(solve: Solver, x: float, D: float) -> None:
    images, atoms = torch.full((2, 1, 8, 8), x), torch.full((2, 1, 3, 3), D)
    with pytest.raises(ValueError, match="squares are beyond the range of torch.float32; use"):
        solve(images, atoms, x * D)


@solvers
def test_sparse_and_meta_tensors_and_flags_are_refused(solve: Solver) -> None:
    x, D = torch.ones(1, 1, 8, 8), torch.ones(2, 1, 3, 3)
    with pytest.raises(TypeError, match=r"x must be dense, .* use x.to_dense\(\)"):
        solve(x.to_sparse(), D, 0.1)
    with pytest.raises(TypeError, match=r"lam must be dense, .* use lam.to_dense\(\)"):
        solve(x, D, torch.ones(2).to_sparse())
    with pytest.raises(TypeError, match="x is torch.float32 on meta but D"):
        solve(x.to("meta"), D, 0.1)
    with pytest.raises(TypeError, match="lam must be a number"):
        solve(x, D, True)


@solvers
def test_autocast_does_not_touch_a_certificate(solve: Solver, seeded: torch.Generator) -> None:
    x = torch.randn(1, 1, 16, 16, generator=seeded)
    D = torch.randn(4, 1, 3, 3, generator=seeded)
    mask = torch.rand(x.shape, generator=seeded) < 0.8
    lam = 0.3 * lam_max(x, D)
    plain = solve(x, D, lam, mask=mask, max_iter=20, tol=0.0)
    with torch.autocast("cpu", torch.bfloat16):
        inside = solve(x, D, lam, mask=mask, max_iter=20, tol=0.0)
        gap = duality_gap(x, D, plain.codes, lam, mask=mask)
        assert lam_max(x, D) == pytest.approx(lam / 0.3)
    assert torch.equal(inside.codes, plain.codes)
    assert torch.equal(inside.gap, plain.gap)
    assert torch.equal(gap, duality_gap(x, D, plain.codes, lam, mask=mask))


@solvers
def test_codes_carry_no_gradient(solve: Solver) -> None:
    x = torch.ones(1, 1, 6, 6, dtype=torch.float64, requires_grad=True)
    D = torch.ones(2, 1, 3, 3, dtype=torch.float64, requires_grad=True)
    assert not solve(x, D, 0.5 * lam_max(x, D), max_iter=3).codes.requires_grad


def test_a_zero_dictionary_lets_codes_fall_to_zero() -> None:
    """L = 0 there, and a step still lowers the objective."""
    x, D = torch.ones(1, 1, 5, 5), torch.zeros(1, 1, 2, 2)
    for solve in (ista, fista, coordinate_descent):
        s = solve(x, D, 0.1, start=torch.full((1, 1, 4, 4), 0.3), max_iter=200)
        assert s.converged
        assert not s.codes.any()


def test_zero_image_and_zero_dictionary() -> None:
    zero, D = torch.zeros(1, 1, 5, 5), torch.ones(1, 1, 2, 2)
    for x, atoms in ((zero, D), (zero + 1, 0 * D)):
        for solve in (ista, fista, coordinate_descent):
            s = solve(x, atoms, 0.1)
            assert s.converged
            assert not s.codes.any()
            assert s.relative_gap.item() < 1e-5


stops = given(
    p=problems(weight=(0.02, 0.95)),
    nonneg=nonnegs,
    steps=st.integers(0, 80),
    single=nonnegs,
    seed=st.integers(0, 2**16),
)


@pytest.mark.parametrize("solve", [ista, fista, coordinate_descent])
@stops
def test_the_certificate_holds(solve: Solver, **drawn: Any) -> None:
    certificate_holds(solve, **drawn)


@pytest.mark.slow
@pytest.mark.parametrize("solve", [ista, fista, coordinate_descent])
@stops
@settings(max_examples=2000)
def test_the_certificate_holds_in_thousands_of_problems(solve: Solver, **drawn: Any) -> None:
    certificate_holds(solve, **drawn)


def certificate_holds(
    solve: Solver, p: Problem, nonneg: bool, steps: int, single: bool, seed: int
) -> None:
    """P(z) − P* ≤ gap wherever a run stops: any options, float32 as float64."""
    g = torch.Generator().manual_seed(seed)
    lam = p.lam * (0.3 + torch.rand(p.code_shape, generator=g, dtype=torch.float64))
    mask = torch.rand(p.x.shape, generator=g) < 0.8
    x, D = (p.x.float(), p.D.float()) if single else (p.x, p.D)
    options = {"nonneg": nonneg, "mask": mask, "max_iter": steps, "tol": 0.0}
    found = solve(x, D, lam.to(x.dtype), **options)
    x, D, z = x.double(), D.double(), found.codes.double()
    weights = lam.to(found.codes.dtype).double()
    options |= {"max_iter": 50_000, "tol": 1e-10}
    exact = coordinate_descent(x, D, weights, **options)
    error = objective(x, D, z, weights, nonneg=nonneg, mask=mask) - exact.objective
    assert (error <= found.gap + 1e-10 * exact.objective).all()
