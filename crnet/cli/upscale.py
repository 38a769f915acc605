"""``crnet upscale``: enlarge image files."""

import argparse
import functools
import io
import math
import os
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, nullcontext
from pathlib import Path
from typing import BinaryIO, NamedTuple

import torch

from crnet import loading
from crnet.cli.arguments import Parser
from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import UsageError, fail, printable, say, send, tell
from crnet.cli.options import MODEL, add_computing, open_device
from crnet.cli.progress import progress
from crnet.cli.target import LARGEST, Target, box, factor, pixels
from crnet.cli.workers import add_workers, processes
from crnet.contracts import System, following
from crnet.data import find_images
from crnet.ensemble import Ensemble
from crnet.errors import ImageFileError, words
from crnet.files import (
    WRITTEN,
    Picture,
    not_kept,
    output_file,
    output_format,
    read_picture,
    read_stream,
    write_picture,
)
from crnet.loading import RECOMMENDED, Card
from crnet.ncnn import Ncnn
from crnet.precision import resolve
from crnet.resize import Plan, plan
from crnet.strips import Rows, context, upscale_rows
from crnet.systems import Found, find
from crnet.upscale import picture_mib, upscale_picture
from csc.workers import each

_TIFF = {".tif", ".tiff"}

STREAM = Path("-")
"""Standard input as an input, standard output as an output."""


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "inputs",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="images, or folders of images; - is standard input",
    )
    sizes = p.add_mutually_exclusive_group()
    sizes.add_argument(
        "--scale",
        type=factor,
        metavar="X",
        help=f"factor, any number > 1 up to {LARGEST} (default: 2)",
    )
    sizes.add_argument(
        "--size",
        type=box,
        metavar="WxH",
        help="enlarge to fit in this width and height, in proportion (default: --scale)",
    )
    sizes.add_argument(
        "--width",
        type=pixels,
        metavar="W",
        help="enlarge to this width, in proportion (default: --scale)",
    )
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        help="output file, - for standard output; a folder for several inputs "
        "(default: INPUT_MODEL_xN.png beside each input)",
    )
    p.add_argument(
        "--format",
        choices=[suffix[1:] for suffix in WRITTEN],
        help="format of standard output (default: png)",
    )
    p.add_argument(
        "--model", default=RECOMMENDED, metavar="NAME", help=f"{MODEL} (default: {RECOMMENDED})"
    )
    p.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    p.add_argument(
        "--memory",
        type=float,
        default=1024,
        metavar="MIB",
        help="memory of the image and the network's maps; large images are computed in tiles, and "
        "a TIFF file that needs more is read and written in strips, if the output is a TIFF file "
        "and tifffile is installed (default: 1024)",
    )
    p.add_argument(
        "--engine",
        choices=("torch", "ncnn"),
        default="torch",
        help="what computes networks; ncnn uses the CPU and float32 (default: torch)",
    )
    add_workers(p)
    add_computing(p, precision="auto")


def run(arguments: argparse.Namespace) -> int:
    """Enlarge image files."""
    device = open_device(arguments.device)
    found = find(arguments.model)
    if not 0 < arguments.memory < 1e9:
        raise UsageError(f"--memory must be > 0 MiB and below 1e9, got {arguments.memory:g}")
    width, height = arguments.size or (arguments.width, None)
    target = Target(arguments.scale or (None if width else 2), width, height)
    jobs = _jobs(arguments, found.title, target)
    # Baselines compute in float32.
    of_torch = isinstance(found.card, Card) and arguments.engine == "torch"
    arguments.precision = resolve(arguments.precision, device) if of_torch else "float32"
    if arguments.engine == "ncnn":
        upscale = _in_ncnn(found, ensemble=arguments.ensemble)
    else:
        upscale = found.open(device, ensemble=arguments.ensemble, precision=arguments.precision)
    # A name without scales takes any; bicubic makes any size in one step.
    scales = found.scales or (None if found.path else ())
    here = len(jobs) == 1 or STREAM in arguments.inputs or arguments.out == STREAM
    enlarge = functools.partial(
        _try_file,
        target=target,
        upscale=upscale,
        scales=scales,
        options=_Options(
            arguments.ensemble,
            arguments.overwrite,
            arguments.memory,
            arguments.precision,
            arguments.format,
            silent=not here and arguments.workers > 0,
        ),
    )
    failed: set[int] = set()

    def lose(i: int, reason: str) -> None:
        failed.add(i)
        fail(f"{jobs[i][0]}: its worker was lost: {reason}", 1)

    with processes(0 if here else arguments.workers) as executor:
        for i, outcome in each(enlarge, jobs, executor, on_lost=lose):
            if outcome.error is not None:
                failed.add(i)
                fail(outcome.error, 1)
                continue
            source, path = jobs[i]
            if path != STREAM:
                say(printable(path))
            if outcome.lost:
                lost, of = words(outcome.lost, "and"), Path(_name(source, "input")).name
                tell(f"crnet: {_name(path, 'output')}: does not keep {lost} of {of}")
            check_interrupt()
    if failed and len(jobs) > 1:
        tell(f"crnet: {len(failed)} of {len(jobs)} files failed")
    return 1 if failed else 0


