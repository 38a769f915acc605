"""Enlarge TIFF files that do not fit in memory: read, upscale and write some rows at a time.

A strip is read with as many more rows above and below as its pixels depend on, so the result is
that of the whole image, up to rounding.  The new file is a BigTIFF without compression, written
in place.  It needs ``tifffile`` (``pip install 'csc-crnet[large]'``).
"""

import math
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from crnet import networks
from crnet.contracts import System, following
from crnet.ensemble import Ensemble
from crnet.errors import ImageFileError
from crnet.files import Picture, levels
from crnet.resize import Plan
from crnet.upscale import picture_mib, upscale_picture

_BICUBIC = 4  # LR rows that bicubic chroma depends on, and some
_ORIENTATION, _XMP, _EXIF, _PROFILE, _GPS = 274, 700, 34665, 34675, 34853
_LARGEST_SAMPLE = 281
_BLACK, _RGB, _TOGETHER = 1, 2, 1  # values of photometric interpretation, planar configuration
_NAMES = {_XMP: "XMP", _EXIF: "EXIF", _GPS: "GPS"}


class Rows:
    """The rows of a TIFF file that can be read one after the other.

    Attributes
    ----------
    shape : (1, C, h, w)
        C is 1 for grey and 3 for RGB.
    profile : bytes or None
        Colour profile.
    not_kept : list of str
        What the file holds beside pixels, profile and resolution.

    Raises
    ------
    ModuleNotFoundError
        If tifffile is missing.
    ImageFileError
        If strips cannot be read from the file.  It must be an undamaged TIFF of one upright page,
        without alpha.  It holds 8-bit grey, 8-bit RGB or 16-bit grey.
    """

    def __init__(self, path: Path) -> None:
        import tifffile

        self._path = path
        try:
            self._file = tifffile.TiffFile(path)
        except Exception as error:  # damaged headers raise anything
            raise ImageFileError(f"{path}: cannot be read as a TIFF: {error}") from error
        self._page: Any = self._file.pages[0]
        problem = self._problem()
        if problem:
            self.close()
            raise ImageFileError(f"{path}: cannot be read in strips: {problem}")
        page: Any = self._page
        self.shape = (1, page.samplesperpixel, page.imagelength, page.imagewidth)
        tags = page.tags
        self.profile: bytes | None = tags.valueof(_PROFILE)
        self.not_kept = [name for tag, name in _NAMES.items() if tag in tags]

    def _problem(self) -> str:
        page, tags = self._page, self._page.tags
        sixteen = page.dtype == np.uint16 and page.samplesperpixel == 1
        if len(self._file.pages) > 1:
            return f"it has {len(self._file.pages)} pages"
        if tags.valueof(_ORIENTATION, 1) != 1:
            return "it is not upright"
        if page.extrasamples:
            return "it has alpha or other channels"
        if page.photometric not in (_BLACK, _RGB) or page.planarconfig not in (None, _TOGETHER):
            return f"its colours are stored as {page.photometric!r}, {page.planarconfig!r}"
        if not (page.dtype == np.uint8 or sixteen) or page.bitspersample != 8 * page.dtype.itemsize:
            return f"it has {page.bitspersample} bits a channel"
        if sixteen and _LARGEST_SAMPLE in tags:
            return "it states its largest sample"
        return ""

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch, if the file says it."""
        page = self._page
        inch = {2: 1.0, 3: 2.54}.get(int(page.resolutionunit or 1))
        x, y = page.get_resolution() if inch else (0, 0)
        return (x * inch, y * inch) if inch and min(x, y) > 0 else None

    def picture(self, top: int, bottom: int) -> Picture:
        """Return the rows from `top` to `bottom`, without the profile.

        Raises
        ------
        ImageFileError
            If they cannot be decoded.
        """
        page = self._page
        out = np.empty((bottom - top, page.imagewidth, page.samplesperpixel), page.dtype)
        height, width = page.tile[-2:] if page.is_tiled else (page.rowsperstrip, page.imagewidth)
        across = -(-page.imagewidth // width)
        for row in range(top // height, -(-bottom // height)):
            for column in range(across):
                part = self._segment(row * across + column)
                y, x = row * height, column * width
                a, b = max(top, y), min(bottom, y + len(part))
                wide = min(part.shape[1], page.imagewidth - x)
                out[a - top : b - top, x : x + wide] = part[a - y : b - y, :wide]
        whole = np.iinfo(page.dtype).max
        color = torch.from_numpy(out.astype(np.float32)).permute(2, 0, 1)[None] / whole
        return Picture(color, bits=8 * page.dtype.itemsize)

    def _segment(self, index: int) -> NDArray[Any]:
        """Return the pixels (rows, columns, C) of one stored strip or tile."""
        page, handle = self._page, self._file.filehandle
        try:
            handle.seek(page.dataoffsets[index])
            stored = handle.read(page.databytecounts[index])
            if len(stored) < page.databytecounts[index]:
                raise ValueError("the file is truncated")
            pixels = page.decode(stored, index, jpegtables=page.jpegtables)[0]
        except Exception as error:  # decoders raise anything on damaged bytes
            raise ImageFileError(f"{self._path}: cannot be decoded: {error}") from error
        found: NDArray[Any] = pixels[0]
        return found


def context(upscale: System, scale: int) -> int | None:
    """Return how many LR rows beyond its own a strip depends on; None if that is not known."""
    system = upscale.system if isinstance(upscale, Ensemble) else upscale
    net = getattr(system, "net", None)  # of an Upscaler, or of ncnn
    if net is None:
        return None
    reach = networks.reach(net)
    return (math.ceil(reach / scale) if net.enlarged else reach) + _BICUBIC


def upscale_rows(
    rows: Rows,
    out: Path,
    upscale: System,
    plan: Plan,
    *,
    memory_mib: float = 1024,
    passes: int = 1,
    on_strip: Callable[[int, int], None] | None = None,
) -> None:
    """Enlarge a TIFF file by a whole number, strip by strip.

    Parameters
    ----------
    rows : Rows
        The file.
    out : Path
        BigTIFF file to write, which is replaced.
    upscale : System
        An :class:`crnet.Upscaler` or :class:`crnet.ncnn.Ncnn`, or its ensemble.
    plan : Plan
        One pass of the system, and no other size.
    memory_mib : float
        Memory of a strip and of the network's maps in MiB.
    passes : int
        8 for an ensemble.
    on_strip : callable, optional
        Called with (strips done, strips in all): before the first strip and after each.

    Raises
    ------
    ValueError
        If the plan or the system does not allow strips.
    ImageFileError
        If the file is damaged.
    """
    import tifffile

    _, C, h, w = rows.shape
    H, W = plan.size
    (scale,) = plan.passes if len(plan.passes) == 1 else (0,)
    margin = context(upscale, scale) if scale else None
    if margin is None or (H, W) != (scale * h, scale * w):
        raise ValueError(f"strips need one pass of a network, not {plan.describe(h, w)}")
    step = _rows_that_fit(rows.shape, scale, upscale.channels, passes, margin, memory_mib / 2)
    system = following(upscale, lambda done, total: None, memory_mib / 2)
    dpi = rows.dpi
    # tifffile gives a file without samples the shape that it has on disk.
    target = tifffile.memmap(
        out,
        shape=(H, W, 3) if C == 3 else (H, W),
        dtype=np.uint8 if rows.picture(0, 1).bits == 8 else np.uint16,
        photometric="rgb" if C == 3 else "minisblack",
        bigtiff=True,
        metadata=None,
        iccprofile=rows.profile,
        resolution=None if dpi is None else (scale * dpi[0], scale * dpi[1]),
        resolutionunit=None if dpi is None else 2,
    )
    with closing(target._mmap):  # type: ignore[attr-defined]  # numpy has no other way to close
        total = -(-h // step)
        for done, top in enumerate(range(0, h, step)):
            if on_strip:
                on_strip(done, total)
            bottom = min(h, top + step)
            a, b = max(0, top - margin), min(h, bottom + margin)
            strip = upscale_picture(rows.picture(a, b), scale, system)
            color = strip.color[..., scale * (top - a) : scale * (bottom - a), :]
            target[scale * top : scale * bottom] = levels(replace(strip, color=color))
            target.flush()
        if on_strip:
            on_strip(total, total)


def _rows_that_fit(
    shape: tuple[int, ...], scale: int, channels: int, passes: int, margin: int, memory_mib: float
) -> int:
    """Return how many LR rows a strip may have, beside its margins; at least twice the margin."""
    _, C, h, w = shape

    def needed(n: int) -> float:
        strip = Plan((scale,), (scale * n, scale * w))
        return picture_mib((1, C, n, w), strip, channels, passes)[1]

    one = needed(1024) / 1024
    return min(h, max(2 * margin, int(memory_mib / one) - 2 * margin))
