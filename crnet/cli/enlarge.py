"""Enlarge one image file for ``crnet upscale``: whole, or a large TIFF file in strips."""

import io
import math
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, closing, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, NamedTuple

from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import send, tell
from crnet.cli.progress import progress
from crnet.cli.target import Target
from crnet.contracts import System, following
from crnet.errors import ImageFileError
from crnet.files import (
    Picture,
    not_kept,
    output_file,
    output_format,
    read_picture,
    read_stream,
    write_picture,
)
from crnet.resize import Plan, plan
from crnet.strips import Rows, context, upscale_rows
from crnet.upscale import picture_mib, upscale_picture

_TIFF = {".tif", ".tiff"}

STREAM = Path("-")
"""Standard input as an input, standard output as an output."""


class Outcome(NamedTuple):
    """What became of a file: an error, or what the new file does not keep."""

    error: str | None
    lost: list[str]


@dataclass(frozen=True)
class Enlarge:
    """What enlarges files; called with (input, output) in this process or in another one.

    target : the size that is asked for.
    system : what enlarges images.
    scales : the scales of the system; None for any.
    ensemble : average over flips and turns.
    overwrite : replace outputs that exist.
    memory : MiB of the image and the network's maps.
    precision : named beside progress.
    format : of standard output; png by default.
    silent : show no progress, because several processes would overwrite each other's.
    """

    target: Target
    system: System
    scales: tuple[int, ...] | None
    ensemble: bool
    overwrite: bool
    memory: float
    precision: str
    format: str | None
    silent: bool

    def __call__(self, job: tuple[Path, Path]) -> Outcome:
        """Enlarge one file; whatever it raises, the others go on."""
        source, path = job
        try:
            return Outcome(None, self._enlarge(source, path))
        except ImageFileError as error:
            return Outcome(str(error), [])
        except Exception as error:
            check_interrupt()
            if os.environ.get("CRNET_TRACEBACK"):
                raise
            return Outcome(f"{called(source, 'input')}: {error or type(error).__name__}", [])

    def _enlarge(self, source: Path, path: Path) -> list[str]:
        """Enlarge one file; return what the new file does not keep."""
        found = self._rows(source, path)
        if found is not None:
            with closing(found[0]) as rows:
                self._in_strips(rows, found[1], source, path)
                return rows.not_kept
        name = called(source, "input")
        picture = _read(source)
        h, w = picture.color.shape[-2:]
        H, W = self.target.size(name, h, w)
        named = Path(f"standard output.{self.format or 'png'}") if path == STREAM else path
        format_name = output_format(named, picture, max(H / h, W / w))
        scale, size = (self.target.scale, None) if self.target.scale else (None, (H, W))
        chosen = plan((h, w), scale, size=size, scales=self.scales)
        title = f"{Path(name).name}, {w}x{h} to {W}x{H} pixels"
        lost = not_kept(picture, format_name)
        running, images = picture_mib(
            tuple(picture.color.shape), chosen, self.system.channels, self._passes
        )
        with _output(path, self.overwrite) as file:
            if chosen.passes and chosen.describe(h, w) != f"x{self.target.scale}":
                tell(f"crnet: {title}: {chosen.describe(h, w)}")
            if images > machine_mib():
                raise ImageFileError(
                    f"{name}: {w}x{h} to {W}x{H} pixels needs about {images:.0f} MiB, and this "
                    f"machine has {machine_mib():.0f}; crop it, or see crnet upscale --help on "
                    "large TIFF files"
                )
            if images > self.memory:
                tell(
                    f"crnet: {title}: the image alone needs about {images:.0f} MiB, "
                    f"more than --memory {self.memory:g}"
                )
            with self._progress(title, "tiles") as follow:
                memory = max(1.0, self.memory - running)
                shown = following(self.system, over_passes(follow, self._passes), memory)
                result = upscale_picture(picture, scale, shown, size=size, scales=self.scales)
                del picture  # its memory is that of the encoder now
                write_picture(result, file, format_name)
        return lost

    def _rows(self, source: Path, path: Path) -> tuple[Rows, Plan] | None:
        """Open a TIFF file that goes to a TIFF file in strips, because it needs more than --memory.

        None where it fits, where strips are not possible, or without tifffile.
        """
        if STREAM in (source, path) or not {source.suffix.lower(), path.suffix.lower()} <= _TIFF:
            return None
        try:
            rows = Rows(source)
        except (ModuleNotFoundError, ImageFileError):
            return None  # Pillow may read it, or says why it cannot
        chosen = self._plan_of_strips(rows)
        if chosen is None:
            rows.close()
            return None
        return rows, chosen

    def _plan_of_strips(self, rows: Rows) -> Plan | None:
        """Return the one pass that enlarges rows which need more than --memory."""
        if self.target.scale is None:
            return None
        h, w = rows.shape[-2:]
        chosen = plan((h, w), self.target.scale, scales=self.scales)
        if len(chosen.passes) != 1 or context(self.system, chosen.passes[0]) is None:
            return None
        exact = chosen.size == (chosen.passes[0] * h, chosen.passes[0] * w)
        needs = picture_mib(rows.shape, chosen, self.system.channels, self._passes)[1]
        return chosen if exact and needs > self.memory else None

    def _in_strips(self, rows: Rows, chosen: Plan, source: Path, path: Path) -> None:
        """Enlarge a large TIFF file in strips."""
        (h, w), (H, W) = rows.shape[-2:], chosen.size
        with (
            output_file(path, overwrite=self.overwrite) as file,
            self._progress(f"{source.name}, {w}x{h} to {W}x{H} pixels", "strips") as follow,
        ):
            upscale_rows(
                rows,
                Path(file.name),
                self.system,
                chosen,
                memory_mib=self.memory,
                passes=self._passes,
                on_strip=follow,
            )

    @property
    def _passes(self) -> int:
        return 8 if self.ensemble else 1

    def _progress(
        self, title: str, unit: str
    ) -> AbstractContextManager[Callable[[int, int], None]]:
        if self.silent:
            return nullcontext(_ignore)
        return progress(f"{title}, {self.precision}", unit)


