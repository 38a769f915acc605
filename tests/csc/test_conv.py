from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.signal import convolve2d
from torch.nn import functional as F

import baselines
import csc
from csc import adjoint, gram, synthesis
from tests.laws import close, dense
from tests.strategies import Problem, problems


@given(problems())
def test_adjoint_is_the_adjoint_of_synthesis(p: Problem) -> None:
    """⟨D z, x⟩ = ⟨z, Dᵀ x⟩."""
    z = p.draw_codes()
    close((synthesis(z, p.D) * p.x).sum(), (z * adjoint(p.x, p.D)).sum(), 1e-11)


@given(problems())
def test_synthesis_is_scipys_full_convolution(p: Problem) -> None:
    z = p.draw_codes()
    expected = np.zeros(p.x.shape)
    for b in range(z.shape[0]):
        for c in range(p.D.shape[1]):
            for m in range(p.D.shape[0]):
                expected[b, c] += convolve2d(z[b, m].numpy(), p.D[m, c].numpy(), mode="full")
    close(synthesis(z, p.D), torch.from_numpy(expected), 1e-12)


@given(problems())
def test_both_maps_are_the_dense_matrix(p: Problem) -> None:
    A, z = torch.from_numpy(dense(p.D, p.size)), p.draw_codes()
    close(synthesis(z, p.D).flatten(1), z.flatten(1) @ A.T, 1e-12)
    close(adjoint(p.x, p.D).flatten(1), p.x.flatten(1) @ A, 1e-12)


@given(problems())
def test_gram_is_the_kernel_of_the_adjoint_after_synthesis(p: Problem) -> None:
    """DᵀD z = G ⊗ z with zero padding k − 1, at every position."""
    z = p.draw_codes()
    G = gram(p.D)
    kh, kw = p.D.shape[2:]
    close(F.conv2d(z, G, padding=(kh - 1, kw - 1)), adjoint(synthesis(z, p.D), p.D), 1e-11)


@given(problems())
def test_gram_is_symmetric(p: Problem) -> None:
    G = gram(p.D)
    close(G, G.transpose(0, 1).flip(2, 3), 1e-13)
    kh, kw = p.D.shape[2:]
    close(G[:, :, kh - 1, kw - 1].diag(), torch.ones(p.D.shape[0], dtype=torch.float64), 1e-12)


@given(st.integers(1, 3), st.integers(1, 2), st.integers(1, 6), st.integers(0, 20))
def test_a_signal_is_an_image_of_one_row(M: int, C: int, k: int, slack: int) -> None:
    """D z = Σ_m np.convolve(z_m, d_m), and Dᵀ x = np.correlate(x, d_m), summed over channels."""
    g = torch.Generator().manual_seed(M + 10 * k + 100 * slack)
    D = torch.randn(M, C, 1, k, generator=g, dtype=torch.float64)
    z = torch.randn(1, M, 1, slack + 1, generator=g, dtype=torch.float64)
    x = synthesis(z, D)
    signals, atoms, codes = x[0, :, 0].numpy(), D[:, :, 0].numpy(), z[0, :, 0].numpy()
    for c in range(C):
        signal = sum(np.convolve(codes[m], atoms[m, c]) for m in range(M))
        close(x[0, c, 0], torch.from_numpy(signal), 1e-12)
    for m in range(M):
        found = sum(np.correlate(signals[c], atoms[m, c], "valid") for c in range(C))
        close(adjoint(x, D)[0, m, 0], torch.from_numpy(found), 1e-12)


@given(problems())
def test_images_of_a_batch_do_not_see_each_other(p: Problem) -> None:
    z = p.draw_codes()
    close(synthesis(z, p.D)[:1], synthesis(z[:1], p.D), 1e-13)
    close(adjoint(p.x, p.D)[:1], adjoint(p.x[:1], p.D), 1e-13)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_dtype_follows_the_input(dtype: torch.dtype) -> None:
    x, D = torch.ones(1, 2, 6, 5, dtype=dtype), torch.ones(3, 2, 2, 2, dtype=dtype)
    z = adjoint(x, D)
    assert z.dtype == dtype
    assert z.shape == (1, 3, 5, 4)
    assert synthesis(z, D).dtype == dtype
    assert synthesis(z, D).shape == x.shape


