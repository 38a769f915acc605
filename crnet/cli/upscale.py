"""``crnet upscale``: enlarge image files."""

import argparse
import re
from pathlib import Path

import torch

from crnet import loading
from crnet.cli.arguments import Parser
from crnet.cli.enlarge import STREAM, Enlarge, called
from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import UsageError, fail, printable, say, tell
from crnet.cli.options import MODEL, add_computing, open_device
from crnet.cli.target import LARGEST, Target, box, factor, pixels
from crnet.cli.workers import add_workers, processes
from crnet.contracts import System
from crnet.data import find_images
from crnet.ensemble import Ensemble
from crnet.errors import words
from crnet.files import WRITTEN
from crnet.loading import RECOMMENDED, Card
from crnet.ncnn import Ncnn
from crnet.precision import resolve
from crnet.systems import Found, find
from csc.workers import each


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
    enlarge = Enlarge(
        target,
        upscale,
        scales,
        ensemble=arguments.ensemble,
        overwrite=arguments.overwrite,
        memory=arguments.memory,
        precision=arguments.precision,
        format=arguments.format,
        silent=not here and arguments.workers > 0,
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
                lost, of = words(outcome.lost, "and"), Path(called(source, "input")).name
                tell(f"crnet: {called(path, 'output')}: does not keep {lost} of {of}")
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
