"""Figures of a network at work: PSNR by recursion, the codes of an image, and contact sheets.

:mod:`csc.plot` has the figures that need no network.
"""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray
from torch import Tensor

from crnet.analysis import fewest_recursions
from crnet.measuring.compare import Comparison
from csc.html import percent
from csc.plot import BLACK, BLUE, CYCLE, GREEN, MARKERS, ORANGE, canvas


def recursions(
    curves: Mapping[str, Sequence[float]],
    *,
    levels: Mapping[str, float] | None = None,
    loss: float | None = None,
    ax: Axes | None = None,
) -> Axes:
    """Draw the PSNR of the images of z_0, …, z_K against k.

    Parameters
    ----------
    curves : mapping of str to sequence of float
        PSNR in dB from k = 0, by label.
    levels : mapping of str to float, optional
        PSNR in dB of systems without recursions, such as bicubic, drawn as dashed lines.
    loss : float, optional
        Mark on each curve the fewest recursions within `loss` dB of the last.
    ax : Axes, optional
        Where to draw (default: a new figure).

    Returns
    -------
    Axes

    Raises
    ------
    ValueError
        If there is no curve, or a curve is empty.
    """
    if not curves or not all(len(curve) for curve in curves.values()):
        raise ValueError("no PSNR to draw; pass one value per recursion, from k = 0")
    ax = ax if ax is not None else canvas(6.3, 3.6).add_subplot()
    for i, (name, curve) in enumerate(curves.items()):
        color = CYCLE[i % len(CYCLE)]
        ax.plot(
            range(len(curve)),
            curve,
            color=color,
            marker=MARKERS[i % len(MARKERS)],
            ms=4,
            label=name,
        )
        if loss is not None:
            k = fewest_recursions(curve, loss)
            ax.plot(k, curve[k], "o", ms=11, mfc="none", mec=color, mew=1.5)
            ax.annotate(
                f"k = {k}", (k, curve[k]), (6, -14), textcoords="offset points", color=color
            )
    for name, level in (levels or {}).items():
        ax.axhline(level, color=BLACK, linestyle="--", linewidth=1, label=name)
    ax.set(xlabel="recursion k", ylabel="PSNR (dB)")
    ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    if loss is not None:
        ax.set_title(f"circles: within {loss:g} dB of the last", fontsize=10)
    if len(curves) + len(levels or {}) > 1:
        ax.legend(fontsize=9)
    ax.grid(alpha=0.3)
    return ax


def codes(
    atoms: Tensor,
    maps: Tensor,
    usage: Tensor,
    nonzero: Sequence[float],
    change: Sequence[float],
    *,
    shown: int = 6,
) -> Figure:
    """Draw the most used atoms, their code maps, and how the codes settle.

    Parameters
    ----------
    atoms : Tensor, shape (M, C, k, k)
        The image of an isolated unit code, per atom; the first channel is drawn.
    maps : Tensor, shape (M, H, W)
        Codes z_K of one image, ≥ 0.
    usage : Tensor, shape (M,)
        Fraction of the positions where the code of each atom is not zero.
    nonzero : sequence of float
        Fraction of non-zero codes of z_0, …, z_K.
    change : sequence of float
        ‖z_k − z_{k−1}‖/‖z_k‖ for k = 1, …, K.
    shown : int
        Number of atoms to draw.

    Returns
    -------
    Figure
    """
    # Rank by the size of codes: an atom may be on everywhere with small codes.
    weight = maps.abs().sum((1, 2))
    top = weight.argsort(descending=True)[:shown].tolist()
    figure = canvas(2.5 * shown, 8.2)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.45, 1])[:, 0]
    axes = upper.subplots(2, len(top), height_ratios=[1, 1.15], squeeze=False)
    for column, m in enumerate(top):
        atom = atoms[m, 0].cpu().numpy()
        limit = float(np.abs(atom).max()) or 1.0
        axes[0, column].imshow(atom, cmap="PuOr", vmin=-limit, vmax=limit)
        part = float(weight[m] / weight.sum())
        axes[0, column].set_title(
            f"atom {m}\n{part:.1%} of ‖z‖₁, on at {percent(float(usage[m]))}", fontsize=9
        )
        z = maps[m].cpu().numpy()
        axes[1, column].imshow(z, cmap="magma", vmin=0, vmax=float(np.quantile(z, 0.995)) or 1.0)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    k = atoms.shape[-1]
    axes[0, 0].set_ylabel(f"added to the image\n({k}×{k} pixels)")
    axes[1, 0].set_ylabel("code map $z_K$")
    left, middle, right = lower.subplots(1, 3)
    left.plot(range(len(nonzero)), [100 * v for v in nonzero], "o-", color=BLUE)
    left.set(xlabel="recursion k", ylabel="non-zero codes (%)", ylim=(0, None), title="Sparsity")
    middle.semilogy(range(1, len(change) + 1), change, "o-", color=ORANGE)
    middle.set(
        xlabel="recursion k",
        ylabel=r"$\|z_k - z_{k-1}\|\,/\,\|z_k\|$",
        title="Change of the codes",
    )
    for ax in (left, middle):
        ax.xaxis.set_major_locator(MaxNLocator(integer=True))
    ranked = np.sort(usage.cpu().numpy())[::-1]
    right.bar(range(len(ranked)), 100 * ranked, width=1.0, color=GREEN)
    right.set(xlabel="atoms, by rank", ylabel="positions where on (%)", title="Usage of the atoms")
    for ax in (left, middle, right):
        ax.grid(alpha=0.3)
    return figure


