"""Metadata of image files, and how they change when the picture is enlarged.

Resolution grows with the scale, because the picture keeps its size on paper.  EXIF, XMP, PNG text
and PNG colour chunks are carried.  Their fields on orientation and pixel size are removed, because
the picture is stored upright and with more pixels.  Thumbnails and TIFF's storage tags are dropped.
`Metadata.not_kept` names everything else.
"""

import math
import re
import struct
from dataclasses import dataclass, replace
from typing import Any

from PIL import Image
from PIL.PngImagePlugin import PngInfo

_IMAGE_SIZE_IN_XMP = (
    rb"(?:tiff:(?:Orientation|ImageWidth|ImageLength|XResolution|YResolution|ResolutionUnit)"
    rb"|exif:Pixel[XY]Dimension)"
)
_XMP_FIELDS = re.compile(
    rb"\s" + _IMAGE_SIZE_IN_XMP + rb"\s*=\s*(?:\"[^\"]*\"|'[^']*')"
    rb"|<(" + _IMAGE_SIZE_IN_XMP + rb")\b[^>]*>[^<]*</\1\s*>"
)

# Tags of EXIF and TIFF by number (EXIF 2.32, section 4.6; TIFF 6.0).
_X_RESOLUTION, _Y_RESOLUTION, _UNIT, _XMP = 282, 283, 296, 700
_EXIF, _GPS = 0x8769, 0x8825
_PIXELS = (0xA002, 0xA003, 0xA005)  # width and height in pixels, and a table about file names
_FOCAL_PLANE = (0xA20E, 0xA20F)  # pixels per unit of the sensor
# Title, maker, model, software, date, artist, host, copyright; ratings; Windows' title to subject.
_CARRIED = {269, 270, 271, 272, 285, 305, 306, 315, 316, 33432, 0x4746, 0x4749}
_CARRIED |= {*range(0x9C9B, 0x9CA0), _EXIF, _GPS}
# How the pixels are stored, their size, thumbnails, padding; and what is read elsewhere.
_STORAGE = {*range(254, 267), 273, 274, *range(277, 285), 292, 293, 296, 297, 317, 320}
_STORAGE |= {*range(322, 331), 338, 339, 340, 341, 347, *range(512, 533), _XMP}
_STORAGE |= {33723, 34377, 34675, 50341, 59932}

_MARKER = 65000  # bytes that surely fit in one marker of a JPEG file


@dataclass(frozen=True)
class Metadata:
    """What an image file says beside its pixels.

    Attributes
    ----------
    dpi : (float, float) or None
        Pixels per inch, horizontal and vertical.
    exif : bytes
        EXIF without orientation, resolution and pixel size; empty if there is none.
    xmp : bytes
        XMP packet without the same fields.
    chunks : tuple of (bytes, bytes)
        Colour chunks of a PNG file (gAMA, cHRM, sRGB), name and content.
    text : tuple of (str, str)
        Keywords and texts of a PNG file; the comment of a JPEG or GIF file.
    not_kept : tuple of str
        Names of what the file holds and this record does not.
    """

    dpi: tuple[float, float] | None = None
    exif: bytes = b""
    xmp: bytes = b""
    chunks: tuple[tuple[bytes, bytes], ...] = ()
    text: tuple[tuple[str, str], ...] = ()
    not_kept: tuple[str, ...] = ()

    def enlarged(self, scale: float) -> "Metadata":
        """Return the metadata for `scale` times as many pixels a side."""
        dpi = self.dpi and (scale * self.dpi[0], scale * self.dpi[1])
        exif = self.exif
        if exif:
            tags = _parsed(exif)
            details = tags.get_ifd(_EXIF)
            for tag in _FOCAL_PLANE:
                if tag in details:
                    details[tag] = scale * float(details[tag])
            exif = tags.tobytes()
        return replace(self, dpi=dpi, exif=exif)


def read_metadata(image: Image.Image) -> Metadata:
    """Return the metadata of an open image file.

    Call it after `image.load`; for TIFF, call it before, because loading closes the file.
    """
    # Pillow puts the texts of a PNG file into `info`, beside its own fields.  Keep the fields.
    texts: dict[str, str] = getattr(image, "text", {})
    info = {str(key): value for key, value in image.info.items() if key not in texts}
    not_kept: list[str] = []
    tags = Image.Exif()
    try:
        _parsed(info.get("exif", b""))  # raises each time; `getexif` raises only once
        tags = image.getexif()
        exif, others = _carried(tags)
    except Exception:  # damaged EXIF raises anything; the pixels are still good
        exif, others = b"", []
        not_kept.append("damaged EXIF")
    if others:
        not_kept.append(f"EXIF or TIFF tags {', '.join(map(str, others))}")
    if "photoshop" in info or 33723 in tags:
        not_kept.append("IPTC or Photoshop data")
    if image.format == "MPO":
        not_kept.append("the further pictures of the file")
    aspect = info.get("aspect") or info.get("resolution")
    if info.get("jfif_unit") == 0:
        aspect = info.get("jfif_density")
    if aspect and aspect[0] != aspect[1]:
        not_kept.append("the aspect ratio of its pixels")
    xmp = info.get("xmp", b"")
    xmp = xmp.encode() if isinstance(xmp, str) else bytes(xmp)
    return Metadata(
        _dpi(image.format, info, tags),
        exif,
        _XMP_FIELDS.sub(b"", xmp.rstrip(b"\0")),
        _colour_chunks(info),
        _text(info, texts),
        tuple(not_kept),
    )


