"""Draw atoms, codes, recursions and images.

A plot of one panel draws into `ax` and returns it; by default it makes a new figure.  A plot of
several panels makes and returns a Figure of the width of a notebook.  All colours suit colour-blind
readers: Okabe and Ito's for lines, PuOr (signed) and magma for maps.
"""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

import matplotlib

# Draw to memory, unless MPLBACKEND, a notebook or an earlier import has chosen a backend.
if not os.environ.get("MPLBACKEND") and "matplotlib.pyplot" not in sys.modules:
    matplotlib.use("Agg")

import matplotlib.pyplot as plt
import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from numpy.typing import NDArray
from torch import Tensor

from csc import analysis
from csc.attribution import shares
from csc.checks import check_dictionary, check_finite, check_integer
from csc.html import percent
from csc.recursion.kernel import Size
from csc.recursion.spectrum import eigenvalues, singular_values

BLUE, ORANGE, GREEN, PINK = "#0072B2", "#D55E00", "#009E73", "#CC79A7"
YELLOW, SKY, BLACK = "#E69F00", "#56B4E9", "#000000"
CYCLE = (BLUE, ORANGE, GREEN, PINK, YELLOW, SKY, BLACK)
MARKERS = "os^Dvph"
_CROPS = (ORANGE, BLUE, GREEN, PINK)  # colours of the crops, in turn
_WIDTH = 9.0  # of a figure in a notebook, in inches
_SPARSE = 0.05  # below this density, maps are drawn thick, because single pixels are hard to see

Crop: TypeAlias = tuple[int, int, int]
"""Top, left and side of a square crop, in pixels."""
Array: TypeAlias = NDArray[np.float64]
Shape: TypeAlias = tuple[int, ...]


