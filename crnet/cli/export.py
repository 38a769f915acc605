"""``crnet export``: measure a network and write it as a weights file."""

import argparse
import dataclasses
import re
from collections.abc import Sequence
from pathlib import Path

from crnet import loading
from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, printable, say
from crnet.cli.options import add_data, add_device, check_scales, open_device
from crnet.cli.progress import progress
from crnet.data import data_root
from crnet.files import output_file
from crnet.loading import Card
from crnet.measuring.evaluate import Row, evaluate, table
from crnet.networks import Network
from crnet.onnx import onnx_file
from crnet.upscale import Upscaler


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "file",
        type=Path,
        metavar="FILE",
        help="checkpoint of a run, weights file, or published weights (.mat, .pth or .pt)",
    )
    p.add_argument(
        "out",
        type=Path,
        metavar="OUT",
        help="weights file to write (.safetensors); with .onnx, ONNX files OUT_xN.onnx, one for "
        "each scale",
    )
    p.add_argument(
        "--scales",
        nargs="+",
        type=int,
        metavar="N",
        help="scales that the network of a .mat, .pth or .pt file was trained for, where the file "
        "does not say them (default: 2 for SCN)",
    )
    add_data(p)
    p.add_argument(
        "--sets",
        nargs="*",
        default=["Set5"],
        metavar="SET",
        help="image sets to measure it on; no name measures nothing (default: Set5)",
    )
    p.add_argument("--half", action="store_true", help="store the weights in float16")
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_device(p)


def run(arguments: argparse.Namespace) -> int:
    """Write a checkpoint or published weights as a weights file, with what they measure."""
    out: Path = arguments.out
    if out.suffix == ".onnx":
        return _write_onnx(arguments, out)
    if out.suffix != ".safetensors":
        raise UsageError(f"OUT must end in .safetensors or .onnx, got {out}")
    if not re.fullmatch(loading.NAME, out.stem):
        raise UsageError(f"a model is named by letters, digits, '.', '+', '-', not {out.stem!r}")
    device = open_device(arguments.device)
    net, card = _read(arguments)
    card = dataclasses.replace(card, name=out.stem)
    if arguments.half:  # what is measured is what is written
        net = net.half().float()
    with output_file(out, overwrite=arguments.overwrite) as file:
        if arguments.sets:
            for row in _measure(net.to(device), card, arguments):
                card.psnr.setdefault(row.set, {})[str(row.scale)] = round(row.psnr, 4)
        file.write(loading.serialize(net.half() if arguments.half else net, card))
    say(printable(out))
    return 0


def _write_onnx(arguments: argparse.Namespace, out: Path) -> int:
    """Write an ONNX file for each scale; nothing is measured."""
    if arguments.half:
        raise UsageError("--half is for weights files; ONNX files hold float32")
    net, card = _read(arguments)
    scales = arguments.scales or card.scales
    check_scales(card.name, card.scales, scales)
    for scale in scales:
        path = out.with_name(f"{out.stem}_x{scale}.onnx")
        with output_file(path, overwrite=arguments.overwrite) as file:
            try:
                file.write(onnx_file(net, scale))
            except ModuleNotFoundError as error:
                raise UsageError(
                    f"ONNX files need {error.name}: pip install 'csc-crnet[onnx]'"
                ) from error
        say(printable(path))
    return 0


def _read(arguments: argparse.Namespace) -> tuple[Network, Card]:
    given: Path = arguments.file
    if given.suffix == ".mat":
        try:
            return loading.of_matlab(given, arguments.scales or ())
        except ValueError as error:
            raise UsageError(f"--{error}") from error
    if given.suffix in (".pth", ".pt"):
        return _published(given, arguments.scales or ())
    if arguments.scales and arguments.out.suffix != ".onnx":
        raise UsageError(f"--scales is for .mat, .pth and .pt files; {given} says its own")
    file = loading.stored(loading.find(given))
    return file.network(), file.card


def _published(given: Path, scales: Sequence[int]) -> tuple[Network, Card]:
    """Read a published PyTorch file."""
    try:
        file = loading.of_torch(given, scales)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if not file.card.scales:
        raise UsageError(
            f"--scales must say the scales that the {file.card.architecture} of {given} was "
            f"trained for; the file does not"
        )
    return file.network(), file.card


def _measure(net: Network, card: Card, arguments: argparse.Namespace) -> list[Row]:
    """Measure a network at its scales, and print the table."""
    models = {card.name: Upscaler(net)}
    root = data_root(arguments.data)
    with progress("evaluate", "images") as follow:
        rows = evaluate(models, root, arguments.sets, card.scales, on_image=follow)
    say(table(rows))
    return rows
