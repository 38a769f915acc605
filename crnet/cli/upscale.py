"""``crnet upscale``: enlarge image files."""

import argparse
import os
import re
from collections.abc import Callable
from pathlib import Path

from crnet.cli.arguments import Parser
from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import UsageError, fail, printable, say, tell
from crnet.cli.options import (
    MODEL,
    add_computing,
    check_scales,
    open_device,
)
from crnet.cli.progress import progress
from crnet.contracts import System, following
from crnet.data import find_images
from crnet.errors import ImageFileError, words
from crnet.files import (
    Picture,
    not_kept,
    output_file,
    output_format,
    read_picture,
    write_picture,
)
from crnet.systems import find
from crnet.upscale import upscale_picture


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "inputs", nargs="+", type=Path, metavar="FILE", help="images, or folders of images"
    )
    p.add_argument("--scale", type=int, default=2, metavar="N", help="factor (default: 2)")
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        help="output file; a folder for several inputs "
        "(default: INPUT_MODEL_xN.png beside each input)",
    )
    p.add_argument("--model", default="crnet-a", metavar="NAME", help=f"{MODEL} (default: crnet-a)")
    p.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    p.add_argument(
        "--memory",
        type=float,
        default=1024,
        metavar="MIB",
        help="working memory of a tile; large images are computed in tiles (default: 1024)",
    )
    add_computing(p, precision="auto")


def run(arguments: argparse.Namespace) -> int:
    """Enlarge image files."""
    device = open_device(arguments.device)
    found = find(arguments.model)
    check_scales(found.title, found.scales, [arguments.scale])
    if arguments.scale < 1:
        raise UsageError(f"--scale must be ≥ 1, got {arguments.scale}")
    if not 0 < arguments.memory < 1e9:
        raise UsageError(f"--memory must be > 0 MiB and below 1e9, got {arguments.memory:g}")
    jobs = _jobs(arguments, found.title)
    upscale = found.open(
        device,
        ensemble=arguments.ensemble,
        precision=arguments.precision,
        memory_mib=arguments.memory,
    )
    failed = 0
    for source, target in jobs:
        check_interrupt()
        try:
            lost = _upscale_file(source, target, upscale, arguments)
        except ImageFileError as error:
            failed += fail(str(error), 1)
        except Exception as error:  # whatever one file raises, the others go on
            check_interrupt()
            if os.environ.get("CRNET_TRACEBACK"):
                raise
            failed += fail(f"{source}: {error or type(error).__name__}", 1)
        else:
            say(printable(target))
            if lost:
                tell(f"crnet: {target}: does not keep {words(lost, 'and')} of {source.name}")
    if failed and len(jobs) > 1:
        tell(f"crnet: {failed} of {len(jobs)} files failed")
    return 1 if failed else 0


def _upscale_file(
    source: Path, target: Path, upscale: System, arguments: argparse.Namespace
) -> list[str]:
    """Enlarge one file; return what the new file does not keep."""
    picture, scale = read_picture(source), arguments.scale
    format_name = output_format(target, picture, scale)
    with (
        output_file(target, overwrite=arguments.overwrite) as file,
        progress(f"{source.name}, {_sizes(picture, scale)}", "tiles") as follow,
    ):
        shown = following(upscale, over_passes(follow, 8 if arguments.ensemble else 1))
        result = upscale_picture(picture, scale, shown)
        write_picture(result, file, format_name)
    return not_kept(picture, format_name)


def _sizes(picture: Picture, scale: int) -> str:
    h, w = picture.color.shape[-2:]
    return f"{w}x{h} to {scale * w}x{scale * h} pixels"


def over_passes(follow: Callable[[int, int], None], passes: int) -> Callable[[int, int], None]:
    """Return what counts the tiles of all passes of an ensemble together.

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
        over += done == total

    return on_tile


def _jobs(arguments: argparse.Namespace, model: str) -> list[tuple[Path, Path]]:
    """Pair every input file with its output file."""
    sources = _sources(arguments.inputs, model)
    out: Path | None = arguments.out
    several = len(sources) > 1 or arguments.inputs[0].is_dir()
    if several and out is not None and not out.is_dir():
        raise UsageError(f"several inputs need -o to be an existing folder, and {out} is not one")
    if out is not None and not several and not out.is_dir():
        if out.exists() and sources[0].exists() and out.samefile(sources[0]):
            raise UsageError(f"the output {out} is the input")
        return [(sources[0], out)]
    suffix = f"_{model}_x{arguments.scale}.png"
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
    ours = re.compile(rf"_{re.escape(model)}_x\d+$")
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
