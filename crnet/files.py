"""Read and write image files without silent loss, and never leave half a file.

8-bit grey, RGB and palette images, with or without alpha, and grey of 9 to 16 bits are read
exactly.  Other files are refused, because reading them would lose something: 16-bit colour, float
and 32-bit grey, CMYK, animations, unknown channels.  The error says why.
"""

import os
import uuid
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from PIL import Image, UnidentifiedImageError
from torch import Tensor

from baselines.resample import round_uint8
from crnet.decode import (
    colors_of,
    decode,
    refuse_short_jpeg,
    refuse_short_png,
    refuse_what_would_be_lost,
)
from crnet.errors import ImageFileError
from crnet.metadata import Metadata, read_metadata, save_options

# Pillow knows forty more formats.  Some start other programs; many lose bits.
_READ = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "GIF")

# Still images; all formats except JPEG are written without loss.
_WRITTEN = {
    ".png": "PNG",
    ".tif": "TIFF",
    ".tiff": "TIFF",
    ".webp": "WEBP",
    ".jpg": "JPEG",
    ".jpeg": "JPEG",
    ".bmp": "BMP",
    ".ppm": "PPM",
}


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
        Bits per channel to write, 8 or 16.
    icc_profile : bytes or None
        Colour profile.
    metadata : Metadata
        What else the file says.
    """

    color: Tensor
    alpha: Tensor | None = None
    bits: int = 8
    icc_profile: bytes | None = None
    metadata: Metadata = field(default_factory=Metadata)


def read_image(path: str | Path) -> Tensor:
    """Return the colours of an image file, (1, C, H, W), float32 in [0, 1], upright.

    C is 1 for grey and 3 for RGB.  Transparency and metadata are left out;
    :func:`crnet.files.read_picture` returns them too.

    Parameters
    ----------
    path : str or Path
        A PNG, JPEG, TIFF, WebP, BMP, PNM or GIF file.

    Raises
    ------
    ImageFileError
        If the file is missing, damaged, or cannot be read exactly.

    Examples
    --------
    >>> import crnet, tempfile
    >>> from PIL import Image
    >>> with tempfile.NamedTemporaryFile(suffix=".png") as file:
    ...     Image.new("RGB", (5, 4), "white").save(file.name)
    ...     x = crnet.read_image(file.name)
    >>> x.shape, x.max()
    (torch.Size([1, 3, 4, 5]), tensor(1.))
    """
    return read_picture(Path(path)).color


def read_picture(path: Path) -> Picture:
    """Read an image file, turned upright by its EXIF orientation.

    Raises
    ------
    ImageFileError
        If the file is missing, empty, truncated, no image, animated, or cannot be read exactly.
    """
    if path.is_dir():
        raise ImageFileError(f"{path}: is a folder")
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{path}: is not a regular file")
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on metadata that we do not use
            with Image.open(path, formats=_READ) as image:
                return _read(path, image)
    except ImageFileError:
        raise
    except FileNotFoundError:
        raise ImageFileError(f"{path}: no such file") from None
    except PermissionError:
        raise ImageFileError(f"{path}: not readable, permission denied") from None
    except Exception as error:  # decoders raise anything on damaged bytes
        raise ImageFileError(f"{path}: cannot be read as an image: {_why(path, error)}") from error


def _why(path: Path, error: Exception) -> str:
    if path.is_file() and path.stat().st_size == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or not PNG, JPEG, TIFF, WebP, BMP, PNM or GIF"
    return str(error).partition("\n")[0] or type(error).__name__


def _read(path: Path, image: Image.Image) -> Picture:
    refuse_what_would_be_lost(path, image)
    if image.format == "PNG":
        refuse_short_png(path)
    if image.format == "TIFF":  # Pillow closes it when its pixels are loaded
        metadata = read_metadata(image)
        image.load()
    else:
        image.load()
        metadata = read_metadata(image)
    if image.format in ("JPEG", "MPO"):
        refuse_short_jpeg(path, image)
    icc_profile = image.info.get("icc_profile")
    color, alpha, bits = decode(path, image, upright="damaged EXIF" in metadata.not_kept)
    if icc_profile and colors_of(icc_profile) not in (None, color.shape[1]):
        icc_profile = None
        wrong = "the colour profile, which is for other channels"
        metadata = replace(metadata, not_kept=(wrong, *metadata.not_kept))
    return Picture(color, alpha, bits, icc_profile, metadata)


def output_format(path: Path, picture: Picture, scale: int = 1) -> str:
    """Return Pillow's name of an output format; check that it can hold the enlarged picture.

    Raises
    ------
    ImageFileError
        If the suffix is unknown, or the format cannot hold the size, the alpha or 16 bits.
    """
    name = _WRITTEN.get(path.suffix.lower(), "")
    if not name:
        known = " ".join(_WRITTEN)
        raise ImageFileError(f"{path}: cannot write the suffix {path.suffix!r}; known are {known}")
    limit = {"WEBP": 16383, "JPEG": 65535}.get(name, 2**31)
    if scale * max(picture.color.shape[-2:]) > limit:
        raise ImageFileError(f"{path}: {name} holds at most {limit} pixels a side; write .png")
    if picture.alpha is not None and name not in ("PNG", "TIFF", "WEBP"):
        raise ImageFileError(f"{path}: {name} keeps no transparency; write .png, .tif or .webp")
    if picture.bits == 16 and name not in ("PNG", "TIFF"):
        raise ImageFileError(f"{path}: {name} keeps no 16-bit grey; write .png or .tif")
    return name


def not_kept(picture: Picture, format_name: str) -> list[str]:
    """Name what the source of a picture holds and a file of this format loses.

    Examples
    --------
    >>> not_kept(Picture(torch.zeros(1, 1, 2, 2), icc_profile=b"..."), "BMP")
    ['the colour profile']
    """
    _, lost = save_options(picture.metadata, format_name)
    profile = picture.icc_profile is not None and format_name in ("BMP", "PPM")
    return [*picture.metadata.not_kept, *lost, *["the colour profile"] * profile]


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
    options, _ = save_options(picture.metadata, format_name)
    if format_name == "JPEG":
        options["quality"] = 95
    if format_name == "WEBP":
        options["lossless"] = True
    image.save(file, format=format_name, icc_profile=picture.icc_profile, **options)


@contextmanager
def output_file(path: Path, *, overwrite: bool) -> Iterator[BinaryIO]:
    """Open a new file beside `path`, and rename it to `path` when the block succeeds.

    An unwritable folder is found before any work.  A block that fails leaves no file.  Without
    `overwrite`, only one of several writers of the same path succeeds.

    Raises
    ------
    ImageFileError
        If `path` exists and `overwrite` is false, or cannot be written.
    """
    if path.is_symlink() and not overwrite:
        raise ImageFileError(
            f"{path}: is a link to {os.readlink(path)}; pass --overwrite to write that file"
        )
    path = Path(os.path.realpath(path))
    if path.exists() and not path.is_file():
        raise ImageFileError(f"{path}: is a folder or device, not a file to write")
    if path.exists() and not overwrite:
        raise _exists(path)
    beside = path.with_name(f".crnet-{uuid.uuid4().hex}.part")
    try:
        file = beside.open("xb")
    except OSError as error:
        raise ImageFileError(f"{path}: cannot be written: {error.strerror}") from error
    try:
        with file:
            yield file
        if overwrite:
            os.replace(beside, path)
        else:
            _move_to_new(beside, path)
    finally:
        beside.unlink(missing_ok=True)


def _move_to_new(source: Path, target: Path) -> None:
    """Give a file its final name; raise if another file has this name."""
    try:
        os.link(source, target)  # fails if the name is taken, unlike os.replace
    except FileExistsError:
        raise _exists(target) from None
    except OSError:  # this file system has no hard links
        try:
            target.open("xb").close()
        except FileExistsError:
            raise _exists(target) from None
        os.replace(source, target)


def _exists(path: Path) -> ImageFileError:
    return ImageFileError(f"{path}: exists; pass --overwrite to replace it")