def called(path: Path, stream: str) -> str:
    """Return how messages call an input or an output."""
    return f"standard {stream}" if path == STREAM else str(path)


def machine_mib() -> float:
    """Return the memory of this machine in MiB; infinite where the system does not say it."""
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE") / 2**20
    except (AttributeError, OSError, ValueError):
        return math.inf


def _read(source: Path) -> Picture:
    if source != STREAM:
        return read_picture(source)
    if sys.stdin is None or sys.stdin.isatty():
        raise ImageFileError("standard input: is a terminal; send an image into it")
    return read_stream(io.BytesIO(sys.stdin.buffer.read()), "standard input")


@contextmanager
def _output(path: Path, overwrite: bool) -> Iterator[BinaryIO]:
    """Open an output; standard output is written when the block succeeds."""
    if path != STREAM:
        with output_file(path, overwrite=overwrite) as file:
            yield file
        return
    if sys.stdout is None or sys.stdout.isatty():
        raise ImageFileError("standard output: is a terminal; redirect it, or name a file with -o")
    held = io.BytesIO()
    yield held
    try:
        send(held.getbuffer())
    except (OSError, ValueError) as error:
        raise ImageFileError(f"standard output: cannot be written: {error}") from error


def _ignore(done: int, total: int) -> None:
    """Show no progress."""


def over_passes(follow: Callable[[int, int], None], passes: int) -> Callable[[int, int], None]:
    """Return what counts the tiles of all passes of an ensemble together, again and again.

    Examples
    --------
    >>> on_tile = over_passes(lambda done, total: print(f"{done}/{total}"), passes=2)
    >>> for done in (1, 2, 1, 2):
    ...     on_tile(done, 2)
    1/4
    2/4
    3/4
    4/4
    """
    over = 0

    def on_tile(done: int, total: int) -> None:
        nonlocal over
        follow(over * total + done, passes * total)
        over = (over + (done == total)) % passes

    return on_tile
