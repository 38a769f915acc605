import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage import data
from torch import Tensor

from csc import adjoint, duality_gap, random_dictionary, synthesis, tikhonov_filter
from csc.tasks import denoise, inpaint, noise_weights, photo_dictionary
from tests.laws import close


def photo(side: int, channels: int = 1) -> Tensor:
    """A crop (1, C, side, side) of the astronaut, float64 in [0, 1]."""
    image = torch.from_numpy(data.astronaut()).double().permute(2, 0, 1)[None] / 255
    image = image if channels == 3 else image.mean(1, keepdim=True)
    return image[..., 60 : 60 + side, 200 : 200 + side].contiguous()


def add_noise(x: Tensor, sigma: float, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return x + sigma * torch.randn(x.shape, generator=g, dtype=x.dtype)


def psnr(x: Tensor, truth: Tensor) -> float:
    return float(-10 * (x - truth).square().mean().log10())


@pytest.fixture
def known(seeded: torch.Generator) -> Tensor:
    return torch.rand(1, 1, 48, 48, generator=seeded) < 0.5


def test_the_bundled_atoms_are_grey_and_of_unit_norm() -> None:
    D = photo_dictionary(torch.float64)
    assert D.shape == (64, 1, 8, 8)
    close(D.square().sum((1, 2, 3)), torch.ones(64, dtype=torch.float64), 1e-12)


@pytest.mark.parametrize("sigma", [0.04, 0.1, 0.2])
def test_denoised_photos_are_closer_to_the_truth(sigma: float) -> None:
    x = photo(64)
    noisy = add_noise(x, sigma)
    found = denoise(noisy, sigma)
    assert isinstance(found.image, Tensor)
    assert psnr(found.image, x) > psnr(noisy, x) + 2
    assert psnr(found.image, x) > psnr(found.smooth, x) + 0.5


def test_the_codes_are_certified_for_the_rule_of_the_docstring() -> None:
    """image = l + D z, and the gap holds for λ = max((3.2 σ)²/|Dᵀ(x − l)|, 0.003)."""
    noisy, D = add_noise(photo(48), 0.1), photo_dictionary(torch.float64)
    found = denoise(noisy, 0.1, tol=1e-4)
    low, high = tikhonov_filter(noisy)
    close(found.smooth, low)
    assert isinstance(found.image, Tensor)
    close(found.image, low + synthesis(found.solution.codes, D))
    lam = (0.32**2 / adjoint(high, D).abs().clamp(min=0.00032)).clamp(min=0.003)
    gap = duality_gap(high, D, found.solution.codes, lam)
    assert float(gap) <= 1e-2 * float(found.solution.objective)
    assert found.solution.converged


def test_missing_pixels_are_not_seen(known: Tensor) -> None:
    """The truth at missing pixels changes nothing, not even as NaN."""
    x = photo(48)
    honest = inpaint(torch.where(known, x, 0.0), known).image
    assert isinstance(honest, Tensor)
    assert torch.equal(inpaint(x, known).image, honest)
    assert torch.equal(inpaint(torch.where(known, x, torch.nan), known).image, honest)


def test_known_pixels_stay_if_they_have_no_noise(known: Tensor) -> None:
    x = photo(48)
    exact, noisy = (inpaint(x, known, sigma=sigma).image for sigma in (0.0, 0.05))
    assert isinstance(exact, Tensor)
    assert isinstance(noisy, Tensor)
    assert torch.equal(exact[known], x[known])
    assert float((noisy[known] - x[known]).abs().max()) > 0.01


def test_codes_fill_in_more_than_the_smooth_part(known: Tensor) -> None:
    x = photo(48)
    found = inpaint(x, known)
    hole = ~known
    assert isinstance(found.image, Tensor)
    assert psnr(found.image[hole], x[hole]) > psnr(found.smooth[hole], x[hole]) + 1


def test_more_noise_never_wants_less_lam() -> None:
    """The σ₀ whose λ suits a photo best grows with σ, and the rule loses little against it."""
    x, D, last = photo(48), photo_dictionary(torch.float64), 0.0
    sigmas = [0.02 * 1.35**i for i in range(9)]
    for sigma in (0.03, 0.06, 0.12, 0.2):
        noisy = add_noise(x, sigma)
        quality = []
        for assumed in [*sigmas, sigma]:
            lam = noise_weights(tikhonov_filter(noisy)[1], D, assumed)
            image = denoise(noisy, sigma, lam=lam).image
            assert isinstance(image, Tensor)
            quality.append(psnr(image, x))
        best = int(np.argmax(quality[:-1]))
        assert sigmas[best] >= last
        assert quality[-1] > quality[best] - 0.6
        last = sigmas[best]


@given(st.floats(0, 10), st.floats(0, 10), st.booleans())
def test_lam_never_falls_as_noise_grows(a: float, b: float, masked: bool) -> None:
    g = torch.Generator().manual_seed(0)
    x, D = torch.randn(1, 1, 8, 8, generator=g), random_dictionary(3, 1, 3, generator=g)
    mask = torch.rand(x.shape, generator=g) < 0.6 if masked else None
    less, more = (noise_weights(x, D, sigma, mask=mask) for sigma in sorted((a, b)))
    assert bool((less <= more).all())
    assert bool(more.isfinite().all())
    assert float(less.min()) >= 0.003


def test_theta_is_a_multiple_of_the_deviation_of_the_correlations(seeded: torch.Generator) -> None:
    """λ·|correlation| = θ², and θ/3.2 is the deviation over many draws of noise."""
    x = 0.1 * torch.randn(4000, 1, 5, 6, generator=seeded, dtype=torch.float64)
    mask = torch.rand(1, 1, 5, 6, generator=seeded) < 0.5
    D = random_dictionary(2, 1, 3, generator=seeded, dtype=torch.float64)
    correlation = adjoint(mask * x, D)
    theta = (noise_weights(x, D, 0.1, mask=mask) * correlation.abs()).amax(0).sqrt()
    close(theta / 3.2, correlation.square().mean(0).sqrt(), 0.05)


@pytest.mark.parametrize("channels", [1, 3])
def test_arrays_are_restored_as_tensors_are(known: Tensor, channels: int) -> None:
    x = photo(48, channels)
    array, mask = x[0].permute(1, 2, 0).numpy(), known[0, 0].numpy()
    array = array[:, :, 0] if channels == 1 else array
    for ours, theirs in (
        (denoise(array, 0.1).image, denoise(x, 0.1).image),
        (inpaint(array, mask).image, inpaint(x, known).image),
    ):
        assert isinstance(ours, np.ndarray)
        assert isinstance(theirs, Tensor)
        assert ours.shape == array.shape
        assert ours.dtype == np.float64
        close(torch.from_numpy(ours).reshape(48, 48, channels), theirs[0].permute(1, 2, 0), 1e-12)


def test_bytes_are_in_units_of_255() -> None:
    x = (255 * photo(48)[0, 0]).round().byte().numpy()
    ours, theirs = denoise(x, 0.1).image, denoise(x.astype(np.float32) / 255, 0.1).image
    assert isinstance(ours, np.ndarray)
    assert ours.dtype == np.float32
    np.testing.assert_array_equal(ours, theirs)
    with pytest.raises(ValueError, match="use sigma=25/255"):
        denoise(x, 25)


def test_grey_atoms_code_channels_separately() -> None:
    """Two channels are two images; three are turned to grey and colour differences."""
    noisy = add_noise(photo(48, 3), 0.1)
    two, grey = noisy[:, :2], noisy[:, :1].expand(1, 3, 48, 48)
    alone = [denoise(noisy[:, i : i + 1], 0.1).image for i in range(2)]
    image, same = denoise(two, 0.1).image, denoise(grey, 0.1).image
    assert isinstance(image, Tensor)
    assert isinstance(same, Tensor)
    for i in range(2):
        theirs = alone[i]
        assert isinstance(theirs, Tensor)
        close(image[:, i : i + 1], theirs)
    close(same[:, 0], same[:, 2])
    assert denoise(noisy, 0.1).solution.codes.shape == (3, 64, 41, 41)


def test_turning_colours_pays() -> None:
    x = photo(48, 3)
    noisy = add_noise(x, 0.1)
    rgb = [denoise(noisy[:, i : i + 1], 0.1).image for i in range(3)]
    image = denoise(noisy, 0.1).image
    assert isinstance(image, Tensor)
    assert psnr(image, x) > psnr(torch.cat([t for t in rgb if isinstance(t, Tensor)], 1), x) + 0.5


def test_a_dictionary_of_the_image_s_channels_codes_them_jointly(seeded: torch.Generator) -> None:
    x = photo(32, 3)
    D = random_dictionary(8, 3, 2, generator=seeded, dtype=torch.float64)
    assert denoise(x, 0.1, D).solution.codes.shape == (1, 8, 31, 31)
    assert inpaint(x, torch.rand(x.shape, generator=seeded) < 0.7, D).image.shape == x.shape


def test_bad_arguments_are_refused() -> None:
    x, all_known = photo(32), torch.ones(1, 1, 32, 32, dtype=torch.bool)
    with pytest.raises(ValueError, match="sigma must be finite and ≥ 0"):
        denoise(x, -0.1)
    with pytest.raises(TypeError, match="bool"):
        inpaint(x, all_known.float())
    with pytest.raises(TypeError, match="known must be an array of bool"):
        inpaint(x[0, 0].numpy(), all_known[0, 0].double().numpy())
    with pytest.raises(ValueError, match="no known pixel"):
        inpaint(x, ~all_known)
    with pytest.raises(TypeError, match="uint8, float32 or float64"):
        denoise(np.zeros((32, 32), np.int64), 0.1)
    with pytest.raises(ValueError, match=r"\(H, W\) or \(H, W, C\)"):
        denoise(np.zeros((1, 1, 32, 32)), 0.1)
