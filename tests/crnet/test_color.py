import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from skimage.color import rgb2ycbcr

from crnet.color import rgb_to_ycbcr, ycbcr_to_rgb
from tests.laws import close


def draw(seed: int) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, 4, 5, generator=g, dtype=torch.float64)


@given(st.integers(0, 2**16))
def test_it_is_scikit_images_rgb2ycbcr(seed: int) -> None:
    rgb = draw(seed)
    expected = torch.from_numpy(rgb2ycbcr(rgb.numpy(), channel_axis=1)) / 255
    close(rgb_to_ycbcr(rgb), expected, 1e-12)


@given(st.integers(0, 2**16))
def test_it_can_be_undone(seed: int) -> None:
    rgb = draw(seed)
    close(ycbcr_to_rgb(rgb_to_ycbcr(rgb)), rgb, 1e-12)


@pytest.mark.parametrize(
    ("rgb", "ycbcr"),
    [
        ((0, 0, 0), (16, 128, 128)),
        ((1, 1, 1), (235, 128, 128)),
        ((0, 0, 1), (40.966, 240, 109.786)),
    ],
)
def test_known_colours(rgb: tuple, ycbcr: tuple) -> None:
    x = torch.tensor(rgb, dtype=torch.float64).view(1, 3, 1, 1)
    close(255 * rgb_to_ycbcr(x).flatten(), torch.tensor(ycbcr, dtype=torch.float64), 1e-9)


@pytest.mark.parametrize(
    "x", [torch.ones(1, 1, 2, 2), torch.ones(3, 2, 2), torch.ones(1, 3, 2, 2).int()]
)
def test_other_shapes_are_refused(x: torch.Tensor) -> None:
    with pytest.raises(ValueError, match=r"\(B, 3, H, W\)"):
        rgb_to_ycbcr(x)