ONES = torch.ones(1, 1, 5, 5)
ATOM = torch.ones(2, 1, 3, 3)


@pytest.mark.parametrize(
    ("x", "D", "error", "says"),
    [
        (ONES[0], ATOM, ValueError, r"\(B, C, H, W\), got \(1, 5, 5\)"),
        (ONES.int(), ATOM, TypeError, "floating point, got torch.int32"),
        (ONES.numpy(), ATOM, TypeError, "torch.Tensor, got ndarray"),
        (ONES[:0], ATOM, ValueError, "empty"),
        (ONES, ATOM[:0], ValueError, "dictionary is empty"),
        (ONES, ATOM[0], ValueError, r"\(M, C, kh, kw\), got \(1, 3, 3\)"),
        (ONES, ATOM.double(), TypeError, "torch.float64"),
        (ONES.repeat(1, 3, 1, 1), ATOM, ValueError, "3 channels but the atoms of D have 1"),
        (ONES[..., :2], ATOM, ValueError, "atom of 3x3 does not fit in an image of 5x2"),
    ],
)
def test_bad_input_is_named(x: object, D: object, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        adjoint(x, D)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", [torch.complex64, torch.uint8, torch.int64, torch.bool])
def test_a_hint_about_dtypes_leads_to_a_valid_call(dtype: torch.dtype) -> None:
    x = ONES.to(dtype)
    with pytest.raises(TypeError, match=f"got {dtype}; use x") as refused:
        adjoint(x, ATOM)
    hint = str(refused.value).split("use ")[1].split(" or ")[0]
    repaired = eval(hint, {"x": x})  # noqa: S307
    assert adjoint(repaired, ATOM.to(repaired.dtype)).shape == (1, 2, 3, 3)


def test_a_hint_about_nan_leads_to_a_valid_call() -> None:
    x = torch.where(ONES.cumsum(2) == 2, torch.inf, ONES)
    with pytest.raises(ValueError, match="x has 5 NaN or infinite entries") as refused:
        adjoint(x, ATOM)
    hint = str(refused.value).split("use ")[1]
    assert adjoint(eval(hint, {"x": x, "torch": torch}), ATOM).isfinite().all()  # noqa: S307


BAD = torch.full((1, 1, 3, 3), torch.nan)


@pytest.mark.parametrize(
    "call",
    [
        lambda: synthesis(BAD, ATOM[:1]),
        lambda: synthesis(ONES, BAD),
        lambda: adjoint(BAD, ATOM),
        lambda: adjoint(ONES, BAD),
        lambda: gram(BAD),
        lambda: csc.unfold(BAD, 0.1, 1.0),
        lambda: csc.soft_threshold(BAD, 0.1),
        lambda: csc.nonneg_soft_threshold(BAD, 0.1),
        lambda: csc.unit_norm(BAD),
        lambda: csc.lipschitz(BAD, (5, 5)),
        lambda: csc.gradient(ONES, ATOM[:1], BAD),
        lambda: csc.objective(ONES, ATOM[:1], BAD, 0.1),
        lambda: csc.duality_gap(ONES, BAD, torch.ones(1, 1, 3, 3), 0.1),
        lambda: csc.dual_point(ONES * torch.inf, ATOM[:1], torch.ones(1, 1, 3, 3), 0.1),
        lambda: baselines.imresize(BAD, 2.0),
    ],
)
def test_nan_is_refused_at_every_door(call: Callable[[], object]) -> None:
    with pytest.raises(ValueError, match="NaN or infinite entries"):
        call()


def test_codes_must_have_one_map_per_atom() -> None:
    with pytest.raises(ValueError, match="z has 1 maps but D has 2 atoms"):
        synthesis(ONES, ATOM)
