"""Bicubic resampling equal to MATLAB's ``imresize``: a baseline, and the degradation of the field.

The kernel is Keys' cubic with a = −1/2.  When an image shrinks, the kernel is widened by 1/scale
(antialiasing).  Output pixel i, counted from 0, reads the input at u = (i + ½)/scale − ½.  The
weights of an output pixel sum to one.  Positions outside the image are mirrored, or replicated.

Published PSNRs depend on this function.  The bicubic of OpenCV and that of torch have a = −3/4 or
no antialiasing, which changes PSNR by decibels.

References
----------
Keys, "Cubic convolution interpolation for digital image processing", IEEE TASSP 29(6), 1981.
"""

import math
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import check_size
from csc.filters import mirrored

Edges = Literal["symmetric", "replicate"]


def imresize(
    x: Tensor,
    scale: float | None = None,
    *,
    size: tuple[int, int] | None = None,
    edges: Edges = "symmetric",
) -> Tensor:
    """Resize images as MATLAB's ``imresize(x, scale)`` or ``imresize(x, size)`` does.

    Float images are resized in their own dtype, with gradients.  uint8 images follow MATLAB's uint8
    path: the sums are float64, and each of the two passes rounds to uint8, halves up.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Floating-point or uint8 images.
    scale : float
        Factor > 0 for both axes; the new size is ⌈scale · H⌉ × ⌈scale · W⌉.
    size : (int, int)
        New height and width, instead of `scale`; the factors follow from it.
    edges : "symmetric" or "replicate"
        How positions outside the image are read.  MATLAB mirrors the image.  The uint8 LR files of
        some test sets were made with replicated edges.

    Returns
    -------
    Tensor, shape (B, C, H', W'), dtype and device of x

    Raises
    ------
    ValueError, TypeError
        If x is not (B, C, H, W) in float or uint8, if both or neither of `scale` and `size` are
        given, if one is not positive, or if `edges` is unknown.

    Examples
    --------
    >>> imresize(torch.tensor([[[[0.0, 1.0]]]]), size=(1, 4)).flatten()
    tensor([-0.0938,  0.2031,  0.7969,  1.0938])
    """
    if not isinstance(x, Tensor):
        raise TypeError(f"x must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor")
    if x.ndim != 4 or x.numel() == 0:
        raise ValueError(f"x must be non-empty, of shape (B, C, H, W); got {tuple(x.shape)}")
    if x.is_complex():
        raise TypeError(f"x must be real, got {x.dtype}; use x.real or x.abs()")
    if not (x.is_floating_point() or x.dtype == torch.uint8):
        raise TypeError(f"x must be floating point or uint8, got {x.dtype}; use x.float()")
    if x.is_floating_point() and not bool(torch.isfinite(x.detach()).all()):
        raise ValueError("x has NaN or infinite entries; use torch.where(x.isfinite(), x, 0)")
    if edges not in ("symmetric", "replicate"):
        raise ValueError(f"edges must be 'symmetric' or 'replicate', got {edges!r}")
    if scale is not None and size is None:
        if not 0 < scale < math.inf:
            raise ValueError(f"scale must be finite and > 0, got {scale}")
        scales = (scale, scale)
        size = (math.ceil(scale * x.shape[-2]), math.ceil(scale * x.shape[-1]))
    elif size is not None and scale is None:
        check_size(size)
        scales = (size[0] / x.shape[-2], size[1] / x.shape[-1])
    else:
        raise ValueError(f"give exactly one of scale and size, got {scale} and {size}")
    return resample(x, size, scales, edges)


def resample(
    x: Tensor, size: tuple[int, int], scales: tuple[float, float], edges: Edges = "symmetric"
) -> Tensor:
    """Resize as `imresize` does, without its checks, which would wait for the GPU.

    A graph that torch records must fit images of all sizes, so there it enlarges by convolutions.
    """
    traced = torch.jit.is_tracing()  # type: ignore[attr-defined, no-untyped-call]
    recorded = traced or torch.compiler.is_compiling()
    if recorded and edges == "symmetric" and scales[0] in (2, 3, 4):
        return _enlarge_in_phases(x, int(scales[0]))
    # MATLAB resizes the axis with the smaller factor first, and rows first if they are equal.
    for axis in (0, 1) if scales[0] <= scales[1] else (1, 0):
        x = _resize_axis(x, axis - 2, scales[axis], size[axis], edges)
    return x


def _enlarge_in_phases(x: Tensor, s: int) -> Tensor:
    """Enlarge images by s, to rounding as `bicubic`: one 5×5 kernel for each of the s² phases.

    The images need at least two pixels on each side.
    """
    phases = []  # (s, 5): the weights of the pixels −2, …, 2 around an output pixel's own
    for i in range(s):
        u = (i + 0.5) / s - 0.5
        taps = [_cubic_at(abs(u - j)) for j in range(-2, 3)]
        phases.append([tap / sum(taps) for tap in taps])
    k = torch.tensor(phases, dtype=x.dtype, device=x.device)
    C = x.shape[1]
    kernel = (k[:, None, :, None] * k[None, :, None, :]).reshape(s * s, 1, 5, 5).repeat(C, 1, 1, 1)
    # Mirrored, by slices that do not name the size of the image.
    x = torch.cat([x[:, :, 1:2], x[:, :, :1], x, x[:, :, -1:], x[:, :, -2:-1]], 2)
    x = torch.cat([x[..., 1:2], x[..., :1], x, x[..., -1:], x[..., -2:-1]], 3)
    return F.pixel_shuffle(F.conv2d(x, kernel, groups=C), s)


