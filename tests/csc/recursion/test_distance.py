import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from csc import Kernels, dct_dictionary, gram, random_dictionary, unfold
from csc.recursion.distance import (
    control,
    gram_fit,
    nearest_dictionary,
    problem_of,
    remains,
    shuffled,
    symmetry_defect,
)
from csc.recursion.spectrum import operator_norm, transpose
from tests.csc.recursion.test_spectrum import matrix
from tests.laws import close
from tests.strategies import Problem, problems

seeds = st.integers(0, 2**16)


def kernel(seed: int, M: int = 3, s: int = 3) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.randn(M, M, s, s, generator=g, dtype=torch.float64)


def complement(S: torch.Tensor) -> torch.Tensor:
    """δ − S."""
    A = -S
    M, c = len(S), S.shape[-1] // 2
    A[range(M), range(M), c, c] += 1
    return A


@given(problems())
@settings(max_examples=15)
def test_of_an_unfolded_block_all_remains(p: Problem) -> None:
    """ISTA is at distance 0 to rounding: symmetric, positive, of rank ≤ C, S the Gram of W."""
    kernels = unfold(p.D, p.lam, p.L)
    S = kernels.S
    assert symmetry_defect(S) <= 1e-14
    r = remains(S, p.D.shape[1], (9, 8))
    assert r.kept == pytest.approx(1, abs=1e-12)
    assert (r.rank, r.negative, r.skew) == pytest.approx((0, 0, 0), abs=1e-12)
    assert r.low >= -1e-12
    assert r.distance <= 1e-6
    assert r.operator <= 1e-7
    fit = gram_fit(kernels)
    assert fit.scale == pytest.approx(p.L, rel=1e-9)
    assert fit.correlation == pytest.approx(1, abs=1e-12)
    found = nearest_dictionary(S, p.D.shape[1], tuple(p.D.shape[2:]), start=kernels.W, steps=5)
    assert found.distance <= 1e-9
    assert found.operator <= 1e-9
    close(found.S, S, 1e-8)


@given(problems())
def test_the_problem_of_an_unfolded_block(p: Problem) -> None:
    D, lam, L = problem_of(unfold(p.D, p.lam, p.L))
    close(D, p.D, 1e-9)
    close(lam, torch.full((len(D),), p.lam, dtype=torch.float64), 1e-9)
    assert pytest.approx(p.L, rel=1e-9) == L


@given(seeds, st.integers(1, 3), st.sampled_from([(4, 5), (5, 4), (3, 3)]))
def test_remains_are_those_of_the_dense_matrix(seed: int, C: int, size: tuple[int, int]) -> None:
    """Per frequency by NumPy: the polar parts of I − S and the best rank-C positive part."""
    S, (H, W) = kernel(seed), size
    blocks = frequencies(matrix(S, (H, W), periodic=True), 3, H, W)
    kept = rank = negative = skew = worst = norm = 0.0
    low, high = np.inf, -np.inf
    for A in np.eye(3) - blocks:
        values = np.sort(np.linalg.eigvalsh((A + A.conj().T) / 2))[::-1]
        low, high = min(low, values[-1]), max(high, values[0])
        singular = np.linalg.svd(A, compute_uv=False)
        norm = max(norm, singular[0])
        # No positive A' of rank C is nearer: Eckart-Young, the quadratic form, the skew part.
        beyond = singular[C] if C < 3 else 0.0
        worst = max(worst, -values[-1], beyond, np.linalg.norm((A - A.conj().T) / 2, 2))
        kept += (values[:C].clip(0) ** 2).sum()
        rank += (values[C:].clip(0) ** 2).sum()
        negative += (values.clip(None, 0) ** 2).sum()
        skew += np.linalg.norm((A - A.conj().T) / 2) ** 2
    total = kept + rank + negative + skew
    r = remains(S, C, (H, W))
    assert total / (H * W) == pytest.approx(float(complement(S).square().sum()), rel=1e-9)
    expected = [v / total for v in (kept, rank, negative, skew)]
    assert [r.kept, r.rank, r.negative, r.skew] == pytest.approx(expected, abs=1e-12)
    assert r.distance == pytest.approx(np.sqrt(1 - kept / total), abs=1e-9)
    assert (r.low, r.high) == pytest.approx((low, high), abs=1e-9)
    assert r.operator == pytest.approx(min(1.0, worst / norm), abs=1e-9)


