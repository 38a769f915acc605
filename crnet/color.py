"""Colour as MATLAB's ``rgb2ycbcr``: ITU-R BT.601, Y in [16, 235] of 255.

Published PSNRs use this Y.  Many image libraries also call JPEG's full-range colours YCbCr.
With their Y, PSNR changes by more than one decibel.

References
----------
ITU-R Recommendation BT.601; the coefficients are MATLAB's.
"""

import torch
from torch import Tensor

# Rows: Y, Cb, Cr in units of 1/255 per unit of R, G, B in [0, 1].
_T = (
    (65.481, 128.553, 24.966),
    (-37.797, -74.203, 112.0),
    (112.0, -93.786, -18.214),
)
_OFFSET = (16.0, 128.0, 128.0)


def rgb_to_ycbcr(rgb: Tensor) -> Tensor:
    """Return Y, Cb, Cr in [0, 1] (Y in [16/255, 235/255]) of float RGB images in [0, 1].

    Parameters
    ----------
    rgb : Tensor, shape (B, 3, H, W)
        Floating-point RGB in [0, 1].

    Returns
    -------
    Tensor, shape (B, 3, H, W)

    Raises
    ------
    ValueError
        If `rgb` is not a floating-point (B, 3, H, W).

    Examples
    --------
    >>> (255 * rgb_to_ycbcr(torch.ones(1, 3, 1, 1))).flatten().round()
    tensor([235., 128., 128.])
    """
    T, offset = _constants(rgb, "rgb")
    return torch.einsum("yc,bchw->byhw", T, rgb) + offset


def ycbcr_to_rgb(ycbcr: Tensor) -> Tensor:
    """Return float RGB images (unclipped) of Y, Cb, Cr in [0, 1]: the inverse of `rgb_to_ycbcr`.

    Parameters
    ----------
    ycbcr : Tensor, shape (B, 3, H, W)
        Floating-point Y, Cb, Cr.

    Returns
    -------
    Tensor, shape (B, 3, H, W)

    Raises
    ------
    ValueError
        If `ycbcr` is not a floating-point (B, 3, H, W).

    Examples
    --------
    >>> ycbcr_to_rgb(torch.tensor([235.0, 128.0, 128.0]).view(1, 3, 1, 1) / 255).flatten().round()
    tensor([1., 1., 1.])
    """
    T, offset = _constants(ycbcr, "ycbcr")
    inverse = torch.linalg.inv(T.double()).to(T)
    return torch.einsum("cy,byhw->bchw", inverse, ycbcr - offset)


def _constants(x: Tensor, name: str) -> tuple[Tensor, Tensor]:
    if x.ndim != 4 or x.shape[1] != 3 or not x.is_floating_point():
        raise ValueError(
            f"{name} must be floating point, shape (B, 3, H, W); got {x.dtype}, {tuple(x.shape)}"
        )
    T = torch.tensor(_T, dtype=torch.float64).to(x) / 255
    offset = torch.tensor(_OFFSET, dtype=torch.float64).to(x).view(3, 1, 1) / 255
    return T, offset
