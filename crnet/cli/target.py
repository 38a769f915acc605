"""The size that ``crnet upscale`` is asked for: a factor, a box or a width."""

import argparse
import re
from dataclasses import dataclass

from crnet.errors import ImageFileError
from crnet.resize import nearest

LARGEST = 16
"""Largest factor."""


@dataclass(frozen=True)
class Target:
    """What the image becomes: a scale, or the width and height to fit in, which may be open.

    The image keeps its proportions.
    """

    scale: float | None = None
    width: int | None = None
    height: int | None = None

    @property
    def label(self) -> str:
        """How names of files call it: ``x2.5``, ``1920x1080`` or ``1920w``."""
        if self.scale is not None:
            return f"x{self.scale:g}"
        return f"{self.width}w" if self.height is None else f"{self.width}x{self.height}"

    def size(self, name: str, h: int, w: int) -> tuple[int, int]:
        """Return the new (height, width) of an image of (h, w) pixels.

        Raises
        ------
        ImageFileError
            If the image would become smaller, or more than 16 times as large.

        Examples
        --------
        >>> Target(scale=2.5).size("a.png", 30, 41)
        (75, 103)
        >>> Target(width=1920, height=1080).size("a.png", 600, 800)
        (1080, 1440)
        >>> Target(width=1920).size("a.png", 600, 800)
        (1440, 1920)
        """
        if self.scale is not None:
            return nearest(self.scale * h), nearest(self.scale * w)
        assert self.width is not None  # noqa: S101  # one of the three is given
        by_width = self.height is None or self.width * h <= self.height * w
        long, side = (self.width, w) if by_width else (self.height or 0, h)
        if not side < long <= LARGEST * side:
            option = f"--width {self.width}" if self.height is None else f"--size {self.label}"
            raise ImageFileError(
                f"{name}: is {w}x{h}, so {option} is a factor of {long / side:.3g}; "
                f"it must be > 1 and at most {LARGEST}"
            )
        # In whole numbers: halves up, and never above the box.
        other = max(1, (2 * long * (h if by_width else w) + side) // (2 * side))
        return (other, long) if by_width else (long, other)


def factor(text: str) -> float:
    """Return the number of ``--scale``, whole numbers as int."""
    try:
        value = float(text)
    except ValueError:
        value = 0
    if not 1 < value <= LARGEST:
        raise argparse.ArgumentTypeError(
            f"must be a number > 1 and at most {LARGEST}, got {text!r}"
        )
    return int(value) if value.is_integer() else value


def box(text: str) -> tuple[int, int]:
    """Return width and height of ``--size``."""
    match = re.fullmatch(r"([1-9]\d{0,6})x([1-9]\d{0,6})", text)
    if not match:
        raise argparse.ArgumentTypeError(f"must be WIDTHxHEIGHT such as 1920x1080, got {text!r}")
    return int(match[1]), int(match[2])


def pixels(text: str) -> int:
    """Return the number of ``--width``."""
    if not re.fullmatch(r"[1-9]\d{0,6}", text):
        raise argparse.ArgumentTypeError(f"must be a whole number of pixels, got {text!r}")
    return int(text)
