"""Measure PSNR and SSIM under the protocol of the paper's Table 2.

The protocol was found by reproducing all published bicubic cells at printed precision; it is a
record so that a table can say what it was measured with.
"""

import dataclasses
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL
import torch
from torch import Tensor

from baselines.bicubic import bicubic, imresize, modcrop, round_uint8
from crnet.checkpoint import load
from crnet.data import DataError, find_images, read_y, sha256
from crnet.metrics import psnr, ssim
from crnet.upscale import Upscaler

System: TypeAlias = Callable[[Tensor, int], Tensor]
"""A system: LR Y in [0, 1], (1, 1, h, w), and the scale to HR Y, (1, 1, scale·h, scale·w)."""


@dataclass(frozen=True)
class Protocol:
    """How a number of a table is measured.

    1. Mod-crop the 8-bit Y (MATLAB ``rgb2ycbcr``, rounded; grey as it is) to the scale.
    2. Reduce by bicubic ``imresize`` in floating point; LR is not rounded.
    3. Upscale, clip to `clip`, round half up to 8 bit.  The ground truth is not clipped.
    4. Shave `shave` times the scale from each side; PSNR with peak 255 and Wang's SSIM; the mean
       over the images of a set.

    Attributes
    ----------
    name : str
        What a table calls it.
    clip : (int, int), or None
        Grey levels to which the result is clipped; None clips to [0, 255].
    shave : int
        Pixels per unit of scale removed from each side.
    """

    name: str = "crnet-table-2"
    clip: tuple[int, int] | None = (16, 235)
    shave: int = 1


TABLE_2 = Protocol()


@dataclass(frozen=True)
class Row:
    """One cell of a table: means over a set.

    psnr in dB, ssim in [0, 1], seconds of the upscaling itself per image (median).
    """

    model: str
    set: str
    scale: int
    psnr: float
    ssim: float
    seconds: float


def system(name: str, device: str = "cpu") -> System:
    """Return a system by name: ``bicubic``, a bundled model or a weights file.

    Raises
    ------
    CheckpointError
        If there is none of this name.
    """
    return bicubic if name == "bicubic" else Upscaler(load(name, device=device))


def score(
    y: Tensor, scale: int, upscale: System, protocol: Protocol = TABLE_2
) -> tuple[float, float, float]:
    """Return (PSNR in dB, SSIM, seconds) of a system on one image.

    Parameters
    ----------
    y : Tensor, shape (1, 1, H, W), uint8
        The original, as of :func:`crnet.data.read_y`.
    scale : int
        Factor.
    upscale : callable
        The system.
    protocol : Protocol
        How to measure.

    Raises
    ------
    ValueError
        If the image is too small for the scale, or the system returns another shape.

    Examples
    --------
    >>> flat = torch.full((1, 1, 48, 48), 99, dtype=torch.uint8)
    >>> score(flat, 2, bicubic)[:2]
    (inf, 1.0)
    """
    if y.dtype != torch.uint8 or y.shape[:2] != (1, 1):
        raise ValueError(f"y must be uint8 (1, 1, H, W), got {y.dtype} {tuple(y.shape)}")
    original = modcrop(y, scale)
    lr = imresize(original.double(), 1 / scale).float() / 255
    started = time.perf_counter()
    with torch.inference_mode():
        sr = upscale(lr, scale)
    seconds = time.perf_counter() - started
    if sr.shape != original.shape:
        raise ValueError(f"the system returned {tuple(sr.shape)}, not {tuple(original.shape)}")
    if not bool(torch.isfinite(sr).all()):
        raise ValueError("the system returned NaN or infinite values")
    low, high = protocol.clip or (0, 255)
    result = round_uint8((255 * sr.double()).clamp(low, high)).cpu()
    edge = protocol.shave * scale
    window = (..., slice(edge, -edge or None), slice(edge, -edge or None))
    a, b = result[window], original[window]
    return float(psnr(a, b)), float(ssim(a, b)), seconds


def evaluate(
    models: Mapping[str, System],
    root: Path,
    sets: Sequence[str],
    scales: Sequence[int],
    *,
    protocol: Protocol = TABLE_2,
    on_image: Callable[[int, int], None] | None = None,
) -> list[Row]:
    """Measure systems on image sets.

    Parameters
    ----------
    models : mapping of str to callable
        Systems by name.
    root : Path
        Folder of image sets.
    sets : sequence of str
        Names of sets.
    scales : sequence of int
        Factors.
    protocol : Protocol
        How to measure.
    on_image : callable, optional
        Called with (images done, images in all).

    Returns
    -------
    list of Row
        Ordered by set, scale, model.

    Raises
    ------
    DataError
        If a set or an image cannot be read.
    """
    files = {name: find_images(root / name) for name in sets}
    total = len(models) * len(scales) * sum(len(paths) for paths in files.values())
    done, rows = 0, []
    for set_name, paths in files.items():
        originals = [read_y(path) for path in paths]
        for scale in scales:
            for model, upscale in models.items():
                scores = []
                for path, y in zip(paths, originals, strict=True):
                    try:
                        scores.append(score(y, scale, upscale, protocol))
                    except ValueError as error:
                        raise DataError(f"{path}, x{scale}, {model}: {error}") from error
                    done += 1
                    if on_image:
                        on_image(done, total)
                mean_psnr, mean_ssim = (statistics.fmean(s[i] for s in scores) for i in (0, 1))
                seconds = statistics.median(s[2] for s in scores)
                rows.append(Row(model, set_name, scale, mean_psnr, mean_ssim, seconds))
    return rows


def report(
    rows: Sequence[Row], root: Path, sets: Sequence[str], protocol: Protocol
) -> dict[str, Any]:
    """Return what ``crnet evaluate --json`` writes: results and all they depend on.

    Keys: `protocol`, `versions`, `data` (SHA-256 of every image, by set) and `results`, a list of
    {model, set, scale, psnr, ssim, seconds}.
    """
    import crnet

    return {
        "protocol": dataclasses.asdict(protocol),
        "versions": {
            "csc-crnet": crnet.__version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "pillow": PIL.__version__,
            "python": platform.python_version(),
            "machine": f"{platform.machine()}, {os.cpu_count()} processors",
        },
        "data": {name: {p.name: sha256(p) for p in find_images(root / name)} for name in sets},
        # JSON has no infinity; the PSNR of a perfect result is null.
        "results": [
            {k: None if v == float("inf") else v for k, v in dataclasses.asdict(row).items()}
            for row in rows
        ],
    }


def table(rows: Sequence[Row]) -> str:
    """Return rows as an aligned text table.

    Examples
    --------
    >>> print(table([Row("bicubic", "Set5", 2, 33.6617, 0.92988, 0.001)]))
    set    scale  model    PSNR dB    SSIM  seconds
    Set5      x2  bicubic   33.662  0.9299    0.001
    """
    w_set = max([4, *(len(r.set) for r in rows)])
    w_model = max([5, *(len(r.model) for r in rows)])
    lines = [f"{'set':{w_set}}  {'scale':>6}  {'model':{w_model}}  PSNR dB    SSIM  seconds"]
    for r in rows:
        lines.append(
            f"{r.set:{w_set}}  {f'x{r.scale}':>6}  {r.model:{w_model}}  "
            f"{r.psnr:7.3f}  {r.ssim:.4f}  {r.seconds:7.3f}"
        )
    return "\n".join(lines)
