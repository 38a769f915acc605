"""When solvers stop, why, and whether what they return is what they say; for all four solvers."""

import math
import warnings
from typing import NamedTuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from csc import (
    Solver,
    Status,
    admm,
    coordinate_descent,
    fista,
    ista,
    lam_max,
    objective,
    random_dictionary,
)
from csc.problem import Gap
from tests.laws import best_objective, dense

SOLVERS = (ista, fista, admm, coordinate_descent)
solvers = pytest.mark.parametrize("solve", SOLVERS)


class Drawn(NamedTuple):
    """A run of any dtype, scale, mask and weights, from any start."""

    x: Tensor  # (1, C, H, W)
    D: Tensor
    lam: Tensor  # four axes
    nonneg: bool
    mask: Tensor | None
    start: Tensor | None
    max_iter: int
    tol: float


@st.composite
def runs(draw: st.DrawFn) -> Drawn:
    kh, kw, C = draw(st.sampled_from([(1, 4, 1), (2, 2, 3), (3, 3, 1)]), label="kh, kw, C")
    M, H, W = draw(st.integers(1, 4)), kh + draw(st.integers(0, 6)), kw + draw(st.integers(0, 6))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**20), label="seed"))
    dtype = draw(st.sampled_from([torch.float32, torch.float64]))
    scale = 10.0 ** draw(st.integers(-8, 8), label="scale of x")
    atoms = 10.0 ** draw(st.integers(-4, 4), label="scale of D")
    x = (scale * torch.randn(1, C, H, W, generator=g, dtype=torch.float64)).to(dtype)
    if draw(st.integers(0, 19)) == 0:
        x = 0 * x
    D = (atoms * random_dictionary(M, C, (kh, kw), generator=g, dtype=torch.float64)).to(dtype)
    mask = None
    if draw(st.booleans(), label="mask"):
        mask = torch.rand(1, 1, H, W, generator=g) < 0.7
        mask[..., 0, 0] = True
    shape = (1, M, H - kh + 1, W - kw + 1)
    varied = draw(st.sampled_from([(1, 1, 1, 1), (1, M, 1, 1), shape]))
    largest = lam_max(x, D, mask=mask) or scale * atoms
    lam = draw(st.floats(0.01, 0.95)) * largest * (0.2 + torch.rand(varied, generator=g))
    nonneg = draw(st.booleans(), label="nonneg")
    start = None
    size = draw(st.sampled_from([None, 1e-3, 1.0, 1e2, 1e4, 1e6]), label="size of the start")
    if size is not None:
        start = (size * scale / atoms * torch.randn(shape, generator=g)).to(dtype)
        start = start.abs() if nonneg else start
    max_iter = draw(st.sampled_from([0, 1, 3, 10, 40, 400]), label="max_iter")
    tol = draw(st.sampled_from([0.0, 1e-6, 1e-4, 0.5]), label="tol")
    return Drawn(x, D, lam.to(dtype), nonneg, mask, start, max_iter, tol)


def certificate_is_true(solve: Solver, run: Drawn) -> None:
    """Judge codes by the dense matrix in float64: P(z), P* and the objective of the start."""
    x, D, lam, nonneg, mask, start, max_iter, tol = run
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="all codes are zero")
        found = solve(x, D, lam, nonneg=nonneg, mask=mask, start=start, max_iter=max_iter, tol=tol)
    A = dense(D.double(), (x.shape[2], x.shape[3]))
    known = np.ones(x.numel()) if mask is None else mask.expand_as(x).flatten().double().numpy()

    def value(z: Tensor) -> float:
        r = known * (x.double().flatten().numpy() - A @ z.double().flatten().numpy())
        return float(0.5 * r @ r + (lam.double() * z.double().abs()).sum())

    P = value(found.codes)
    best = best_objective(x, D, lam.expand_as(found.codes), nonneg=nonneg, known=mask)
    assert float(found.gap) >= 0
    assert P - best <= float(found.gap) + 1e-9 * best
    assert float(found.objective) == pytest.approx(P, rel=1e-10)
    first = value(torch.zeros_like(found.codes) if start is None else start)
    assert P <= first * (1 + 1e-12)
    assert not nonneg or not (found.codes < 0).any()
    (status,) = found.status
    assert found.converged == (status is Status.CONVERGED)
    assert found.converged == bool(found.relative_gap <= tol)
    assert found.iterations <= max_iter
    assert status is not Status.ITERATIONS or found.iterations == max_iter


@solvers
@given(run=runs())
def test_the_certificate_is_true_of_the_codes(solve: Solver, run: Drawn) -> None:
    certificate_is_true(solve, run)


@pytest.mark.slow
@solvers
@given(run=runs())
@settings(max_examples=2000)
def test_the_certificate_is_true_in_thousands_of_runs(solve: Solver, run: Drawn) -> None:
    certificate_is_true(solve, run)


