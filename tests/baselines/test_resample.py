import json
import math
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch.nn import functional as F

from baselines import bicubic, imresize, modcrop, round_uint8
from tests.laws import close

GOLDEN = json.loads((Path(__file__).parent / "golden_imresize.json").read_text())["cases"]
scales = st.sampled_from([1 / 4, 1 / 3, 1 / 2, 0.7, 1.0, 1.5, 2.0, 3.0, 4.0])
sizes = st.integers(1, 12)
edge_modes = st.sampled_from(["symmetric", "replicate"])


def draw(H: int, W: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 3, H, W, generator=g, dtype=torch.float64).to(dtype)


@pytest.mark.parametrize("case", GOLDEN, ids=lambda c: f"{c['name']} {c['scale']} {c['edges']}")
def test_golden_values(case: dict) -> None:
    """Exact rational arithmetic from MATLAB's definition; see the file."""
    values = lambda rows: [[float(Fraction(v)) for v in row] for row in rows]  # noqa: E731
    x = torch.tensor(values(case["input"]), dtype=torch.float64)[None, None]
    expected = torch.tensor(values(case["output"]), dtype=torch.float64)[None, None]
    scale = float(Fraction(case["scale"]))
    if case["axis"] == "both":
        found = imresize(x.to(torch.uint8), scale, edges=case["edges"])
        assert torch.equal(found, expected.to(torch.uint8))
    else:
        rows = x.repeat(1, 1, 24, 1)  # constant down the columns
        found = imresize(rows, scale, edges=case["edges"])
        close(found, expected.expand_as(found), 1e-12)


@given(sizes, sizes, scales, edge_modes)
def test_size_is_rounded_up_and_constants_stay(H: int, W: int, scale: float, edges) -> None:
    """The weights of a row sum to one."""
    out = imresize(torch.full((1, 2, H, W), 0.3, dtype=torch.float64), scale, edges=edges)
    assert out.shape == (1, 2, math.ceil(scale * H), math.ceil(scale * W))
    close(out, torch.full_like(out, 0.3), 1e-14)


# Shrinking by other than an integer factor, MATLAB's normalised kernel bends a ramp a little.
@given(st.sampled_from([1 / 4, 1 / 3, 1 / 2, 1.0, 1.5, 2.0, 3.0, 4.0]), st.integers(20, 30))
def test_linear_ramps_stay_linear_inside(scale: float, n: int) -> None:
    """Output pixel i is the ramp's value at (i + ½)/scale − ½, away from the mirrored edges."""
    x = torch.arange(n, dtype=torch.float64).expand(1, 1, n, n)
    out = imresize(x, scale)[0, 0, 0]
    u = (torch.arange(len(out), dtype=torch.float64) + 0.5) / scale - 0.5
    reach = 2 / min(scale, 1) + 1
    inside = (u > reach) & (u < n - 1 - reach)
    close(out[inside], u[inside], 1e-12)


@pytest.mark.parametrize("scale", [1 / 4, 1 / 3, 1 / 2, 2.0, 3.0, 4.0])
def test_agrees_with_torch_away_from_borders(scale: float) -> None:
    """torch's antialiased bicubic has the same kernel but drops the taps outside the image."""
    x = draw(48, 60)
    expected = F.interpolate(
        x, scale_factor=scale, mode="bicubic", antialias=True, align_corners=False
    )
    out = imresize(x, scale)
    edge = math.ceil(3 * max(scale, 1)) + 1
    inside = (..., slice(edge, -edge), slice(edge, -edge))
    close(out[inside], expected[inside], 1e-10)
    assert not torch.allclose(out, expected, atol=1e-4)  # the borders do differ


@given(sizes, sizes, st.integers(2, 4), edge_modes)
def test_axes_are_separate_and_equal(H: int, W: int, scale: int, edges) -> None:
    x = draw(H, W)
    turned = imresize(x.transpose(2, 3), 1 / scale, edges=edges).transpose(2, 3)
    close(imresize(x, 1 / scale, edges=edges), turned, 1e-13)


@given(sizes, sizes, st.integers(1, 12), st.integers(1, 12))
def test_a_size_is_two_scales(H: int, W: int, h: int, w: int) -> None:
    x = draw(H, W)
    out = imresize(x, size=(h, w))
    assert out.shape[-2:] == (h, w)
    alone = imresize(imresize(x, size=(h, W)), size=(h, w))
    close(out, alone, 1e-12)


@given(sizes, sizes)
def test_scale_one_is_the_identity(H: int, W: int) -> None:
    x = draw(H, W)
    assert torch.equal(imresize(x, 1.0), x)


def test_it_is_differentiable() -> None:
    x = draw(5, 6)[:1, :1].requires_grad_()
    assert torch.autograd.gradcheck(lambda x: imresize(x, 0.5), (x,))
    assert torch.autograd.gradcheck(lambda x: imresize(x, 2.0, edges="replicate"), (x,))


def test_uint8_is_rounded_between_the_passes() -> None:
    """On noise, one rounding at the end gives other levels at some pixels."""
    x = (255 * draw(24, 24)).to(torch.uint8)
    once = round_uint8(imresize(x.double(), 0.5))
    twice = imresize(x, 0.5)
    assert twice.dtype == torch.uint8
    difference = (once.int() - twice.int()).abs()
    assert 0.02 < (difference > 0).float().mean() < 0.3
    assert difference.max() <= 2


