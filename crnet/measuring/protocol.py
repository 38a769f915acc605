"""The protocols of the paper's Tables 2 and 3: how to reduce an image and measure the result.

The protocol of Table 2 reproduces the published bicubic cells to the last printed digit.  The
protocol of Table 3 is the convention of the systems in it.  A protocol is a record, so that a table
can state it.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from baselines.resample import imresize, modcrop, round_uint8
from crnet.color import rgb_to_ycbcr
from crnet.contracts import Function, System, as_system
from crnet.measuring.metrics import WINDOW, psnr, ssim


@dataclass(frozen=True)
class Protocol:
    """How a number of a table is measured.

    On Y, for systems that take Y (Table 2):

    1. Crop the 8-bit Y (MATLAB ``rgb2ycbcr``, rounded; grey as it is) to a multiple of the scale.
    2. Reduce by bicubic ``imresize`` in floating point; LR is not rounded.
    3. Upscale, clip to `clip`, round half up to 8 bit.  The original is not clipped.
    4. Remove `shave` times the scale from each side; compute PSNR with peak 255 and Wang's SSIM;
       average over the images of a set.

    On RGB, for systems that take RGB (Table 3): LR is 8-bit, as in the field's LR files.  The
    result is rounded to 8-bit RGB.  Y of result and original are compared in floating point.

    Attributes
    ----------
    name : str
        Its name in tables.
    rgb : bool
        Measure on RGB.
    clip : (int, int), or None
        Grey levels to which the result is clipped; None means [0, 255].
    shave : int
        Pixels per unit of scale removed from each side.
    edges : "symmetric" or "replicate"
        How the reduction extends the image, see :func:`baselines.imresize`.
    """

    name: str = "crnet-table-2"
    rgb: bool = False
    clip: tuple[int, int] | None = (16, 235)
    shave: int = 1
    edges: Literal["symmetric", "replicate"] = "symmetric"


TABLE_2 = Protocol()
TABLE_3 = Protocol("crnet-table-3", rgb=True, clip=None, edges="replicate")


def protocol_of(upscale: System | Function) -> Protocol:
    """Return how the paper measures such a system: by Table 2 on Y, by Table 3 on RGB."""
    return TABLE_3 if as_system(upscale).channels == 3 else TABLE_2


def degrade(original: Tensor, scale: int, protocol: Protocol = TABLE_2) -> Tensor:
    """Return the LR image of a protocol, float32 in [0, 1].

    Parameters
    ----------
    original : Tensor, shape (1, 1, H, W), or (1, 3, H, W) for a protocol on RGB, uint8
        Its sides are multiples of the scale.
    scale : int
        Factor.
    protocol : Protocol
        How to reduce.

    Returns
    -------
    Tensor, shape (1, 1 or 3, H // scale, W // scale)
    """
    x = original if protocol.rgb else original.double()
    return imresize(x, 1 / scale, edges=protocol.edges).float() / 255


def psnr_and_ssim(
    sr: Tensor, original: Tensor, scale: int, protocol: Protocol = TABLE_2
) -> tuple[float, float]:
    """Return (PSNR in dB, SSIM) of a result in [0, 1] and its uint8 original, both (1, C, H, W).

    Raises
    ------
    ValueError
        If the shapes differ, the result is not finite, or the image is too small for SSIM.
    """
    if sr.shape != original.shape:
        raise ValueError(f"the system returned {tuple(sr.shape)}, not {tuple(original.shape)}")
    if not bool(torch.isfinite(sr).all()):
        raise ValueError("the system returned NaN or infinite values")
    low, high = protocol.clip or (0, 255)
    levels = round_uint8((255 * sr.cpu().double()).clamp(low, high))
    a, b = (
        255 * rgb_to_ycbcr(x.double() / 255)[:, :1] if protocol.rgb else x
        for x in (levels, original)
    )
    edge = protocol.shave * scale
    window = (..., slice(edge, -edge or None), slice(edge, -edge or None))
    return float(psnr(a[window], b[window])), float(ssim(a[window], b[window]))


def check_size(original: Tensor, scale: int, protocol: Protocol = TABLE_2) -> None:
    """Refuse an image that is too small to be measured.

    Raises
    ------
    ValueError
        If cropping and shaving leave less than the window of SSIM.
    """
    H, W = (n - n % scale - 2 * protocol.shave * scale for n in original.shape[-2:])
    if min(H, W) < WINDOW:
        raise ValueError(
            f"SSIM needs {WINDOW}x{WINDOW} pixels inside the border; an image of "
            f"{original.shape[-2]}x{original.shape[-1]} pixels leaves {max(H, 0)}x{max(W, 0)}"
        )


def pair(original: Tensor, scale: int, protocol: Protocol) -> tuple[Tensor, Tensor]:
    """Return an original, cropped to a multiple of the scale, and its LR image.

    Parameters are those of :func:`degrade`; the original may have any size.

    Raises
    ------
    ValueError
        If the original is not uint8, does not have the protocol's channels, or is too small.
    """
    channels = 3 if protocol.rgb else 1
    if original.dtype != torch.uint8 or original.shape[:2] != (1, channels):
        raise ValueError(
            f"the original must be uint8 (1, {channels}, H, W), "
            f"got {original.dtype} {tuple(original.shape)}"
        )
    original = modcrop(original, scale)
    return original, degrade(original, scale, protocol)
