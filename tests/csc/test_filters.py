import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor

from csc import tikhonov_filter
from tests.laws import close

weights = st.floats(0, 50)


@st.composite
def images(draw: st.DrawFn) -> tuple[Tensor, int]:
    """Images of odd and even sides, and a padding that they allow."""
    B, C = draw(st.integers(1, 2)), draw(st.integers(1, 3))
    H, W = draw(st.integers(1, 12)), draw(st.integers(1, 12))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16)))
    x = torch.randn(B, C, H, W, generator=g, dtype=torch.float64)
    return x, draw(st.integers(0, min(H, W)))


@given(images(), weights)
def test_it_is_sporcos(drawn: tuple[Tensor, int], mu: float) -> None:
    from sporco.signal import tikhonov_filter as sporcos

    x, pad = drawn
    assume(min(x.shape[-2:]) + 2 * pad > 1)  # sporco takes a lone pixel to differ from itself
    # sporco's arrays are (H, W, ...)
    expected = sporcos(x.permute(2, 3, 1, 0).numpy(), mu, npd=pad)
    for ours, theirs in zip(tikhonov_filter(x, mu, pad), expected, strict=True):
        close(ours, torch.from_numpy(theirs).permute(3, 2, 0, 1), 1e-12)


def test_defaults_are_those_of_the_docstring(seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 20, 24, generator=seeded)
    assert torch.equal(tikhonov_filter(x)[0], tikhonov_filter(x, mu=5.0, pad=16)[0])


@given(images(), weights)
def test_low_pass_is_the_minimiser(drawn: tuple[Tensor, int], mu: float) -> None:
    x, pad = drawn
    close(tikhonov_filter(x, mu, pad)[0][0, 0], minimiser(x, x == x, mu, pad), 1e-10)


def minimiser(x: Tensor, mask: Tensor, mu: float, pad: int) -> Tensor:
    """Solve (m + μ ∇ᵀ∇) l = m ⊙ x on the mirrored image, with ∇ as a dense matrix that wraps."""
    image, known = (np.pad(t[0, 0].double().numpy(), pad, "symmetric") for t in (x, mask))
    H, W = image.shape
    down, right = (np.roll(np.eye(n), 1, axis=1) - np.eye(n) for n in (H, W))
    vertical, horizontal = np.kron(down, np.eye(W)), np.kron(np.eye(H), right)
    system = np.diag(known.ravel()) + mu * (vertical.T @ vertical + horizontal.T @ horizontal)
    low = np.linalg.solve(system, (known * image).ravel()).reshape(H, W)
    return torch.from_numpy(low[pad : H - pad, pad : W - pad])


@given(images(), st.floats(0.1, 50), st.integers(0, 2**16))
def test_low_pass_of_the_known_pixels_is_the_minimiser(
    drawn: tuple[Tensor, int], mu: float, seed: int
) -> None:
    x, pad = drawn
    mask = torch.rand(x.shape, generator=torch.Generator().manual_seed(seed)) < 0.5
    mask[..., 0, 0] = True
    low, high = tikhonov_filter(torch.where(mask, x, torch.nan), mu, pad, mask=mask)
    close(low[0, 0], minimiser(x, mask, mu, pad), 1e-7)
    close(high, torch.where(mask, x - low, 0.0), 1e-12)


@given(images(), weights)
def test_a_mask_of_known_pixels_changes_nothing(drawn: tuple[Tensor, int], mu: float) -> None:
    x, pad = drawn
    every = torch.ones_like(x[:1, :1], dtype=torch.bool)
    for ours, theirs in zip(
        tikhonov_filter(x, mu, pad, mask=every), tikhonov_filter(x, mu, pad), strict=True
    ):
        close(ours, theirs, 1e-9)


def test_a_constant_image_is_smooth_up_to_the_edge_of_a_hole(seeded: torch.Generator) -> None:
    """A filter that takes zeros for the missing pixels fails here."""
    x, mask = torch.full((1, 1, 40, 40), 0.7), torch.ones(1, 1, 40, 40, dtype=torch.bool)
    mask[..., 10:30, 5:35] = False
    close(tikhonov_filter(x, mask=mask)[0], x, 1e-4)


def test_each_channel_needs_a_known_pixel() -> None:
    x, mask = torch.ones(1, 2, 8, 8), torch.ones(1, 2, 8, 8, dtype=torch.bool)
    mask[:, 1] = False
    with pytest.raises(ValueError, match="no known pixel"):
        tikhonov_filter(x, pad=2, mask=mask)


