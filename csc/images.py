"""Read image files as tensors, without silent loss.

8-bit grey, RGB and palette images, and grey of 9 to 16 bits are read exactly.  Other files are
refused, because reading them would lose something: 16-bit colour, float and 32-bit grey, CMYK,
animations, unknown channels.  Pillow silently drops bits, channels and missing rows.  Here each
loss is an error that says why.
"""

import io
import os
import re
import warnings
import zlib
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple, overload

import numpy as np
import torch
from PIL import Image, ImageOps, UnidentifiedImageError
from torch import Tensor

# Pillow knows forty more formats.  Some start other programs; many lose bits.
_FORMATS = ("PNG", "JPEG", "TIFF", "WEBP", "BMP", "PPM", "GIF")

_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
# Bytes that decode to some pixels.  They differ from the zeros that Pillow reads for missing bytes.
# Any restart marker may be due, so all are among them.
_MORE_PIXELS = b"".join(bytes(range(254, 0, -1)) + bytes([0xFF, 0xD0 + i % 8]) for i in range(16))


class Pixels(NamedTuple):
    """The pixels of an image file, upright.

    color : (1, C, H, W), float32 in [0, 1], grey (C = 1) or RGB (C = 3); alpha : (1, 1, H, W),
    float32 in [0, 1], or None; bits : 8, or 16 for grey of more than 8 bits.
    """

    color: Tensor
    alpha: Tensor | None
    bits: int


@overload
def read_images(paths: str | Path) -> Tensor: ...  # type: ignore[overload-overlap]
@overload
def read_images(paths: Iterable[str | Path]) -> list[Tensor]: ...
def read_images(paths: str | Path | Iterable[str | Path]) -> Tensor | list[Tensor]:
    """Return the colours of image files, each (1, C, H, W), float32 in [0, 1], upright.

    C is 1 for grey and 3 for RGB.  Transparency and the colour profile are left out.  Images of one
    size make a batch by ``torch.cat``.

    Parameters
    ----------
    paths : path, or iterable of paths
        PNG, JPEG, TIFF, WebP, BMP, PNM or GIF files.

    Returns
    -------
    Tensor or list of Tensor
        One image for one path, otherwise a list.

    Raises
    ------
    ValueError
        If a file is missing, damaged, or cannot be read exactly.

    Examples
    --------
    >>> import csc, tempfile
    >>> from PIL import Image
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     Image.new("RGB", (5, 4), "white").save(f"{folder}/a.png")
    ...     Image.new("L", (2, 3)).save(f"{folder}/b.png")
    ...     x, y = csc.read_images([f"{folder}/a.png", f"{folder}/b.png"])
    >>> x.shape, y.shape, x.max()
    (torch.Size([1, 3, 4, 5]), torch.Size([1, 1, 3, 2]), tensor(1.))
    """
    if not isinstance(paths, str | Path):
        return [read_images(path) for path in paths]
    with open_file(Path(paths)) as file:
        return read(file, str(paths)).color


def open_file(path: Path) -> BinaryIO:
    """Open a file to read.

    Raises
    ------
    ValueError
        If it is missing, not readable, or not a regular file.
    """
    if path.is_dir():
        raise ValueError(f"{path}: is a folder; name its files")
    if path.exists() and not path.is_file():
        raise ValueError(f"{path}: is not a regular file")
    try:
        return path.open("rb")
    except FileNotFoundError:
        raise ValueError(f"{path}: no such file") from None
    except OSError as error:
        raise ValueError(f"{path}: not readable, {(error.strerror or '').lower()}") from None


def has_sound_exif(image: Image.Image) -> bool:
    """Tell whether the EXIF of an open image file can be parsed, so that its orientation counts."""
    try:
        image.getexif()
    except Exception:  # damaged EXIF raises anything; the pixels are still good
        return False
    return True


