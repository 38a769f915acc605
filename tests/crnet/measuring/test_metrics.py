import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.metrics import peak_signal_noise_ratio, structural_similarity

from crnet import psnr, ssim


def pair(seed: int, noise: float) -> tuple[torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    a = torch.rand(2, 1, 17, 23, generator=g) * 255
    b = a + noise * torch.randn(a.shape, generator=g)
    return tuple((t + 0.5).floor().clamp(0, 255).to(torch.uint8) for t in (a, b))


@given(st.integers(0, 2**16), st.floats(1, 60))
def test_psnr_is_scikit_images(seed: int, noise: float) -> None:
    a, b = pair(seed, noise)
    for i in range(2):
        expected = peak_signal_noise_ratio(a[i, 0].numpy(), b[i, 0].numpy(), data_range=255)
        assert psnr(a, b)[i].item() == pytest.approx(expected, abs=1e-10)


@given(st.integers(0, 2**16), st.floats(1, 60))
def test_ssim_is_wangs_index(seed: int, noise: float) -> None:
    """scikit-image with a Gaussian window and biased covariances is MATLAB's ssim_index."""
    a, b = pair(seed, noise)
    for i in range(2):
        expected = structural_similarity(
            a[i, 0].numpy(), b[i, 0].numpy(), data_range=255,
            gaussian_weights=True, sigma=1.5, use_sample_covariance=False,
        )  # fmt: skip
        assert ssim(a, b)[i].item() == pytest.approx(expected, abs=1e-6)


@given(st.integers(0, 2**16))
def test_equal_images(seed: int) -> None:
    a, _ = pair(seed, 1)
    assert (ssim(a, a) == 1).all()
    assert torch.isinf(psnr(a, a)).all()


def test_both_are_symmetric() -> None:
    a, b = pair(0, 20)
    assert torch.equal(psnr(a, b), psnr(b, a))
    torch.testing.assert_close(ssim(a, b), ssim(b, a), rtol=1e-12, atol=0)


def test_peak_scales_with_the_images() -> None:
    a, b = (t.double() for t in pair(1, 10))
    torch.testing.assert_close(psnr(a / 255, b / 255, peak=1), psnr(a, b))
    torch.testing.assert_close(ssim(a / 255, b / 255, peak=1), ssim(a, b))


def test_bad_input_is_named() -> None:
    a = torch.zeros(1, 1, 10, 20)
    with pytest.raises(ValueError, match="at least 11x11"):
        ssim(a, a)
    for bad in (a[0], a[None]):
        with pytest.raises(ValueError, match="one shape"):
            psnr(bad, bad)
    with pytest.raises(ValueError, match="one shape"):
        psnr(a, a[..., 1:])
    with pytest.raises(ValueError, match="peak must be > 0"):
        psnr(a, a, peak=0)
