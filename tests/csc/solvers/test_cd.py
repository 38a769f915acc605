"""What is coordinate descent's own; the laws shared with the other solvers are in test_ista.py."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from csc import coordinate_descent, fista, lam_max, objective, random_dictionary
from csc.conv import adjoint, synthesis
from csc.problem import pose
from csc.solvers.active_set import ActiveSet
from tests.laws import close, lasso_objective
from tests.strategies import Problem, problems

nonnegs = st.booleans()
# Drawn weights may reach λ_max.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")


def photo_like(
    H: int, W: int, C: int = 1, dtype: torch.dtype = torch.float64, k: int = 5
) -> Tensor:
    """Sparse codes of oriented atoms, and noise: large enough for threads and many rounds."""
    g = torch.Generator().manual_seed(5)
    D = random_dictionary(12, C, k, generator=g, dtype=torch.float64)
    z = torch.randn(1, 12, H - k + 1, W - k + 1, generator=g, dtype=torch.float64)
    z *= torch.rand(z.shape, generator=g, dtype=torch.float64) < 0.02
    x = synthesis(z, D)
    return (x + 0.05 * torch.randn(x.shape, generator=g, dtype=torch.float64)).to(dtype)


def atoms(C: int = 1, dtype: torch.dtype = torch.float64, M: int = 12, k: int = 5) -> Tensor:
    g = torch.Generator().manual_seed(6)
    return random_dictionary(M, C, k, generator=g, dtype=torch.float64).to(dtype)


@given(problems(batch=1, weight=(0.05, 0.9), slack=8), nonnegs)
def test_objective_is_scikit_learns_to_1e_8(p: Problem, nonneg: bool) -> None:
    found = coordinate_descent(p.x, p.D, p.lam, nonneg=nonneg, tol=1e-9)
    assert found.converged
    expected = lasso_objective(p.x, p.D, p.lam, nonneg=nonneg)
    assert float(found.objective) == pytest.approx(expected, rel=1e-8)


@given(problems(weight=(0.05, 0.9)), nonnegs, st.integers(0, 60))
def test_the_gap_bounds_the_error_wherever_it_stops(p: Problem, nonneg: bool, epochs: int) -> None:
    """P(z) − P* ≤ gap after any number of epochs, P* from FISTA certified to 1e-9."""
    s = coordinate_descent(p.x, p.D, p.lam, nonneg=nonneg, tol=0.0, max_iter=epochs)
    best = fista(p.x, p.D, p.lam, nonneg=nonneg, tol=1e-9, max_iter=20_000)
    slack = 1e-11 * best.objective
    assert s.iterations == epochs or (s.gap <= 0).all()
    assert (s.objective - best.objective <= s.gap + slack).all()
    assert (s.gap >= -slack).all()


@given(
    st.integers(1, 20),
    # A kind compiles for two seconds.
    st.sampled_from([(1, 1, 4), (1, 3, 3), (1, 7, 7), (2, 3, 2), (3, 2, 2)]),
    st.integers(0, 40),
)
def test_dense_pass_is_the_adjoint(M: int, kind: tuple[int, int, int], slack: int) -> None:
    """Any number of atoms and columns: groups and lanes need not divide them."""
    C, kh, kw = kind
    g = torch.Generator().manual_seed(M + 50 * C + 500 * kw + 5000 * slack)
    x = torch.randn(1, C, kh + 2, kw + slack, generator=g, dtype=torch.float64)
    D = torch.randn(M, C, kh, kw, generator=g, dtype=torch.float64)
    correlation = adjoint(x, D)
    level = 0.5 + torch.rand(correlation.shape, generator=g, dtype=torch.float64)
    for nonneg in (False, True):
        size = correlation if nonneg else correlation.abs()
        for lam in (0.7, level.amax((0, 2, 3)), level):
            p = pose(x, D, lam, nonneg=nonneg)
            active = ActiveSet(p, None, threads=2)
            added, overshoot = active.dense_pass(math.inf)
            assert added == 0
            assert overshoot == pytest.approx(float((size / p.lam).max().clamp(min=0)), rel=1e-12)
            stage = overshoot / 2
            while active.dense_pass(stage)[0]:  # a few at a time, until all are in
                pass
            found = {
                tuple(c)
                for c in zip(
                    active.active.atoms, active.active.rows, active.active.columns, strict=True
                )
            }
            expected = (size[0] > stage * p.lam[0]).nonzero()
            assert found == {tuple(c.tolist()) for c in expected}
            assert (active.active.rows[1:] >= active.active.rows[:-1]).all()


@pytest.mark.parametrize("threads", [1, 2, 3, 8])
@pytest.mark.parametrize(("C", "k"), [(1, 5), (3, 2)])
def test_threads_change_rounding_only(threads: int, C: int, k: int, monkeypatch) -> None:
    monkeypatch.setattr("csc.solvers.active_set.PARALLEL_FROM", 1)
    x, D = photo_like(44, 31, C, k=k), atoms(C, k=k)
    lam = 0.05 * lam_max(x, D)
    stripes: list[int] = []
    original = ActiveSet._split

    def spy(self, epochs):  # noqa: ANN001, ANN202
        found = original(self, epochs)
        stripes.append(len(found[0]))
        return found

    monkeypatch.setattr(ActiveSet, "_split", spy)
    runs = [coordinate_descent(x, D, lam, tol=1e-9, threads=threads) for _ in range(2)]
    assert min(threads, 2) <= max(stripes) <= threads
    assert torch.equal(runs[0].codes, runs[1].codes)  # from run to run: the same bits
    one = coordinate_descent(x, D, lam, tol=1e-9, threads=1)
    assert runs[0].converged
    close(runs[0].objective, one.objective, 2e-9)


def test_threads_cost_few_epochs(monkeypatch) -> None:
    """Codes near a seam settle about as fast as the others."""
    monkeypatch.setattr("csc.solvers.active_set.PARALLEL_FROM", 1)
    x, D = photo_like(64, 40), atoms()
    lam = 0.05 * lam_max(x, D)
    one, two = (coordinate_descent(x, D, lam, threads=threads).iterations for threads in (1, 2))
    assert two <= 1.3 * one


def test_stripes_and_seams_share_no_pixel(monkeypatch) -> None:
    monkeypatch.setattr("csc.solvers.active_set.PARALLEL_FROM", 1)
    x, D = photo_like(80, 40), atoms()
    active = ActiveSet(pose(x, D, 0.2 * lam_max(x, D)), None, threads=5)
    active.dense_pass(1.0)
    stripes, seams = active._split(1)
    assert len(stripes) > 2
    assert sorted(stripes + seams) == sorted(stripes + seams, key=lambda s: s[1])
    assert sum(b - a for a, b in stripes + seams) == len(active.active.rows)
    for spans in (stripes, seams):
        touched = [
            {r + i for r in active.active.rows[a:b].tolist() for i in range(5)}
            for a, b in spans
            if b > a
        ]
        for i, rows in enumerate(touched):
            assert all(rows.isdisjoint(other) for other in touched[:i])


@pytest.mark.parametrize("nonneg", [False, True])
def test_it_agrees_with_fista_on_a_larger_image(nonneg: bool) -> None:
    x, D = photo_like(64, 64), atoms()
    lam = 0.1 * lam_max(x, D)
    a = coordinate_descent(x, D, lam, nonneg=nonneg, tol=1e-8)
    b = fista(x, D, lam, nonneg=nonneg, tol=1e-6, max_iter=20_000)
    assert a.converged
    assert b.converged
    assert 0 <= float(b.objective - a.objective) <= 1e-6 * float(a.objective)
    assert 0 < (a.codes != 0).double().mean() < 0.2


def test_float32_certifies_to_1e_5() -> None:
    x, D = photo_like(64, 64, dtype=torch.float32), atoms(dtype=torch.float32)
    lam = 0.1 * lam_max(x, D)
    s = coordinate_descent(x, D, lam, tol=1e-5)
    assert s.converged
    assert s.codes.dtype == torch.float32
    exact = coordinate_descent(x.double(), D.double(), lam, tol=1e-9)
    error = objective(x.double(), D.double(), s.codes.double(), lam) - exact.objective
    assert float(error) <= 1e-5 * float(exact.objective)


def test_no_weight_is_least_squares() -> None:
    """λ = 0: the stages end, and more atoms than pixels reproduce the image."""
    x, D = photo_like(12, 12), atoms()
    s = coordinate_descent(x, D, 0.0, max_iter=3000)
    assert float(s.objective) < 1e-3 * float(0.5 * x.square().sum())


def test_on_step_hears_rising_epochs_and_falling_objectives() -> None:
    x, D = photo_like(40, 40), atoms()
    lam = 0.1 * lam_max(x, D)
    heard: list[tuple[int, float]] = []
    s = coordinate_descent(
        x, D, lam, tol=1e-7, on_step=lambda k, z: heard.append((k, float(objective(x, D, z, lam))))
    )
    epochs, values = zip(*heard, strict=True)
    assert epochs[0] == 0
    assert list(epochs) == sorted(set(epochs))
    assert epochs[-1] == s.iterations
    assert values[-1] == pytest.approx(float(s.objective), rel=1e-12)
    assert values[-1] < values[0]


@pytest.mark.parametrize("started", [False, True])
def test_on_step_hears_the_whole_batch(started: bool) -> None:
    """Images before this one are solved; those after it are where they start."""
    x, D = photo_like(16, 16), atoms()
    x = torch.cat([x[..., :12, :12], x[..., 4:, 4:], x[..., :12, 4:]])
    lam = 0.2 * lam_max(x, D)
    start = fista(x, D, lam, max_iter=1, tol=0.0).codes if started else None
    heard: list[Tensor] = []
    s = coordinate_descent(x, D, lam, start=start, on_step=lambda _, z: heard.append(z))
    first = torch.zeros_like(s.codes) if start is None else start
    assert torch.equal(heard[0], first)
    solved = [[torch.equal(z[b], s.codes[b]) for z in heard].index(True) for b in range(3)]
    assert solved == sorted(solved)
    for b in range(1, 3):
        assert all(torch.equal(z[b], first[b]) for z in heard[: solved[b - 1]])
        assert all(torch.equal(z[b - 1], s.codes[b - 1]) for z in heard[solved[b - 1] :])


def test_equal_atoms_of_opposite_signs() -> None:
    """Between them nothing is to gain, and conjugate gradients must not divide by that."""
    x, D = torch.full((1, 1, 1, 1), 0.25), torch.ones(2, 1, 1, 1)
    start = torch.tensor([64.0, -64.0]).view(1, 2, 1, 1)
    found = coordinate_descent(x, D, 0.25, start=start, tol=0.0, max_iter=400)
    assert not found.codes.any()


def test_conjugate_gradients_keep_signs_and_never_raise_the_objective() -> None:
    x, D = photo_like(40, 40), atoms()
    for factor in (0.02, 0.1):
        active = ActiveSet(pose(x, D, factor * lam_max(x, D)), None, threads=1)
        lowered = False
        for _ in range(6):
            active.dense_pass(1.0)
            active.sweep(1.0, 2)
            active.refresh()
            before, objective_before = active.active.values.copy(), active.objective()
            active.polish(5)
            after = active.active.values
            assert active.objective() <= objective_before
            assert ((after == 0) | (np.sign(after) == np.sign(before))).all()
            lowered |= active.objective() < objective_before * (1 - 1e-6)
        assert lowered


def test_the_projected_residual_saves_epochs() -> None:
    """On this problem and one thread 378 epochs; without the projection 538."""
    x, D = photo_like(40, 40), atoms()
    found = coordinate_descent(x, D, 0.05 * lam_max(x, D), tol=1e-4, threads=1)
    assert found.converged
    assert found.iterations <= 450


def test_dense_codes_are_made_once(monkeypatch) -> None:
    """A check takes the list of coordinates; only the solution needs all codes."""
    made, codes = [], ActiveSet.codes

    def counted(active: ActiveSet) -> Tensor:
        made.append(1)
        return codes(active)

    monkeypatch.setattr(ActiveSet, "codes", counted)
    x, D = photo_like(40, 40), atoms()
    assert coordinate_descent(x, D, 0.05 * lam_max(x, D), tol=1e-6).converged
    assert len(made) == 1


def test_bad_input_is_named() -> None:
    x, D = photo_like(12, 12), atoms()
    with pytest.raises(TypeError, match=r"threads must be an integer, got 1\.5"):
        coordinate_descent(x, D, 0.1, threads=1.5)
    with pytest.raises(ValueError, match="threads must be ≥ 1, got 0"):
        coordinate_descent(x, D, 0.1, threads=0)
    with pytest.raises(TypeError, match="float32 or float64, got torch.bfloat16"):
        coordinate_descent(x.bfloat16(), D.bfloat16(), 0.1)
