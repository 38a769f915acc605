import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

from csc import lipschitz, unfold
from csc.recursion.kernel import centre
from csc.recursion.spectrum import (
    eigenvalues,
    monotonicity,
    operator_norm,
    response,
    singular_values,
    transpose,
)
from tests.laws import close
from tests.strategies import Problem, problems


class Kernel:
    """A random recursion kernel (M, M, sh, sw) and a size of codes."""

    def __init__(self, M: int, sides: tuple[int, int], size: tuple[int, int], seed: int) -> None:
        g = torch.Generator().manual_seed(seed)
        self.S = torch.randn(M, M, *sides, generator=g, dtype=torch.float64)
        self.size = size

    def __repr__(self) -> str:
        return f"Kernel(S {tuple(self.S.shape)}, size {self.size})"


kernels = st.builds(
    Kernel,
    st.integers(1, 3),
    st.tuples(st.sampled_from([1, 3, 5]), st.sampled_from([1, 3, 5])),
    st.tuples(st.integers(1, 6), st.integers(1, 6)),
    st.integers(0, 2**16),
)


def matrix(S: Tensor, size: tuple[int, int], *, periodic: bool) -> np.ndarray:
    """z ↦ S ⊗ z as a dense matrix, entry by entry, without any convolution."""
    M, (h, w), (down, right) = S.shape[0], size, centre(S)
    A = np.zeros((M, h, w, M, h, w))
    for p in range(h):
        for q in range(w):
            for i in range(-down, down + 1):
                for j in range(-right, right + 1):
                    a, b = p + i, q + j
                    if periodic:
                        A[:, p, q, :, a % h, b % w] += S[:, :, down + i, right + j].numpy()
                    elif 0 <= a < h and 0 <= b < w:
                        A[:, p, q, :, a, b] += S[:, :, down + i, right + j].numpy()
    return A.reshape(M * h * w, M * h * w)


def floor(A: np.ndarray) -> float:
    return float(np.linalg.eigvalsh(np.eye(len(A)) - (A + A.T) / 2).min())


def all_frequencies(half: Tensor, W: int) -> Tensor:
    """The values of the whole plane, sorted, from those of the half."""
    count = torch.full((half.shape[1],), 2)
    count[0] = 1
    if W % 2 == 0:
        count[-1] = 1
    return half.repeat_interleave(count, 1).flatten().sort().values


@given(kernels)
def test_the_dense_matrix_is_what_recur_applies(k: Kernel) -> None:
    """The oracle of the tests below against the library's convolution."""
    g = torch.Generator().manual_seed(1)
    z = torch.randn(1, k.S.shape[0], *k.size, generator=g, dtype=torch.float64)
    applied = F.conv2d(z, k.S, padding=centre(k.S)).flatten()
    close(torch.from_numpy(matrix(k.S, k.size, periodic=False)) @ z.flatten(), applied, 1e-11)


@given(kernels)
def test_the_periodic_spectrum_is_that_of_the_dense_matrix(k: Kernel) -> None:
    A = matrix(k.S, k.size, periodic=True)
    found = all_frequencies(singular_values(k.S, k.size), k.size[1])
    close(found, torch.from_numpy(np.sort(np.linalg.svd(A, compute_uv=False))), 1e-9)
    symmetric = np.eye(len(A)) - (A + A.T) / 2
    found = all_frequencies(eigenvalues(k.S, k.size), k.size[1])
    close(found, torch.from_numpy(np.linalg.eigvalsh(symmetric)), 1e-9)
    norm, mu = (f(k.S, k.size, periodic=True) for f in (operator_norm, monotonicity))
    assert norm == pytest.approx(np.linalg.norm(A, 2), rel=1e-9)
    assert mu == pytest.approx(floor(A), abs=1e-9)


@given(kernels)
def test_zero_padding_is_bounded_by_the_larger_grid(k: Kernel) -> None:
    """A compression of the periodic operator on (h+s−1)×(w+s−1): norm and floor lie within."""
    A = matrix(k.S, k.size, periodic=False)
    assert np.linalg.norm(A, 2) <= operator_norm(k.S, k.size) * (1 + 1e-12)
    assert floor(A) >= monotonicity(k.S, k.size) - 1e-9


