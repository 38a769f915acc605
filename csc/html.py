"""HTML for notebooks: small tables, and atoms as an inline PNG."""

import base64
import struct
import zlib
from collections.abc import Iterable, Sequence
from html import escape

import torch
from torch import Tensor
from torch.nn import functional as F


def table(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a title and a table; the texts are escaped.

    Examples
    --------
    >>> table("a < b", ["n"], [["1"]])
    '<p><b>a &lt; b</b></p><table><tr><th>n</th></tr><tr><td>1</td></tr></table>'
    """
    lines = "".join(f"<tr>{_cells(row, 'td')}</tr>" for row in rows)
    return f"<p><b>{escape(title)}</b></p><table><tr>{_cells(head, 'th')}</tr>{lines}</table>"


def atoms(D: Tensor, most: int = 64) -> str:
    """Return a picture of the first atoms of a dictionary (M, C, kh, kw), C = 1 or 3.

    Grey is zero; each atom is scaled to its largest absolute value.  Other dictionaries give an
    empty text.
    """
    picture = D.ndim == 4 and D.shape[1] in (1, 3) and not D.is_meta
    if not (picture and bool(torch.isfinite(D).all())):
        return ""
    shown = D.detach()[:most].double().cpu()
    peak = shown.abs().amax((1, 2, 3), keepdim=True)
    levels = 127.5 + 127.5 * shown / torch.where(peak > 0, peak, 1.0)
    across = min(len(shown), 16)
    levels = F.pad(levels, (0, 1, 0, 1), value=255)  # a white line between atoms
    levels = F.pad(levels, (0, 0, 0, 0, 0, 0, 0, -len(shown) % across), value=255)
    rows = levels.reshape(-1, across, *levels.shape[1:]).permute(0, 3, 1, 4, 2)
    sheet = rows.flatten(0, 1).flatten(1, 2).expand(-1, -1, 3)
    data = base64.b64encode(_png(sheet.round().byte())).decode()
    width = 4 * sheet.shape[1]
    return (
        f'<img src="data:image/png;base64,{data}" width="{width}" '
        f'style="image-rendering: pixelated" alt="{len(shown)} atoms">'
    )


def percent(fraction: float) -> str:
    """Return a fraction in percent, two digits below 1 %.

    Examples
    --------
    >>> percent(0.124), percent(0.00034)
    ('12%', '0.034%')
    """
    return f"{fraction:.0%}" if fraction >= 0.01 or fraction == 0 else f"{100 * fraction:.2g}%"


def _cells(texts: Sequence[str], tag: str) -> str:
    return "".join(f"<{tag}>{escape(text)}</{tag}>" for text in texts)


def _png(levels: Tensor) -> bytes:
    """Return an RGB image (H, W, 3), uint8, as a PNG file."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    H, W, _ = levels.shape
    lines = F.pad(levels.flatten(1), (1, 0))  # each line begins with its filter, 0 for none
    head = struct.pack(">IIBBBBB", W, H, 8, 2, 0, 0, 0)
    content = zlib.compress(lines.contiguous().numpy().tobytes())
    chunks = chunk(b"IHDR", head) + chunk(b"IDAT", content) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + chunks
