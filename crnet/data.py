"""Image sets under a data root, and the training patches cut from them.

A data root is a folder of image sets; a set is a folder of images.  The root comes from ``--data``
or from the environment variable ``CRNET_DATA``; nothing here knows of any other place.

CRNet-A trains on Y (BT.601, rounded to 8 bit as in the evaluation) in [0, 1]: pairs of a
bicubic-enlarged patch and its original, for ×2, ×3 and ×4 together, in the eight flips and
quarter turns.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from baselines.bicubic import bicubic, imresize, modcrop, round_uint8
from crnet.color import rgb_to_ycbcr
from crnet.files import ImageFileError, read_picture

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


class DataError(Exception):
    """An image or a set of images is missing or cannot be read."""


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of image sets: `root`, or else what ``CRNET_DATA`` names.

    Raises
    ------
    DataError
        If neither is given or the folder does not exist.
    """
    named = root or os.environ.get("CRNET_DATA")
    if not named:
        raise DataError("no data root: give --data ROOT or set CRNET_DATA, a folder of image sets")
    path = Path(named)
    if not path.is_dir():
        raise DataError(f"the data root {path} is not a folder")
    return path


def find_images(folder: Path, exclude: Collection[str] = ()) -> list[Path]:
    """Return the image files of a folder, sorted by name, without those named in `exclude`.

    Raises
    ------
    DataError
        If the folder is missing or holds no image.
    """
    if not folder.is_dir():
        raise DataError(f"the image set {folder} is not a folder")
    paths = sorted(
        p for p in folder.iterdir() if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file()
    )
    paths = [p for p in paths if p.name not in exclude]
    if not paths:
        raise DataError(f"the image set {folder} holds no image")
    return paths


def read_y(path: Path) -> Tensor:
    """Return Y of an image file as uint8 (1, 1, H, W).

    Colour becomes Y by MATLAB's ``rgb2ycbcr`` on uint8, rounded; a grey image is used as it is.

    Raises
    ------
    DataError
        If the file is not an 8-bit image that can be decoded.
    """
    try:
        picture = read_picture(path)
    except ImageFileError as error:
        raise DataError(str(error)) from error
    if picture.bits != 8 or picture.alpha is not None:
        raise DataError(f"{path}: has 16 bits or transparency; convert it to 8-bit grey or RGB")
    if picture.color.shape[1] == 1:
        return round_uint8(255 * picture.color)
    levels = (255 * picture.color).round().double()
    return round_uint8(255 * rgb_to_ycbcr(levels / 255)[:, :1])


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass(frozen=True)
class Pair:
    """One training image at one scale: bicubic-enlarged input (float32) and original (uint8)."""

    x: Tensor  # (H, W)
    target: Tensor  # (H, W)


def make_pairs(
    paths: Sequence[Path],
    scales: Sequence[int],
    patch: int,
    on_image: Callable[[int, int], None] | None = None,
) -> list[Pair]:
    """Read the images and reduce and enlarge each at each scale; skip those below a patch.

    Parameters
    ----------
    paths : sequence of Path
        Image files.
    scales : sequence of int
        Factors.
    patch : int
        Side of the patches that will be cut, in HR pixels.
    on_image : callable, optional
        Called with (images done, images in all).

    Raises
    ------
    DataError
        If a file cannot be read, or no image is as large as a patch.
    """
    pairs = []
    for done, path in enumerate(paths, 1):
        y = read_y(path)
        for scale in scales:
            if min(y.shape[-2:]) < max(patch, scale) + scale:
                continue
            target = modcrop(y, scale)
            x = bicubic(imresize(target.float() / 255, 1 / scale), scale)
            pairs.append(Pair(x[0, 0], target[0, 0]))
        if on_image:
            on_image(done, len(paths))
    if not pairs:
        raise DataError(f"none of {len(paths)} images is as large as a patch of {patch}x{patch}")
    return pairs


def draw_batch(
    pairs: Sequence[Pair], batch: int, patch: int, seed: int, step: int
) -> tuple[Tensor, Tensor]:
    """Return the (input, target) patches of a step, both float32 (batch, 1, patch, patch).

    A pure function of (seed, step), so a resumed run sees the batches of an uninterrupted one.
    Images are drawn by area, so that every patch is as likely as any other.
    """
    rng = np.random.default_rng((seed, step))
    area = np.array([p.x.numel() for p in pairs], dtype=np.float64)
    xs: list[Tensor] = []
    targets: list[Tensor] = []
    for index in rng.choice(len(pairs), size=batch, p=area / area.sum()):
        pair = pairs[index]
        top = rng.integers(pair.x.shape[0] - patch + 1)
        left = rng.integers(pair.x.shape[1] - patch + 1)
        turns, flip = int(rng.integers(4)), bool(rng.integers(2))
        for out, image in ((xs, pair.x), (targets, pair.target)):
            cut = image[top : top + patch, left : left + patch].rot90(turns)
            out.append(cut.flip(1) if flip else cut)
    return torch.stack(xs)[:, None], torch.stack(targets)[:, None].float() / 255