@given(kernels)
@settings(max_examples=15)
def test_bounds_for_every_size_hold_and_are_close(k: Kernel) -> None:
    norm, mu = operator_norm(k.S), monotonicity(k.S)
    for size in (k.size, (13, 7), (31, 30)):
        assert operator_norm(k.S, size, periodic=True) <= norm * (1 + 1e-12)
        assert monotonicity(k.S, size, periodic=True) >= mu - 1e-9
    fine = (64, 64)
    assert norm <= 1.05 * operator_norm(k.S, fine, periodic=True) + 1e-12
    assert monotonicity(k.S, fine, periodic=True) - mu <= 0.05 * (1 + norm)


def test_the_same_grid_is_no_bound_for_zero_padding() -> None:
    """Why the grid must grow: at 2×1 the periodic taps 1, 0, −1 cancel, the padded do not."""
    S = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    S[0, 0, 0, 1], S[0, 0, 2, 1] = 1, -1
    assert operator_norm(S, (2, 1), periodic=True) == pytest.approx(0, abs=1e-7)
    assert np.linalg.norm(matrix(S, (2, 1), periodic=False), 2) == pytest.approx(1)
    assert operator_norm(S, (2, 1)) >= 1


@given(problems())
def test_the_spectrum_of_ista(p: Problem) -> None:
    """I − S = DᵀD/L: at most C eigenvalues, in [0, 1], and ‖S‖ = 1 where M > C."""
    S = unfold(p.D, p.lam, p.L).S
    grid = p.size  # on which L was computed
    values = eigenvalues(S, grid)
    M, C = p.D.shape[:2]
    assert -1e-9 <= float(values.min())
    assert float(values.max()) == pytest.approx(1, abs=1e-9)
    if M > C:
        close(values[..., : M - C], torch.zeros_like(values[..., : M - C]), 1e-9)
        assert operator_norm(S, grid, periodic=True) == pytest.approx(1, abs=1e-9)


@given(problems())
def test_lipschitz_is_the_norm_of_the_gram_kernel(p: Problem) -> None:
    G = -unfold(p.D, p.lam, 1.0).S
    M, _, kh, kw = p.D.shape
    G[range(M), range(M), kh - 1, kw - 1] += 1
    assert operator_norm(G, p.size, periodic=True) == pytest.approx(
        lipschitz(p.D, p.size), rel=1e-9
    )


def test_a_hand_computed_response() -> None:
    """Taps a to the left, b in the middle, c to the right: b + (a + c) cos ω + i(c − a) sin ω."""
    S = torch.zeros(1, 1, 3, 3, dtype=torch.float64)
    S[0, 0, 1] = torch.tensor([2.0, 5.0, 3.0])
    omega = 2 * math.pi * torch.arange(5, dtype=torch.float64) / 8
    expected = 5 + 5 * torch.cos(omega) + 1j * torch.sin(omega)
    close(response(S, (2, 8))[:, :, 0, 0], expected.expand(2, 5), 1e-12)


@given(kernels)
def test_transpose_is_the_adjoint(k: Kernel) -> None:
    A, B = (matrix(S, k.size, periodic=False) for S in (k.S, transpose(k.S)))
    assert np.array_equal(A.T, B)
    close(response(transpose(k.S), k.size), response(k.S, k.size).mH, 1e-10)


S = torch.ones(1, 1, 3, 3)


@pytest.mark.parametrize(
    ("call", "kind", "says"),
    [
        (lambda: operator_norm(torch.ones(2, 1, 3, 3)), ValueError, r"\(M, M, sh, sw\)"),
        (lambda: operator_norm(torch.ones(1, 1, 2, 2)), ValueError, "sh and sw odd"),
        (lambda: operator_norm(S * math.nan), ValueError, "NaN"),
        (lambda: operator_norm(S.long()), TypeError, "floating-point"),
        (lambda: operator_norm(S, (0, 3)), ValueError, "two integers > 0"),
        (lambda: operator_norm(S, (3.5, 3)), ValueError, "two integers > 0"),
        (lambda: operator_norm(S, periodic=True), ValueError, "need a size"),
        (lambda: eigenvalues(S, (3,)), ValueError, "two integers > 0"),
        (lambda: transpose(torch.ones(3, 3)), ValueError, "sh and sw odd"),
    ],
)
def test_bad_input_is_named(call, kind: type[Exception], says: str) -> None:
    with pytest.raises(kind, match=says):
        call()
