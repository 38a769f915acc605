"""``crnet demo``: reduce a real photo, upscale it with a network, and draw its codes."""

import argparse
from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path

import torch

from baselines.resample import bicubic, imresize, modcrop
from crnet.analysis import recursions
from crnet.certificate import CodesCertificate, certify_codes
from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, say
from crnet.cli.options import MODEL, check_scales, open_device
from crnet.data import read_rgb, read_y
from crnet.files import Picture, output_file, read_picture
from crnet.loading import RECOMMENDED, card, load
from crnet.measuring.evaluate import score
from crnet.measuring.protocol import pair, protocol_of
from crnet.model import CRNetA, CRNetB
from crnet.sparse import SparseCRNetA, SparseCRNetB
from crnet.upscale import Upscaler, upscale_picture
from csc.analysis import usage

CROPS = ((105, 450, 100), (180, 150, 100))
"""Row, column and side of the parts of the photo that are shown enlarged."""

NAMES = {"CRNetA": "CRNet-A", "CRNetB": "CRNet-B"} | {
    "SparseCRNetA": "CRNet-A sparse",
    "SparseCRNetB": "CRNet-B sparse",
}
"""The networks with codes: their classes and their names in the report."""


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "--out",
        type=Path,
        default=Path("demo"),
        metavar="OUT",
        help="folder of the PNGs (default: demo)",
    )
    p.add_argument("--scale", type=int, choices=(2, 3, 4), default=3, help="factor (default: 3)")
    p.add_argument(
        "--model", default=RECOMMENDED, metavar="NAME", help=f"{MODEL} (default: {RECOMMENDED})"
    )


def run(arguments: argparse.Namespace) -> int:
    """Run the demo and print its report."""
    about = card(arguments.model)
    check_scales(about.name, about.scales, [arguments.scale])
    if about.architecture not in NAMES:
        raise UsageError(f"{about.name} has no codes to draw; crnet-a and crnet-b have")
    for line in report(arguments.out, arguments.scale, arguments.model):
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


def report(folder: Path, scale: int = 3, model: str = RECOMMENDED) -> Iterator[str]:
    """Run the demo, write its PNGs into `folder`, and yield the lines of its report.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = photo()
    net = load(model).to(open_device("auto"))
    assert isinstance(net, CRNetA | CRNetB | SparseCRNetA | SparseCRNetB)  # noqa: S101
    network, title = Upscaler(net), NAMES[type(net).__name__]
    protocol = protocol_of(network)
    x = read_rgb(path) if net.rgb else read_y(path)
    H, W = x.shape[-2:]
    yield f"{path.name}, {W}x{H}, reduced x{scale} by MATLAB bicubic and enlarged again; on Y:"
    yield ""
    width = max(8, len(title))
    yield f"  {'':{width}}  PSNR dB    SSIM  seconds"
    for name, system in (("bicubic", bicubic), (title, network)):
        decibels, similarity, seconds = score(x, scale, system, protocol)
        yield f"  {name:{width}}  {decibels:7.2f}  {similarity:.4f}  {seconds:7.2f}"

    original = modcrop(read_picture(path).color, scale)
    reduced = Picture(imresize(original, 1 / scale).clamp(0, 1))
    enlarged = bicubic(reduced.color, scale)
    sharp = upscale_picture(reduced, scale, network).color
    from crnet import plot
    from csc.plot import images as side_by_side

    images = {"original": original[0], "bicubic": enlarged[0], title: sharp[0]}
    figure = side_by_side(images, crops=CROPS, title=f"{path.stem}, ×{scale}")
    with output_file(folder / "comparison.png", overwrite=True) as file:
        figure.savefig(file, dpi=170, format="png")

    steps = recursions(net, x, scale)
    yield ""
    yield "  recursion k   non-zero codes   ‖z_k − z_(k−1)‖ / ‖z_k‖   PSNR dB"
    for k, step in enumerate(steps):
        moved = "–" if step.change is None else f"{step.change:.4f}"
        yield f"  {k:11}   {step.nonzero:14.1%}   {moved:>24}   {step.psnr:7.2f}"
    _, lr = pair(x, scale, protocol)
    own = (bicubic(lr, scale) if net.enlarged else lr).to(next(net.parameters()))
    with torch.inference_mode():
        *_, (z, _) = net.codes_and_images(own, scale)
        z = net.crop(z, 1) if isinstance(net, CRNetB) else z
    if isinstance(net, SparseCRNetA | SparseCRNetB):
        top, left, side = (n if net.enlarged else n // scale for n in CROPS[0])
        cut = own[..., top : top + side, left : left + side]
        yield from certificate_lines(certify_codes(net, cut))
        _draw(net, cut, scale, folder / "drawn.png")
    figure = plot.codes(
        _atoms(net, scale).mean(1, keepdim=True),
        z[0],
        usage(z).on,
        [step.nonzero for step in steps],
        [step.change for step in steps if step.change is not None],
    )
    with output_file(folder / "codes.png", overwrite=True) as file:
        figure.savefig(file, dpi=90, format="png")
    yield ""
    yield f"wrote {folder / 'comparison.png'} and {folder / 'codes.png'}"
    if isinstance(net, SparseCRNetA | SparseCRNetB):
        yield f"wrote {folder / 'drawn.png'}"


def certificate_lines(found: CodesCertificate) -> Iterator[str]:
    """Yield what is proven about the codes of one image, a line a block."""
    yield ""
    yield "  certificate of the first detail: z minimises a stated convex problem, up to"
    yield "  block   non-zero codes   ‖z − z*‖ / ‖z*‖ at most   gap / |objective| at most"
    for b, block in enumerate(zip(found.nonzero, found.relative, strict=True)):
        nonzero, relative = (float(value[0]) for value in block)
        gap = float(found.gap[b, 0] / found.objective[b, 0].abs())
        yield f"  {b + 1:5}   {nonzero:14.1%}   {relative:24.2%}   {gap:25.3%}"


@torch.inference_mode()
def _draw(net: SparseCRNetA | SparseCRNetB, x: torch.Tensor, scale: int, path: Path) -> None:
    """Draw image = bicubic + Σ codes * atoms, for the network's own input."""
    from crnet import plot

    z = net.codes(x)
    image, base = net.reconstruct(x, z, scale), net.reconstruct(x, torch.zeros_like(z), scale)
    figure = plot.drawn(image[0], base[0], z[0], _atoms(net, scale))
    with output_file(path, overwrite=True) as file:
        figure.savefig(file, dpi=110, format="png")


def _atoms(net: CRNetA | CRNetB | SparseCRNetA | SparseCRNetB, scale: int) -> torch.Tensor:
    """Return what an isolated unit code adds to the image, for each atom."""
    if isinstance(net, CRNetB | SparseCRNetB):
        return net.atoms(scale)
    return net.atoms()
