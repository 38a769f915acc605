"""The batched lasso: optimal in every row, by scikit-learn and by the optimality conditions."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.decomposition import sparse_encode
from torch import Tensor
from torch.nn import functional as F

from baselines.sparse.lasso import _batched, lasso
from tests.laws import close


def problem(N: int, M: int, n: int, seed: int) -> tuple[Tensor, Tensor]:
    """Signals (N, n) and unit atoms (M, n)."""
    g = torch.Generator().manual_seed(seed)
    D = torch.randn(M, n, generator=g, dtype=torch.float64)
    y = torch.randn(N, n, generator=g, dtype=torch.float64)
    return y, D / D.norm(dim=1, keepdim=True)


problems = st.builds(
    problem, st.integers(1, 6), st.integers(1, 40), st.integers(4, 12), st.integers(0, 2**31)
)


@settings(max_examples=15)
@given(problems, st.floats(0.2, 1.0))
def test_codes_are_optimal(p: tuple[Tensor, Tensor], lam: float) -> None:
    """Dᵀ(y − D z) is λ sign(z) where z ≠ 0 and at most λ elsewhere, to the tolerance."""
    y, D = p
    z = lasso(y @ D.T, D @ D.T, lam, tol=1e-6, max_iter=10_000)
    g = (y - z @ D) @ D.T
    close(g[z != 0], lam * z[z != 0].sign(), 1.1e-6)
    assert bool((g.abs() <= lam + 1.1e-6).all())


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_agrees_with_scikit_learn(seed: int) -> None:
    y, D = problem(6, 15, 20, seed)  # fewer atoms than numbers: the codes are unique
    expected = sparse_encode(
        y.numpy(), D.numpy(), algorithm="lasso_cd", alpha=0.3, max_iter=100_000
    )
    z = lasso(y @ D.T, D @ D.T, 0.3, tol=1e-9)
    close(z, torch.from_numpy(np.asarray(expected)), 2e-3)  # scikit-learn's own tolerance


@settings(max_examples=8)
@given(problems)
def test_problems_do_not_know_each_other(p: tuple[Tensor, Tensor]) -> None:
    """A batch is its rows, one by one, though solved ones leave at different times."""
    y, D = p
    b, G = y @ D.T, D @ D.T
    together = lasso(b, G, 0.3, tol=1e-4)
    close(together, torch.cat([lasso(row[None], G, 0.3, tol=1e-4) for row in b]), 1e-9)


def test_every_step_lowers_the_objective() -> None:
    y, D = problem(5, 40, 10, 0)
    b, G = y @ D.T, D @ D.T

    def value(z: Tensor) -> Tensor:
        return (0.5 * (z @ G * z) - b * z + 0.1 * z.abs()).sum(1)

    values = [value(lasso(b, G, 0.1, tol=0, max_iter=n)) for n in range(30)]
    assert torch.equal(values[0], torch.zeros(5, dtype=torch.float64))
    assert all(bool((b <= a).all()) for a, b in zip(values, values[1:], strict=False))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("max_iter", [0, 5, 2000])
def test_compiled_codes_are_those_of_pytorch(
    dtype: torch.dtype, max_iter: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same steps: also where they stop early, and with more signals than threads."""
    y, D = problem(40, 70, 30, 2)
    b, G = (y @ D.T).to(dtype), (D @ D.T).to(dtype)
    padded = F.pad(b, (0, 26)), F.pad(G - torch.eye(70, dtype=dtype), (0, 26))
    expected = _batched(*padded, 0.3, 1e-2, max_iter)[:, :70]
    assert bool(expected.any()) == (max_iter > 0)
    monkeypatch.delattr("baselines.sparse.lasso._batched")  # a CPU takes the compiled kernel
    close(lasso(b, G, 0.3, tol=1e-2, max_iter=max_iter), expected, 1e-6)


def test_arguments_stay_and_an_empty_batch_is_one() -> None:
    y, D = problem(3, 8, 6, 1)
    b, G = y @ D.T, D @ D.T
    kept = b.clone(), G.clone()
    lasso(b, G, 0.1)
    assert torch.equal(b, kept[0])
    assert torch.equal(G, kept[1])
    assert lasso(b[:0], G, 0.1).shape == (0, 8)
    assert not lasso(b, G, float(b.abs().max())).any()  # λ ≥ max |Dᵀy|: no code at all


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"b": [[1.0]]}, TypeError, "b must be a torch.Tensor, got list"),
        ({"b": torch.ones(2, 3, dtype=torch.int64)}, TypeError, "b must be floating point"),
        ({"b": torch.full((2, 3), torch.nan)}, ValueError, "b has 6 NaN"),
        ({"b": torch.ones(2, 4)}, ValueError, r"b must have shape \(N, 3\)"),
        ({"b": torch.ones(2, 3).double()}, TypeError, "b is torch.float64"),
        ({"G": torch.ones(3, 2)}, ValueError, r"Gram matrix \(M, M\), got shape \(3, 2\)"),
        ({"G": 2 * torch.eye(3)}, ValueError, "unit norm"),
        ({"lam": 0.0}, ValueError, "lam must be finite and > 0, got 0"),
        ({"tol": -1.0}, ValueError, "tol must be finite and ≥ 0"),
        ({"max_iter": -1}, ValueError, "max_iter must be ≥ 0"),
    ],
)
def test_bad_input_is_refused(change: dict, error: type[Exception], message: str) -> None:
    call = {"b": torch.ones(2, 3), "G": torch.eye(3), "lam": 0.1, **change}
    with pytest.raises(error, match=message):
        lasso(**call)
