import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from csc import (
    dct_dictionary,
    duality_gap,
    ista,
    lam_max,
    objective,
    random_dictionary,
    synthesis,
    unit_norm,
)
from csc.analysis import coherence, convergence, cross_coherence, sparsity, usage
from tests.laws import close, dense
from tests.strategies import Problem, problems

# Some of the drawn problems have λ ≥ λ_max where z ≥ 0.
pytestmark = pytest.mark.filterwarnings("ignore:all codes are zero")

codes = hnp.arrays(
    "float64",
    hnp.array_shapes(min_dims=4, max_dims=4, max_side=4),
    elements=st.sampled_from([0.0, 0.0, 0.5, -1.0, 3.0]),
).map(torch.from_numpy)


def test_sparsity_by_hand() -> None:
    """Image 1: one code of eight. Image 2: 3, 4 on the same map. Image 3: none."""
    z = torch.zeros(3, 2, 2, 2)
    z[0, 1, 0, 1] = -7
    z[1, 0, 0, 0], z[1, 0, 1, 1] = 3, 4
    s = sparsity(z)
    assert s.nonzero.tolist() == [0.125, 0.25, 0]
    assert s.per_position.tolist() == [0.25, 0.5, 0]
    r8 = math.sqrt(8)
    assert s.hoyer.tolist() == pytest.approx([1, (r8 - 7 / 5) / (r8 - 1), 1])
    assert s.hoyer.dtype == torch.float64


@given(codes, st.floats(0.1, 10))
def test_sparsity_is_scale_free_and_bounded(z: torch.Tensor, t: float) -> None:
    s, scaled = sparsity(z), sparsity(-t * z)
    for a, b in zip(s, scaled, strict=True):
        close(a, b, 1e-12)
    assert bool((s.hoyer <= 1 + 1e-12).all())
    assert bool((s.hoyer >= -1e-12).all())
    close(s.per_position, s.nonzero * z.shape[1], 1e-12)


def test_hoyer_of_equal_magnitudes_is_zero() -> None:
    z = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1).double()
    assert sparsity(z).hoyer.item() == pytest.approx(0, abs=1e-15)


def test_usage_by_hand() -> None:
    """Atom 0: |z| sums to 6 of 8, at 2 of 4 positions; atom 1: 2, at 1; atom 2 is dead."""
    z = torch.tensor([[1.0, -5.0], [0.0, 2.0], [0.0, 0.0]]).view(1, 3, 1, 2)
    u = usage([z, torch.zeros(1, 3, 2, 1)])
    assert u.on.tolist() == [0.5, 0.25, 0]
    assert u.weight.tolist() == [0.75, 0.25, 0]
    assert u.energy.tolist() == pytest.approx([26 / 30, 4 / 30, 0])
    assert u.dead == [2]
    assert u.order == [0, 1, 2]
    assert u.entropy == pytest.approx(0.75 * math.log2(4 / 3) + 0.5)
    assert u.effective == pytest.approx(2**u.entropy)


@given(st.integers(1, 9), st.integers(1, 3))
def test_equal_use_has_all_atoms_effective(M: int, B: int) -> None:
    u = usage(torch.ones(B, M, 2, 3))
    assert u.entropy == pytest.approx(math.log2(M), abs=1e-12)
    assert u.effective == pytest.approx(M)
    assert u.dead == []


def test_usage_of_zero_codes() -> None:
    u = usage(torch.zeros(1, 3, 2, 2))
    assert (u.entropy, u.effective, u.dead) == (0, 0, [0, 1, 2])


@given(codes)
def test_usage_of_parts_is_that_of_the_whole(z: torch.Tensor) -> None:
    for a, b in zip(usage(z), usage(one[None] for one in z), strict=True):
        close(a, b, 1e-12)