@pytest.mark.parametrize("size", [1e2, 1e4, 1e6])
def test_a_start_that_is_far_too_large_leaves_no_rounding(size: float) -> None:
    """Sweeps in float32 from such a start leave their rounding in the residual."""
    g = torch.Generator().manual_seed(0)
    x, D = torch.rand(1, 1, 10, 11, generator=g), torch.full((1, 1, 1, 1), 0.7)
    start = size * torch.randn(1, 1, 10, 11, generator=g)
    found = coordinate_descent(x, D, 0.21, start=start, tol=1e-4)
    exact = objective(x.double(), D.double(), found.codes.double(), torch.tensor(0.21))
    assert found.converged
    assert float(found.objective) == pytest.approx(float(exact), rel=1e-12)
    assert float(found.objective) == pytest.approx(11.5476258856, rel=1e-7)
    assert found.gap > 0


def a_problem(dtype: torch.dtype = torch.float64, B: int = 1) -> tuple[Tensor, Tensor, float]:
    g = torch.Generator().manual_seed(1)
    x = torch.rand(B, 1, 16, 16, generator=g, dtype=torch.float64).to(dtype)
    D = random_dictionary(4, 1, 3, generator=g, dtype=torch.float64).to(dtype)
    return x, D, 0.2 * lam_max(x, D)


@solvers
def test_status_tells_why_it_stopped(solve: Solver) -> None:
    x, D, lam = a_problem()
    assert solve(x, D, lam, tol=1e-3).status == (Status.CONVERGED,)
    assert solve(x, D, lam, max_iter=1).status == (Status.ITERATIONS,)


@solvers
def test_status_is_by_image(solve: Solver) -> None:
    x, D, lam = a_problem(B=2)
    x[1] = 0  # solved at once
    found = solve(x, D, lam, max_iter=1)
    assert found.status == (Status.ITERATIONS, Status.CONVERGED)
    assert not found.converged


@pytest.mark.parametrize("solve", [fista, coordinate_descent])
def test_a_tolerance_below_the_dtype_ends_at_its_floor(solve: Solver) -> None:
    x, D, lam = a_problem(torch.float32)
    found = solve(x, D, lam, tol=1e-9)
    assert found.status == (Status.FLOOR,)
    assert found.iterations < 5000
    assert found.relative_gap < 2e-5


@pytest.mark.parametrize("solve", [ista, fista, coordinate_descent])
def test_without_a_weight_for_some_atoms_nothing_is_certified(solve: Solver) -> None:
    """λ = 0 for one atom: no gap, but the run ends, at the objective of a long run."""
    x, D, lam = a_problem()
    weights = torch.tensor([0.0, lam, lam, lam], dtype=torch.float64)
    found = solve(x, D, weights, tol=1e-2)
    assert found.status == (Status.UNCERTIFIED,)
    assert found.iterations < 10_000
    best = fista(x, D, weights, tol=0.0, max_iter=1000).objective
    torch.testing.assert_close(found.objective, best, rtol=1e-2, atol=0)


@solvers
@pytest.mark.parametrize("tol", [0.5, 1.0, 4.0])
def test_the_tolerance_is_relative_to_the_dual_objective(solve: Solver, tol: float) -> None:
    x, D, lam = a_problem()
    for factor in (0.05, 0.2, 1.0):
        found = solve(x, D, factor * lam, tol=tol)
        assert found.converged
        assert float(found.gap) <= tol * float(found.objective - found.gap)


def test_a_gap_is_compared_with_the_dual_objective() -> None:
    gap = Gap(torch.tensor([1.0, 1.0]), torch.tensor([0.5, 0.6]))
    assert gap.reached(1.0).tolist() == [True, False]
    assert not gap.within(1.0)
    assert gap.within(1.6)


@solvers
def test_zero_codes_come_with_a_word(solve: Solver) -> None:
    x, D, _ = a_problem()
    largest = lam_max(x, D)
    with pytest.warns(UserWarning, match=rf"λ_max = {largest:.4g}; use a smaller lam") as heard:
        assert not solve(x, D, 1.5 * largest).codes.any()
    assert heard[0].filename == __file__  # it points at the call
    solve(x, D, 0.9 * largest)  # and the others are silent
    solve(x, D, 0.1 * largest, max_iter=0)
    solve(0 * x, D, 0.1 * largest)


def test_a_solution_and_a_problem_print_short() -> None:
    x, D, lam = a_problem()
    found = fista(x, D, lam)
    assert repr(found).startswith("Solution(codes=1×4×14×14 torch.float64, objective=")
    assert "converged" in repr(found)
    assert math.isfinite(float(found.relative_gap))
