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
    """The decoded image of a file, the file closed."""
    with Image.open(path) as image:
        image.load()
    return image


def png16(path: Path, color_type: int, channels: int) -> Path:
    """A 16-bit PNG of any colour type, which Pillow cannot write."""
    W = H = 8
    rows = b"".join(b"\0" + bytes(range(W * channels * 2)) for _ in range(H))

    def chunk(kind: bytes, data: bytes) -> bytes:
        body = kind + data
        return struct.pack(">I", len(data)) + body + struct.pack(">I", zlib.crc32(body))

    header = struct.pack(">IIBBBBB", W, H, 16, color_type, 0, 0, 0)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path
