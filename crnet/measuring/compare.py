"""Systems side by side on the same region of a photo, as in the paper's Fig. 7."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize, modcrop
from crnet.contracts import Function, System
from crnet.data import read_rgb, read_y
from crnet.errors import DataError
from crnet.files import Picture
from crnet.measuring.evaluate import score
from crnet.measuring.protocol import protocol_of
from crnet.upscale import upscale_picture

SIDE = 64
"""Side of the default region in HR pixels."""


@dataclass(frozen=True)
class Comparison:
    """One photo, reduced and enlarged again by several systems.

    Attributes
    ----------
    title : str
        Photo and scale.
    images : dict of str to Tensor, shape (3, H, W), in [0, 1]
        Images by label: first the original, then one per system.  The labels show PSNR and SSIM of
        the whole photo.
    crop : (top, left, side)
        The region to look at, in HR pixels.
    """

    title: str
    images: dict[str, Tensor]
    crop: tuple[int, int, int]


def compare_on(
    path: Path,
    scale: int,
    models: Mapping[str, System | Function],
    crop: tuple[int, int, int] | None = None,
) -> Comparison:
    """Reduce a photo by MATLAB's bicubic and enlarge it again by several systems.

    All systems get the same 8-bit LR image.  Systems on Y enlarge Cb and Cr by bicubic.  The labels
    show PSNR and SSIM by each system's own protocol.

    Parameters
    ----------
    path : Path
        8-bit image file.
    scale : int
        Factor.
    models : mapping of str to callable
        Systems by name.
    crop : (top, left, side), optional
        Region in HR pixels (default: the region where bicubic has the largest error).

    Raises
    ------
    DataError
        If the file cannot be read, or is too small to be measured.
    ValueError
        If the crop is not inside the photo.
    """
    levels = {True: read_rgb(path), False: read_y(path)}
    try:
        original = modcrop(levels[True], scale)
    except ValueError as error:
        raise DataError(f"{path}, x{scale}: {error}") from error
    H, W = original.shape[-2:]
    lr = Picture(imresize(original, 1 / scale).float() / 255)
    missed = (original.float() / 255 - bicubic(lr.color, scale)).abs().mean(1)[0]
    top, left, side = crop or busiest(missed, min(SIDE, H, W))
    if min(top, left) < 0 or side < 1 or top + side > H or left + side > W:
        raise ValueError(f"the crop {top} {left} {side} leaves {path.name} of {H}x{W} pixels")
    images = {"original\nPSNR (dB) / SSIM": original[0].float() / 255}
    for name, upscale in models.items():
        try:
            decibels, similarity, _ = score(levels[protocol_of(upscale).rgb], scale, upscale)
        except ValueError as error:
            raise DataError(f"{path}, x{scale}, {name}: {error}") from error
        label = f"{name}\n{decibels:.2f} / {similarity:.4f}"
        images[label] = upscale_picture(lr, scale, upscale).color[0].cpu()
    return Comparison(f"{path.name}, ×{scale}", images, (top, left, side))


def busiest(weight: Tensor, side: int) -> tuple[int, int, int]:
    """Return (top, left, side) of the square with the largest sum of a map (H, W).

    Raises
    ------
    ValueError
        If the square does not fit in the map.

    Examples
    --------
    >>> import torch
    >>> weight = torch.zeros(9, 9)
    >>> weight[6, 3] = 1
    >>> weight[7, 4] = 1
    >>> busiest(weight, 2)
    (6, 3, 2)
    """
    H, W = weight.shape
    if not 1 <= side <= min(H, W):
        raise ValueError(f"a square of {side} does not fit in a map of {H}x{W}")
    means = F.avg_pool2d(weight[None, None].double(), side, stride=1)[0, 0]
    top, left = divmod(int(means.argmax()), means.shape[1])
    return top, left, side