def test_the_axis_that_shrinks_more_goes_first() -> None:
    """MATLAB's order, which the rounding between the passes makes visible."""
    x = (255 * draw(24, 24)).to(torch.uint8)
    for size in ((20, 7), (7, 20)):
        rows_first = imresize(imresize(x, size=(size[0], 24)), size=size)
        columns_first = imresize(imresize(x, size=(24, size[1])), size=size)
        assert not torch.equal(rows_first, columns_first)
        expected = rows_first if size[0] < size[1] else columns_first
        assert torch.equal(imresize(x, size=size), expected)


def matlab(x: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """The uint8 path of ``imresize(x, size)``, line by line as in MATLAB's ``imresize.m``."""
    scales = [m / n for m, n in zip(size, x.shape, strict=True)]
    for axis in np.argsort(scales, kind="stable"):
        n, m, scale = x.shape[axis], size[axis], scales[axis]
        width = 4 / scale if scale < 1 else 4.0
        at = np.arange(1.0, m + 1)
        u = at / scale + 0.5 * (1 - 1 / scale)
        indices = np.floor(u - width / 2)[:, None] + np.arange(math.ceil(width) + 2)
        t = np.abs((u[:, None] - indices) * (scale if scale < 1 else 1.0))
        t2, t3 = t * t, t * t * t
        weights = (1.5 * t3 - 2.5 * t2 + 1) * (t <= 1)
        weights += (-0.5 * t3 + 2.5 * t2 - 4 * t + 2) * ((t > 1) & (t <= 2))
        weights *= scale if scale < 1 else 1.0
        total = sum(weights.T)  # column by column
        mirror = np.r_[:n, n - 1 : -1 : -1]
        pixels = mirror[np.mod(indices - 1, 2 * n).astype(int)]
        image = np.moveaxis(x, axis, 0).astype(float)
        rows = [
            sum(w / whole * image[i] for w, i in zip(line, places, strict=True))
            for line, whole, places in zip(weights, total, pixels, strict=True)
        ]
        x = np.moveaxis(np.clip(np.floor(np.stack(rows) + 0.5), 0, 255).astype(np.uint8), 0, axis)
    return x


def levels(seed: int, H: int, W: int) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, (H, W)).astype(np.uint8)


@pytest.mark.parametrize("seed", range(25))
def test_odd_sizes_are_matlabs(seed: int) -> None:
    (H, W), (h, w) = np.random.default_rng(seed).integers(1, 20, (2, 2)).tolist()
    x = levels(seed, 2 * H + 1, 2 * W + 1)
    size = (2 * h + 1, 2 * w + 1)
    found = imresize(torch.from_numpy(x)[None, None], size=size)[0, 0]
    assert np.array_equal(found.numpy(), matlab(x, size))


@pytest.mark.parametrize(
    ("seed", "shape", "size"),
    [
        (26, (11, 7), (7, 5)),
        (50, (11, 11), (9, 11)),
        (503, (5, 7), (9, 5)),
        (1356, (7, 5), (5, 7)),
        (1811, (11, 5), (9, 11)),
        (1858, (7, 5), (5, 11)),
    ],
)
def test_halves_are_rounded_as_by_matlab(seed: int, shape, size) -> None:
    """A sum halfway between two levels: the last bit of the weights decides, so it is MATLAB's."""
    x = levels(seed, *shape)
    found = imresize(torch.from_numpy(x)[None, None], size=size)[0, 0]
    assert np.array_equal(found.numpy(), matlab(x, size))


def test_rounding() -> None:
    x = torch.tensor([-1.0, 0.49, 0.5, 1.5, 2.5, 254.5, 255.4, 1e9])
    assert round_uint8(x).tolist() == [0, 0, 1, 2, 3, 255, 255, 255]


@given(st.integers(4, 20), st.integers(4, 20), st.integers(1, 4))
def test_modcrop_and_bicubic_restore_the_size(H: int, W: int, scale: int) -> None:
    x = modcrop(draw(H, W), scale)
    assert H - scale < x.shape[2] <= H
    assert x.shape[2] % scale == x.shape[3] % scale == 0
    assert bicubic(imresize(x, 1 / scale), scale).shape == x.shape


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.uint8])
def test_dtype_follows_the_input(dtype: torch.dtype) -> None:
    assert imresize(draw(4, 4, dtype=dtype), 2.0).dtype == dtype


X = torch.ones(1, 1, 4, 4)


@pytest.mark.parametrize(
    ("call", "error", "says"),
    [
        (lambda: imresize(X[0], 2), ValueError, r"\(B, C, H, W\); got \(1, 4, 4\)"),
        (lambda: imresize(X[:0], 2), ValueError, "non-empty"),
        (lambda: imresize(X.numpy(), 2), TypeError, "got ndarray"),
        (lambda: imresize(X.int(), 2), TypeError, "float or uint8|floating point or uint8"),
        (lambda: imresize(X + 0j, 2), TypeError, r"must be real, got torch.complex64; use x.real"),
        (lambda: imresize(X, 0.0), ValueError, "scale must be finite and > 0, got 0"),
        (lambda: imresize(X, float("nan")), ValueError, "scale must be finite"),
        (lambda: imresize(X), ValueError, "exactly one of scale and size"),
        (lambda: imresize(X, 2.0, size=(3, 3)), ValueError, "exactly one of scale and size"),
        (lambda: imresize(X, size=(0, 3)), ValueError, "size must be two integers > 0"),
        (lambda: imresize(X, 2.0, edges="wrap"), ValueError, "'symmetric' or 'replicate'"),
        (lambda: modcrop(X, 5), ValueError, "cannot crop"),
        (lambda: modcrop(X, 0), ValueError, "cannot crop"),
    ],
)
def test_bad_input_is_named(call, error: type[Exception], says: str) -> None:
    with pytest.raises(error, match=says):
        call()
