"""What the compiled kernels take: arrays and numbers that belong together, as named tuples.

All arrays of pixels, atoms and codes are flat, in C order, in float32 or float64.
"""

from typing import NamedTuple, TypeAlias

import numpy as np
from numpy.typing import NDArray

Float: TypeAlias = np.float32 | np.float64
Floats: TypeAlias = NDArray[np.float32] | NDArray[np.float64]
Ints: TypeAlias = NDArray[np.int32]
Places: TypeAlias = NDArray[np.int64]
Flags: TypeAlias = NDArray[np.uint8]
Marks: TypeAlias = NDArray[np.bool_]
Mask: TypeAlias = Floats | tuple[()]
"""1 at known pixels and 0 at missing ones, as the image; () where all pixels are known."""
Span: TypeAlias = tuple[int, int]
"""The first index of a range, and the first index after it."""

# The dense kernels correlate ATOMS atoms with VECTORS vectors of positions at a time.
ATOMS = 8
VECTORS = 2
VECTOR_BYTES = 64


def positions(dtype: "np.dtype[np.float32] | np.dtype[np.float64]") -> int:
    """Return how many positions of a row the dense kernels take at a time."""
    return VECTORS * VECTOR_BYTES // dtype.itemsize


class Layout(NamedTuple):
    """How the windows of an image lie in memory.

    The tuples hold zeros, and only their lengths count.  The length of a tuple is part of its numba
    type, so each kernel is compiled for atoms of kh×kw pixels and C channels.
    """

    strides: tuple[np.int64, np.int64]  # from a row to the next, from a channel to the next
    kh: tuple[int, ...]
    kw: tuple[int, ...]
    C: tuple[int, ...]


class Atoms(NamedTuple):
    """A dictionary (M, C, kh, kw) in two orders."""

    D: Floats  # (M, C, kh, kw)
    groups: Floats  # (⌈M/ATOMS⌉, C, kh, kw, ATOMS), with zeros after the last atom
    layout: Layout


class Weights(NamedTuple):
    """The weights λ of all codes."""

    lam: Floats  # (M, h, w), with strides of zero along axes where λ is constant
    least: Floats  # (M), the smallest λ of each atom
    nonneg: bool  # whether codes are ≥ 0


class Active(NamedTuple):
    """A list of n coordinates, sorted by row, and their codes."""

    atoms: Ints
    rows: Ints
    columns: Ints
    at: Places  # row · W + column, the position of a window in its channel
    lam: Floats
    norm2: Floats  # ‖d_m‖², counting only known pixels
    values: Floats  # the codes


class Codes(NamedTuple):
    """Dense codes (M, h, w) of an image.

    A run is up to `positions(dtype)` codes of a row, side by side.  A run without its flag holds
    only zeros, and kernels skip it.
    """

    z: Floats
    in_use: Flags  # (M, h, runs of a row)


class Scalars(NamedTuple):
    """The numbers of a proximal step, in the dtype of the image."""

    momentum: Float  # β in y = z + β (z − z_before)
    L: Float  # the step is 1/L
    factor: Float  # the weight is factor · λ


class Block(NamedTuple):
    """What the dense kernels know of a group of ATOMS atoms at some positions of a row."""

    level: Floats  # (groups · ATOMS), correlations above it are marked
    largest: Floats  # (groups · ATOMS, lanes of a vector), largest correlations so far
    values: Floats  # (ATOMS, VECTORS, lanes), correlations
    marks: Places  # (ATOMS, VECTORS), bit j marks lane j