def _in_ncnn(found: Found, *, ensemble: bool) -> System:
    """Return a network that ncnn runs."""
    if not isinstance(found.card, Card) or found.path is None:
        raise UsageError(f"--engine ncnn is for networks; {found.title} is not one")
    try:
        one = Ncnn(loading.load(found.path), threads=torch.get_num_threads())
    except ModuleNotFoundError as error:
        raise UsageError(
            f"--engine ncnn needs {error.name}: pip install 'csc-crnet[ncnn]'"
        ) from error
    return Ensemble(one) if ensemble else one


class _Options(NamedTuple):
    """What a file is enlarged with."""

    ensemble: bool
    overwrite: bool
    memory: float
    precision: str
    format: str | None
    silent: bool  # about progress


class _Outcome(NamedTuple):
    """What became of a file: an error, or what the new file does not keep."""

    error: str | None
    lost: list[str]


def _try_file(
    job: tuple[Path, Path],
    *,
    target: Target,
    upscale: System,
    scales: tuple[int, ...] | None,
    options: _Options,
) -> _Outcome:
    """Enlarge one file; whatever it raises, the others go on."""
    source, path = job
    try:
        return _Outcome(None, _upscale_file(source, path, target, upscale, scales, options))
    except ImageFileError as error:
        return _Outcome(str(error), [])
    except Exception as error:
        check_interrupt()
        if os.environ.get("CRNET_TRACEBACK"):
            raise
        return _Outcome(f"{_name(source, 'input')}: {error or type(error).__name__}", [])


def _name(path: Path, stream: str) -> str:
    """Return how messages call an input or an output."""
    return f"standard {stream}" if path == STREAM else str(path)


def _upscale_file(
    source: Path,
    path: Path,
    target: Target,
    upscale: System,
    scales: tuple[int, ...] | None,
    options: _Options,
) -> list[str]:
    """Enlarge one file; return what the new file does not keep."""
    name = _name(source, "input")
    rows = _rows(source, path, target, upscale, scales, options)
    if rows is not None:
        with closing(rows):
            _upscale_rows(rows, source, path, target, upscale, options)
            return rows.not_kept
    picture = _read(source)
    h, w = picture.color.shape[-2:]
    H, W = target.size(name, h, w)
    named = Path(f"standard output.{options.format or 'png'}") if path == STREAM else path
    format_name = output_format(named, picture, max(H / h, W / w))
    scale, size = (target.scale, None) if target.scale else (None, (H, W))
    chosen = plan((h, w), scale, size=size, scales=scales)
    title = f"{Path(name).name}, {w}x{h} to {W}x{H} pixels"
    passes = _passes(options)
    lost = not_kept(picture, format_name)
    running, images = picture_mib(tuple(picture.color.shape), chosen, upscale.channels, passes)
    with _output(path, options.overwrite) as file:
        if chosen.passes and chosen.describe(h, w) != f"x{target.scale}":
            tell(f"crnet: {title}: {chosen.describe(h, w)}")
        if images > machine_mib():
            raise ImageFileError(
                f"{name}: {w}x{h} to {W}x{H} pixels needs about {images:.0f} MiB, and this machine "
                f"has {machine_mib():.0f}; crop it, or see crnet upscale --help on large TIFF files"
            )
        if images > options.memory:
            tell(
                f"crnet: {title}: the image alone needs about {images:.0f} MiB, "
                f"more than --memory {options.memory:g}"
            )
        bar = progress(f"{title}, {options.precision}", "tiles")
        with nullcontext(_ignore) if options.silent else bar as follow:
            memory = max(1.0, options.memory - running)
            shown = following(upscale, over_passes(follow, passes), memory)
            result = upscale_picture(picture, scale, shown, size=size, scales=scales)
            del picture  # its memory is that of the encoder now
            write_picture(result, file, format_name)
    return lost


