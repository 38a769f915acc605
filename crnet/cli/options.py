"""The options that several commands share, and what they mean."""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from crnet.cli.messages import UsageError
from crnet.contracts import System
from crnet.errors import words
from crnet.loading import RECOMMENDED
from crnet.precision import PRECISIONS
from crnet.systems import Found, find


def add_data(parser: argparse.ArgumentParser) -> None:
    """Add ``--data``."""
    parser.add_argument(
        "--data",
        type=Path,
        metavar="ROOT",
        help="folder that holds the image sets, one folder each (default: $CRNET_DATA)",
    )


def add_sets(parser: argparse.ArgumentParser, scales: Sequence[int]) -> None:
    """Add ``--data``, ``--sets`` and ``--scales``."""
    add_data(parser)
    parser.add_argument(
        "--sets", nargs="+", default=["Set5"], metavar="SET", help="image sets (default: Set5)"
    )
    parser.add_argument(
        "--scales",
        nargs="+",
        type=int,
        default=list(scales),
        metavar="N",
        help=f"scales (default: {' '.join(map(str, scales))})",
    )


MODEL = "a bundled model, a baseline, a weights file or a checkpoint; crnet models shows them"


def add_models(parser: argparse.ArgumentParser) -> None:
    """Add ``--model`` for one or several models."""
    parser.add_argument(
        "--model",
        nargs="+",
        default=["bicubic", RECOMMENDED],
        metavar="NAME",
        help=f"one or several models, each {MODEL} (default: bicubic {RECOMMENDED})",
    )


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add ``--device``."""
    parser.add_argument(
        "--device",
        default="auto",
        help="auto, cpu, cuda, mps or xpu; auto is a GPU (cuda or mps) if there is one, "
        "otherwise cpu (default: auto)",
    )


def add_computing(parser: argparse.ArgumentParser, precision: str = "float32") -> None:
    """Add ``--ensemble``, ``--precision`` with its default, and ``--device``."""
    parser.add_argument(
        "--ensemble",
        action="store_true",
        help="average over the 8 flips and turns of the image; takes 8 times as long",
    )
    parser.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=precision,
        help="of the convolutions of networks; auto is bfloat16 where it is faster, otherwise "
        f"float32; bfloat16 changes PSNR by up to 0.02 dB (default: {precision})",
    )
    add_device(parser)


def open_device(name: str) -> str:
    """Return the device of a name, where ``auto`` is CUDA, MPS or else the CPU.

    Raises
    ------
    UsageError
        If there is no such device.
    """
    if name == "auto":
        if torch.cuda.is_available():
            return "cuda"
        return "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        if name.split(":")[0] not in ("cpu", "cuda", "mps", "xpu"):
            raise RuntimeError("the devices are auto, cpu, cuda, mps and xpu")
        torch.zeros(1, device=name).cpu()
    except Exception as error:  # every backend fails in its own way
        raise UsageError(f"device {name} is not available: {str(error).splitlines()[0]}") from None
    return name


def systems(arguments: argparse.Namespace) -> dict[str, System]:
    """Return the systems of ``--model`` by how tables call them.

    Raises
    ------
    UsageError
        If two would have the same name, or one does not upscale by all of ``--scales``.
    """
    wanted: list[int] = arguments.scales
    if min(wanted) < 2:
        raise UsageError(f"--scales must be ≥ 2, got {words(wanted, 'and')}")
    device = open_device(arguments.device)
    found: dict[str, Found] = {}
    for given in arguments.model:
        name = label(given)
        if name in found:
            raise UsageError(f"two models would be called {name}")
        found[name] = find(given)
        check_scales(name, found[name].scales, wanted)
    return {
        name + "+" * arguments.ensemble: one.open(
            device, ensemble=arguments.ensemble, precision=arguments.precision
        )
        for name, one in found.items()
    }


def check_scales(name: str, made: Sequence[int], wanted: Sequence[int]) -> None:
    """Refuse scales that a model was not made for; `made` is empty where it takes any.

    Raises
    ------
    UsageError
        If a scale is wanted that is not made.
    """
    missing = [scale for scale in wanted if made and scale not in made]
    if missing:
        raise UsageError(f"{name} upscales by {words(made)}, not by {words(missing)}")


def label(name: str) -> str:
    """Return how tables call a model that was given by its name or file.

    Examples
    --------
    >>> label("crnet-a"), label("my/vdsr.safetensors"), label("runs/a/best.ckpt")
    ('crnet-a', 'vdsr', 'a/best')
    """
    path = Path(name)
    run = path.parent.name if path.suffix == ".ckpt" else ""
    return f"{run}/{path.stem}" if run else path.stem or name
