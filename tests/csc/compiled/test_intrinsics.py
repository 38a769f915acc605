"""Each intrinsic equals the plain loop in its docstring."""

import inspect
import textwrap
from collections.abc import Callable

import numpy as np
import pytest
from numba import njit

from csc.compiled import intrinsics
from csc.compiled.intrinsics import correlate, dot, subtract
from csc.compiled.records import ATOMS, VECTORS, Atoms, Block, Layout, positions

# Compiled here and not cached, so that a change of an intrinsic is seen at once.
kinds = pytest.mark.parametrize(
    ("C", "k", "dtype"), [(1, (1, 1), "f8"), (2, (1, 3), "f4"), (3, (5, 4), "f4")]
)
M, H = 11, 9  # the second group of atoms has 3


def plain_loop(intrinsic: Callable, **names: object) -> dict:
    """Run the loop at the end of a docstring, and return its variables."""
    loop = inspect.getdoc(intrinsic).split("::\n\n")[1]
    exec(textwrap.dedent(loop), {"ATOMS": ATOMS, **names}, names)  # noqa: S102
    return names


def problem(C: int, kh: int, kw: int, dtype: str) -> tuple[np.ndarray, np.ndarray, Atoms, int]:
    """Return an image r (C, H, W), a dictionary (M, C, kh, kw), its record, and W."""
    g = np.random.default_rng(0)
    W = positions(np.dtype(dtype)) + kw + 2
    r, D = g.normal(size=(C, H, W)).astype(dtype), g.normal(size=(M, C, kh, kw)).astype(dtype)
    groups = np.zeros((2 * ATOMS, C, kh, kw), dtype)
    groups[:M] = D
    groups = groups.reshape(2, ATOMS, C, kh, kw).transpose(0, 2, 3, 4, 1)
    layout = Layout((np.int64(W), np.int64(H * W)), kh=(0,) * kh, kw=(0,) * kw, C=(0,) * C)
    return r, D, Atoms(D.ravel(), np.ascontiguousarray(groups).ravel(), layout), W


@kinds
def test_dot(C: int, k: tuple[int, int], dtype: str) -> None:
    kh, kw = k
    r, D, atoms, W = problem(C, kh, kw, dtype)
    run = njit(lambda r, atoms, m, at: dot(r, atoms, m, at))
    for m, p, q in [(0, 0, 0), (10, H - kh, W - kw), (4, 2, 3)]:
        plain = plain_loop(intrinsics._dot, r=r, D=D, m=m, p=p, q=q, kh=kh, kw=kw)["total"]
        found = run(r.ravel(), atoms, np.int64(m), np.int64(p * W + q))
        assert found == pytest.approx(plain, rel=1e-4 if dtype == "f4" else 1e-12)


@kinds
@pytest.mark.parametrize("masked", [False, True])
def test_subtract(C: int, k: tuple[int, int], dtype: str, masked: bool) -> None:
    kh, kw = k
    r, D, atoms, W = problem(C, kh, kw, dtype)
    mask = (np.random.default_rng(1).random(r.shape) < 0.7).astype(dtype) if masked else ()
    run = njit(lambda r, atoms, m, at, t, mask: subtract(r, atoms, m, at, t, mask))
    found, t = r.copy().ravel(), np.dtype(dtype).type(1.7)
    for m, p, q in [(0, 0, 0), (10, H - kh, W - kw), (4, 2, 3)]:
        plain_loop(intrinsics._subtract, r=r, D=D, m=m, p=p, q=q, kh=kh, kw=kw, t=t, mask=mask)
        flat = mask.ravel() if masked else ()
        run(found, atoms, np.int64(m), np.int64(p * W + q), t, flat)
    np.testing.assert_allclose(found, r.ravel(), rtol=1e-5, atol=1e-6)


@kinds
@pytest.mark.parametrize("absolute", [False, True])
def test_correlate(C: int, k: tuple[int, int], dtype: str, absolute: bool) -> None:
    kh, kw = k
    r, D, atoms, W = problem(C, kh, kw, dtype)
    width = positions(np.dtype(dtype))
    lanes = width // VECTORS
    # Kernels read up to `width` numbers past the last pixel.
    pixels = np.append(r.ravel(), np.zeros(width, dtype))
    level = np.linspace(0.1, 3, 2 * ATOMS).astype(dtype)
    plain = {
        "groups": np.ascontiguousarray(atoms.groups).reshape(2, C, kh, kw, ATOMS),
        "level": level.reshape(2, ATOMS),
        "largest": np.zeros((2, ATOMS), dtype),
    }
    block = Block(
        level=level,
        largest=np.zeros(2 * ATOMS * lanes, dtype),
        values=np.full(ATOMS * width, np.nan, dtype),
        marks=np.full(ATOMS * VECTORS, -1),
    )
    run = njit(
        lambda r, atoms, group, at, end, absolute, block: correlate(
            r, atoms, group, at, end, absolute, block
        )
    )
    for group, p, q, end in [(0, 0, 0, width), (1, H - kh, 2, width), (0, 3, 1, 5), (1, 0, 4, 1)]:
        values, marks = np.zeros((ATOMS, width), dtype), np.zeros((ATOMS, width), bool)
        plain_loop(
            intrinsics._correlate, **plain, r=r, p=p, q=q, kh=kh, kw=kw, group=group, end=end,
            absolute=absolute, values=values, marks=marks,
        )  # fmt: skip
        numbers = (np.int64(n) for n in (group, p * W + q, end))
        bits = run(pixels, atoms, *numbers, absolute, block)
        found = block.values.reshape(ATOMS, width)
        np.testing.assert_allclose(found, values, rtol=1e-4, atol=1e-5)
        lane = block.marks.reshape(ATOMS, VECTORS, 1) >> np.arange(lanes) & 1
        np.testing.assert_array_equal(lane.reshape(ATOMS, width), marks)
        assert bits == sum(1 << u for u in range(ATOMS) if marks[u].any())
    largest = block.largest.reshape(2, ATOMS, lanes).max(2)
    np.testing.assert_allclose(largest, plain["largest"], rtol=1e-4)
