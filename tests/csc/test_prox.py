from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from csc import nonneg_soft_threshold, soft_threshold
from tests.laws import close

Prox = Callable[[Tensor, float | Tensor], Tensor]
both = pytest.mark.parametrize("prox", [soft_threshold, nonneg_soft_threshold])
seeds = st.integers(0, 2**16)
thetas = st.floats(0, 3)


def draw(seed: int, M: int = 3) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return 2 * torch.randn(2, M, 3, 4, generator=g, dtype=torch.float64)


@both
@given(seed=seeds, theta=thetas)
def test_prox_minimises_by_brute_force(prox: Prox, seed: int, theta: float) -> None:
    """No v on a fine grid has a lower ½(v − a)² + θ|v|."""
    a = draw(seed)
    v = torch.linspace(0 if prox is nonneg_soft_threshold else -10, 10, 2001, dtype=torch.float64)

    def cost(v: Tensor) -> Tensor:
        return 0.5 * (v - a[..., None]).square() + theta * v.abs()

    best_on_grid = cost(v).amin(-1)
    at_prox = cost(prox(a, theta)[..., None])[..., 0]
    assert (at_prox <= best_on_grid + 1e-12).all()
    assert (at_prox >= best_on_grid - 1e-4).all()  # the grid's resolution: ½·0.01²


@given(seed=seeds, theta=thetas)
def test_moreau_decomposition(seed: int, theta: float) -> None:
    """a = prox_f(a) + prox_f*(a): the conjugate's prox projects on {|u| ≤ θ} or {u ≤ θ}."""
    a = draw(seed)
    close(a, soft_threshold(a, theta) + a.clamp(-theta, theta), 1e-14)
    close(a, nonneg_soft_threshold(a, theta) + a.clamp(max=theta), 1e-14)


@both
@given(seed=seeds, other=seeds, theta=thetas)
def test_prox_is_firmly_nonexpansive(prox: Prox, seed: int, other: int, theta: float) -> None:
    a, b = draw(seed), draw(other)
    moved, d = prox(a, theta) - prox(b, theta), a - b
    assert float(moved.square().sum()) <= float((moved * d).sum()) + 1e-12


@both
@given(seed=seeds, theta=thetas)
def test_small_codes_become_exactly_zero(prox: Prox, seed: int, theta: float) -> None:
    a = draw(seed)
    zero = (a.abs() if prox is soft_threshold else a) <= theta
    assert torch.equal(prox(a, theta) == 0, zero)


@both
@given(seed=seeds, theta=st.lists(thetas, min_size=3, max_size=3))
def test_a_threshold_per_atom_acts_map_by_map(prox: Prox, seed: int, theta: list[float]) -> None:
    a = draw(seed)
    together = prox(a, torch.tensor(theta, dtype=torch.float64))
    for m, value in enumerate(theta):
        assert torch.equal(together[:, m : m + 1], prox(a[:, m : m + 1], value))


@both
@pytest.mark.parametrize("theta", [-1.0, float("nan"), float("inf"), torch.tensor([1.0, -1.0, 0])])
def test_bad_threshold_is_refused(prox: Prox, theta: float | Tensor) -> None:
    with pytest.raises(ValueError, match="theta must be finite and ≥ 0"):
        prox(draw(0), theta)


@both
def test_misshapen_threshold_is_refused(prox: Prox) -> None:
    with pytest.raises(ValueError, match=r"one value per atom, shape \(3,\)"):
        prox(draw(0), torch.ones(4))


def test_argument_is_left_alone() -> None:
    a = draw(0)
    before = a.clone()
    soft_threshold(a, 0.5)
    nonneg_soft_threshold(a, 0.0)
    assert torch.equal(a, before)