def atoms(
    D: Tensor, *, ax: Axes | None = None, columns: int | None = None, title: str = ""
) -> Axes:
    """Draw atoms as a grid, each scaled to its largest absolute value.

    Atoms of one row and one channel, which are those of signals, are drawn as curves.

    Parameters
    ----------
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.  One channel is drawn from brown (negative) to purple (positive), three as RGB
        around grey.
    ax : Axes, optional
        Where to draw.
    columns : int, optional
        Atoms per row; by default the grid is about twice as wide as high.
    title : str
        Title of the axes.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        If D is not a finite dictionary of 1 or 3 channels, or `columns` is not positive.
    """
    check_dictionary(D)
    check_finite(D, "D")
    M, C, kh, kw = D.shape
    if C not in (1, 3):
        raise ValueError(f"atoms of 1 or 3 channels can be drawn, got {C}; choose some: D[:, :1]")
    columns = min(M, columns if columns is not None else int(np.ceil(np.sqrt(2 * M))))
    check_integer(columns, "columns", 1)
    rows = -(-M // columns)
    peak = D.detach().abs().amax((1, 2, 3), keepdim=True)
    scaled = _array((D.detach() / torch.where(peak > 0, peak, 1.0)).permute(0, 2, 3, 1))
    cell = min(0.7, _WIDTH / columns)
    aspect = 1.0 if kh == 1 else kh / kw
    ax = ax or _new(max(3.5, cell * columns), cell * rows * aspect + 0.6)
    if kh == 1 and C == 1:
        _curves(ax, scaled[:, 0, :, 0], columns)
    elif C == 1:
        sheet = _sheet(scaled, rows, columns)
        ax.imshow(sheet[..., 0], cmap="PuOr", vmin=-1, vmax=1, interpolation="nearest")
    else:
        sheet = _sheet(scaled, rows, columns)
        ax.imshow(np.nan_to_num((1 + sheet) / 2, nan=1.0), interpolation="nearest")
    _hide_ticks(ax)
    for spine in ax.spines.values():
        spine.set_visible(False)
    size = f"{kw} samples" if kh == 1 else f"{kh}×{kw} pixels"
    ax.set_xlabel(f"{M} atoms of {size}, each scaled to its largest value", fontsize=9)
    ax.set_title(title)
    return ax


def _sheet(atoms: Array, rows: int, columns: int) -> Array:
    """Return atoms (M, kh, kw, C) side by side, with gaps of one pixel that hold NaN."""
    _, kh, kw, C = atoms.shape
    sheet = np.full((rows * (kh + 1) - 1, columns * (kw + 1) - 1, C), np.nan)
    for m, atom in enumerate(atoms):
        top, left = (kh + 1) * (m // columns), (kw + 1) * (m % columns)
        sheet[top : top + kh, left : left + kw] = atom
    return sheet


def _curves(axes: Axes, atoms: Array, columns: int) -> None:
    """Draw atoms (M, k) with values in [-1, 1] as curves on a grid."""
    k = atoms.shape[1]
    x = np.linspace(-0.45, 0.45, k) if k > 1 else np.zeros(1)
    for m, atom in enumerate(atoms):
        row, column = divmod(m, columns)
        axes.plot(column + x[[0, -1]], [-row, -row], color="0.8", linewidth=0.8)
        axes.plot(column + x, 0.45 * atom - row, color=BLUE, marker="." if k == 1 else "")
    axes.set(xlim=(-0.5, columns - 0.5), ylim=(0.5 - -(-len(atoms) // columns), 0.5))


def code_maps(z: Tensor, image: Tensor | None = None, *, top: int = 6) -> Figure:
    """Draw the code maps of the most used atoms, those with the largest part of ‖z‖₁.

    Codes of one row, those of a signal, are drawn as vertical lines.

    Parameters
    ----------
    z : Tensor, shape (M, h, w) or (1, M, h, w)
        Codes of one image.
    image : Tensor, shape (C, H, W) or (1, C, H, W), in [0, 1], optional
        Image of 1 or 3 channels to draw in faint grey below the codes.  Each code is drawn at the
        centre of its atom.  Maps with a density below 5 % are drawn three pixels thick.  A signal
        may have any channels and values; its mean over channels is drawn.
    top : int
        Number of maps.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError, TypeError
        If z or `image` is not a single image, or `top` is not positive.
    """
    z = _single(z, "z")
    usage = analysis.usage(z[None])
    check_integer(top, "top", 1)
    order = usage.order[:top]
    maps = _array(z[order])
    names = [
        f"atom {m}: {percent(float(usage.weight[m]))} of ‖z‖₁\n"
        f"on at {percent(float(usage.on[m]))} of positions"
        for m in order
    ]
    if z.shape[1] == 1:
        signal = None if image is None else _array(_single(image, "image").mean((0, 1)))
        return _trains(maps[:, 0], names, signal)
    grey = None if image is None else _grey(image)
    signed = bool((maps < 0).any())
    sizes = np.abs(maps[maps != 0])
    limit = float(np.quantile(sizes, 0.95)) if sizes.size else 1.0
    figure, panels = _panels(len(order), z.shape[-2] / z.shape[-1], bar=True)
    for panel, name, one in zip(panels, names, maps, strict=False):
        drawn = _thick(one) if np.mean(one != 0) < _SPARSE else one
        shown = _overlay(panel, drawn, grey, one.shape if grey is None else grey.shape)
        shown.set(cmap="PuOr" if signed else "magma", clim=(-limit if signed else 0, limit))
        if grey is not None:
            shown.set_alpha(_opacity(drawn, limit))
        panel.set_title(name, fontsize=9)
    figure.colorbar(
        shown, ax=list(panels), label="code z", shrink=0.8, extend="both" if signed else "max"
    )
    return figure


def _trains(codes: Array, names: Sequence[str], signal: Array | None) -> Figure:
    """Draw the codes (M, w) of signals as vertical lines, over the signal (n,) in grey, if any."""
    figure = canvas(_WIDTH, 0.9 * len(codes) + 0.5)
    panels = figure.subplots(len(codes), 1, squeeze=False, sharex=True)[:, 0]
    middle = 0.0 if signal is None else (len(signal) - codes.shape[1]) / 2  # of an atom
    limit = max(float(np.abs(codes).max()), 1e-12)
    for panel, name, one in zip(panels, names, codes, strict=True):
        if signal is not None:
            peak = max(float(np.abs(signal).max()), 1e-12)
            panel.plot(limit * signal / peak, color="0.75", linewidth=0.7)
        on = np.flatnonzero(one)
        panel.vlines(on + middle, 0, one[on], color=BLUE)
        panel.axhline(0, color="0.75", linewidth=0.7)
        panel.set_ylabel(name, fontsize=7, rotation=0, ha="right", va="center")
    panels[-1].set_xlabel("sample")
    return figure


def usage(z: Tensor | Iterable[Tensor] | analysis.Usage, *, ax: Axes | None = None) -> Axes:
    """Draw the fraction of positions at which each atom is on, in descending order.

    Parameters
    ----------
    z : Tensor, shape (B, M, h, w), iterable of such, or Usage
        Codes, or the result of :func:`csc.analysis.usage`.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        As in :func:`csc.analysis.usage`.
    """
    used = z if isinstance(z, analysis.Usage) else analysis.usage(z)
    ranked = 100 * _array(used.on.sort(descending=True).values)
    M = len(ranked)
    ax = ax or _new(_WIDTH / 2, 3.0)
    ax.bar(range(1, M + 1), ranked, width=1.0, color=GREEN)
    ax.set(
        xlabel="atoms, most used first",
        ylabel="positions where the atom is on (%)",
        xlim=(0.5, M + 0.5),
        ylim=(0, None),
    )
    live, most = M - len(used.dead), np.log2(M)
    ax.set_title(
        f"{live} of {M} atoms used, entropy {used.entropy:.1f} of {most:.1f} bits", fontsize=10
    )
    ax.grid(axis="y", alpha=0.3)
    return ax


def convergence(
    curves: Mapping[str, tuple[Sequence[float], Sequence[float]]],
    *,
    xlabel: str,
    ylabel: str,
    ax: Axes | None = None,
) -> Axes:
    """Draw curves with a logarithmic y axis, such as the gaps of several solvers over time.

    Parameters
    ----------
    curves : mapping of str to (sequence of float, sequence of float)
        x and y of each curve, by label.  Only positive y are drawn.
    xlabel, ylabel : str
        Labels, with units.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no curve, or a curve's x and y differ in length.
    """
    for name, (x, y) in curves.items():
        if len(x) != len(y):
            raise ValueError(f"curve {name!r} has {len(x)} x values but {len(y)} y values")
    if not curves:
        raise ValueError("no curves to draw")
    ax = ax or _new(_WIDTH * 0.7, 3.6)
    for i, (name, (x, y)) in enumerate(curves.items()):
        values = np.asarray(y, float)
        ax.plot(
            np.asarray(x, float),
            np.where(values > 0, values, np.nan),
            color=CYCLE[i % len(CYCLE)],
            marker=MARKERS[i % len(MARKERS)],
            markersize=4,
            markevery=max(1, len(values) // 15),
            label=name,
        )
    ax.set_yscale("log")
    ax.set(xlabel=xlabel, ylabel=ylabel)
    ax.grid(alpha=0.3)
    if len(curves) > 1:
        ax.legend(fontsize=9)
    return ax


def spectrum(S: Tensor, size: Size, *, ax: Axes | None = None) -> Axes:
    """Draw the singular values of Ŝ(ω) by rank, with their range and median over frequencies.

    Parameters
    ----------
    S : Tensor, shape (M, M, s, s)
        Recursion kernel, s odd.
    size : (int, int)
        Height and width of the periodic grid.
    ax : Axes, optional
        Where to draw.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        As in :func:`csc.recursion.spectrum.response`.
    """
    values = singular_values(S, size).flatten(0, 1)
    ax = _by_rank(ax, values, BLUE)
    ax.axhline(1, color=ORANGE, linestyle="--", label="1: non-expansive")
    ax.set(ylabel="singular values of Ŝ(ω)", ylim=(0, None))
    ax.set_title(f"‖S‖ = {float(values.max()):.3g} on {size[0]}×{size[1]}", fontsize=10)
    ax.legend(fontsize=9)
    return ax


def monotone_spectrum(S: Tensor, size: Size, *, ax: Axes | None = None) -> Axes:
    """Draw the eigenvalues of I − (S + Sᵀ)/2 by rank, with range and median over frequencies.

    For ISTA they lie in [0, 1], the shaded band, and at most C of them are not zero.

    Parameters
    ----------
    S, size, ax
        As in :func:`spectrum`.

    Returns
    -------
    Axes

    Raises
    ------
    ValueError, TypeError
        As in :func:`csc.recursion.spectrum.response`.
    """
    values = eigenvalues(S, size).flatten(0, 1).flip(1)
    ax = _by_rank(ax, values, GREEN)
    ax.axhspan(0, 1, color=ORANGE, alpha=0.15, label="ISTA: [0, 1]")
    ax.set(ylabel="eigenvalues of I − (S + Sᵀ)/2")
    ax.set_title(
        f"from {float(values.min()):.3g} to {float(values.max()):.3g} on {size[0]}×{size[1]}",
        fontsize=10,
    )
    ax.legend(fontsize=9)
    return ax


def attribution(
    parts: Tensor, image: Tensor | None = None, *, top: int = 5, region: Tensor | None = None
) -> Figure:
    """Draw the signed contributions of the strongest atoms, and of all others together.

    Parameters
    ----------
    parts : Tensor, shape (M, C, H, W) or (1, M, C, H, W)
        Contributions to one image, such as those of :func:`csc.attribution.contributions`.  Their
        channels are summed for drawing.
    image : Tensor, shape (C', h, w) or (1, C', h, w), in [0, 1], optional
        Image of 1 or 3 channels to draw in faint grey below, scaled to H×W.
    top : int
        Number of atoms, those with the largest norm (within the region).
    region : Tensor of bool, shape (H, W), optional
        Region of the shares, True inside; its outline is drawn.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError, TypeError
        If `parts` or `image` is not of one image, or `top` is not positive.
    """
    parts = parts[0] if parts.ndim == 5 and len(parts) == 1 else parts
    if parts.ndim != 4:
        raise ValueError(f"parts must be (M, C, H, W), of one image; got {tuple(parts.shape)}")
    mask = None if region is None else region[None, None]
    share = shares(parts[None], mask)[0]
    inside = parts if mask is None else parts * mask
    check_integer(top, "top", 1)
    order = inside.flatten(1).norm(dim=1).argsort(descending=True)[:top].tolist()
    others = [m for m in range(len(parts)) if m not in order]
    drawn = [(f"atom {m}", parts[m], float(share[m])) for m in order]
    if others:
        name = f"the other {len(others)}"
        drawn.append((name, parts[others].sum(0), float(share[others].sum())))
    grey = None if image is None else _grey(image)
    shape = (parts.shape[2], parts.shape[3])
    pictures = [_array(part.detach().double().sum(0)) for _, part, _ in drawn]
    singles = pictures[: len(order)]  # the sum of the others may be far larger
    limit = max(float(np.quantile(np.abs(p), 0.995)) for p in singles)
    limit = limit or max(float(np.abs(p).max()) for p in singles) or 1.0
    figure, panels = _panels(len(drawn), shape[0] / shape[1], bar=True)
    for panel, (name, _, part_share), picture in zip(panels, drawn, pictures, strict=False):
        shown = _overlay(panel, picture, grey, shape)
        shown.set(cmap="PuOr", clim=(-limit, limit))
        if grey is not None:
            shown.set_alpha(_opacity(picture, limit))
        if region is not None:
            panel.contour(region.cpu().numpy(), levels=[0.5], colors=[GREEN], linewidths=1.5)
        panel.set_title(f"{name}: {part_share:+.1%} of the sum", fontsize=9)
    figure.colorbar(
        shown, ax=list(panels), label="contribution to the image", shrink=0.8, extend="both"
    )
    return figure


def images(images: Mapping[str, Tensor], *, crops: Sequence[Crop] = (), title: str = "") -> Figure:
    """Draw images side by side; or the first image in full, and crops of all beside it.

    Parameters
    ----------
    images : mapping of str to Tensor, shape (C, H, W) or (1, C, H, W), in [0, 1]
        Images of 1 or 3 channels by title.  With crops, all must have one size.
    crops : sequence of (top, left, side)
        At most four, in pixels.  Each is marked in the first image and has a row of its own.
    title : str
        Title of the figure.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError, TypeError
        If there is no image, an image has other than 1 or 3 channels, or a crop leaves it.
    """
    if not images:
        raise ValueError("no images to draw")
    pictures = {name: _picture(image) for name, image in images.items()}
    names = list(pictures)
    first = pictures[names[0]]
    H, W = first.shape[:2]
    if not crops:
        figure, panels = _panels(len(names), H / W, columns=4 if len(names) == 4 else 3)
        for panel, (name, picture) in zip(panels, pictures.items(), strict=False):
            _show(panel, picture)
            panel.set_title(name, fontsize=10)
        figure.suptitle(title)
        return figure
    _check_crops(crops, H, W)
    cell = _WIDTH / (len(names) + 2)
    figure = canvas(_WIDTH, cell * len(crops) + 0.7)
    grid = figure.add_gridspec(len(crops), len(names) + 1, width_ratios=[2.0] + [1] * len(names))
    whole = figure.add_subplot(grid[:, 0])
    _show(whole, first)
    whole.set_title(names[0], fontsize=10)
    for row, (top, left, side) in enumerate(crops):
        color = _CROPS[row]
        whole.add_patch(
            Rectangle((left, top), side, side, edgecolor=color, facecolor="none", linewidth=2)
        )
        for column, name in enumerate(names, 1):
            axes = figure.add_subplot(grid[row, column])
            _show(axes, pictures[name][top : top + side, left : left + side])
            for spine in axes.spines.values():
                spine.set_edgecolor(color)
                spine.set_linewidth(2)
            if row == 0:
                axes.set_title(name, fontsize=10)
    figure.suptitle(title)
    return figure


def canvas(width: float, height: float) -> Figure:
    """Return an empty figure of a size in inches, which a notebook displays."""
    return plt.figure(figsize=(width, height), layout="constrained")


def _new(width: float, height: float) -> Axes:
    return canvas(width, height).add_subplot()


def _panels(
    count: int, aspect: float, columns: int = 3, *, bar: bool = False
) -> tuple[Figure, list[Axes]]:
    """Return a figure of notebook width with `count` panels of height/width `aspect`."""
    columns = min(columns, count)
    rows = -(-count // columns)
    width = _WIDTH * (0.86 if bar else 1.0) / columns
    figure = canvas(_WIDTH, rows * (width * min(aspect, 1.5) + 0.4))
    panels = list(figure.subplots(rows, columns, squeeze=False).flat)
    for panel in panels:
        _hide_ticks(panel)
    for panel in panels[count:]:
        panel.set_visible(False)
    return figure, panels[:count]


def _by_rank(ax: Axes | None, values: Tensor, color: str) -> Axes:
    """Draw range and median over frequencies of values (F, M), in descending order along M."""
    ax = ax or _new(_WIDTH / 2, 3.2)
    rank = np.arange(1, values.shape[1] + 1)
    low, high = (_array(v) for v in values.aminmax(dim=0))
    ax.fill_between(rank, low, high, color=color, alpha=0.3, label="range over ω")
    ax.plot(rank, _array(values.median(0).values), color=color, label="median over ω")
    ax.set(xlabel="rank", xlim=(1, max(2, values.shape[1])))
    ax.grid(alpha=0.3)
    return ax


def _overlay(axes: Axes, values: Array, grey: Array | None, shape: Shape) -> AxesImage:
    """Draw values at the centre of an area (H, W), over a faint grey image of that area, if any."""
    if grey is not None:
        extent = _centred(shape, shape)
        axes.imshow(0.55 + 0.4 * grey, cmap="gray", vmin=0, vmax=1, extent=extent)
    shown = axes.imshow(values, extent=_centred(values.shape, shape), interpolation="nearest")
    axes.set(xlim=(-0.5, shape[1] - 0.5), ylim=(shape[0] - 0.5, -0.5))
    return shown


def _centred(inner: Shape, outer: Shape) -> tuple[float, float, float, float]:
    """Return the extent of an array at the centre of another, in pixels of the other."""
    top, left = (outer[0] - inner[0]) / 2 - 0.5, (outer[1] - inner[1]) / 2 - 0.5
    return (left, left + inner[1], top + inner[0], top)


def _opacity(values: Array, limit: float) -> Array:
    opacity: Array = np.clip(np.abs(values) / limit, 0, 1) ** 0.5
    return opacity


def _thick(z: Array) -> Array:
    """Return the entry of largest absolute value in the 3×3 neighbourhood of each entry, (h, w)."""
    near = np.lib.stride_tricks.sliding_window_view(np.pad(z, 1), (3, 3)).reshape(*z.shape, 9)
    thick: Array = np.take_along_axis(near, np.abs(near).argmax(2)[..., None], 2)[..., 0]
    return thick


def _hide_ticks(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def _show(axes: Axes, picture: Array) -> None:
    axes.imshow(picture, cmap="gray", vmin=0, vmax=1, interpolation="nearest")
    _hide_ticks(axes)


def _array(values: Tensor) -> Array:
    array: Array = values.detach().double().cpu().numpy()
    return array


def _single(image: Tensor, name: str) -> Tensor:
    """Return a tensor of one image as (C, H, W)."""
    if not isinstance(image, Tensor) or not image.is_floating_point():
        raise TypeError(f"{name} must be a floating-point torch.Tensor")
    if image.ndim == 4 and len(image) == 1:
        image = image[0]
    if image.ndim != 3 or image.numel() == 0:
        raise ValueError(f"{name} must be (C, H, W), of one image; got {tuple(image.shape)}")
    return image.detach()


def _picture(image: Tensor) -> Array:
    """Return an image as an array (H, W) or (H, W, 3), clipped to [0, 1]."""
    image = _single(image, "an image")
    if image.shape[0] not in (1, 3):
        raise ValueError(f"an image has 1 or 3 channels, got {image.shape[0]}")
    array = _array(image.clamp(0, 1).permute(1, 2, 0))
    return array[..., 0] if array.shape[2] == 1 else array


def _grey(image: Tensor) -> Array:
    picture = _picture(image)
    grey: Array = picture if picture.ndim == 2 else picture.mean(2)
    return grey


def _check_crops(crops: Sequence[Crop], H: int, W: int) -> None:
    if len(crops) > len(_CROPS):
        raise ValueError(f"at most {len(_CROPS)} crops can be drawn, got {len(crops)}")
    for top, left, side in crops:
        if min(top, left) < 0 or side < 1 or top + side > H or left + side > W:
            raise ValueError(f"crop {(top, left, side)} leaves the image of {H}×{W} pixels")
