"""Read and write image files without silent loss, and never leave half a file.

:mod:`csc.images` reads the pixels.  Here alpha and metadata come along.
"""

import os
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import BinaryIO

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from baselines.resample import round_uint8
from crnet.errors import ImageFileError, words
from crnet.metadata import Metadata, read_metadata, save_options
from csc.images import colors_of, open_file, read

# Still images; all formats except JPEG are written without loss.
WRITTEN = {
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
    try:
        with open_file(path) as file:
            return read_stream(file, str(path))
    except ValueError as error:
        raise ImageFileError(str(error)) from error


def read_stream(file: BinaryIO, name: str) -> Picture:
    """Read an image from an open file that can seek; `name` is how messages call it.

    Raises
    ------
    ImageFileError
        As for :func:`read_picture`.
    """
    metadata, icc_profile = Metadata(), None

    def look(image: Image.Image) -> bool:
        nonlocal metadata, icc_profile
        metadata, icc_profile = read_metadata(image), image.info.get("icc_profile")
        return "damaged EXIF" not in metadata.not_kept

    try:
        color, alpha, bits = read(file, name, look)
    except ValueError as error:
        raise ImageFileError(str(error)) from error
    if icc_profile and colors_of(icc_profile) not in (None, color.shape[1]):
        icc_profile = None
        wrong = "the colour profile, which is for other channels"
        metadata = replace(metadata, not_kept=(wrong, *metadata.not_kept))
    return Picture(color, alpha, bits, icc_profile, metadata)


def output_format(path: Path, picture: Picture, scale: float = 1) -> str:
    """Return Pillow's name of an output format; check that it can hold the enlarged picture.

    Raises
    ------
    ImageFileError
        If the suffix is unknown, or the format cannot hold the size, the alpha or 16 bits.
    """
    name = WRITTEN.get(path.suffix.lower(), "")
    if not name:
        known = words(WRITTEN, "and")
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
    image = Image.fromarray(levels(picture))
    options, _ = save_options(picture.metadata, format_name)
    if format_name == "JPEG":
        options["quality"] = 95
    if format_name == "WEBP":
        options["lossless"] = True
    image.save(file, format=format_name, icc_profile=picture.icc_profile, **options)


def levels(picture: Picture) -> NDArray[np.uint8] | NDArray[np.uint16]:
    """Return the pixels (H, W, C), or (H, W) if grey, as whole numbers; some rows at a time."""
    planes = [picture.color] if picture.alpha is None else [picture.color, picture.alpha]
    H, W = picture.color.shape[-2:]
    C = sum(plane.shape[1] for plane in planes)
    levels = np.empty((H, W, C), np.uint16 if picture.bits == 16 else np.uint8)
    step = max(1, 2**18 // W)
    for top in range(0, H, step):
        rows = slice(top, top + step)
        part = torch.cat([plane[0, :, rows] for plane in planes]).permute(1, 2, 0).double()
        if picture.bits == 16:
            levels[rows] = (part * 65535 + 0.5).floor().clamp(0, 65535).to(torch.int32).numpy()
        else:
            levels[rows] = round_uint8(part * 255).numpy()
    return levels[:, :, 0] if C == 1 else levels


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
