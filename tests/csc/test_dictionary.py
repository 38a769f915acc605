import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.fft import dct

from csc import dct_dictionary, random_dictionary, unit_norm
from tests.laws import close

sizes = st.integers(1, 6)


@given(sizes, sizes, sizes, st.integers(0, 2**16))
def test_random_atoms_have_unit_norm_and_follow_the_generator(M, C, k, seed) -> None:
    a, b = (
        random_dictionary(M, C, k, generator=torch.Generator().manual_seed(seed)) for _ in range(2)
    )
    assert a.shape == (M, C, k, k)
    assert torch.equal(a, b)
    close(a.square().sum((1, 2, 3)), torch.ones(M), 1e-5)


def test_random_atoms_have_no_preferred_direction(seeded: torch.Generator) -> None:
    D = random_dictionary(20_000, 1, 2, generator=seeded, dtype=torch.float64).flatten(1)
    close(D.mean(0), torch.zeros(4, dtype=torch.float64), 0.02)
    close(D.T @ D / 20_000, torch.eye(4, dtype=torch.float64) / 4, 0.01)


@given(sizes)
def test_dct_atoms_are_scipys_transform(k: int) -> None:
    """Orthonormal, and atom (u, v) is the outer product of scipy's DCT-II rows u and v."""
    D = dct_dictionary(k, dtype=torch.float64)
    assert D.shape == (k * k, 1, k, k)
    close(D.flatten(1) @ D.flatten(1).T, torch.eye(k * k, dtype=torch.float64), 1e-12)
    rows = torch.from_numpy(dct(torch.eye(k).double().numpy(), norm="ortho", axis=0))
    for u in range(k):
        for v in range(k):
            close(D[u * k + v, 0], torch.outer(rows[u], rows[v]), 1e-12)


def test_overcomplete_dct() -> None:
    D = dct_dictionary(4, 6)
    assert D.shape == (36, 1, 4, 4)
    assert torch.linalg.matrix_rank(D.flatten(1)) == 16
    close(D.square().sum((1, 2, 3)), torch.ones(36), 1e-5)


def test_dct_of_other_sides_is_the_product_of_both_axes() -> None:
    D = dct_dictionary((2, 3), (3, 5))
    rows, columns = dct_dictionary((2, 1), (3, 1)), dct_dictionary((1, 3), (1, 5))
    assert D.shape == (15, 1, 2, 3)
    for u in range(3):
        for v in range(5):
            close(D[5 * u + v], rows[u] * columns[v], 1e-6)


@given(st.integers(0, 2**16))
def test_unit_norm_keeps_directions(seed: int) -> None:
    g = torch.Generator().manual_seed(seed)
    D = 5 * torch.randn(3, 2, 3, 3, generator=g, dtype=torch.float64)
    U = unit_norm(D)
    close(U * D.flatten(1).norm(dim=1).view(3, 1, 1, 1), D, 1e-12)
    close(unit_norm(U), U, 1e-14)


def test_bad_input_is_named() -> None:
    D = torch.ones(3, 1, 2, 2)
    D[1] = 0
    with pytest.raises(ValueError, match=r"atoms \[1\] are zero"):
        unit_norm(D)
    with pytest.raises(ValueError, match="M must be ≥ 1, got 0"):
        random_dictionary(0, 1, 3)
    with pytest.raises(ValueError, match="n must be ≥ 4, got 3"):
        dct_dictionary(4, 3)
    for bad in (True, 2.0, float("nan")):
        with pytest.raises(TypeError, match="k must be an integer"):
            dct_dictionary(bad)
        with pytest.raises(TypeError, match="k must be an integer"):
            random_dictionary(3, 1, bad)


@pytest.mark.parametrize("scale", [1e-30, 1e30])
def test_atoms_whose_squares_leave_the_dtype_are_refused(scale: float) -> None:
    D = torch.full((1, 1, 2, 2), scale)
    with pytest.raises(ValueError, match=r"values up to 1e[+-]30, and their squares are beyond"):
        unit_norm(D)
    close(unit_norm(D.double()), torch.full((1, 1, 2, 2), 0.5, dtype=torch.float64))
