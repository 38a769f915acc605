"""Image files that tests make."""

import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image


def photo(H: int = 13, W: int = 11, channels: int = 3, seed: int = 0) -> np.ndarray:
    """A smooth random picture, uint8 (H, W) or (H, W, channels)."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:H, :W] / 7
    phase = rng.uniform(0, 6, (channels, 1, 1))
    picture = 127 + 100 * np.sin(x + phase) * np.cos(1.3 * y - phase)
    picture = picture.round().astype(np.uint8).transpose(1, 2, 0)
    return picture[..., 0] if channels == 1 else picture


def save(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def opened(path: Path | str) -> Image.Image:
    """Return the decoded image of a file, and close the file."""
    with Image.open(path) as image:
        image.load()
    return image


def png_chunk(kind: bytes, data: bytes) -> bytes:
    body = kind + data
    return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))


def png(path: Path, header: tuple[int, ...], rows: bytes) -> Path:
    """A PNG of any header (W, H, bits, colour type, 0, 0, interlace) and data, whole or not."""
    chunks = png_chunk(b"IHDR", struct.pack(">IIBBBBB", *header))
    chunks += png_chunk(b"IDAT", zlib.compress(rows)) + png_chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def png16(path: Path, color_type: int, channels: int) -> Path:
    """A 16-bit PNG of any colour type, which Pillow cannot write."""
    rows = b"".join(b"\0" + bytes(range(8 * channels * 2)) for _ in range(8))
    return png(path, (8, 8, 16, color_type, 0, 0, 0), rows)


def tiff(path: Path, strip: bytes, W: int, H: int, bits: int, **tags: int) -> Path:
    """A little-endian TIFF of one strip; more tags as ``t338=0``, all of them SHORT."""
    named = {256: W, 257: H, 258: bits, 259: 1, 262: 1, 273: 8, 277: 1, 278: H, 279: len(strip)}
    named |= {int(name[1:]): value for name, value in tags.items()}
    entries, more, start = b"", b"", 8 + len(strip) + 2 + 12 * len(named) + 4
    for tag, value in sorted(named.items()):
        count = named[277] if tag == 258 else 1  # bits of each sample
        values = struct.pack(f"<{count}H", *count * [value])
        if len(values) > 4:  # too long for its entry
            more, values = values, struct.pack("<I", start)
        entries += struct.pack("<HHI", tag, 3, count) + values.ljust(4, b"\0")
    head = b"II*\0" + struct.pack("<I", 8 + len(strip)) + strip
    path.write_bytes(head + struct.pack("<H", len(named)) + entries + bytes(4) + more)
    return path