def read(file: BinaryIO, name: str, look: Callable[[Image.Image], bool] = has_sound_exif) -> Pixels:
    """Return the pixels of an open file.

    Parameters
    ----------
    file : binary file
        It can seek.
    name : str
        How messages call it.
    look : callable
        Called with Pillow's open image, when its metadata can be read.  Returns whether to turn the
        pixels by the EXIF orientation.

    Raises
    ------
    ValueError
        If the file is empty, truncated, no image, animated, or cannot be read exactly.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's, on metadata that we do not use
            with Image.open(file, formats=_FORMATS) as image:
                refuse_what_would_be_lost(image)
                if image.format == "PNG":
                    refuse_short_png(file)
                if image.format == "TIFF":  # loading ends the access to its tags
                    turn = look(image)
                    image.load()
                else:
                    image.load()
                    turn = look(image)
                if image.format in ("JPEG", "MPO"):
                    refuse_short_jpeg(file, image)
                return decode(image, turn=turn)
    except Lossy as error:
        raise ValueError(f"{name}: {error}") from None
    except Exception as error:  # decoders raise anything on damaged bytes
        why = _why(file, error)
        raise ValueError(f"{name}: cannot be read as an image: {why}") from error


class Lossy(ValueError):
    """The file cannot be read without loss."""


def _why(file: BinaryIO, error: Exception) -> str:
    if file.seek(0, os.SEEK_END) == 0:
        return "the file is empty"
    if isinstance(error, UnidentifiedImageError):
        return "it is damaged, or not PNG, JPEG, TIFF, WebP, BMP, PNM or GIF"
    if isinstance(error, Image.DecompressionBombError):
        return f"it has more pixels than the {2 * (Image.MAX_IMAGE_PIXELS or 0):,} of Pillow"
    return str(error).partition("\n")[0] or type(error).__name__


def refuse_what_would_be_lost(image: Image.Image) -> None:
    """Raise `Lossy` for an open image file that Pillow would decode with a loss."""
    # The second picture of a camera's multi-picture JPEG is a preview of the first.
    frames = 1 if image.format == "MPO" else getattr(image, "n_frames", 1)
    if frames > 1:
        raise Lossy(f"has {frames} frames; extract one as a still image first")
    # Pillow silently decodes 16-bit colour to 8 bit; only its raw mode shows it.
    tiles = getattr(image, "tile", [])
    raw = " ".join(str(tile[3]) for tile in tiles)
    tags = _tags(image)
    sixteen = "16" in raw and image.mode in ("RGB", "RGBA", "LA")
    sixteen |= image.mode in ("RGB", "RGBA") and max(tags.get(258, (8,))) > 8
    sixteen |= (
        image.format == "PPM"
        and image.mode == "RGB"
        and any(
            isinstance(tile[3], tuple) and isinstance(tile[3][-1], int) and tile[3][-1] > 255
            for tile in tiles
        )
    )
    if sixteen:
        raise Lossy("is 16-bit colour, which is not supported; convert to 8-bit")
    inverted = tags.get(262, 1) == 0
    deep = image.mode.startswith("I;16")
    if deep and ("transparency" in image.info or inverted):
        raise Lossy("is 16-bit grey with transparency or inverted; convert it")
    if any(kind != 1 for kind in tags.get(339, (1,))) and image.mode in ("L", "RGB", "RGBA"):
        raise Lossy("has signed samples; convert it to unsigned")
    samples, bands = tags.get(277, 1), len(image.getbands())
    if samples > bands:
        raise Lossy(
            f"has {samples} channels, but {image.mode} uses only {bands}; "
            "remove the others, or save transparency as alpha"
        )


def refuse_short_png(file: BinaryIO) -> None:
    """Raise `ValueError` if the data stream of a PNG file ends before its last row.

    Pillow leaves the missing rows black.
    """
    inflate, here = zlib.decompressobj(), file.tell()
    file.seek(16)  # signature, then length and name of IHDR, the first chunk
    missing = _png_bytes(file.read(13))
    file.seek(33)
    while missing > 0 and len(head := file.read(8)) == 8:
        length, name = int.from_bytes(head[:4]), head[4:]
        content = file.read(length) if name == b"IDAT" else b""
        file.seek(length - len(content) + 4, os.SEEK_CUR)  # 4 bytes of checksum
        while content and missing > 0:
            missing -= len(inflate.decompress(content, 1 << 20))
            content = inflate.unconsumed_tail
    file.seek(here)  # where Pillow goes on reading
    if missing > 0:
        raise ValueError(f"it is truncated, {missing} bytes of its pixels are missing")


def _png_bytes(header: bytes) -> int:
    """Count the bytes of all rows of a PNG file, filter bytes included, from its IHDR."""
    width, height = int.from_bytes(header[:4]), int.from_bytes(header[4:8])
    bits = header[8] * {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[header[9]]
    # The seven passes of Adam7: first column and row, steps (PNG specification, section 8.2).
    passes = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2),
              (0, 1, 1, 2)) if header[12] else ((0, 0, 1, 1),)  # fmt: skip
    total = 0
    for left, top, dx, dy in passes:
        columns, rows = -((left - width) // dx), -((top - height) // dy)
        if columns > 0 and rows > 0:
            total += rows * (1 + (columns * bits + 7) // 8)
    return total


def refuse_short_jpeg(file: BinaryIO, image: Image.Image) -> None:
    """Raise `ValueError` if the data of a JPEG file end before its last pixel.

    Pillow paints the missing pixels grey if an end marker follows.  So we insert bytes before that
    marker and decode again: only the pixels of a short file change.  A progressive file may lack
    whole scans; it passes, with a coarser image.
    """
    file.seek(0)
    data = file.read()
    longer = data[: _end_of_jpeg(data)] + _MORE_PIXELS + b"\xff\xd9"
    with Image.open(io.BytesIO(longer), formats=("JPEG",)) as other:
        if other.tobytes() != image.tobytes():
            raise ValueError("it is truncated, the last of its pixels are missing")


def _end_of_jpeg(data: bytes) -> int:
    """Return the position of the end marker of the first picture in a JPEG file."""
    at = 2  # behind the start marker
    while data[at : at + 2] not in (b"\xff\xd9", b""):
        is_scan = data[at + 1] == 0xDA
        at += 2 + int.from_bytes(data[at + 2 : at + 4])
        if is_scan:  # its pixels end at the next marker that is not a restart
            marker = _MARKER.search(data, at)
            at = marker.start() if marker else len(data)
    return at


def decode(image: Image.Image, *, turn: bool) -> Pixels:
    """Return the pixels of a loaded image file; `turn` them by the EXIF orientation.

    Raises
    ------
    Lossy
        If the colour mode is not supported, or inverted grey states a maximum.
    """
    top, deep = _maximum(image), _is_deep(image)
    icc_profile = image.info.get("icc_profile")
    image = ImageOps.exif_transpose(image) if turn else image
    if image.mode in ("1", "L", "P", "RGB") and "transparency" in image.info:
        image = image.convert("LA" if image.mode in ("1", "L") else "RGBA")
    elif image.mode in ("1", "P", "PA"):
        palette, image = image.mode, image.convert({"1": "L", "P": "RGB", "PA": "RGBA"}[image.mode])
        channels = [image.getchannel(i).tobytes() for i in range(3 if palette == "P" else 0)]
        greys = bool(channels) and channels[0] == channels[1] == channels[2]
        if greys and not (icc_profile and colors_of(icc_profile) == 3):
            image = image.getchannel(0)
    if deep:
        grey = torch.from_numpy(np.asarray(image).astype(np.float32) / top)
        return Pixels(grey[None, None], None, 16)
    if image.mode not in ("L", "LA", "RGB", "RGBA"):
        raise Lossy(
            f"has colour mode {image.mode}, which is not supported; "
            "convert to 8-bit grey or RGB, or 16-bit grey"
        )
    array = np.array(image, dtype=np.uint8)
    planes = torch.from_numpy(array.reshape(*array.shape[:2], -1)).permute(2, 0, 1)[None]
    planes = planes.float()  # (1, C, H, W)
    if image.mode in ("LA", "RGBA"):
        return Pixels(planes[:, :-1] / top, planes[:, -1:] / 255, 8)
    return Pixels(planes.div_(top), None, 8)


def _is_deep(image: Image.Image) -> bool:
    """Tell whether an open image file is grey of 9 to 16 bits."""
    return image.mode.startswith("I;16") or (image.mode == "I" and image.format == "PPM")


def _maximum(image: Image.Image) -> float:
    """Return the level that means 1.0, from the bits and the stated maximum of the samples."""
    tags = _tags(image)
    bits = tags.get(258, (16 if _is_deep(image) else 8,))[0]
    full = 2**bits - 1
    top = float(full) if _is_deep(image) else 255.0  # Pillow stretches fewer than 8 bits to 8
    stated = max(np.ravel(tags.get(341, full)).tolist())  # SMaxSampleValue
    if not 0 < stated < full or image.mode in ("1", "P", "PA"):
        return top
    if tags.get(262, 1) == 0:
        raise Lossy(f"is inverted grey with a maximum of {stated}; convert it")
    stated = top * stated / full
    return stated if np.asarray(image).max() <= stated else top


def _tags(image: Image.Image) -> dict[int, Any]:
    """Return the tags of a TIFF file by number; empty for other formats."""
    return dict(getattr(image, "tag_v2", {}))


def colors_of(icc_profile: bytes) -> int | None:
    """Return the number of channels of a colour profile: 1, 3, 4, or None if unknown."""
    return {b"GRAY": 1, b"RGB ": 3, b"CMYK": 4}.get(icc_profile[16:20])