def frequencies(A: np.ndarray, M: int, H: int, W: int) -> np.ndarray:
    """The M×M blocks of a block-circulant matrix in the Fourier basis, (H·W, M, M)."""
    blocks = A.reshape(M, H, W, M, H, W)[:, :, :, :, 0, 0]  # the response to a unit code at 0
    return np.fft.fft2(blocks, axes=(1, 2)).transpose(1, 2, 0, 3).reshape(H * W, M, M)


@given(seeds, st.sampled_from([(1, 1), (1, 2), (2, 2), (2, 3)]))
@settings(max_examples=10)
def test_no_ista_comes_closer_than_the_bounds(seed: int, shape: tuple[int, int]) -> None:
    """Of any atoms and any L; L-BFGS does its best and stays above."""
    (C, k), S = shape, kernel(seed)
    g = torch.Generator().manual_seed(seed)
    r = remains(S, C, (12, 12))
    found = nearest_dictionary(S, C, k, steps=60, generator=g)
    assert r.distance <= found.distance * (1 + 1e-9)
    assert found.distance <= 1
    side = found.S.shape[-1]
    wide = torch.nn.functional.pad(S, [(side - 3) // 2] * 4)
    grid = (12, 12)
    A, gap = operator_norm(complement(S), grid, periodic=True), wide - found.S
    assert r.operator * A <= operator_norm(gap, grid, periodic=True) * (1 + 1e-9)
    assert found.distance == pytest.approx(float(gap.norm() / complement(S).norm()), rel=1e-9)
    close(
        found.S, complement(torch.nn.functional.pad(gram(found.D), [(side - 2 * k + 1) // 2] * 4))
    )


@pytest.mark.parametrize(("k", "crop"), [(2, False), (3, True)])
def test_atoms_are_found_again(k: int, crop: bool, seeded: torch.Generator) -> None:
    """From random ones; the 3×3 crop of the S of 3×3 atoms is no ISTA, but a crop of one."""
    D = random_dictionary(4, 2, k, generator=seeded, dtype=torch.float64)
    S = unfold(D, 0.1, 3.0).S
    S = S[:, :, 1:-1, 1:-1] if crop else S
    found = nearest_dictionary(S, 2, k, crop=crop, generator=seeded)
    assert found.S.shape == S.shape
    assert found.distance < 0.05


def test_a_crop_is_not_ista(seeded: torch.Generator) -> None:
    D = random_dictionary(4, 1, 3, generator=seeded, dtype=torch.float64)
    S = unfold(D, 0.1, 2.0).S[:, :, 1:-1, 1:-1]
    r = remains(S, 1, (8, 8))
    assert symmetry_defect(S) <= 1e-14
    assert r.skew <= 1e-14
    assert r.distance > 0.1


@given(seeds)
def test_symmetry_defect_is_between_symmetric_and_skew(seed: int) -> None:
    S = kernel(seed)
    T = transpose(S)
    assert symmetry_defect(S + T) <= 1e-14
    assert symmetry_defect(S - T) == pytest.approx(2)
    even, odd = float((S + T).norm()), float((S - T).norm())
    assert symmetry_defect(S) == pytest.approx(2 * odd / np.hypot(even, odd))


@given(seeds, st.sampled_from([(1, 1), (1, 3), (4, 1), (3, 3), (2, 5)]))
def test_a_shuffle_keeps_entries_trace_and_symmetry(seed: int, shape: tuple[int, int]) -> None:
    """And nothing else: pairs (i, j, t), (j, i, −t) move together, the diagonal stays diagonal."""
    S = kernel(seed, *shape)
    T = shuffled(S, generator=torch.Generator().manual_seed(seed))
    A, B = complement(S), complement(T)
    close(A.flatten().sort().values, B.flatten().sort().values, 1e-12)
    c = shape[1] // 2
    middle = [M[range(shape[0]), range(shape[0]), c, c].sort().values for M in (A, B)]
    close(*middle, 1e-12)
    for sign in (1, -1):
        parts = [(M + sign * transpose(M)).flatten().abs().sort().values for M in (A, B)]
        close(*parts, 1e-12)
    if A.numel() > 30:
        assert not torch.equal(S, T)


def test_a_shuffle_takes_entries_to_every_place(seeded: torch.Generator) -> None:
    """Off the diagonal to all places off it, on the diagonal to all places on it."""
    S = complement(torch.arange(9, dtype=torch.float64).view(3, 3, 1, 1))
    seen = torch.stack([complement(shuffled(S, generator=seeded)) for _ in range(100)])[..., 0, 0]
    for i, j in np.ndindex(3, 3):
        values = set(seen[:, i, j].int().tolist())
        assert values == ({0, 4, 8} if i == j else {1, 2, 3, 5, 6, 7})


def test_an_ista_stands_out_from_its_control(seeded: torch.Generator) -> None:
    """A random kernel does not, be it symmetric, skew or neither."""
    S = unfold(random_dictionary(6, 1, 3, generator=seeded, dtype=torch.float64), 0.1, 9.0).S
    by_chance = control(S, 1, (8, 8), draws=20, generator=seeded)
    assert by_chance.spread.kept > 0
    assert 1 > by_chance.mean.kept + 20 * by_chance.spread.kept
    for seed in range(3):
        A = 0.3 * kernel(seed, 6, 3)
        for random in (A, A + transpose(A), A - transpose(A), shuffled(S, generator=seeded)):
            own, by_chance = (
                remains(random, 1, (8, 8)),
                control(random, 1, (8, 8), draws=20, generator=seeded),
            )
            assert own.skew == pytest.approx(by_chance.mean.skew, abs=1e-9)
            assert abs(own.kept - by_chance.mean.kept) <= 5 * by_chance.spread.kept + 1e-9
    pair = control(S, 1, (8, 8), draws=2, generator=torch.Generator().manual_seed(3))
    g = torch.Generator().manual_seed(3)
    a, b = (remains(shuffled(S, generator=g), 1, (8, 8)).kept for _ in range(2))
    assert pair.mean.kept == pytest.approx((a + b) / 2)
    assert pair.spread.kept == pytest.approx(abs(a - b) / 2**0.5)


def test_a_kernel_of_no_problem_is_told() -> None:
    W, S, theta = unfold(dct_dictionary(2, dtype=torch.float64), 0.1, 5.0)
    S[0, 1, 0, 0] += 0.1
    with pytest.raises(ValueError, match="no problem has these kernels.*relative distance of 0.12"):
        problem_of(Kernels(W, S, theta))
    with pytest.raises(ValueError, match=r"has the sides \(3, 3\), got \(1, 1\)"):
        problem_of(Kernels(W, S[:, :, 1:2, 1:2], theta))


def test_gram_fit_by_hand() -> None:
    """δ − S = (1, 2, 1) against WᵀW = (0, 4, 0): scale 2/4, cosine 2/√6."""
    W = torch.zeros(1, 1, 2, 2)
    W[0, 0, 0, 0] = 2
    S = torch.zeros(1, 1, 3, 3)
    S[0, 0, 1] = torch.tensor([-1.0, -1.0, -1.0])
    fit = gram_fit(Kernels(W, S, None))
    assert fit == pytest.approx((0.5, 2 / 6**0.5, (1 - 4 / 6) ** 0.5))


DELTA = torch.ones(1, 1, 1, 1)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: remains(torch.zeros(1, 1, 3, 3), 1, (2, 3)), "smaller than S, 3x3"),
        (lambda: remains(DELTA, 1, (2, 3)), "S is δ"),
        (lambda: remains(0 * DELTA, 0, (2, 3)), "channels must be ≥ 1"),
        (lambda: control(0 * DELTA, 1, (2, 3), draws=1), "draws must be ≥ 2, got 1"),
        (lambda: nearest_dictionary(DELTA, 1, 1), "S is δ"),
        (lambda: nearest_dictionary(0 * DELTA, 1, 0), "k must be ≥ 1, got 0"),
        (
            lambda: nearest_dictionary(0 * DELTA, 1, 2, start=DELTA),
            r"start must have shape \(1, 1, 2, 2\)",
        ),
        (lambda: gram_fit(Kernels(DELTA, DELTA, None)), "δ − S is zero"),
        (lambda: gram_fit(Kernels(DELTA.expand(2, 1, 1, 1), DELTA, None)), "W has 2 atoms"),
        (lambda: symmetry_defect(torch.ones(1, 1, 2, 2)), "sh and sw odd"),
    ],
)
def test_bad_input_is_named(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
