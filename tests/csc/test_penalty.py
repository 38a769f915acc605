"""The penalties beside ℓ1: the elastic net, and joint sparsity of groups of atoms."""

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.linear_model import MultiTaskLasso
from torch import Tensor
from torch.nn import functional as F

from csc import (
    Status,
    admm,
    coordinate_descent,
    dual_point,
    duality_gap,
    fista,
    ista,
    lam_max,
    lipschitz,
    objective,
    per_channel,
    random_dictionary,
)
from csc.penalty import check_penalty
from csc.recursion.ridge import RidgeBlock
from tests.laws import close, dense, lasso
from tests.strategies import Penalties, Problem, penalised, penalties, problems

pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")
Drawn = tuple[Problem, Penalties]


def omega(z: np.ndarray, lam: float, kind: Penalties) -> float:
    """Ω of codes (M, h, w), by its formula."""
    groups = range(len(z)) if kind.groups is None else kind.groups.tolist()
    norms = [np.sqrt((z[[n == m for n in groups]] ** 2).sum(0)).sum() for m in set(groups)]
    return lam * sum(norms) + 0.5 * kind.ridge * (z**2).sum()


def best_codes(p: Problem, kind: Penalties, b: int = 0) -> np.ndarray:
    """The minimiser for image b, by accelerated proximal gradients on the dense matrix."""
    A, y = dense(p.D, p.size), p.x[b].flatten().numpy()
    shape = p.code_shape[1:]
    groups = np.arange(shape[0]) if kind.groups is None else kind.groups.numpy()
    L = np.linalg.norm(A, 2) ** 2
    z = before = np.zeros(A.shape[1])
    t = 1.0
    for _ in range(2000):
        following = (1 + math.sqrt(1 + 4 * t * t)) / 2
        point = z + (t - 1) / following * (z - before)
        a = (point - A.T @ (A @ point - y) / L).reshape(shape)
        a = np.maximum(a, 0) if kind.nonneg else a
        new = np.zeros_like(a)
        for g in set(groups.tolist()):
            norm = np.sqrt((a[groups == g] ** 2).sum(0))
            kept = np.maximum(norm - p.lam / L, 0) / np.where(norm > 0, norm, 1)
            new[groups == g] = kept * a[groups == g] / (1 + kind.ridge / L)
        before, z = z, new.ravel()
        t = 1.0 if (point - z) @ (z - before) > 0 else following
        if np.abs(z - before).max() <= 1e-15:
            break
    return z


def value(p: Problem, kind: Penalties, z: np.ndarray, b: int = 0) -> float:
    """P of image b from the dense matrix."""
    r = p.x[b].flatten().numpy() - dense(p.D, p.size) @ z.ravel()
    return float(0.5 * r @ r + omega(z.reshape(p.code_shape[1:]), p.lam, kind))


@given(penalised())
def test_objective_is_its_formula(drawn: Drawn) -> None:
    p, kind = drawn
    z = p.draw_codes().abs()
    found = objective(p.x, p.D, z, p.lam, **kind.options)
    for b in range(len(z)):
        assert float(found[b]) == pytest.approx(value(p, kind, z[b].numpy(), b), rel=1e-12)
    if kind.nonneg:
        z[0, 0, 0, 0] = -1e-9
        assert objective(p.x, p.D, z, p.lam, **kind.options)[0] == torch.inf


@given(penalties(3), st.integers(0, 2**16), st.floats(0.1, 3), st.floats(0.1, 10))
def test_prox_is_the_minimiser(kind: Penalties, seed: int, lam: float, L: float) -> None:
    """½‖v − a‖² + Ω(v)/L exceeds its minimum by ½‖v − prox‖² or more, for any v."""
    g = torch.Generator().manual_seed(seed)
    a = 2 * torch.randn(1, 3, 2, 2, generator=g, dtype=torch.float64)
    penalty = check_penalty(lam, (1, 3, 2, 2), a, **kind.options)
    z = penalty.prox(a, penalty.lam / L, L)

    def cost(v: Tensor) -> float:
        return float(0.5 * (v - a).square().sum()) + omega(v[0].numpy(), lam, kind) / L

    for size in (1e-3, 0.1, 1.0):
        v = z + size * torch.randn(a.shape, generator=g, dtype=torch.float64)
        v = v.clamp(min=0) if kind.nonneg else v
        assert cost(v) >= cost(z) + 0.5 * float((v - z).square().sum()) - 1e-12
    assert not kind.nonneg or (z >= 0).all()


