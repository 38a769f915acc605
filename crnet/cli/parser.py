"""The command line: ``crnet demo | upscale | evaluate | compare | models | data | train | export``.

Exit code 0 is success, 1 a file that failed, 2 a call that cannot be carried out.  Every failure
is one line on stderr.
"""

import argparse
import dataclasses
import json
import os
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NoReturn, get_args, get_origin

import crnet
from crnet.cli import commands
from crnet.errors import CRNetError
from crnet.training import recipe
from crnet.upscale import PRECISIONS

_REFUSED = (commands.UsageError, CRNetError)


class _Parser(argparse.ArgumentParser):
    """argparse, with one line on stderr instead of the usage and the line."""

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{self.prog}: {message} (see {self.prog} --help)\n")


class _Table(argparse.Action):
    """``--sizes depth=8 shared=false`` as a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Take the words behind the option."""
        table = {}
        for given in values:
            name, _, value = given.partition("=")
            try:
                table[name] = json.loads(value)
            except ValueError:
                parser.error(f"argument {option}: expected NAME=NUMBER, got {given!r}")
        setattr(namespace, self.dest, table)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments = _parser().parse_args(argv)
    run: Callable[[argparse.Namespace], int] = arguments.run
    try:
        code = run(arguments)
        sys.stdout.flush()
        return code
    except _REFUSED as error:
        return commands.fail(str(error), 2)
    except BrokenPipeError:  # the reader of our output has gone; there is nobody to tell
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return commands.fail("interrupted", 130)
    except Exception as error:
        if os.environ.get("CRNET_TRACEBACK"):
            raise
        return commands.fail(f"{error or type(error).__name__}", 1)


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="crnet", description="Super-resolution by unfolded sparse coding.")
    parser.add_argument("--version", action="version", version=f"crnet {crnet.__version__}")
    subcommands = parser.add_subparsers(required=True, metavar="command", parser_class=_Parser)

    p = subcommands.add_parser("demo", help="upscale a real photo and draw its codes")
    p.add_argument("--out", type=Path, default=Path("demo"), help="folder of the two PNGs [demo]")
    p.add_argument("--scale", type=int, choices=(2, 3, 4), default=3)
    p.set_defaults(run=commands.show_demo)

    p = subcommands.add_parser("upscale", help="enlarge image files")
    p.add_argument(
        "inputs", nargs="+", type=Path, metavar="FILE", help="images, or folders of them"
    )
    p.add_argument("--scale", type=int, default=2, help="factor [2]")
    p.add_argument("-o", "--out", type=Path, help="output file, or folder for several inputs")
    p.add_argument(
        "--model", default="crnet-a", help="baseline, bundled model or weights file [crnet-a]"
    )
    p.add_argument("--overwrite", action="store_true", help="replace outputs that exist")
    p.add_argument("--memory", type=float, default=1024, metavar="MIB", help="per tile [1024]")
    _add_computing(p)
    p.set_defaults(run=commands.upscale_files)

    p = subcommands.add_parser("evaluate", help="measure PSNR and SSIM on image sets")
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument("--sets", nargs="+", default=["Set5"], metavar="SET")
    p.add_argument("--scales", nargs="+", type=int, default=[2, 3, 4], metavar="N")
    p.add_argument("--model", nargs="+", default=["bicubic", "crnet-a"], metavar="NAME")
    p.add_argument(
        "--recursions", action="store_true", help="measure the image of every recursion, one pass"
    )
    p.add_argument("--no-paper", action="store_true", help="leave the published rows out")
    p.add_argument("--json", type=Path, metavar="FILE", help="write results and versions")
    p.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    _add_computing(p)
    p.set_defaults(run=commands.measure)

    p = subcommands.add_parser("compare", help="systems side by side: table and sheet of crops")
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument("--sets", nargs="+", default=["Set5"], metavar="SET")
    p.add_argument("--scales", nargs="+", type=int, default=[3], metavar="N")
    p.add_argument("--models", nargs="+", default=["bicubic", "crnet-a"], metavar="NAME")
    p.add_argument("--image", metavar="FILE", help="of a set, for the sheet [the first of each]")
    p.add_argument(
        "--crop", nargs=3, type=int, metavar=("TOP", "LEFT", "SIDE"),
        help="region of the sheet in HR pixels [where bicubic misses most]",
    )  # fmt: skip
    p.add_argument("-o", "--out", type=Path, help="sheet to write (.png) [compare.png]",
                   default=Path("compare.png"))  # fmt: skip
    p.add_argument("--overwrite", action="store_true", help="replace the sheet if it exists")
    _add_computing(p)
    p.set_defaults(run=commands.compare_systems)

    p = subcommands.add_parser("models", help="list the bundled networks and baselines")
    p.set_defaults(run=commands.list_models)

    p = subcommands.add_parser("data", help="look at the image sets under a data root")
    looks = p.add_subparsers(required=True, metavar="look", parser_class=_Parser)
    p = looks.add_parser("check", help="read every image; find damaged files, copies, overlap")
    p.add_argument("root", type=Path, nargs="?", metavar="ROOT", help="[$CRNET_DATA]")
    p.add_argument(
        "--test", action="append", metavar="SET",
        help=f"set that no other may overlap; may be repeated [{' '.join(commands.TEST_SETS)}]",
    )  # fmt: skip
    p.set_defaults(run=commands.check_data)

    p = subcommands.add_parser("train", help="train a network by a recipe")
    known = ", ".join(recipe.bundled())
    p.add_argument("recipe", metavar="RECIPE", help=f"a TOML file, or one of {known}")
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="folder of the run [runs/RECIPE, or that of a recipe.toml]",
    )
    p.add_argument("--resume", action="store_true", help="continue the run in the folder")
    p.add_argument("--device", default="auto", help="auto, cpu, cuda, mps [auto]")
    p.add_argument("--devices", type=int, default=1, metavar="N", help="processes for DDP [1]")
    p.add_argument("--workers", type=int, default=0, metavar="N", help="that cut patches [0]")
    p.add_argument("--validate-every", type=int, default=1000, metavar="STEPS", help="[1000]")
    p.add_argument("--save-minutes", type=float, default=5, metavar="MIN", help="[5]")
    fields = p.add_argument_group("fields of the recipe, to override")
    for field in dataclasses.fields(recipe.Recipe):
        _add_field(fields, field)
    p.set_defaults(run=commands.train_network)

    p = subcommands.add_parser("export", help="measure a network and write it as a weights file")
    p.add_argument(
        "file", type=Path, metavar="FILE",
        help="checkpoint of a run, weights file, or published weights of SRCNN, VDSR or SCN (.mat)",
    )  # fmt: skip
    p.add_argument("out", type=Path, metavar="OUT", help="weights to write (.safetensors)")
    p.add_argument(
        "--scales", nargs="+", type=int, metavar="N",
        help="that a .mat file was trained for: one of SRCNN, those of VDSR [2 of SCN]",
    )  # fmt: skip
    p.add_argument("--data", type=Path, help="folder of image sets [$CRNET_DATA]")
    p.add_argument("--test", nargs="*", default=["Set5"], metavar="SET", help="[Set5]")
    p.add_argument("--half", action="store_true", help="store the weights in float16")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    p.set_defaults(run=commands.export_weights)
    return parser


def _add_computing(p: argparse.ArgumentParser) -> None:
    p.add_argument(
        "--ensemble", action="store_true", help="average over 8 flips and turns, 8 times the work"
    )
    p.add_argument("--precision", choices=PRECISIONS, default="float32", help="[float32]")
    p.add_argument("--device", default="cpu", help="cpu, cuda, ... [cpu]")


def _add_field(group: Any, field: "dataclasses.Field[Any]") -> None:
    name = f"--{field.name.replace('_', '-')}"
    kind: Any = field.type
    many = get_origin(kind) is tuple
    if kind is bool:
        group.add_argument(name, action=argparse.BooleanOptionalAction, dest=f"field_{field.name}")
        return
    if get_origin(kind) is dict:
        group.add_argument(
            name, action=_Table, nargs="+", dest=f"field_{field.name}", metavar="NAME=NUMBER"
        )
        return
    group.add_argument(
        name,
        type=get_args(kind)[0] if many else kind,
        nargs="*" if many else None,
        dest=f"field_{field.name}",
        metavar="VALUE",
    )
