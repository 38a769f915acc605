"""Figures of a network at work: crops side by side, and the codes behind an image."""

from collections.abc import Mapping, Sequence
from typing import Any

import matplotlib

matplotlib.use("Agg", force=False)

import matplotlib.pyplot as plt
import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

# Okabe and Ito's colour-blind-safe palette.
BLUE, ORANGE, GREEN = "#0072B2", "#D55E00", "#009E73"
_FRAMES = (ORANGE, BLUE)

Crop = tuple[int, int, int]
"""Top, left and side of a square crop, in HR pixels."""


def comparison(images: Mapping[str, Tensor], crops: Sequence[Crop], title: str = "") -> Figure:
    """Draw images side by side, crops of each beneath.

    Parameters
    ----------
    images : mapping of str to Tensor, shape (3, H, W), in [0, 1]
        RGB images of one size by their titles; the first is drawn whole with the crops framed.
    crops : sequence of (top, left, side)
        At most two, in HR pixels.
    title : str
        Title of the figure.

    Returns
    -------
    Figure
    """
    names = list(images)
    figure = plt.figure(figsize=(5.4 + 2.9 * len(names), 3.1 * len(crops)), layout="constrained")
    grid = figure.add_gridspec(len(crops), len(names) + 1, width_ratios=[2.0] + [1] * len(names))
    whole = figure.add_subplot(grid[:, 0])
    whole.imshow(_rgb(images[names[0]]))
    whole.set_title(names[0], fontsize=11)
    for row, (top, left, side) in enumerate(crops):
        color = _FRAMES[row % len(_FRAMES)]
        whole.add_patch(
            Rectangle((left, top), side, side, edgecolor=color, facecolor="none", linewidth=2)
        )
        for column, name in enumerate(names, 1):
            axes = figure.add_subplot(grid[row, column])
            crop = images[name][:, top : top + side, left : left + side]
            axes.imshow(_rgb(crop), interpolation="nearest")
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_edgecolor(color)
                spine.set_linewidth(2)
            if row == 0:
                axes.set_title(name, fontsize=11)
    whole.set_xticks([])
    whole.set_yticks([])
    figure.suptitle(title)
    return figure


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
        What an isolated unit code adds to the image; the first channel is drawn.
    maps : Tensor, shape (M, H, W)
        Codes z_K of one image, ≥ 0.
    usage : Tensor, shape (M,)
        Share of the positions at which each code is not zero.
    nonzero : sequence of float
        Share of non-zero codes of z_0, …, z_K.
    change : sequence of float
        ‖z_k − z_{k−1}‖/‖z_k‖ for k = 1, …, K.
    shown : int
        Number of atoms to draw.

    Returns
    -------
    Figure
    """
    # The atoms that carry most of the code, not those that are merely on everywhere.
    weight = maps.abs().sum((1, 2))
    top = weight.argsort(descending=True)[:shown].tolist()
    figure = plt.figure(figsize=(2.5 * shown, 8.2), layout="constrained")
    upper, lower = figure.subfigures(2, 1, squeeze=False, height_ratios=[1.45, 1])[:, 0]
    axes = upper.subplots(2, len(top), height_ratios=[1, 1.15], squeeze=False)
    for column, m in enumerate(top):
        atom = atoms[m, 0].cpu().numpy()
        limit = float(np.abs(atom).max()) or 1.0
        axes[0, column].imshow(atom, cmap="PuOr", vmin=-limit, vmax=limit)
        share = float(weight[m] / weight.sum())
        axes[0, column].set_title(
            f"atom {m}\n{share:.1%} of ‖z‖₁, on at {float(usage[m]):.0%}", fontsize=9
        )
        z = maps[m].cpu().numpy()
        axes[1, column].imshow(z, cmap="magma", vmin=0, vmax=float(np.quantile(z, 0.995)) or 1.0)
    for ax in axes.flat:
        ax.set_xticks([])
        ax.set_yticks([])
    axes[0, 0].set_ylabel("added to the image\n(5×5 pixels)")
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
    ranked = np.sort(usage.cpu().numpy())[::-1]
    right.bar(range(len(ranked)), 100 * ranked, width=1.0, color=GREEN)
    right.set(xlabel="atoms, by rank", ylabel="positions where on (%)", title="Usage of the atoms")
    for ax in (left, middle, right):
        ax.grid(alpha=0.3)
    return figure


def _rgb(image: Tensor) -> Any:
    return image.clamp(0, 1).permute(1, 2, 0).cpu().numpy()
