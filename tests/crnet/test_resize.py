"""Laws of enlarging by any number: the size is right, and whole scales are untouched."""

import itertools
import math

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st

from baselines import bicubic, imresize
from crnet import Upscaler, enlarge, upscale_picture
from crnet.files import Picture
from crnet.model import CRNetB
from crnet.resize import plan

SCALES = st.sets(st.integers(2, 5), min_size=1, max_size=3).map(sorted)


def small() -> Upscaler:
    return Upscaler(CRNetB(4, 6, 1, generator=torch.Generator().manual_seed(0)))


def image(h: int, w: int, channels: int = 3) -> torch.Tensor:
    return torch.rand(1, channels, h, w, generator=torch.Generator().manual_seed(h * w))


@given(st.integers(1, 9), st.integers(1, 9), st.floats(1, 16), SCALES | st.just([]) | st.none())
def test_the_size_is_the_scale_times_rounded(h: int, w: int, scale: float, scales) -> None:
    made = enlarge(image(h, w), bicubic, scale, scales=scales)
    for side, n in zip(made.shape[-2:], (h, w), strict=True):
        assert abs(side - scale * n) <= 0.5 + 1e-9
    assert made.shape[:2] == (1, 3)


@given(st.integers(1, 9), st.integers(1, 9), st.integers(0, 40), st.integers(0, 40), SCALES)
def test_any_size_is_made_also_of_other_proportions(h, w, down, right, scales) -> None:
    size = (h + down, w + right)
    assert enlarge(image(h, w), bicubic, size=size, scales=scales).shape[-2:] == size


@given(st.floats(1.001, 16), SCALES)
@example(3.5, [2, 5])  # two passes of 2 rather than one of 5
def test_the_passes_are_the_smallest_that_are_large_enough(scale: float, scales) -> None:
    passes = plan((10, 10), scale, scales=scales).passes
    brute = [
        several for n in range(5) for several in itertools.product(scales, repeat=n)
        if math.prod(several) >= scale
    ]  # fmt: skip
    least = min(map(math.prod, brute))
    assert math.prod(passes) == least
    assert len(passes) == min(len(several) for several in brute if math.prod(several) == least)
    assert list(passes) == sorted(passes)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_scale_of_the_network_is_the_network_alone(scale: int) -> None:
    net, x = small(), image(7, 5)
    for given_scale in (scale, float(scale)):
        assert torch.equal(enlarge(x, net, given_scale, scales=(2, 3, 4)), net(x, scale))
    assert torch.equal(
        enlarge(x, net, size=(7 * scale, 5 * scale), scales=(2, 3, 4)), net(x, scale)
    )


def test_eight_is_four_of_two_and_other_numbers_are_reduced() -> None:
    net, x = small(), image(6, 5)
    twice = net(net(x, 2).clamp(0, 1), 4)
    assert torch.equal(enlarge(x, net, 8, scales=(2, 3, 4)), twice)
    reduced = imresize(net(x, 3), size=(15, 13))
    assert torch.equal(enlarge(x, net, 2.5, scales=(2, 3, 4)), reduced)
    assert torch.equal(enlarge(x, net, 2.5, scales=()), imresize(x, size=(15, 13)))


@settings(max_examples=10)
@given(st.sampled_from([1, 3]), st.floats(1, 9), st.sampled_from([1, 3]))
def test_a_picture_of_any_size_keeps_colour_and_alpha(
    channels: int, scale: float, net: int
) -> None:
    picture = Picture(image(6, 5, channels), image(6, 5, 1))
    system = small() if net == 3 else bicubic
    size = plan((6, 5), scale).size
    for one in (
        upscale_picture(picture, scale, system, scales=(2, 3, 4)),
        upscale_picture(picture, None, system, size=size, scales=(2, 3, 4)),
    ):
        assert one.color.shape == (1, channels, *size)
        assert one.alpha is not None
        assert one.alpha.shape == (1, 1, *size)
        assert one.color.min() >= 0
        assert one.color.max() <= 1


class Same:
    """A system that returns its argument."""

    channels = 3

    def __call__(self, x: torch.Tensor, scale: int) -> torch.Tensor:
        return x


def test_a_picture_is_not_changed() -> None:
    picture = Picture(2 * image(6, 5) - 0.5)
    before = picture.color.clone()
    upscale_picture(picture, 1, Same())
    upscale_picture(picture, 1, bicubic, scales=())
    assert torch.equal(picture.color, before)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({}, "exactly one of scale and size"),
        ({"scale": 2, "size": (9, 9)}, "exactly one of scale and size"),
        ({"scale": 0.5}, "scale must be finite and ≥ 1, got 0.5"),
        ({"scale": math.nan}, "scale must be finite and ≥ 1"),
        ({"size": (9, 3)}, "size must be at least 4x4, got 9x3"),
        ({"size": (9.5, 9)}, "two integers"),
        ({"scale": 2, "scales": (1, 2)}, "scales must be ≥ 2, got 1 and 2"),
    ],
)
def test_bad_sizes_are_refused_before_any_work(options: dict, says: str) -> None:
    def never(*_: object) -> torch.Tensor:
        pytest.fail("the system ran")

    with pytest.raises(ValueError, match=says):
        enlarge(image(4, 4), never, **options)
