"""Split an image into a smooth part and the rest, which CSC codes.

The low-pass part minimises

    ½‖l − x‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²),

with ∇ the difference of neighbouring pixels.  In the Fourier domain this is a division,

    l̂(ω) = x̂(ω)/(1 + μ(4 − 2 cos ω_h − 2 cos ω_v)).

If pixels are missing, ½‖m ⊙ (l − x)‖² is the first term, with m = 1 at known pixels.  Then l
solves (m + μ∇ᵀ∇) l = m ⊙ x, by conjugate gradients.  The filter divided by its mean of m is the
preconditioner: without missing pixels one step suffices.

Slow changes of brightness are not sparse in small atoms: they need a code at nearly every position,
and the ℓ1 norm would penalise each code.  So CSC is applied to the high-pass part x − l, whose
mean is close to zero, and l is added back after the synthesis.

References
----------
Wohlberg, "Efficient algorithms for convolutional sparse representations", IEEE TIP 25(1), 2016.
Wohlberg, "Convolutional sparse representations as an image model for impulse noise restoration",
IEEE IVMSP Workshop, 2016 (why the low-pass part needs a model of its own).
"""

import math

import torch
from torch import Tensor

from csc.checks import check_finite, check_images, check_integer, check_mask, check_number

MOST_STEPS = 2000  # of conjugate gradients; a hole of 200×200 pixels takes 110 in float64


def tikhonov_filter(
    x: Tensor, mu: float = 5.0, pad: int = 16, *, mask: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Return (l, x − l) with l = argmin ½‖m ⊙ (l − x)‖² + (μ/2)(‖∇_h l‖² + ‖∇_v l‖²).

    The image is first extended by `pad` pixels of its mirror image on each side, and wraps around
    after that; l is cropped to the image again.

    Parameters
    ----------
    x : Tensor, shape (B, C, H, W)
        Images, each channel filtered by itself, float32 or float64.
    mu : float
        Smoothing μ ≥ 0.  A wave of √μ·2π pixels is halved: about 14 pixels at the default.
    pad : int
        Pixels of mirror image, 0 ≤ pad ≤ min(H, W).
    mask : Tensor of bool, optional
        m; broadcasts to x, True where a pixel is known.  What x holds elsewhere is ignored.

    Returns
    -------
    low, high : Tensor, shape (B, C, H, W)
        low + high = x at known pixels, to rounding; `high` is zero at the others.  Both are linear
        in x and carry its gradient.

    Raises
    ------
    ValueError, TypeError
        If x is not (B, C, H, W) in float32 or float64 or holds NaN, μ is negative or not finite,
        `pad` is not an integer from 0 to min(H, W), the mask does not fit, or an image has a
        channel without known pixels.

    Notes
    -----
    Equals ``sporco.signal.tikhonov_filter(x, mu, pad)``, whose arrays are (H, W, ...).

    Examples
    --------
    >>> import torch
    >>> ramp = torch.linspace(0, 1, 32).expand(1, 1, 32, 32)
    >>> low, high = tikhonov_filter(ramp)
    >>> torch.allclose(low + high, ramp), bool(high[..., 8:-8].abs().max() < 0.01)
    (True, True)
    """
    check_images(x)
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"the filter is in float32 or float64, got {x.dtype}; use x.float()")
    if mask is not None:
        check_mask(mask, x)
        x = torch.where(mask, x, 0.0)
    check_finite(x, "x")
    check_number(mu, "mu")
    H, W = x.shape[-2:]
    check_integer(pad, "pad")
    if pad > min(H, W):
        raise ValueError(f"an image of {H}x{W} can be padded by 0 to {min(H, W)}, got pad={pad}")
    rows, columns = (mirrored(torch.arange(-pad, n + pad, device=x.device), n) for n in (H, W))
    penalty = mu * _squared_differences(H + 2 * pad, W + 2 * pad, x)
    padded = x[:, :, rows][..., columns]  # (B, C, H+2p, W+2p)
    if mask is None:
        low = _divide(padded, 1 + penalty)
    else:
        low = _solve(padded, mask.to(x.dtype).expand_as(x)[:, :, rows][..., columns], penalty)
    low = low[..., pad : pad + H, pad : pad + W]  # (B, C, H, W)
    return low, x - low if mask is None else torch.where(mask, x - low, 0.0)


def _divide(x: Tensor, by: Tensor) -> Tensor:
    """Return x with its Fourier coefficients divided."""
    quotient: Tensor = torch.fft.irfft2(torch.fft.rfft2(x) / by, s=x.shape[-2:])
    return quotient


def _solve(x: Tensor, m: Tensor, penalty: Tensor) -> Tensor:
    """Return the solution l of m ⊙ l + μ∇ᵀ∇ l = x by conjugate gradients, x zero where m is."""

    def inner(a: Tensor, b: Tensor) -> Tensor:
        return (a * b).sum((2, 3), keepdim=True)

    def ratio(a: Tensor, b: Tensor) -> Tensor:  # a channel that is solved exactly stays
        return torch.where(b > 0, a / torch.where(b > 0, b, 1.0), 0.0)

    known = m.mean((2, 3), keepdim=True)
    if not bool((known > 0).all()):
        raise ValueError("a channel of an image has no known pixel; use a mask with True in each")
    enough = torch.finfo(x.dtype).eps ** (4 / 3) * inner(x, x)
    low = step = torch.zeros_like(x)
    r, size = x, torch.ones_like(known)
    for _ in range(MOST_STEPS):
        if bool((inner(r, r) <= enough).all()):
            break
        filtered = _divide(r, known + penalty)
        before, size = size, inner(r, filtered)
        step = filtered + ratio(size, before) * step
        image = m * step + torch.fft.irfft2(penalty * torch.fft.rfft2(step), s=x.shape[-2:])
        length = ratio(size, inner(step, image))
        low, r = low + length * step, r - length * image
    return low


def mirrored(i: Tensor, n: int | Tensor) -> Tensor:
    """Return the pixels at integer positions i of an axis of n pixels, mirrored at its ends.

    n may be a tensor that broadcasts to i.

    Examples
    --------
    >>> mirrored(torch.arange(-3, 6), 3)
    tensor([2, 1, 0, 0, 1, 2, 2, 1, 0])
    """
    i = i % (2 * n)
    return torch.where(i < n, i, 2 * n - 1 - i)


def _squared_differences(H: int, W: int, like: Tensor) -> Tensor:
    """Return |∇̂_h|² + |∇̂_v|² = (2 − 2 cos ω_h) + (2 − 2 cos ω_v), shape (H, W//2+1)."""
    vertical = 4 * torch.sin(math.pi * torch.fft.fftfreq(H, dtype=torch.float64)).square()
    horizontal = 4 * torch.sin(math.pi * torch.fft.rfftfreq(W, dtype=torch.float64)).square()
    return (vertical[:, None] + horizontal).to(like)
