"""The demo: reduce a real photo, upscale it with the bundled CRNet-A, and show the codes."""

from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

import torch
from torch import Tensor

from baselines.bicubic import bicubic, imresize, modcrop
from crnet.checkpoint import load
from crnet.data import read_y
from crnet.evaluate import score
from crnet.files import Picture, output_file, read_picture
from crnet.model import CRNetA
from crnet.upscale import Upscaler, upscale_picture


@dataclass(frozen=True)
class CodeStatistics:
    """What the recursions of a CRNet-A do to the codes of one image.

    Attributes
    ----------
    nonzero : list of float
        Share of non-zero codes of z_0, …, z_K.
    change : list of float
        ‖z_k − z_{k−1}‖/‖z_k‖ for k = 1, …, K.
    codes : Tensor, shape (m0, H, W)
        z_K.
    usage : Tensor, shape (m0,)
        Share of positions at which each code of z_K is not zero.
    """

    nonzero: list[float]
    change: list[float]
    codes: Tensor
    usage: Tensor


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


@torch.inference_mode()
def code_statistics(net: CRNetA, x: Tensor) -> CodeStatistics:
    """Return sparsity and change of the codes of one bicubic-enlarged Y image (1, 1, H, W)."""
    nonzero, change = [], []
    previous = None
    for z in net.codes(x):
        nonzero.append(float((z != 0).float().mean()))
        if previous is not None:
            norm = float(torch.linalg.vector_norm(z))
            change.append(float(torch.linalg.vector_norm(z - previous)) / norm if norm else 0.0)
        previous = z
    return CodeStatistics(nonzero, change, z[0], (z[0] != 0).float().mean((1, 2)))


def run(folder: Path, scale: int = 3) -> Iterator[str]:
    """Run the demo, write two PNGs into `folder`, and yield the lines of its report.

    Raises
    ------
    OSError
        If the folder cannot be written.
    """
    folder.mkdir(parents=True, exist_ok=True)
    path = photo()
    net = load("crnet-a")
    assert isinstance(net, CRNetA)  # noqa: S101
    network = Upscaler(net)
    yield f"{path.name}, 768x512, reduced x{scale} by MATLAB bicubic and enlarged again; on Y:"
    yield ""
    yield f"  {'':8}  PSNR dB    SSIM  seconds"
    y = read_y(path)
    for name, system in (("bicubic", bicubic), ("CRNet-A", network)):
        decibels, similarity, seconds = score(y, scale, system)
        yield f"  {name:8}  {decibels:7.2f}  {similarity:.4f}  {seconds:7.2f}"

    original = modcrop(read_picture(path).color, scale)
    reduced = Picture(imresize(original, 1 / scale).clamp(0, 1))
    enlarged = bicubic(reduced.color, scale)
    sharp = upscale_picture(reduced, scale, network).color
    from crnet import plot
    from csc.plot import images as side_by_side

    images = {"original": original[0], "bicubic": enlarged[0], "CRNet-A": sharp[0]}
    crops = [(105, 450, 100), (180, 150, 100)]
    figure = side_by_side(images, crops=crops, title=f"kodim23, ×{scale}")
    with output_file(folder / "comparison.png", overwrite=True) as file:
        figure.savefig(file, dpi=170, format="png")

    x = bicubic(imresize(modcrop(y, scale).double(), 1 / scale).float() / 255, scale)
    statistics = code_statistics(net, x)
    yield ""
    yield "  recursion k   non-zero codes   ‖z_k − z_(k−1)‖ / ‖z_k‖"
    for k, share in enumerate(statistics.nonzero):
        moved = f"{statistics.change[k - 1]:.4f}" if k else "     –"
        yield f"  {k:11}   {share:14.1%}   {moved:>24}"
    figure = plot.codes(
        net.atoms(), statistics.codes, statistics.usage, statistics.nonzero, statistics.change
    )
    with output_file(folder / "codes.png", overwrite=True) as file:
        figure.savefig(file, dpi=90, format="png")
    yield ""
    yield f"wrote {folder / 'comparison.png'} and {folder / 'codes.png'}"
