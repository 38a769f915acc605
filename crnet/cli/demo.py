"""``crnet demo``: reduce a real photo, upscale it with the recommended network, draw its codes."""

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from baselines.resample import bicubic, imresize, modcrop
from crnet.analysis import recursions
from crnet.cli.arguments import Parser
from crnet.cli.messages import say
from crnet.cli.options import open_device
from crnet.data import read_rgb
from crnet.files import Picture, output_file, read_picture
from crnet.loading import RECOMMENDED, load
from crnet.measuring.evaluate import score
from crnet.measuring.protocol import TABLE_3, pair
from crnet.model import CRNetB
from crnet.upscale import Upscaler, upscale_picture
from csc.analysis import usage

CROPS = ((105, 450, 100), (180, 150, 100))
"""Row, column and side of the parts of the photo that are shown enlarged."""


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="OUT",
        help="folder of the two PNGs (default: demo)",
    )
    p.add_argument("--scale", type=int, choices=(2, 3, 4), default=3, help="factor (default: 3)")


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print its report."""
    for line in report(arguments.out, arguments.scale):
        say(line)
    return 0


def photo() -> Path:
    """Return the file of the photo ``kodim23`` (two parrots, 768×512) that sporco carries.

    Raises
    ------
    FileNotFoundError
        If sporco is not installed or does not carry it.
    """
    spec = find_spec("sporco")
    for folder in (spec.submodule_search_locations or []) if spec else []:
        path = Path(folder) / "data" / "kodim23.png"
        if path.is_file():
            return path
    raise FileNotFoundError("sporco's example photo kodim23.png is not installed")


def report(folder: Path, scale: int = 3) -> Iterator[str]:
    """Run the demo, write two PNGs into `folder`, and yield the lines of its report.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = photo()
    net = load(RECOMMENDED).to(open_device("auto"))
    assert isinstance(net, CRNetB)  # noqa: S101
    network = Upscaler(net)
    x = read_rgb(path)
    H, W = x.shape[-2:]
    yield f"{path.name}, {W}x{H}, reduced x{scale} by MATLAB bicubic and enlarged again; on Y:"
    yield ""
    yield f"  {'':8}  PSNR dB    SSIM  seconds"
    for name, system in (("bicubic", bicubic), ("CRNet-B", network)):
        decibels, similarity, seconds = score(x, scale, system, TABLE_3)
        yield f"  {name:8}  {decibels:7.2f}  {similarity:.4f}  {seconds:7.2f}"

    original = modcrop(read_picture(path).color, scale)
    reduced = Picture(imresize(original, 1 / scale).clamp(0, 1))
    enlarged = bicubic(reduced.color, scale)
    sharp = upscale_picture(reduced, scale, network).color
    from crnet import plot
    from csc.plot import images as side_by_side

    images = {"original": original[0], "bicubic": enlarged[0], "CRNet-B": sharp[0]}
    figure = side_by_side(images, crops=CROPS, title=f"{path.stem}, ×{scale}")
    with output_file(folder / "comparison.png", overwrite=True) as file:
        figure.savefig(file, dpi=170, format="png")

    steps = recursions(net, x, scale)
    yield ""
    yield "  recursion k   non-zero codes   ‖z_k − z_(k−1)‖ / ‖z_k‖   PSNR dB"
    for k, step in enumerate(steps):
        moved = "–" if step.change is None else f"{step.change:.4f}"
        yield f"  {k:11}   {step.nonzero:14.1%}   {moved:>24}   {step.psnr:7.2f}"
    _, lr = pair(x, scale, TABLE_3)
    with torch.inference_mode():
        *_, z = net.codes(lr.to(net.mean), scale)
        z = net.crop(z, 1)
    figure = plot.codes(
        net.atoms(scale).mean(1, keepdim=True),
        z[0],
        usage(z).on,
        [step.nonzero for step in steps],
        [step.change for step in steps if step.change is not None],
    )
    with output_file(folder / "codes.png", overwrite=True) as file:
        figure.savefig(file, dpi=90, format="png")
    yield ""
    yield f"wrote {folder / 'comparison.png'} and {folder / 'codes.png'}"