def bicubic(x: Tensor, scale: int) -> Tensor:
    """Enlarge images by an integer factor: the baseline x_lr → x_sr of every table.

    Parameters
    ----------
    x : Tensor, shape (B, C, h, w)
        LR images, float or uint8.
    scale : int
        Factor ≥ 1.

    Returns
    -------
    Tensor, shape (B, C, scale·h, scale·w)

    Raises
    ------
    ValueError, TypeError
        As :func:`imresize`.

    Examples
    --------
    >>> bicubic(torch.ones(1, 3, 4, 5), 3).shape
    torch.Size([1, 3, 12, 15])
    """
    if scale != int(scale) or scale < 1:
        raise ValueError(f"scale must be an integer ≥ 1, got {scale}")
    return imresize(x, scale)


def modcrop(x: Tensor, scale: int) -> Tensor:
    """Crop height and width to multiples of the scale, at the bottom and on the right.

    Parameters
    ----------
    x : Tensor, shape (..., H, W)
        Images of any dtype.
    scale : int
        Factor ≥ 1.

    Returns
    -------
    Tensor, shape (..., H − H mod scale, W − W mod scale), a view

    Raises
    ------
    ValueError
        If scale < 1 or the image is smaller than one multiple.

    Examples
    --------
    >>> modcrop(torch.zeros(1, 1, 11, 10), 4).shape
    torch.Size([1, 1, 8, 8])
    """
    if scale < 1 or min(x.shape[-2:]) < scale:
        raise ValueError(f"cannot crop {tuple(x.shape[-2:])} to a multiple of scale {scale}")
    H, W = x.shape[-2:]
    return x[..., : H - H % scale, : W - W % scale]


def mirror(x: Tensor, pad: int) -> Tensor:
    """Return images (B, C, H+2·pad, W+2·pad): mirrored beyond each border, repeatedly if small."""
    for axis in (2, 3):
        n = x.shape[axis]
        x = x.index_select(axis, mirrored(torch.arange(-pad, n + pad, device=x.device), n))
    return x


def round_uint8(x: Tensor) -> Tensor:
    """Return float images in [0, 255] as uint8: clipped, halves rounded up, as in MATLAB.

    Examples
    --------
    >>> round_uint8(torch.tensor([-3.0, 0.5, 254.4, 300.0]))
    tensor([  0,   1, 254, 255], dtype=torch.uint8)
    """
    return (x + 0.5).floor().clamp(0, 255).to(torch.uint8)


# The next two functions compute in MATLAB's order.  A sum of the uint8 path can be halfway between
# two levels; then the last bit of the weights decides, and another order would round it elsewhere.


def _cubic_at(t: float) -> float:
    """`_cubic` of a number ≥ 0."""
    near, far = 1.5 * t**3 - 2.5 * t**2 + 1, -0.5 * t**3 + 2.5 * t**2 - 4 * t + 2
    return near if t <= 1 else far if t <= 2 else 0.0


def _cubic(t: Tensor) -> Tensor:
    """Keys' kernel, a = −1/2, support [−2, 2]."""
    t = t.abs()
    t2 = t * t
    t3 = t2 * t
    near = 1.5 * t3 - 2.5 * t2 + 1
    far = -0.5 * t3 + 2.5 * t2 - 4 * t + 2
    return torch.where(t <= 1, near, torch.where(t <= 2, far, 0.0))


def _contributions(n: int, scale: float, m: int, edges: Edges) -> tuple[Tensor, Tensor]:
    """Return weights and input positions, both (m, taps), of m outputs from n inputs."""
    shrink = min(scale, 1.0)
    width = 4 / shrink
    u = torch.arange(1, m + 1, dtype=torch.float64) / scale + 0.5 * (1 - 1 / scale)  # from 1
    at = torch.floor(u - width / 2)[:, None] + torch.arange(math.ceil(width) + 2)  # (m, taps)
    weights = shrink * _cubic(shrink * (u[:, None] - at))
    weights /= weights.cumsum(1)[:, -1:]  # adds from left to right, which sum() does not
    at = at.long() - 1  # from 0
    at = mirrored(at, n) if edges == "symmetric" else at.clamp(0, n - 1)
    used = (weights != 0).any(0)
    return weights[:, used], at[:, used]


def _resize_axis(x: Tensor, axis: int, scale: float, m: int, edges: Edges) -> Tensor:
    weights, at = _contributions(x.shape[axis], scale, m, edges)
    work = x.double() if x.dtype == torch.uint8 else x
    weights, at = weights.to(work), at.to(x.device)
    shape = (-1, 1) if axis == -2 else (-1,)
    out = weights[:, 0].view(shape) * work.index_select(axis, at[:, 0])
    for tap in range(1, at.shape[1]):
        out = out + weights[:, tap].view(shape) * work.index_select(axis, at[:, tap])
    return round_uint8(out) if x.dtype == torch.uint8 else out