@given(penalties(3), st.integers(0, 2**16), st.floats(0.1, 3))
def test_conjugate_is_the_largest_of_its_definition(kind: Penalties, seed: int, lam: float) -> None:
    """Ω*(w) = max ⟨z, w⟩ − Ω(z): no z exceeds it, and z = h(w)/μ reaches it; so its slope."""
    g = torch.Generator().manual_seed(seed)
    w = 3 * torch.randn(1, 3, 2, 2, generator=g, dtype=torch.float64)
    kind = kind._replace(ridge=kind.ridge or 0.5)
    penalty = check_penalty(lam, w.shape, w, **kind.options)
    size, weight = penalty.sizes(w)
    one = torch.ones(1, dtype=torch.float64)
    found, slope, _ = penalty.conjugate(one, size, weight)
    best = penalty._replace(ridge=0.0).prox(w, penalty.lam, 1.0) / kind.ridge
    reached = float((best * w).sum()) - omega(best[0].numpy(), lam, kind)
    assert float(found) == pytest.approx(reached, rel=1e-10, abs=1e-12)
    other = best + torch.randn(w.shape, generator=g, dtype=torch.float64)
    other = other.clamp(min=0) if kind.nonneg else other
    assert float((other * w).sum()) - omega(other[0].numpy(), lam, kind) <= float(found) + 1e-12
    near = [float(penalty.conjugate(one + e, size, weight)[0]) for e in (-1e-6, 1e-6)]
    assert float(slope) == pytest.approx((near[1] - near[0]) / 2e-6, rel=1e-4, abs=1e-6)


@given(penalised(batch=1, slack=4), st.integers(0, 60), st.booleans())
@settings(max_examples=20)
def test_the_gap_bounds_the_true_error(drawn: Drawn, steps: int, single: bool) -> None:
    """P(z) − P* ≤ gap wherever FISTA stops, in float32 and float64; P* from the dense matrix."""
    p, kind = drawn
    dtype = torch.float32 if single else torch.float64
    x, D, lam = p.x.to(dtype), p.D.to(dtype), float(torch.tensor(p.lam, dtype=dtype))
    p = Problem(x.double(), D.double(), lam)
    found = fista(x, D, lam, max_iter=steps, tol=0.0, **kind.options)
    exact = value(p, kind, best_codes(p, kind))
    P = value(p, kind, found.codes[0].double().numpy())
    assert float(found.objective) == pytest.approx(P, rel=1e-10)
    assert P - exact <= float(found.gap) + 1e-9 * exact
    close(duality_gap(x, D, found.codes, lam, **kind.options), found.gap, 1e-12)


@pytest.mark.parametrize("solve", [ista, fista])
@given(penalised(batch=1, weight=(0.3, 0.9), slack=4))
@settings(max_examples=15)
def test_solvers_find_the_optimum_of_the_dense_matrix(solve, drawn: Drawn) -> None:
    """... and prove it to 1e-6; the certificate is tight at the optimum."""
    p, kind = drawn
    found = solve(p.x, p.D, p.lam, tol=1e-6, max_iter=40_000, **kind.options)
    assert found.converged, found.relative_gap
    exact = value(p, kind, best_codes(p, kind))
    assert float(found.objective) == pytest.approx(exact, rel=2e-6)


@pytest.mark.parametrize("solve", [ista, fista, coordinate_descent])
@given(p=problems(batch=1, weight=(0.3, 0.9), slack=4), nonneg=st.booleans(), masked=st.booleans())
@settings(max_examples=12)
def test_the_elastic_net_is_scikit_learns_lasso(
    solve, p: Problem, nonneg: bool, masked: bool
) -> None:
    """½‖x − D z‖² + ½μ‖z‖² is the squared error of the matrix [D; √μ I] and the image [x; 0]."""
    mask = torch.rand(1, 1, *p.size, generator=torch.Generator().manual_seed(0)) < 0.8
    mask[..., 0, 0] = True
    mask = mask if masked else torch.ones_like(mask)
    kept = mask.expand_as(p.x).flatten().numpy()
    A = dense(p.D, p.size)[kept]
    for mu in (1e-3, 0.7):
        tall = np.vstack([A, math.sqrt(mu) * np.eye(A.shape[1])])
        y = np.append(p.x.flatten().numpy()[kept], np.zeros(A.shape[1]))
        options = {"nonneg": nonneg, "mask": mask, "ridge": mu}
        found = solve(p.x, p.D, p.lam, tol=1e-7, max_iter=40_000, **options)
        assert found.converged, found.relative_gap
        best = lasso(tall, y, p.lam, nonneg=nonneg)
        assert float(found.objective) == pytest.approx(best, rel=1e-6)


