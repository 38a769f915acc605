"""Measure systems on image sets, and print the numbers beside the published ones."""

import dataclasses
import itertools
import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL
import torch
from torch import Tensor

from crnet.contracts import Function, System, parameters
from crnet.data import find_images, read_rgb, read_y, sha256
from crnet.errors import DataError
from crnet.measuring.protocol import TABLE_2, Protocol, check_size, pair, protocol_of, psnr_and_ssim
from crnet.measuring.published import cells
from crnet.upscale import Upscaler


@dataclass(frozen=True)
class Row:
    """One cell of a table: means over a set.

    psnr in dB; ssim ≤ 1; seconds : median time to upscale an image; parameters : number of learned
    numbers.  A network counts as a whole; ScSR and CSC-SR count their model of this scale.
    """

    model: str
    set: str
    scale: int
    psnr: float
    ssim: float
    seconds: float
    protocol: str = TABLE_2.name
    parameters: int = 0


def score(
    original: Tensor, scale: int, upscale: System | Function, protocol: Protocol | None = None
) -> tuple[float, float, float]:
    """Return (PSNR in dB, SSIM, seconds) of a system on one image.

    Parameters
    ----------
    original : Tensor, shape (1, 1, H, W), or (1, 3, H, W) for a system on RGB, uint8
        The original, from :func:`crnet.data.read_y` or :func:`crnet.data.read_rgb`.
    scale : int
        Factor.
    upscale : callable
        The system.
    protocol : Protocol, optional
        How to measure (default: as the paper measures such a system).

    Raises
    ------
    ValueError
        If the original is not as above or too small, or the result is not finite or has another
        shape.

    Examples
    --------
    >>> from baselines import bicubic
    >>> flat = torch.full((1, 1, 48, 48), 99, dtype=torch.uint8)
    >>> score(flat, 2, bicubic)[:2]
    (inf, 1.0)
    """
    protocol = protocol or protocol_of(upscale)
    original, lr = pair(original, scale, protocol)
    started = time.perf_counter()
    with torch.inference_mode():
        sr = upscale(lr, scale).cpu()
    seconds = time.perf_counter() - started
    return *psnr_and_ssim(sr, original, scale, protocol), seconds


def score_recursions(
    original: Tensor, scale: int, upscale: Upscaler, protocol: Protocol | None = None
) -> list[tuple[float, float, float]]:
    """Return (PSNR, SSIM, seconds) of the image of every code z_0, …, z_K, from one pass.

    Parameters and errors are those of :func:`score`, and TypeError for a network without codes.
    Each time is that of the whole pass.
    """
    protocol = protocol or protocol_of(upscale)
    original, lr = pair(original, scale, protocol)
    started = time.perf_counter()
    with torch.inference_mode():
        images = upscale.recursions(lr, scale).cpu()
    seconds = time.perf_counter() - started
    return [(*psnr_and_ssim(sr, original, scale, protocol), seconds) for sr in images]


