"""The command line: ``crnet demo | upscale | evaluate | models | train``.

Exit code 0 is success, 1 a file that failed, 2 a call that cannot be carried out.  Every failure
is one line on stderr.
"""

import argparse
import json
import os
import re
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NoReturn

import torch
from tqdm import tqdm

import crnet
from crnet import checkpoint, demo, train
from crnet.checkpoint import CheckpointError
from crnet.data import DataError, data_root, find_images, make_pairs
from crnet.evaluate import TABLE_2, evaluate, report, system, table
from crnet.files import ImageFileError, output_file, output_format, read_picture, write_picture
from crnet.upscale import Upscaler, upscale_picture


class UsageError(Exception):
    """The call cannot be carried out as given."""


class _Parser(argparse.ArgumentParser):
    """argparse, with one line on stderr instead of the usage and the line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except (UsageError, CheckpointError, DataError) as error:
        return _fail(str(error), 2)
    except BrokenPipeError:  # the reader of our output has gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return _fail("interrupted", 130)
    except Exception as error:
        if os.environ.get("CRNET_TRACEBACK"):
            raise
        return _fail(f"{error or type(error).__name__}", 1)


def _fail(message: str, code: int) -> int:
    print(f"crnet: {' '.join(message.split())}", file=sys.stderr)
    return code


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="crnet", description="Super-resolution by unfolded sparse coding.")
    parser.add_argument("--version", action="version", version=f"crnet {crnet.__version__}")
    commands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    p = commands.add_parser("demo", help="upscale a real photo and draw its codes")
    p.add_argument("--out", type=Path, default=Path("demo"), help="folder of the two PNGs [demo]")
    p.add_argument("--scale", type=int, choices=(2, 3, 4), default=3)
    p.set_defaults(run=_demo)

    p = commands.add_parser("upscale", help="enlarge image files")
    p.add_argument(
        "inputs", nargs="+", type=Path, metavar="FILE", help="images, or folders of them"
    )
    p.add_argument("--scale", type=int, default=2, help="factor [2]")
    p.add_argument("-o", "--out", type=Path, help="output file, or folder for several inputs")
    p.add_argument("--model", default="crnet-a", help="bundled model or weights file [crnet-a]")
    p.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    p.add_argument("--memory", type=float, default=1024, metavar="MIB", help="per tile [1024]")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... [cpu]")
    p.set_defaults(run=_upscale)

    p = commands.add_parser("evaluate", help="measure PSNR and SSIM on image sets")
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument("--sets", nargs="+", default=["Set5"], metavar="SET")
    p.add_argument("--scales", nargs="+", type=int, default=[2, 3, 4], metavar="N")
    p.add_argument("--model", nargs="+", default=["bicubic", "crnet-a"], metavar="NAME")
    p.add_argument("--json", type=Path, metavar="FILE", help="write results and versions")
    p.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... [cpu]")
    p.set_defaults(run=_evaluate)

    p = commands.add_parser("models", help="list the bundled models")
    p.set_defaults(run=_models)

    p = commands.add_parser("train", help="train a CRNet-A on folders of photos")
    p.add_argument("out", type=Path, metavar="OUT", help="weights to write (.safetensors)")
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument("--sets", nargs="+", default=["T91", "BSDS200-train"], metavar="SET")
    p.add_argument(
        "--exclude",
        nargs="*",
        default=["302003.jpg"],
        metavar="NAME",
        help="files to leave out [302003.jpg, which is woman of Set5]",
    )
    p.add_argument("--test", nargs="*", default=["Set5"], metavar="SET", help="sets to measure on")
    for name in ("n0", "m0", "recursions", "steps", "batch", "patch", "seed"):
        default = getattr(train.TrainConfig, name)
        p.add_argument(f"--{name}", type=int, default=default, help=f"[{default}]")
    p.add_argument("--lr", type=float, default=train.TrainConfig.lr, help="peak learning rate")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... [cpu]")
    p.set_defaults(run=_train)
    return parser


def _demo(arguments: argparse.Namespace) -> int:
    for line in demo.run(arguments.out, arguments.scale):
        print(line)
    return 0


def _models(_: argparse.Namespace) -> int:
    for name, path in checkpoint.bundled().items():
        card = checkpoint.card(name)
        scales = " ".join(f"x{s}" for s in card.scales)
        sizes = ", ".join(f"{k} {v}" for k, v in card.arguments.items())
        print(f"{name}  {card.architecture}({sizes})  {scales}  {path.stat().st_size / 1e6:.2f} MB")
        for key, value in card.training.items():
            print(f"    {key}: {value}")
        for name_of_set, cells in card.psnr.items():
            told = ", ".join(f"x{scale} {value:.2f} dB" for scale, value in cells.items())
            print(f"    {name_of_set}: {told}")
    return 0


def _evaluate(arguments: argparse.Namespace) -> int:
    _check_device(arguments.device)
    if min(arguments.scales) < 2:
        raise UsageError(f"scales must be ≥ 2, got {arguments.scales}")
    root = data_root(arguments.data)
    for name in arguments.model:
        trained = () if name == "bicubic" else checkpoint.card(name).scales
        if trained and not set(arguments.scales) <= set(trained):
            raise UsageError(f"{name} upscales by {trained}, not by all of {arguments.scales}")
    models = {name: system(name, arguments.device) for name in arguments.model}

    def measure() -> bytes:
        with _bar("evaluate") as bar:
            rows = evaluate(models, root, arguments.sets, arguments.scales, on_image=_follow(bar))
        print(table(rows))
        written = report(rows, root, arguments.sets, TABLE_2)
        return (json.dumps(written, indent=1, allow_nan=False) + "\n").encode()

    if arguments.json is None:
        measure()
    else:
        with output_file(arguments.json, overwrite=arguments.overwrite) as file:
            file.write(measure())
    return 0


def _upscale(arguments: argparse.Namespace) -> int:
    _check_device(arguments.device)
    card = checkpoint.card(arguments.model)
    if arguments.scale not in card.scales:
        raise UsageError(f"{card.name} upscales by {card.scales}, not by {arguments.scale}")
    if not 0 < arguments.memory < 1e9:
        raise UsageError(f"--memory must be > 0 MiB and below 1e9, got {arguments.memory:g}")
    jobs = _jobs(arguments, card.name)
    net = checkpoint.load(arguments.model, device=arguments.device)
    failed = 0
    for source, target in jobs:
        try:
            picture = read_picture(source)
            format_name = output_format(target, picture, arguments.scale)
            with (
                output_file(target, overwrite=arguments.overwrite) as file,
                _bar(source.name) as bar,
            ):
                upscale = Upscaler(net, arguments.memory, _follow(bar))
                result = upscale_picture(picture, arguments.scale, upscale)
                write_picture(result, file, format_name)
            print(target)
        except BrokenPipeError:
            raise
        except ImageFileError as error:
            failed = _fail(str(error), 1)
        except (OSError, ValueError, RuntimeError, MemoryError) as error:
            failed = _fail(f"{source}: {error or type(error).__name__}", 1)
    return failed


def _jobs(arguments: argparse.Namespace, model: str) -> list[tuple[Path, Path]]:
    """Pair every input file with its output file."""
    # What an earlier run of the model wrote beside its inputs is not an input.
    ours = re.compile(rf"_{re.escape(model)}_x\d+$")
    sources: list[Path] = []
    for path in arguments.inputs:
        if path.is_dir():
            inside = [p for p in find_images(path) if not ours.search(p.stem)]
            if not inside:
                raise UsageError(f"the folder {path} holds no image but what {model} made")
            sources += inside
        else:
            sources.append(path)
    out: Path | None = arguments.out
    several = len(sources) > 1 or arguments.inputs[0].is_dir()
    if several and out is not None and not out.is_dir():
        raise UsageError(f"several inputs need -o to be an existing folder, and {out} is none")
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


def _train(arguments: argparse.Namespace) -> int:
    _check_device(arguments.device)
    out: Path = arguments.out
    if out.suffix != ".safetensors":
        raise UsageError(f"OUT must end in .safetensors, got {out}")
    root = data_root(arguments.data)
    paths = [p for name in arguments.sets for p in find_images(root / name, arguments.exclude)]
    fields = ("n0", "m0", "recursions", "steps", "batch", "patch", "seed", "lr")
    for name in arguments.test:
        find_images(root / name)
    try:
        config = train.TrainConfig(**{name: getattr(arguments, name) for name in fields})
    except ValueError as error:
        raise UsageError(str(error)) from None
    with output_file(out, overwrite=arguments.overwrite) as file:
        with _bar("read") as bar:
            pairs = make_pairs(paths, config.scales, config.patch, _follow(bar))
        state = out.with_suffix(".state.pt")
        net, seconds = train.train(
            config,
            pairs,
            state,
            device=arguments.device,
            on_progress=_print_progress,
        )
        rows = evaluate({out.stem: Upscaler(net)}, root, arguments.test, config.scales)
        print(table(rows))
        psnr: dict[str, dict[str, float]] = {name: {} for name in arguments.test}
        for row in rows:
            psnr[row.set][str(row.scale)] = round(row.psnr, 4)
        sets, excluded = " + ".join(arguments.sets), ", ".join(arguments.exclude) or "nothing"
        card = checkpoint.Card(
            name=out.stem,
            architecture="CRNetA",
            arguments={"n0": config.n0, "m0": config.m0, "recursions": config.recursions},
            scales=config.scales,
            training={
                "data": f"Y of {sets} without {excluded}: {len(paths)} images",
                "recipe": str(config),
                "time": f"{seconds / 60:.0f} minutes on {arguments.device}",
            },
            psnr=psnr,
        )
        file.write(checkpoint.serialize(net, card))
    state.unlink(missing_ok=True)
    return 0


def _print_progress(p: train.Progress) -> None:
    left = (p.steps - p.step) * p.seconds_per_step / 60
    print(
        f"step {p.step}/{p.steps}  L1 {p.loss:.3f}/255  gradient {p.gradient_norm:.3f}  "
        f"codes on {p.live:.1%}  {left:.0f} min left",
        flush=True,
    )


def _check_device(device: str) -> None:
    try:
        if device.split(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("known are cpu, cuda, mps and xpu")
        torch.zeros(1, device=device).cpu()
    except Exception as error:  # every backend fails in its own way
        raise UsageError(
            f"device {device} is not available: {str(error).splitlines()[0]}"
        ) from None


def _bar(name: str) -> "tqdm[NoReturn]":
    """Return a progress bar on stderr, silent where that is no terminal."""
    return tqdm(desc=name, disable=None, leave=False)


def _follow(bar: "tqdm[NoReturn]") -> Callable[[int, int], None]:
    def on_step(done: int, total: int) -> None:
        bar.total = total
        bar.update(done - bar.n)

    return on_step
