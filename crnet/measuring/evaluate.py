"""Measure systems on image sets, and print the numbers beside the published ones."""

import dataclasses
import functools
import itertools
import os
import platform
import statistics
import time
import warnings
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

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
from csc.workers import each


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


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=3)


def evaluate(
    models: Mapping[str, System | Function],
    root: Path,
    sets: Sequence[str],
    scales: Sequence[int],
    *,
    protocol: Protocol | None = None,
    recursions: bool = False,
    on_image: Callable[[int, int], None] | None = None,
    executor: Executor | None = None,
    on_lost: Callable[[str], None] = _warn,
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
    executor : concurrent.futures.Executor, optional
        Measures images in parallel (:mod:`csc.workers`).  Its workers read the files themselves, so
        they must find them under `root`.  The systems must be picklable.
    on_lost : callable, optional
        Called with a message about each image whose worker was lost; by default it warns.  The rows
        that need this image are left out.

    Returns
    -------
    list of Row
        Ordered by set, scale, model.  Without an executor or with one, psnr and ssim are the same.

    Raises
    ------
    DataError
        If a set or an image cannot be read, or an image is too small.
    """
    files = {name: find_images(root / name) for name in sets}
    protocols = {protocol or protocol_of(upscale) for upscale in models.values()}
    for paths, one in itertools.product(files.values(), protocols):
        _check(paths, scales, one)
    jobs = [
        _Job(path, name, scale, model)
        for name, paths in files.items()
        for scale in scales
        for model in models
        for path in paths
    ]
    measure = functools.partial(_measure, models=models, protocol=protocol, recursions=recursions)
    scores: dict[int, list[tuple[float, float, float]]] = {}
    lost: dict[int, str] = {}
    for i, found in each(measure, jobs, executor, on_lost=lost.__setitem__):
        scores[i] = found
        if on_image:
            on_image(len(scores) + len(lost), len(jobs))
    for i, reason in lost.items():
        on_lost(f"{jobs[i]}: its worker was lost: {reason}; its row is left out")
    rows: list[Row] = []
    groups = itertools.groupby(range(len(jobs)), key=lambda i: jobs[i][1:])
    for (set_name, scale, model), group in groups:
        numbers = list(group)
        if lost.keys() & numbers:
            continue
        own = protocol or protocol_of(models[model])
        learned = parameters(models[model], scale)
        several = list(zip(*(scores[i] for i in numbers), strict=True))  # one, or z_0 to z_K
        for k, triples in enumerate(several):
            name = f"{model} k={k}" if len(several) > 1 else model
            psnr, ssim = (statistics.fmean(t[i] for t in triples) for i in (0, 1))
            seconds = statistics.median(t[2] for t in triples)
            rows.append(Row(name, set_name, scale, psnr, ssim, seconds, own.name, learned))
    return rows


class _Job(NamedTuple):
    """One image, to be measured with one system."""

    path: Path
    set: str
    scale: int
    model: str

    def __str__(self) -> str:
        return f"{self.path}, x{self.scale}, {self.model}"


def _measure(
    job: _Job,
    *,
    models: Mapping[str, System | Function],
    protocol: Protocol | None,
    recursions: bool,
) -> list[tuple[float, float, float]]:
    """Return (PSNR, SSIM, seconds) of an image, or of every code's image."""
    upscale = models[job.model]
    own = protocol or protocol_of(upscale)
    x = _read(job.path, own)
    try:
        if recursions and isinstance(upscale, Upscaler) and upscale.has_codes:
            return score_recursions(x, job.scale, upscale, own)
        return [score(x, job.scale, upscale, own)]
    except ValueError as error:
        raise DataError(f"{job}: {error}") from error


def _read(path: Path, protocol: Protocol) -> Tensor:
    return read_rgb(path) if protocol.rgb else read_y(path)


def _check(paths: Sequence[Path], scales: Sequence[int], protocol: Protocol) -> None:
    """Refuse damaged and small images before hours of measuring."""
    for path in paths:
        x = _read(path, protocol)
        for scale in scales:
            try:
                check_size(x, scale, protocol)
            except ValueError as error:
                raise DataError(f"{path}, x{scale}: {error}; remove it from the set") from error


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