def drawn(image: Tensor, base: Tensor, maps: Tensor, atoms: Tensor, *, shown: int = 4) -> Figure:
    """Draw image = base + Σ codes * atoms: the sum, and the codes and atoms of its largest terms.

    Parameters
    ----------
    image, base : Tensor, shape (C, H, W), in [0, 1]
        An image of a network with certified codes, and the bicubic image.
    maps : Tensor, shape (M, h, w)
        Codes.
    atoms : Tensor, shape (M, C, k, k)
        Atoms.
    shown : int
        Number of terms to draw.

    Returns
    -------
    Figure
    """
    weight = maps.abs().sum((1, 2)) * atoms.abs().amax((1, 2, 3))
    figure = canvas(11.2, 6.8)
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.65, 1])[:, 0]
    lower.suptitle(f"Σ codes * atoms: the largest {shown} of {len(atoms)} terms", fontsize=11)
    terms = {"image": image, "=  bicubic": base, "+  Σ codes * atoms, ×3": 0.5 + 3 * (image - base)}
    for axes, (name, part) in zip(upper.subplots(1, 3), terms.items(), strict=True):
        axes.imshow(_array(part), cmap="gray", vmin=0, vmax=1, interpolation="nearest")
        axes.set_title(name)
        _bare(axes)
    cells = lower.subplots(1, 2 * shown, width_ratios=[1.0, 0.45] * shown)
    for column, m in enumerate(weight.argsort(descending=True)[:shown].tolist()):
        left, right = cells[2 * column : 2 * column + 2]
        z = maps[m].cpu().numpy()
        left.imshow(z, cmap="magma", vmin=0, vmax=float(z.max()) or 1.0)
        left.set_title(f"{'= ' if column == 0 else '+ '} codes {m}", fontsize=9)
        top = float(atoms[m].abs().max()) or 1.0
        right.imshow(_array(0.5 + atoms[m] / (2 * top)), cmap="PuOr", vmin=0, vmax=1)
        right.set_title("*  atom" + "  + …" * (column == shown - 1), fontsize=9)
        for axes in (left, right):
            _bare(axes)
    return figure


def _array(image: Tensor) -> NDArray[np.float32]:
    """Return (H, W, 3), or (H, W) of one channel, in [0, 1]."""
    found = image.clamp(0, 1).permute(1, 2, 0).float().cpu().numpy()
    return np.asarray(found[..., 0] if found.shape[2] == 1 else found)


def _bare(axes: Axes) -> None:
    axes.set_xticks([])
    axes.set_yticks([])


def sheet(looks: Sequence[Comparison]) -> Figure:
    """Draw a contact sheet: each photo whole, and beside it the same region of every image.

    Parameters
    ----------
    looks : sequence of Comparison
        From :func:`crnet.measuring.compare.compare_on`; each fills one band of the sheet.

    Returns
    -------
    Figure

    Raises
    ------
    ValueError
        If there is nothing to draw.
    """
    if not looks:
        raise ValueError("no comparison to draw")
    most = max(len(look.images) for look in looks)
    columns = min(5, -(-most // 2))
    rows = [max(2, -(-len(look.images) // columns)) for look in looks]
    figure = canvas(2.2 * (columns + 2.6), 2.75 * sum(rows))
    bands = figure.subfigures(len(looks), 1, squeeze=False, height_ratios=rows)[:, 0]
    for look, band, n in zip(looks, bands, rows, strict=True):
        whole, regions = band.subfigures(1, 2, width_ratios=[2.6, columns])
        top, left, side = look.crop
        axes = whole.subplots()
        _show(axes, next(iter(look.images.values())), look.title)
        axes.add_patch(
            Rectangle((left, top), side, side, edgecolor=ORANGE, facecolor="none", linewidth=2)
        )
        cells = list(regions.subplots(n, columns, squeeze=False).flat)
        for axes, (label, image) in zip(cells, look.images.items(), strict=False):
            _show(axes, image[:, top : top + side, left : left + side], label)
        for axes in cells[len(look.images) :]:
            axes.set_axis_off()
    return figure


def _show(axes: Axes, image: Tensor, title: str) -> None:
    axes.imshow(image.clamp(0, 1).permute(1, 2, 0).cpu().numpy(), interpolation="nearest")
    axes.set_title(title, fontsize=9)
    _bare(axes)
