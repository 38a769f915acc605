"""PSNR and SSIM of single-channel images, as the super-resolution literature computes them.

PSNR = 10 log10(peak² / mean squared error), in dB.  SSIM is Wang's ``ssim_index``: 11×11 Gaussian
window with σ = 1.5, K = (0.01, 0.03), mean over all positions where the window fits.

References
----------
Wang, Bovik, Sheikh, Simoncelli, "Image quality assessment: from error visibility to structural
similarity", IEEE TIP 13(4), 2004.
"""

import torch
from torch import Tensor
from torch.nn import functional as F

WINDOW = 11
_SIGMA = 1.5
_K1, _K2 = 0.01, 0.03


def psnr(a: Tensor, b: Tensor, *, peak: float = 255.0) -> Tensor:
    """Return 10 log10(peak² / mean (a − b)²) of each pair, in dB.

    Parameters
    ----------
    a, b : Tensor, shape (B, C, H, W)
        Images of any real dtype, in units where the largest value is `peak`.
    peak : float
        Largest possible value.

    Returns
    -------
    Tensor, shape (B,), float64
        Infinite where the images are equal.

    Raises
    ------
    ValueError
        If the images are not (B, C, H, W), differ in shape, or peak ≤ 0.
    TypeError
        If the images are not tensors.

    Examples
    --------
    >>> psnr(torch.zeros(1, 1, 2, 2), torch.full((1, 1, 2, 2), 255.0))
    tensor([0.], dtype=torch.float64)
    """
    _check(a, b, peak)
    mse = (a.double() - b.double()).square().mean((1, 2, 3))
    return 10 * torch.log10(peak**2 / mse)


def ssim(a: Tensor, b: Tensor, *, peak: float = 255.0) -> Tensor:
    """Return the mean structural similarity of each pair, 1 where they are equal.

    Parameters
    ----------
    a, b : Tensor, shape (B, C, H, W)
        Images of any real dtype, at least 11×11, in units where the largest value is `peak`.
        Channels are compared one by one and averaged.
    peak : float
        Largest possible value.

    Returns
    -------
    Tensor, shape (B,), float64

    Raises
    ------
    ValueError
        If the images are not (B, C, H, W), differ in shape or are below 11×11, or peak ≤ 0.
    TypeError
        If the images are not tensors.

    Examples
    --------
    >>> x = torch.arange(256.0).view(1, 1, 16, 16)
    >>> ssim(x, x)
    tensor([1.], dtype=torch.float64)
    """
    _check(a, b, peak)
    if min(a.shape[-2:]) < WINDOW:
        raise ValueError(f"SSIM needs images of at least 11x11, got {tuple(a.shape[-2:])}")
    B, C, H, W = a.shape
    x, y = a.double().reshape(B * C, 1, H, W), b.double().reshape(B * C, 1, H, W)
    mx, my = _blur(x), _blur(y)
    vx, vy, cov = _blur(x * x) - mx * mx, _blur(y * y) - my * my, _blur(x * y) - mx * my
    c1, c2 = (_K1 * peak) ** 2, (_K2 * peak) ** 2
    similarity = (2 * mx * my + c1) * (2 * cov + c2) / ((mx * mx + my * my + c1) * (vx + vy + c2))
    return similarity.view(B, -1).mean(1)


def _blur(x: Tensor) -> Tensor:
    """Correlate (N, 1, H, W) with the Gaussian window, valid positions only."""
    t = torch.arange(WINDOW, dtype=x.dtype, device=x.device) - WINDOW // 2
    g = torch.exp(-t.square() / (2 * _SIGMA**2))
    g = g / g.sum()
    return F.conv2d(F.conv2d(x, g.view(1, 1, -1, 1)), g.view(1, 1, 1, -1))


def _check(a: Tensor, b: Tensor, peak: float) -> None:
    if not (isinstance(a, Tensor) and isinstance(b, Tensor)):
        raise TypeError("images must be torch.Tensor; use torch.as_tensor")
    if a.ndim != 4 or a.shape != b.shape:
        raise ValueError(
            f"images must have one shape (B, C, H, W), got {tuple(a.shape)} and {tuple(b.shape)}"
        )
    if not peak > 0:
        raise ValueError(f"peak must be > 0, got {peak}")