@given(images(), weights)
def test_the_parts_add_up(drawn: tuple[Tensor, int], mu: float) -> None:
    x, pad = drawn
    low, high = tikhonov_filter(x, mu, pad)
    assert low.shape == high.shape == x.shape
    close(low + high, x, 1e-14)


@given(images(), weights, st.floats(-5, 5))
def test_a_constant_image_is_smooth(drawn: tuple[Tensor, int], mu: float, value: float) -> None:
    x, pad = drawn
    close(tikhonov_filter(torch.full_like(x, value), mu, pad)[1], torch.zeros_like(x), 1e-12)


@given(images())
def test_without_weight_nothing_is_filtered(drawn: tuple[Tensor, int]) -> None:
    x, pad = drawn
    close(tikhonov_filter(x, 0, pad)[1], torch.zeros_like(x), 1e-13)


@given(images(), weights, st.floats(-3, 3))
def test_it_is_linear_and_filters_every_image_alone(
    drawn: tuple[Tensor, int], mu: float, a: float
) -> None:
    x, pad = drawn
    y = x.flip(0).roll(1, dims=3)
    together = tikhonov_filter(a * x + y, mu, pad)[0]
    close(together, a * tikhonov_filter(x, mu, pad)[0] + tikhonov_filter(y, mu, pad)[0], 1e-11)
    close(tikhonov_filter(x, mu, pad)[0][:1, -1:], tikhonov_filter(x[:1, -1:], mu, pad)[0], 1e-13)


@given(images(), weights)
def test_a_mirrored_or_transposed_image_is_filtered_alike(
    drawn: tuple[Tensor, int], mu: float
) -> None:
    x, pad = drawn
    low = tikhonov_filter(x, mu, pad)[0]
    for dim in (2, 3):
        close(tikhonov_filter(x.flip(dim), mu, pad)[0], low.flip(dim), 1e-12)
    close(tikhonov_filter(x.mT, mu, pad)[0], low.mT, 1e-12)


def test_more_weight_is_smoother(seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 16, 16, generator=seeded)
    spreads = [float(tikhonov_filter(x, mu)[0].std()) for mu in (0.0, 0.1, 1.0, 10.0, 1e6)]
    assert spreads == sorted(spreads, reverse=True)
    assert spreads[-1] < 1e-3 * spreads[0]


def test_the_wave_of_the_docstring_is_halved() -> None:
    """A wave of 2π√μ pixels, where 1 + μω² = 2; up to 2 − 2 cos ω ≈ ω²."""
    n, periods = 200, 10
    mu = (n / periods / (2 * np.pi)) ** 2
    wave = torch.cos(2 * np.pi * periods * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    x = wave.expand(1, 1, n, n)
    close(tikhonov_filter(x, mu, pad=0)[0], 0.5 * x, 5e-3)


def test_gradients_pass_through_both_parts(seeded: torch.Generator) -> None:
    x = torch.randn(1, 2, 5, 4, generator=seeded, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x: tikhonov_filter(x, 2.0, 3), (x,))


def test_float32_stays_float32_and_is_close(seeded: torch.Generator) -> None:
    x = torch.rand(1, 1, 20, 20, generator=seeded)
    low, high = tikhonov_filter(x)
    assert low.dtype == high.dtype == torch.float32
    close(low.double(), tikhonov_filter(x.double())[0], 1e-6)


def test_bad_input_is_named() -> None:
    x = torch.ones(1, 1, 10, 12)
    with pytest.raises(ValueError, match="10x12 can be padded by 0 to 10, got pad=16"):
        tikhonov_filter(x)
    with pytest.raises(ValueError, match="12x10 can be padded by 0 to 10, got pad=11"):
        tikhonov_filter(x.mT, pad=11)
    with pytest.raises(ValueError, match="pad must be ≥ 0, got -1"):
        tikhonov_filter(x, pad=-1)
    with pytest.raises(TypeError, match=r"pad must be an integer, got 2\.5"):
        tikhonov_filter(x, pad=2.5)
    for mu in (-0.1, float("nan"), float("inf")):
        with pytest.raises(ValueError, match="mu must be finite and ≥ 0"):
            tikhonov_filter(x, mu, 2)
    with pytest.raises(TypeError, match="mu must be a number, got str"):
        tikhonov_filter(x, "5", 2)
    with pytest.raises(ValueError, match="x has 120 NaN"):
        tikhonov_filter(x * torch.nan, pad=2)
    with pytest.raises(ValueError, match=r"must have shape \(B, C, H, W\), got \(10, 12\)"):
        tikhonov_filter(x[0, 0], pad=2)
    with pytest.raises(TypeError, match=r"float32 or float64, got torch\.float16"):
        tikhonov_filter(x.half(), pad=2)
