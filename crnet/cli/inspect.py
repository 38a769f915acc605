"""``crnet inspect``: write an HTML page that shows how a network draws an image."""

import argparse
from pathlib import Path

import torch

from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, printable, say
from crnet.cli.options import MODEL, add_device, check_scales, open_device
from crnet.color import rgb_to_ycbcr
from crnet.files import output_file, read_picture
from crnet.loading import RECOMMENDED
from crnet.systems import find
from crnet.upscale import Upscaler

SIDE = 512
"""Largest side of the inspected region, in pixels of the enlarged image."""


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument("input", type=Path, metavar="FILE", help="image")
    p.add_argument("--scale", type=int, default=2, metavar="N", help="factor (default: 2)")
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        default=Path("report.html"),
        help="page to write, a .html file (default: report.html)",
    )
    p.add_argument(
        "--model", default=RECOMMENDED, metavar="NAME", help=f"{MODEL} (default: {RECOMMENDED})"
    )
    p.add_argument(
        "--crop",
        nargs=3,
        type=int,
        metavar=("TOP", "LEFT", "SIDE"),
        help=f"region of the enlarged image in its pixels, SIDE up to {SIDE} (default: the middle)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace OUT if it exists")
    add_device(p)


def run(arguments: argparse.Namespace) -> int:
    """Write the page."""
    out: Path = arguments.out
    if out.suffix.lower() != ".html":
        raise UsageError(f"the page must end in .html, got {out}")
    device, scale, found = open_device(arguments.device), arguments.scale, find(arguments.model)
    check_scales(found.title, found.scales, [scale])
    system = found.open(device)
    if not (isinstance(system, Upscaler) and system.has_codes):
        raise UsageError(f"{found.title} has no codes to inspect; crnet-a and crnet-b have")
    color = read_picture(arguments.input).color
    x = color.expand(-1, 3, -1, -1) if system.channels == 3 else _luma(color)
    top, left, bottom, right = _region((x.shape[-2], x.shape[-1]), scale, arguments.crop)
    from crnet.inspecting.page import page

    with output_file(out, overwrite=arguments.overwrite) as file, torch.inference_mode():
        part = x[..., top:bottom, left:right].to(next(system.net.parameters()))
        try:
            made = page(
                system.net, part, scale, model=found.title, source=printable(arguments.input.name)
            )
        except ValueError as error:
            raise UsageError(str(error)) from error
        file.write(made.encode())
    say(printable(out))
    return 0


def _luma(color: torch.Tensor) -> torch.Tensor:
    """Return Y of RGB or grey, as :func:`crnet.upscale_picture` does."""
    return (16 + 219 * color) / 255 if color.shape[1] == 1 else rgb_to_ycbcr(color)[:, :1]


def _region(size: tuple[int, int], scale: int, crop: list[int] | None) -> tuple[int, int, int, int]:
    """Return top, left, bottom and right of the region in pixels of the input.

    Raises
    ------
    UsageError
        If the crop is outside the enlarged image or too large.
    """
    h, w = size
    if crop is None:
        rows, columns = (min(n, SIDE // scale) for n in size)
        top, left = (h - rows) // 2, (w - columns) // 2
        return top, left, top + rows, left + columns
    first, second, side = crop
    if not scale <= side <= SIDE:
        raise UsageError(f"SIDE of --crop must be {scale} to {SIDE}, got {side}")
    if min(first, second) < 0 or first + side > scale * h or second + side > scale * w:
        raise UsageError(
            f"--crop {first} {second} {side} is outside the enlarged image of "
            f"{scale * w}x{scale * h} pixels"
        )
    top, left, n = first // scale, second // scale, side // scale
    return top, left, top + n, left + n
