"""Flat images stay flat and gradients monotone in the shipped networks, at the border too."""

from functools import cache

import pytest
import torch
from torch import Tensor

from crnet import Upscaler, bundled, card, load

ON_RGB = [name for name in bundled() if card(name).architecture.endswith("CRNetB")]
ON_Y = [name for name in bundled() if name not in ON_RGB]
SCALES = (2, 3, 4)
COLORS = (
    (0.0, 1.0, 0.0), (0.0, 0.0, 1.0), (1.0, 0.0, 0.0), (1.0, 1.0, 1.0), (0.0, 0.0, 0.0),
    (1.0, 0.0, 1.0), (0.2, 0.6, 0.9),
)  # fmt: skip


@cache
def upscaler(name: str) -> Upscaler:
    return Upscaler(load(name))


def off(name: str, flat: Tensor, scale: int) -> Tensor:
    """How far each pixel of enlarged images is from its flat value, in levels of 255."""
    with torch.inference_mode():
        out = upscaler(name)(flat, scale)
    return 255 * (out.clamp(0, 1) - flat[..., :1, :1]).abs()


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(24, 20), (1, 1), (20, 1), (2, 7)])
@pytest.mark.parametrize("name", ON_Y)
def test_networks_on_y_within_half_a_level(name: str, scale: int, size: tuple[int, int]) -> None:
    """Also images of one pixel, which were up to 4.7 levels off without replication."""
    flat = torch.tensor([0.0, 0.1, 0.5, 1.0]).view(-1, 1, 1, 1).expand(-1, -1, *size)
    assert off(name, flat.contiguous(), scale).max() <= 0.5


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("size", [(24, 20), (1, 1), (1, 24), (20, 1)])
@pytest.mark.parametrize("name", ON_RGB)
def test_networks_on_rgb_within_a_level(name: str, scale: int, size: tuple[int, int]) -> None:
    """At most one level after rounding.  crnet-b was 73 off at a corner before it had a border."""
    most = 1.2 if name == "crnet-b" else 1e-3
    flat = torch.tensor(COLORS).view(-1, 3, 1, 1).expand(-1, -1, *size)
    assert off(name, flat.contiguous(), scale).max() <= most


@pytest.mark.parametrize("scale", SCALES)
@pytest.mark.parametrize("axis", [2, 3])
@pytest.mark.parametrize("n", [16, 24])
@pytest.mark.parametrize("name", [*ON_Y, *ON_RGB])
def test_gradients_stay_monotone_within_a_level(name: str, n: int, axis: int, scale: int) -> None:
    """In 8 bits, borders included; white, green and blue, from 0 to 1 and in the middle."""
    upscale, most = upscaler(name), 4 if name == "srcnn-compact" else 1
    colors = ((1.0, 1.0, 1.0), (0.0, 1.0, 0.0), (0.2, 0.6, 0.9)) if name in ON_RGB else ((1.0,),)
    shape = [1, 1, 1, 1]
    shape[axis] = n
    ranges = ((0, 1), (0.2, 0.8), (0.45, 0.55))
    ramps = [
        torch.linspace(low, high, n).view(shape) * torch.tensor(c).view(1, -1, 1, 1)
        for low, high in ranges
        for c in colors
    ]
    with torch.inference_mode():
        out = upscale(torch.cat([ramp.expand(1, -1, n, n) for ramp in ramps]), scale)
    levels = (255 * out.clamp(0, 1)).round()
    assert levels.diff(dim=axis).min() >= -most
    for (low, high), seen in zip(ranges, levels.chunk(len(ranges)), strict=True):
        assert seen.amax() - seen.amin() > 0.5 * 255 * (high - low)  # it still is a gradient