def _carried(tags: Image.Exif) -> tuple[bytes, list[int]]:
    """Return the EXIF that stays true for an upright copy of any size, and unknown tags."""
    kept = Image.Exif()
    for tag in _CARRIED & set(tags):
        kept[tag] = tags[tag]
    for tag, dropped in ((_EXIF, _PIXELS), (_GPS, ())):
        if tag in kept:
            kept[tag] = {k: v for k, v in tags.get_ifd(tag).items() if k not in dropped}
        for pixels in _FOCAL_PLANE:
            float(kept.get(tag, {}).get(pixels, 0))  # raises here if damaged
    others = sorted(set(tags) - _CARRIED - _STORAGE - {_X_RESOLUTION, _Y_RESOLUTION})
    return kept.tobytes() if len(kept) else b"", others


def _parsed(exif: bytes) -> Image.Exif:
    tags = Image.Exif()
    if exif:
        tags.load(exif)
    return tags


def _dpi(
    format_name: str | None, info: dict[str, Any], tags: Image.Exif
) -> tuple[float, float] | None:
    """Return pixels per inch from the file's own field, or else from EXIF."""
    # For JPEG files without this field, Pillow returns one number of EXIF, or invents 72.
    jpeg = format_name in ("JPEG", "MPO")
    own = info.get("jfif_unit") in (1, 2) if jpeg else "dpi" in info
    inches = 2.54 if not own and tags.get(_UNIT) == 3 else 1.0  # 3 is per centimetre
    try:
        given = info["dpi"] if own else (tags[_X_RESOLUTION], tags[_Y_RESOLUTION])
        x, y = (inches * float(d) for d in given)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):  # missing, or no numbers
        return None
    if not all(math.isfinite(d) and 0 < d < 1e5 for d in (x, y)):
        return None
    return (y, x) if tags.get(274, 1) in (5, 6, 7, 8) else (x, y)  # these turn by 90 degrees


def _colour_chunks(info: dict[str, Any]) -> tuple[tuple[bytes, bytes], ...]:
    chunks = []
    if "srgb" in info:
        chunks.append((b"sRGB", bytes([info["srgb"]])))
    if "gamma" in info:
        chunks.append((b"gAMA", struct.pack(">I", round(info["gamma"] * 1e5))))
    if "chromaticity" in info:
        numbers = [round(c * 1e5) for c in info["chromaticity"]]
        chunks.append((b"cHRM", struct.pack(">8I", *numbers)))
    return tuple(chunks)


def _text(info: dict[str, Any], texts: dict[str, str]) -> tuple[tuple[str, str], ...]:
    if "comment" in info:  # of a JPEG or GIF file
        return (("Comment", info["comment"].decode("utf-8", "replace")),)
    return tuple(
        (key, str(value))
        for key, value in texts.items()
        if key != "XML:com.adobe.xmp" and not key.startswith("Raw profile type")
    )


def save_options(metadata: Metadata, format_name: str) -> tuple[dict[str, object], list[str]]:
    """Return Pillow's options that store metadata in a format, and what the format cannot hold.

    Parameters
    ----------
    metadata : Metadata
        Metadata of the picture to write.
    format_name : str
        ``PNG``, ``TIFF``, ``WEBP``, ``JPEG``, ``BMP`` or ``PPM``.
    """
    options: dict[str, object] = {}
    lost: list[str] = []
    if metadata.dpi and format_name in ("PNG", "TIFF", "JPEG", "BMP"):
        options["dpi"] = metadata.dpi
    elif metadata.dpi and format_name != "WEBP":
        lost.append("resolution")
    exif, xmp = _exif_to_write(metadata, format_name), metadata.xmp
    room = {"JPEG": _MARKER, "BMP": 0, "PPM": 0}.get(format_name, 2**31)
    if exif and len(exif) <= room:
        options["exif"] = exif
    elif exif:
        lost.append("EXIF")
    if xmp and len(xmp) <= room:
        options["xmp"] = xmp  # ignored for PNG (see _png_info) and TIFF (see _exif_to_write)
    elif xmp:
        lost.append("XMP")
    if format_name == "PNG":
        options["pnginfo"] = _png_info(metadata)
    else:
        lost += _lost_of_png(metadata, format_name)
    if format_name == "JPEG" and [key for key, _ in metadata.text] == ["Comment"]:
        options["comment"] = metadata.text[0][1]
    return options, lost


def _exif_to_write(metadata: Metadata, format_name: str) -> bytes:
    """Return EXIF with the resolution; for TIFF also with XMP, which is a tag there."""
    in_tiff, only_there = format_name == "TIFF", format_name == "WEBP"
    if not (metadata.exif or (in_tiff and metadata.xmp) or (only_there and metadata.dpi)):
        return b""
    tags = _parsed(metadata.exif)
    if metadata.dpi:
        tags[_X_RESOLUTION], tags[_Y_RESOLUTION] = metadata.dpi
        tags[_UNIT] = 2  # inch
    if in_tiff and metadata.xmp:
        tags[_XMP] = metadata.xmp
    return tags.tobytes()


def _png_info(metadata: Metadata) -> PngInfo:
    info = PngInfo()
    for name, content in metadata.chunks:
        info.add(name, content)
    for key, value in metadata.text:
        info.add_text(key, value)
    if metadata.xmp:
        info.add_itxt("XML:com.adobe.xmp", metadata.xmp.decode("utf-8", "replace"))
    return info


def _lost_of_png(metadata: Metadata, format_name: str) -> list[str]:
    names = [name for name, _ in metadata.chunks]
    # Readers take a file without a profile for sRGB, so sRGB needs no chunk.
    lost = ["gamma or primaries of its colours"] if names and b"sRGB" not in names else []
    keys = [key for key, _ in metadata.text]
    if keys and (format_name != "JPEG" or keys != ["Comment"]):
        lost.append(f"texts ({', '.join(keys)})")
    return lost
