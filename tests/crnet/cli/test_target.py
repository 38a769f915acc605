"""Laws of sizes on the command line: in proportion, within the box, and never smaller."""

import argparse

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from crnet.cli.target import Target, box, factor, pixels
from crnet.errors import ImageFileError

SIDES = st.integers(1, 3000)


@given(SIDES, SIDES, SIDES, SIDES | st.none())
def test_the_image_fits_and_keeps_its_proportions(h: int, w: int, W: int, H: int | None) -> None:
    target = Target(width=W, height=H)
    most = W / w if H is None else min(W / w, H / h)
    if not 1 < most <= 16:
        with pytest.raises(ImageFileError, match=r"a\.png: is .* must be > 1 and at most 16"):
            target.size("a.png", h, w)
        return
    made_h, made_w = target.size("a.png", h, w)
    assert made_w == W or made_h == H
    assert made_w <= W
    assert H is None or made_h <= H
    assert abs(made_h - most * h) <= 0.5 + 1e-9
    assert abs(made_w - most * w) <= 0.5 + 1e-9


@given(SIDES, SIDES, st.integers(2, 16))
def test_a_whole_scale_is_exact(h: int, w: int, scale: int) -> None:
    assert Target(scale=scale).size("", h, w) == (scale * h, scale * w)
    assume(h >= w)
    assert Target(width=scale * w).size("", h, w) == (scale * h, scale * w)


def test_values_are_read_and_refused() -> None:
    assert (factor("3"), factor("2.50"), type(factor("4.0"))) == (3, 2.5, int)
    assert (box("1920x1080"), pixels("800")) == ((1920, 1080), 800)
    assert [Target(scale=factor("3.0")).label, Target(scale=2.5).label] == ["x3", "x2.5"]
    assert [Target(width=9, height=8).label, Target(width=9).label] == ["9x8", "9w"]
    for read, bad in ((factor, "1 17 nan inf two 0x2"), (box, "9 9x 0x9 9X9 9x9x9 -9x9"),
                      (pixels, "0 -3 4.5 x")):  # fmt: skip
        for text in bad.split():
            with pytest.raises(argparse.ArgumentTypeError):
                read(text)