def evaluate(
    models: Mapping[str, System | Function],
    root: Path,
    sets: Sequence[str],
    scales: Sequence[int],
    *,
    protocol: Protocol | None = None,
    recursions: bool = False,
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
    protocol : Protocol, optional
        How to measure (default: each system as the paper measures it).
    recursions : bool
        Measure the image of every code of an :class:`~crnet.Upscaler`, as model ``NAME k=0`` to
        ``NAME k=K``.
    on_image : callable, optional
        Called with (images done, images in all).

    Returns
    -------
    list of Row
        Ordered by set, scale, model.

    Raises
    ------
    DataError
        If a set or an image cannot be read, or an image is too small.
    """
    files = {name: find_images(root / name) for name in sets}
    total = len(models) * len(scales) * sum(len(paths) for paths in files.values())
    done, rows = 0, []
    protocols = {protocol or protocol_of(upscale) for upscale in models.values()}
    read = {
        (name, one.rgb): _read(paths, scales, one)
        for name, paths in files.items()
        for one in protocols
    }
    for set_name, paths in files.items():
        for scale in scales:
            for model, upscale in models.items():
                own = protocol or protocol_of(upscale)
                scores: list[list[tuple[float, float, float]]] = []
                for path, x in zip(paths, read[set_name, own.rgb], strict=True):
                    try:
                        if recursions and isinstance(upscale, Upscaler) and upscale.has_codes:
                            scores.append(score_recursions(x, scale, upscale, own))
                        else:
                            scores.append([score(x, scale, upscale, own)])
                    except ValueError as error:
                        raise DataError(f"{path}, x{scale}, {model}: {error}") from error
                    done += 1
                    if on_image:
                        on_image(done, total)
                for k, several in enumerate(zip(*scores, strict=True)):
                    name = f"{model} k={k}" if len(scores[0]) > 1 else model
                    mean_psnr, mean_ssim = (statistics.fmean(s[i] for s in several) for i in (0, 1))
                    seconds = statistics.median(s[2] for s in several)
                    rows.append(
                        Row(name, set_name, scale, mean_psnr, mean_ssim, seconds, own.name,
                            parameters(upscale, scale))
                    )  # fmt: skip
    return rows


def _read(paths: Sequence[Path], scales: Sequence[int], protocol: Protocol) -> list[Tensor]:
    """Read all images of a set; refuse damaged and small ones before hours of measuring."""
    images = [read_rgb(path) if protocol.rgb else read_y(path) for path in paths]
    for (path, x), scale in itertools.product(zip(paths, images, strict=True), scales):
        try:
            check_size(x, scale, protocol)
        except ValueError as error:
            raise DataError(f"{path}, x{scale}: {error}; remove it from the set") from error
    return images


def report(
    rows: Sequence[Row], root: Path, sets: Sequence[str], protocols: Sequence[Protocol]
) -> dict[str, Any]:
    """Return the content of ``crnet evaluate --json``: the results, and what they depend on.

    Keys: `protocols`, `versions`, `data` (SHA-256 of every image, by set) and `results`, a list of
    {model, set, scale, psnr, ssim, seconds, protocol, parameters}.
    """
    import crnet

    return {
        "protocols": [dataclasses.asdict(protocol) for protocol in protocols],
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


def table(rows: Sequence[Row], *, paper: bool = False, parameters: bool = False) -> str:
    """Return rows as an aligned text table.

    With `paper`, the published rows of a set and a scale follow ours, with names in brackets.  With
    `parameters`, a column counts the learned numbers.

    Examples
    --------
    >>> print(table([Row("bicubic", "Set5", 2, 33.6617, 0.92988, 0.001)]))
    set    scale  model    PSNR dB    SSIM  seconds
    Set5      x2  bicubic   33.662  0.9299    0.001
    """
    lines: list[tuple[str, int, str, str]] = []
    for (set_name, scale), cell in itertools.groupby(rows, lambda r: (r.set, r.scale)):
        for r in cell:
            told = f"{r.psnr:7.3f}  {r.ssim:.4f}  {r.seconds:7.3f}"
            told += f"  {r.parameters:10,}" * parameters
            lines.append((set_name, scale, r.model, told))
        for c in cells(set_name, scale) if paper else ():
            told = f"{c.psnr:6.2f}   " + ("" if c.ssim is None else f"{c.ssim:.4f}")
            lines.append((set_name, scale, f"[{c.method}]", told.rstrip()))
    w_set = max([4, *(len(line[0]) for line in lines)])
    w_model = max([5, *(len(line[2]) for line in lines)])
    head = f"{'set':{w_set}}  {'scale':>6}  {'model':{w_model}}  PSNR dB    SSIM  seconds"
    head += "  parameters" * parameters
    return "\n".join(
        [head]
        + [f"{s:{w_set}}  {f'x{n}':>6}  {model:{w_model}}  {told}" for s, n, model, told in lines]
    )
