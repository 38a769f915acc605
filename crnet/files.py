"""Image files in and out: what is read, what is refused, and that nothing is half written.

8-bit grey, RGB and palette images, with or without alpha, and 16-bit grey are read exactly.
Everything else is refused by name, because reading it would lose something silently: 16-bit
colour, float and 32-bit grey, CMYK, animations.
"""

import os
import struct
import warnings
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

from baselines.resample import round_uint8
from crnet.errors import ImageFileError


@dataclass(frozen=True)
class Picture:
    """A decoded image file, upright.

    Attributes
    ----------
    color : Tensor, shape (1, C, H, W), float32 in [0, 1]
        Grey (C = 1) or RGB (C = 3).
    alpha : Tensor, shape (1, 1, H, W), float32 in [0, 1], or None
        Opacity, if the file has one.
    bits : int
        Bits per channel in the file, 8 or 16.
    icc_profile : bytes or None
        Colour profile, carried along.
    """

    color: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc_profile: bytes | None = None


def read_picture(path: Path) -> Picture:
    """Read an image file, turned upright by its EXIF orientation.

    Raises
    ------
    ImageFileError
        If the file is missing, empty, truncated, no image, animated, or of a kind that cannot be
        kept exactly.
    """
    if path.is_dir():
        raise ImageFileError(f"{path}: is a folder")
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{path}: is not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on metadata that we do not use
            with Image.open(path) as image:
                _refuse_what_would_be_lost(path, image)
                image.load()
                upright = ImageOps.exif_transpose(image)
                return _decode(path, upright, image.info.get("icc_profile"))
    except FileNotFoundError:
        raise ImageFileError(f"{path}: no such file") from None
    except PermissionError:
        raise ImageFileError(f"{path}: not readable, permission denied") from None
    except (
        OSError,
        SyntaxError,
        ValueError,
        EOFError,
        zlib.error,
        struct.error,
        Image.DecompressionBombError,
    ) as error:
        empty = path.is_file() and path.stat().st_size == 0
        reason = "the file is empty" if empty else str(error).splitlines()[0]
        raise ImageFileError(f"{path}: cannot be read as an image: {reason}") from error


def _refuse_what_would_be_lost(path: Path, image: Image.Image) -> None:
    # The second picture of a camera's multi-picture JPEG is a preview of the first.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise ImageFileError(f"{path}: has {frames} frames; extract one as a still image first")
    # Pillow decodes 16-bit colour to 8 bit without a word; only its raw mode tells.
    tiles = getattr(image, "tile", [])
    raw = " ".join(str(tile[3]) for tile in tiles)
    sixteen = "16" in raw and image.mode in ("RGB", "RGBA", "LA")
    tags = getattr(image, "tag_v2", {})
    sixteen |= image.mode in ("RGB", "RGBA") and max(tags.get(258, (8,))) > 8
    sixteen |= image.format == "PPM" and any(
        isinstance(tile[3], tuple) and isinstance(tile[3][-1], int) and tile[3][-1] > 255
        for tile in tiles
    )
    if sixteen:
        raise ImageFileError(f"{path}: is 16-bit colour, which is not supported; convert to 8-bit")
    deep = image.mode.startswith("I;16")
    if deep and ("transparency" in image.info or tags.get(262, 1) == 0):
        raise ImageFileError(f"{path}: is 16-bit grey with transparency or inverted; convert it")
    if any(kind != 1 for kind in tags.get(339, (1,))) and image.mode in ("L", "RGB", "RGBA"):
        raise ImageFileError(f"{path}: has signed samples; convert it to unsigned")


def _decode(path: Path, image: Image.Image, icc_profile: bytes | None) -> Picture:
    if image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("1", "P", "PA"):
        palette, image = image.mode, image.convert({"1": "L", "P": "RGB", "PA": "RGBA"}[image.mode])
        channels = [image.getchannel(i).tobytes() for i in range(3 if palette == "P" else 0)]
        if channels and channels[0] == channels[1] == channels[2]:  # a palette of greys
            image = image.getchannel(0)
    if image.mode.startswith("I;16"):
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / 65535)
        return Picture(grey[None, None], None, 16, icc_profile)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise ImageFileError(
            f"{path}: has colour mode {image.mode}, which is not supported; "
            "convert to 8-bit grey or RGB, or 16-bit grey"
        )
    array = np.array(image, dtype=np.uint8)
    planes = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None]
    planes = planes.float() / 255  # (1, C, H, W)
    if image.mode in ("LA", "RGBA"):
        return Picture(planes[:, :-1], planes[:, -1:], 8, icc_profile)
    return Picture(planes, None, 8, icc_profile)


def output_format(path: Path, picture: Picture, scale: int = 1) -> str:
    """Return Pillow's name of the format of an output path, if it can hold the enlarged picture.

    Raises
    ------
    ImageFileError
        If the suffix names no format that Pillow writes, or one that would lose alpha or 16 bits.
    """
    name = _FORMATS.get(path.suffix.lower(), "")
    if not name:
        known = " ".join(_FORMATS)
        raise ImageFileError(f"{path}: cannot write the suffix {path.suffix!r}; known are {known}")
    limit = {"WEBP": 16383, "JPEG": 65535}.get(name, 2**31)
    if scale * max(picture.color.shape[-2:]) > limit:
        raise ImageFileError(f"{path}: {name} holds at most {limit} pixels a side; write .png")
    if picture.alpha is not None and name not in ("PNG", "TIFF", "WEBP"):
        raise ImageFileError(f"{path}: {name} keeps no transparency; write .png, .tif or .webp")
    if picture.bits == 16 and name not in ("PNG", "TIFF"):
        raise ImageFileError(f"{path}: {name} keeps no 16-bit grey; write .png or .tif")
    return name


def write_picture(picture: Picture, file: BinaryIO, format_name: str) -> None:
    """Encode a picture, clipped and rounded to its bits, into an open file.

    Raises
    ------
    OSError, ValueError
        If Pillow cannot encode it.
    """
    if picture.bits == 16:
        levels = (picture.color[0, 0].double() * 65535 + 0.5).floor().clamp(0, 65535)
        image = Image.fromarray(levels.to(torch.int32).numpy().astype(np.uint16))
    else:
        planes = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
        levels = round_uint8(torch.cat(planes, 1)[0].double() * 255)  # (C, H, W)
        image = Image.fromarray(levels.permute(1, 2, 0).squeeze(2).contiguous().numpy())
    quality = {"quality": 95} if format_name == "JPEG" else {}
    lossless = {"lossless": True} if format_name == "WEBP" else {}
    image.save(file, format=format_name, icc_profile=picture.icc_profile, **quality, **lossless)


# Formats of stills that are lossless, or lossy by the user's choice of JPEG.
_FORMATS = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".ppm": "PPM",
}


@contextmanager
def output_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a new file beside `path`, and put it in its place when the block ends well.

    Opening it first finds an unwritable folder before any work; a block that fails leaves nothing.

    Raises
    ------
    ImageFileError
        If `path` exists and `overwrite` is false, or cannot be written.
    """
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{path}: is a folder or device, not a file to write")
    if path.exists() and not overwrite:
        raise ImageFileError(f"{path}: exists; pass --overwrite to replace it")
    beside = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        file = beside.open("wb")
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
        os.replace(beside, path)
    finally:
        beside.unlink(missing_ok=True)