def test_joint_sparsity_over_channels_is_the_multi_task_lasso(seeded: torch.Generator) -> None:
    """Each channel has its codes, and atoms are on or off in all channels together."""
    C = 3
    D = random_dictionary(2, 1, (2, 3), generator=seeded, dtype=torch.float64)
    x = torch.randn(1, C, 7, 8, generator=seeded, dtype=torch.float64)
    atoms = per_channel(D, C)
    groups = torch.arange(2).repeat_interleave(C)
    lam = 0.3 * lam_max(x, atoms, groups=groups)
    A, Y = dense(D, (7, 8)), x[0].flatten(1).numpy().T  # (H·W, M·h·w) and (H·W, C)
    model = MultiTaskLasso(alpha=lam / len(Y), fit_intercept=False, tol=1e-12, max_iter=100_000)
    W = model.fit(A, Y).coef_.T  # (M·h·w, C)
    best = 0.5 * ((Y - A @ W) ** 2).sum() + lam * np.sqrt((W**2).sum(1)).sum()
    for solve in (ista, fista):
        found = solve(x, atoms, lam, groups=groups, tol=1e-8, max_iter=50_000)
        assert float(found.objective) == pytest.approx(best, rel=1e-7)
        on = (found.codes != 0).view(1, 2, C, 6, 6)
        assert torch.equal(on.any(2), on.all(2))
        assert 0 < on.double().mean() < 1


@given(penalised())
@settings(max_examples=15)
def test_ista_never_increases_the_objective(drawn: Drawn) -> None:
    p, kind = drawn
    values: list[Tensor] = []
    ista(
        p.x, p.D, p.lam, max_iter=25, tol=0.0, **kind.options,
        on_step=lambda k, z: values.append(objective(p.x, p.D, z, p.lam, **kind.options)),
    )  # fmt: skip
    for before, after in zip(values, values[1:], strict=False):
        assert (after <= before + 1e-12 * before.abs()).all()


@given(penalised())
def test_codes_vanish_exactly_at_lam_max_and_not_below(drawn: Drawn) -> None:
    p, kind = drawn
    largest = lam_max(p.x, p.D, nonneg=kind.nonneg, groups=kind.groups)
    assert not ista(p.x, p.D, largest * (1 + 1e-12), **kind.options).codes.any()
    if largest > 0:
        below = ista(p.x, p.D, 0.999 * largest, max_iter=1, tol=0.0, **kind.options)
        assert below.codes.any()


@given(penalised())
def test_groups_of_one_atom_are_the_l1_norm(drawn: Drawn) -> None:
    p, kind = drawn
    alone = torch.arange(len(p.D)).flip(0)  # the names of groups do not matter
    options = {"nonneg": kind.nonneg, "ridge": kind.ridge, "max_iter": 15, "tol": 0.0}
    a, b = (ista(p.x, p.D, p.lam, groups=groups, **options) for groups in (None, alone))
    close(a.codes, b.codes, 1e-12)
    close(a.gap, b.gap, 1e-11)


@given(penalised())
def test_the_dual_point_is_feasible_and_bounds_the_optimum(drawn: Drawn) -> None:
    """Δ(ν) = ½‖x‖² − ½‖x − ν‖² − Ω*(Dᵀν) by its formula, at zero codes and others."""
    p, kind = drawn
    for z in (torch.zeros(p.code_shape, dtype=torch.float64), p.draw_codes().abs()):
        nu = dual_point(p.x, p.D, z, p.lam, **kind.options)
        w = F.conv2d(nu, p.D)
        w = w.clamp(min=0) if kind.nonneg else w.abs()
        groups = torch.arange(len(p.D)) if kind.groups is None else kind.groups
        sizes = torch.stack([w[:, groups == g].norm(dim=1) for g in groups.unique()], 1)
        excess = (sizes - p.lam).clamp(min=0)
        delta = 0.5 * (p.x.square() - (p.x - nu).square()).sum((1, 2, 3))
        if kind.ridge:
            delta -= 0.5 * excess.square().sum((1, 2, 3)) / kind.ridge
        else:
            assert float(excess.max()) <= 1e-12 * p.lam
        P = objective(p.x, p.D, z, p.lam, **kind.options)
        close(P - delta, duality_gap(p.x, p.D, z, p.lam, **kind.options), 1e-9)