def test_coherence_by_hand() -> None:
    """d_1 = 3 4 and d_2 = 0 1 side by side: at no shift 4/5; d_2 moved onto the 3, 3/5."""
    D = torch.tensor([[[3.0, 4.0], [0.0, 0.0]], [[0.0, 1.0], [0.0, 0.0]]])[:, None].double()
    close(
        cross_coherence(D), torch.tensor([[12 / 25, 0.8], [0.8, 0.0]], dtype=torch.float64), 1e-12
    )
    assert coherence(D) == pytest.approx(0.8)
    assert coherence(-7 * D) == pytest.approx(0.8)


@given(problems())
def test_coherence_is_that_of_the_dense_matrix(p: Problem) -> None:
    """On codes of (2kh−1)×(2kw−1) positions every shift occurs at the centre."""
    kh, kw = p.D.shape[2:]
    A = dense(unit_norm(p.D), (3 * kh - 2, 3 * kw - 2))
    G = abs(A.T @ A)
    G[range(len(G)), range(len(G))] = 0
    assert coherence(p.D) == pytest.approx(G.max(), abs=1e-12)


def test_orthonormal_cosines_are_still_coherent_by_shifts() -> None:
    assert 0.5 < coherence(dct_dictionary(4)) < 1


def test_convergence_by_hand() -> None:
    walk = ([0.0, 0.0], [3.0, 0.0], [3.0, 4.0], [0.0, 4.0], [0.0, 5.0])
    z = [torch.tensor(v).view(1, 2, 1, 1) for v in walk]
    c = convergence(z)
    assert c.change == [3, 4, 3, 1]
    assert c.relative == pytest.approx([1, 0.8, 0.75, 0.2])
    assert c.switched == [1, 1, 1, 0]
    assert c.nonzero == [0, 0.5, 1, 0.5, 0.5]
    assert c.objective == []
    assert convergence([z[1], z[0]]).relative == [math.inf]
    assert convergence([-z[1], -z[2], z[2]]).switched == [1, 0]  # signs do not matter


@given(problems(), st.booleans())
def test_convergence_certifies_each_iterate(p: Problem, nonneg: bool) -> None:
    steps: list[torch.Tensor] = []
    ista(p.x, p.D, p.lam, nonneg=nonneg, max_iter=4, tol=0.0, on_step=lambda k, z: steps.append(z))
    c = convergence(iter(steps), x=p.x, D=p.D, lam=p.lam, nonneg=nonneg)
    P = [float(objective(p.x, p.D, z, p.lam, nonneg=nonneg).sum()) for z in steps]
    gap = [float(duality_gap(p.x, p.D, z, p.lam, nonneg=nonneg).sum()) for z in steps]
    assert c.objective == pytest.approx(P, rel=1e-12)
    assert c.gap == pytest.approx(gap, rel=1e-9, abs=1e-12)
    assert len(c.change) == len(steps) - 1


def test_coherence_guarantee_holds(seeded: torch.Generator) -> None:
    """The theorem the docstring cites: few enough atoms, and ISTA finds the very support."""
    D = random_dictionary(2, 1, 5, generator=seeded, dtype=torch.float64)
    z = torch.zeros(1, 2, 9, 9, dtype=torch.float64)
    z[0, 1, 4, 4] = 1
    assert 1 < (1 + 1 / coherence(D)) / 2
    x = synthesis(z, D)
    found = ista(x, D, 0.5 * lam_max(x, D), max_iter=500, tol=1e-9).codes
    assert torch.equal(found != 0, z != 0)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: sparsity(torch.full((1, 1, 1, 1), math.nan)), "NaN"),
        (lambda: sparsity(torch.zeros(2, 2)), r"\(B, C, H, W\)"),
        (lambda: usage([]), "no codes were given"),
        (lambda: usage([torch.ones(1, 2, 1, 1), torch.ones(1, 3, 1, 1)]), "2 and of 3 atoms"),
        (lambda: coherence(torch.zeros(1, 1, 2, 2)), r"atoms \[0\] are zero"),
        (lambda: convergence([], x=torch.ones(1, 1, 1, 1)), "give all or none"),
        (
            lambda: convergence([torch.ones(1, 2, 1, 1), torch.ones(1, 1, 1, 1)]),
            "must keep their shape",
        ),
    ],
)
def test_bad_input_is_named(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