def _rows(
    source: Path,
    path: Path,
    target: Target,
    upscale: System,
    scales: tuple[int, ...] | None,
    options: _Options,
) -> Rows | None:
    """Open a TIFF file that goes to a TIFF file in strips, because it needs more than --memory.

    None where it fits, where strips are not possible, or without tifffile.
    """
    if STREAM in (source, path) or not {source.suffix.lower(), path.suffix.lower()} <= _TIFF:
        return None
    try:
        rows = Rows(source)
    except (ModuleNotFoundError, ImageFileError):
        return None  # Pillow may read it, or says why it cannot
    h, w = rows.shape[-2:]
    chosen = plan((h, w), target.scale, scales=scales) if target.scale else None
    if (
        chosen is None
        or len(chosen.passes) != 1
        or chosen.size != (chosen.passes[0] * h, chosen.passes[0] * w)
        or context(upscale, chosen.passes[0]) is None
        or picture_mib(rows.shape, chosen, upscale.channels, _passes(options))[1] <= options.memory
    ):
        rows.close()
        return None
    return rows


def _upscale_rows(
    rows: Rows, source: Path, path: Path, target: Target, upscale: System, options: _Options
) -> None:
    """Enlarge a large TIFF file in strips."""
    assert target.scale is not None  # noqa: S101  # _rows has checked it
    scale = int(target.scale)
    h, w = rows.shape[-2:]
    title = f"{source.name}, {w}x{h} to {scale * w}x{scale * h} pixels, {options.precision}"
    with output_file(path, overwrite=options.overwrite) as file:
        bar = progress(title, "strips")
        with nullcontext(_ignore) if options.silent else bar as follow:
            upscale_rows(
                rows,
                Path(file.name),
                upscale,
                Plan((scale,), (scale * h, scale * w)),
                memory_mib=options.memory,
                passes=_passes(options),
                on_strip=follow,
            )


def _passes(options: _Options) -> int:
    return 8 if options.ensemble else 1


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
    """Show no bar: those of several processes would overwrite each other."""


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


def _jobs(arguments: argparse.Namespace, model: str, wanted: Target) -> list[tuple[Path, Path]]:
    """Pair every input file with its output file."""
    out: Path | None = arguments.out
    if STREAM in arguments.inputs:
        if len(arguments.inputs) > 1:
            raise UsageError("- is standard input, and must be the only input")
        out = out or STREAM
    if arguments.format and out != STREAM:
        raise UsageError("--format is for standard output, -o -; elsewhere the suffix says it")
    sources = _sources(arguments.inputs, model)
    several = len(sources) > 1 or arguments.inputs[0].is_dir()
    if several and out is not None and not out.is_dir():
        raise UsageError(
            f"several inputs need -o to be an existing folder, and {out} is "
            f"{'standard output' if out == STREAM else 'not one'}"
        )
    if out is not None and not several and not out.is_dir():
        if out.exists() and sources[0].exists() and out.samefile(sources[0]):
            raise UsageError(f"the output {out} is the input")
        return [(sources[0], out)]
    if STREAM in sources:
        raise UsageError(f"standard input has no name; name a file in {out} with -o")
    suffix = f"_{model}_{wanted.label}.png"
    jobs = [(p, (out or p.parent) / f"{p.stem}{suffix}") for p in sources]
    targets = [target for _, target in jobs]
    clashes = sorted({str(t) for t in targets if targets.count(t) > 1})
    both = sorted(str(t) for t in targets if t in sources)
    if both:
        raise UsageError(f"{both[0]} would be an input and an output; run them one by one")
    if clashes:
        raise UsageError(f"several inputs would be written to {clashes[0]}; run them one by one")
    return jobs


def _sources(inputs: list[Path], model: str) -> list[Path]:
    """Return the input files, without what an earlier run of the model wrote beside its inputs."""
    ours = re.compile(rf"_{re.escape(model)}_(x\d+(\.\d+)?|\d+x\d+|\d+w)$")
    sources: list[Path] = []
    for path in inputs:
        if path.is_dir():
            inside = [p for p in find_images(path) if not ours.search(p.stem)]
            if not inside:
                raise UsageError(f"the folder {path} holds only images that {model} made")
            sources += inside
        else:
            sources.append(path)
    return sources