@settings(max_examples=10)
@given(st.integers(0, 2**16), st.sampled_from([0.3, 1.0, 4.0]), st.sampled_from([0.0, 0.2]))
def test_the_ridge_block_is_an_elastic_net(seed: int, bound: float, lam: float) -> None:
    """Its minimiser is that of FISTA: with W = D directly, with any W by [D; aδ], a² = 1 − μ."""
    g = torch.Generator().manual_seed(seed)
    D, W = (torch.randn(4, c, 3, 3, generator=g, dtype=torch.float64) for c in (2, 2))
    weights = torch.full((4,), lam, dtype=torch.float64)
    y = torch.randn(2, 2, 5, 6, generator=g, dtype=torch.float64)
    options = {"nonneg": True, "tol": 1e-12, "max_iter": 20_000}

    tied = RidgeBlock(D, W, weights, 400, bound=bound)
    tied.W.data.copy_(tied.D)
    atoms = tied.D.detach()
    found = fista(F.pad(y, [1] * 4), atoms, weights, ridge=1.0, **options)
    assert found.status == (Status.CONVERGED,) * 2
    close(found.codes, tied(y).detach(), 1e-5)
    energy = tied.certify(y, found.codes).objective + 0.5 * y.square().sum((1, 2, 3))
    close(energy, found.objective, 1e-10)

    free = RidgeBlock(D, W, weights, 400, bound=bound)
    x, atoms, _ = free.as_problem(y)
    a = math.sqrt(0.4)
    scale = torch.tensor([1.0] * 2 + [a] * 4, dtype=torch.float64)[:, None, None]
    found = fista(x / scale, atoms * scale, weights, ridge=0.6, **options)
    close(found.codes, free(y).detach(), 1e-5)


def test_a_ridge_certifies_without_a_weight() -> None:
    """λ = 0 is ridge regression, (DᵀD + μI) z = Dᵀx; the gap bounds ‖z − z*‖ too."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(1, 1, 5, 6, generator=g, dtype=torch.float64)
    D = random_dictionary(3, 1, 3, generator=g, dtype=torch.float64)
    A = dense(D, (5, 6))
    best = np.linalg.solve(A.T @ A + 0.5 * np.eye(A.shape[1]), A.T @ x.flatten().numpy())
    for solve in (ista, fista, coordinate_descent):
        found = solve(x, D, 0.0, ridge=0.5, tol=1e-8, max_iter=20_000)
        assert found.converged
        distance = float((found.codes.flatten() - torch.from_numpy(best)).norm())
        assert distance <= math.sqrt(2 * float(found.gap) / 0.5)


def test_large_problems_with_a_ridge(seeded: torch.Generator) -> None:
    """A size for which plain problems are compiled, and a batch with weights per code."""
    x = torch.rand(2, 1, 64, 64, generator=seeded)
    D = random_dictionary(20, 1, 5, generator=seeded)
    lam = 0.1 * lam_max(x, D) * (0.5 + torch.rand(2, 20, 60, 60, generator=seeded))
    a, b = (solve(x, D, lam, ridge=0.1) for solve in (fista, coordinate_descent))
    assert a.converged
    assert b.converged
    torch.testing.assert_close(a.objective, b.objective, rtol=1e-4, atol=0)


@pytest.mark.parametrize(
    ("options", "error", "says"),
    [
        ({"ridge": -1.0}, ValueError, "ridge must be finite and ≥ 0"),
        ({"ridge": float("nan")}, ValueError, "ridge must be finite"),
        ({"groups": torch.zeros(3, dtype=torch.int64)}, ValueError, r"shape \(2,\); got \(3,\)"),
        ({"groups": torch.zeros(2)}, TypeError, "integer torch.Tensor"),
        ({"groups": [0, 0]}, TypeError, "integer torch.Tensor"),
        (
            {"groups": torch.zeros(2, dtype=torch.int64), "lam": torch.tensor([0.1, 0.2])},
            ValueError,
            "lam differs between the atoms of a group",
        ),
    ],
)
def test_bad_penalties_are_named(options: dict, error: type[Exception], says: str) -> None:
    x, D = torch.ones(1, 1, 5, 5), torch.ones(2, 1, 2, 2)
    for solve in (ista, fista):
        with pytest.raises(error, match=says):
            solve(x, D, **{"lam": 0.1, **options})


def test_a_solver_without_a_penalty_says_so() -> None:
    x, D, groups = torch.ones(1, 1, 5, 5), torch.ones(2, 1, 2, 2), torch.zeros(2, dtype=torch.int64)
    with pytest.raises(ValueError, match="admm has no penalty ridge=; use csc.fista or csc.ista"):
        admm(x, D, 0.1, ridge=0.1)
    for solve in (admm, coordinate_descent):
        with pytest.raises(ValueError, match=f"{solve.__name__} has no penalty groups="):
            solve(x, D, 0.1, groups=groups)


def test_per_channel_codes_each_channel_by_itself(seeded: torch.Generator) -> None:
    D = random_dictionary(2, 1, (2, 3), generator=seeded)
    atoms = per_channel(D, 3)
    assert atoms.shape == (6, 3, 2, 3)
    z = torch.randn(1, 6, 4, 5, generator=seeded)
    together = F.conv_transpose2d(z, atoms)
    for c in range(3):
        close(together[:, c : c + 1], F.conv_transpose2d(z[:, c::3], D), 1e-6)
    with pytest.raises(ValueError, match="one channel"):
        per_channel(atoms, 3)
    assert lipschitz(atoms, (8, 8)) == pytest.approx(lipschitz(D, (8, 8)))
