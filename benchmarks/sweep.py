"""Train variants of a network alike and compare them: the paper's ablations.

    python benchmarks/sweep.py residual    --data ROOT [--steps N] [--out DIR]     Fig. 4
    python benchmarks/sweep.py width       --data ROOT                             Fig. 10
    python benchmarks/sweep.py recursions  --data ROOT                             Fig. 11
    python benchmarks/sweep.py features    --data ROOT     initial F0
    python benchmarks/sweep.py systems     --data ROOT                             Fig. 8
    python benchmarks/sweep.py lr          --data ROOT     networks on the LR image
    python benchmarks/sweep.py sparse      --data ROOT     certified codes and free ones

In the first four sweeps all variants see the same patches in the same order for the same number of
steps; their targets are HR.  In the others all variants spend the same training arithmetic as the
first, so that a cheaper network takes more steps.
A run in the folder is resumed or, if it is done, read.  A sweep that was cut off goes on where it
was, and sweeps of one recipe with the same folder and number of steps use the same runs.

Prints a table: parameters, multiplications per HR pixel, steps, PSNR on a test set at each scale,
and the time for an image of 384 x 384 pixels (median of nine rounds over all variants).  `sparse`
adds the largest part of codes that are on, and the largest distance from the exact codes relative
to their norm, over the images of the test set at x3.  Writes the table as JSON with the validation
curves, and draws it.
"""

import argparse
import json
import math
import re
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt
import torch
from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

from baselines import bicubic
from baselines.resample import modcrop
from crnet import Upscaler, certify_codes, loading, networks
from crnet.certificate import Certified
from crnet.data import data_root, find_images, read_rgb, read_y
from crnet.measuring.evaluate import evaluate
from crnet.measuring.protocol import degrade, protocol_of
from crnet.model import CRNetA
from crnet.training.checkpoint import training_state
from crnet.training.recipe import Recipe, read
from crnet.training.train import build, train
from csc.plot import CYCLE, MARKERS

VARIANTS: dict[str, dict[str, dict[str, Any]]] = {
    "residual": {
        f"K = {K}, {'with' if residual else 'no'} residual": {"recursions": K, "residual": residual}
        for K in (4, 8)
        for residual in (True, False)
    },
    "width": {
        f"n0 = {n0}, m0 = {m0}": {"n0": n0, "m0": m0}
        for n0, m0 in ((64, 128), (32, 128), (64, 64), (32, 64))
    } | {"n0 = 64, m0 = 128, other seed": {"seed": 1}},
    "recursions": {f"K = {K}": {"recursions": K} for K in (2, 4, 8, 12)},
    "features": {"F0 a whitening": {}, "F0 random": {"F0": "random"}},
    "systems": {
        "CRNet-A": {},
        "SRCNN": {"recipe": "srcnn-compact"},
        "VDSR-like, 10 layers": {"recipe": "vdsr-compact"},
        "DRRN-like, 4 units": {"recipe": "drrn-compact"},
    },
    "lr": {
        "CRNet-B": {},
        "MDSR-like, 8 blocks of 48": {
            "architecture": "MDSR", "recursions": 12, "border": 0,
            "sizes": {"blocks": 8, "maps": 48},
        },
        "certified, 5 blocks of 48": {
            "architecture": "SparseCRNetB", "n0": 48, "m0": 64, "recursions": 2, "border": 0,
            "sizes": {"blocks": 5, "rank": 16, "atom": 5}, "patch": 48, "lr": 1.2e-3,
        },
    },
    "sparse": {
        "8 blocks, K = 2, ‖D‖² ≤ 1/2, p = 16": {},
        "the same, other seed": {"seed": 1},
        "‖D‖² ≤ 1": {"sizes": {"bound": 1.0}},
        "‖D‖² ≤ 2": {"sizes": {"bound": 2.0}},
        "3 blocks": {"sizes": {"blocks": 3}},
        "5 blocks": {"sizes": {"blocks": 5}},
        "K = 1": {"recursions": 1},
        "K = 3": {"recursions": 3},
        "p = 8": {"sizes": {"rank": 8}},
        "p = 32": {"sizes": {"rank": 32}},
        "atoms of 5×5": {"sizes": {"atom": 5}},
        "atoms of 9×9": {"sizes": {"atom": 9}},
        "free S (CRNet-A)": {"recipe": "crnet-a-compact"},
    },
}  # fmt: skip
"""What each variant changes in the recipe, or its own recipe; a second seed shows the chance."""

EQUAL_ARITHMETIC = ("systems", "lr", "sparse")
"""Sweeps whose variants spend the training arithmetic of the first."""

BASES = {"lr": "crnet-b-compact", "sparse": "crnet-a-sparse"}
"""What a sweep varies, where it is not crnet-a-compact."""

AXES = {
    "parameters": "parameters",
    "multiplications": "multiplications per HR pixel",
    "seconds": "time of an image",
}
DRAWN: dict[str, tuple[str, ...]] = {
    "residual": (),
    "width": ("parameters",),
    "recursions": ("multiplications",),
    "features": (),
    "systems": tuple(AXES),
    "lr": tuple(AXES),
    "sparse": ("multiplications",),
}


def variant(base: Recipe, changes: dict[str, Any], out: Path, *, equal: bool) -> Recipe:
    """Return the recipe of a variant; with `equal`, it spends the arithmetic of the base."""
    if "recipe" in changes:
        recipe = read(changes["recipe"], {"teacher": ""})
    elif "F0" in changes:
        recipe = replace(base, start=str(random_features(base, out)))
    else:
        same = changes.get("architecture", base.architecture) == base.architecture
        sizes = (base.sizes if same else {}) | changes.get("sizes", {})
        recipe = replace(base, **changes | {"sizes": sizes})
    return replace(recipe, steps=round(base.steps * cost(base) / cost(recipe))) if equal else recipe


def random_features(recipe: Recipe, out: Path) -> Path:
    """Write a run's initial weights with He's random F0 in place of ours; return the file."""
    net, name = build(recipe), "random-F0"
    if not isinstance(net, CRNetA):
        raise TypeError(f"{recipe.architecture} has no F0 of its own")
    g = torch.Generator().manual_seed(recipe.seed)
    torch.nn.init.kaiming_normal_(net.F0.weight, nonlinearity="relu", generator=g)
    about = loading.Card(name, recipe.architecture, recipe.network(), recipe.scales, {}, {})
    out.mkdir(parents=True, exist_ok=True)
    path = out / f"{name}.safetensors"
    loading.save(path, net, about)
    return path


def cost(recipe: Recipe) -> float:
    """Multiplications of the forward pass of a training step."""
    net = networks.build(recipe.architecture, recipe.network())
    pixels = [(recipe.patch * (1 if net.enlarged else s)) ** 2 for s in recipe.scales]
    per_pixel = [networks.multiplications(net, s) for s in recipe.scales]
    return recipe.batch * statistics.fmean(map(math.prod, zip(pixels, per_pixel, strict=True)))


def work(net: networks.Network, recipe: Recipe) -> float:
    """Multiplications per HR pixel, mean over the scales."""
    return statistics.fmean(networks.multiplications(net, s) for s in recipe.scales)


def folder_of(changes: dict[str, Any], recipe: Recipe, base: Recipe) -> str:
    """Return the name of a run's folder: its changes and its steps."""
    new = {k: v for k, v in changes.items() if v != getattr(base, k, None)}
    told = [f"{k}-{v}" for k, v in new.items()] or [base.architecture]
    return re.sub(r"[^\w.]+", "-", "-".join([*told, str(recipe.steps)]))


def run(
    name: str, recipe: Recipe, folder: Path, root: Path, test: str
) -> tuple[networks.Network, dict[str, Any]]:
    """Train a variant, or go on with it, and measure it."""
    every = max(1, recipe.steps // 10)
    net = train(recipe, folder, root, resume=folder.exists(), validate_every=every, bar=True)
    rows = evaluate({name: Upscaler(net)}, root, [test], recipe.scales)
    state = training_state(folder / "last.ckpt")
    return net, {
        "variant": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiplications": work(net, recipe),
        "steps": recipe.steps,
        "psnr": {str(row.scale): row.psnr for row in rows},
        "hours": state["seconds"] / 3600,
        "curve": state["history"],
    } | certified(net, root, test)


def certified(net: networks.Network, root: Path, test: str) -> dict[str, float]:
    """Return the largest density and relative distance of certified codes on a test set at ×3."""
    if not isinstance(net, Certified):
        return {}
    on, distance = 0.0, 0.0
    for path in find_images(root / test):
        original = modcrop(read_rgb(path) if net.rgb else read_y(path), 3)
        x = degrade(original, 3, protocol_of(Upscaler(net)))
        found = certify_codes(net, bicubic(x, 3) if net.enlarged else x)
        on = max(on, float(found.nonzero[-1]))
        distance = max(distance, float(found.relative.max()))
    return {"on": on, "distance": distance}


def times(nets: list[networks.Network], rounds: int = 9) -> list[float]:
    """Return each network's seconds for an image of 384² pixels, medians of rounds over all."""
    x = torch.rand(1, 3, 128, 128, generator=torch.Generator().manual_seed(0))
    taken: list[list[float]] = [[] for _ in nets]
    for _ in range(rounds + 1):
        for net, seconds in zip(nets, taken, strict=True):
            upscale = Upscaler(net)
            start = time.perf_counter()
            upscale(x[:, : upscale.channels], 3)
            seconds.append(time.perf_counter() - start)
    return [statistics.median(seconds[1:]) for seconds in taken]


def table(results: list[dict[str, Any]], test: str) -> str:
    """Return the results as a table of Markdown."""
    scales = list(results[0]["psnr"])
    certificate = ["codes on", "distance"] if any("on" in r for r in results) else []
    rows = [
        [
            "", "parameters", "M mult / px", "steps", *(f"{test} ×{s}" for s in scales),
            "s / image", *certificate,
        ],
        ["---"] * (5 + len(scales) + len(certificate)),
    ] + [
        [
            r["variant"], f"{r['parameters']:,}", f"{r['multiplications'] / 1e6:.3f}",
            f"{r['steps']:,}", *(f"{r['psnr'][s]:.2f}" for s in scales),
            f"{r['seconds']:.3f}" if "seconds" in r else "",
            *(f"{r[key]:.1%}" if key in r else "" for key in ("on", "distance") if certificate),
        ]
        for r in results
    ]  # fmt: skip
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return "\n".join(
        "| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |"
        for row in rows
    )


def draw(results: list[dict[str, Any]], test: str, axes_of: tuple[str, ...], path: Path) -> None:
    """Draw validation against training, and PSNR against some of the other columns."""
    scale = sorted(results[0]["psnr"])[len(results[0]["psnr"]) // 2]
    rows, columns = ((1, 1), (1, 2), (1, 3), (2, 2))[len(axes_of)]
    figure, grid = plt.subplots(
        rows, columns, figsize=(4.8 * columns, 3.6 * rows), layout="constrained", squeeze=False
    )
    left, *others = grid.ravel()
    same = len({r["steps"] for r in results}) == 1
    for i, r in enumerate(results):
        style = {"color": CYCLE[i % len(CYCLE)], "marker": MARKERS[i % len(MARKERS)]}
        steps, values = zip(*r["curve"], strict=True)
        spent = steps if same else [100 * step / r["steps"] for step in steps]
        left.plot(spent, values, ms=4, label=r["variant"], **style)
        for key, axes in zip(axes_of, others, strict=True):
            axes.plot(r[key], r["psnr"][scale], ms=8, ls="", **style)
    left.set(ylabel="validation PSNR (dB)")
    left.set(xlabel="training steps" if same else "part of the budget (%)")
    left.legend(fontsize=8)
    for key, axes in zip(axes_of, others, strict=True):
        axes.set(xlabel=AXES[key], ylabel=f"PSNR on {test} ×{scale} (dB)", xscale="log")
        axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.xaxis.set_major_formatter(EngFormatter("s" if key == "seconds" else ""))
        axes.xaxis.set_minor_formatter(NullFormatter())
        axes.margins(0.15)
    for axes in (left, *others):
        axes.grid(alpha=0.3)
    figure.savefig(path, dpi=100)
    plt.close(figure)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sweep", choices=VARIANTS)
    parser.add_argument("--data", help="data root [$CRNET_DATA]")
    parser.add_argument("--recipe", help="what is varied [crnet-a-compact, or that of the sweep]")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--test", default="Set5", metavar="SET")
    parser.add_argument("--out", type=Path, default=Path("runs"), help="folder of the runs [runs]")
    arguments = parser.parse_args()
    root = data_root(arguments.data)
    given = arguments.recipe or BASES.get(arguments.sweep, "crnet-a-compact")
    base = read(given, {"steps": arguments.steps, "teacher": ""})
    equal = arguments.sweep in EQUAL_ARITHMETIC
    # Sweeps of crnet-a-compact share their runs.
    runs = arguments.out if given == "crnet-a-compact" else arguments.out / given
    results, nets = [], []
    for name, changes in VARIANTS[arguments.sweep].items():
        recipe = variant(base, changes, arguments.out, equal=equal)
        folder = runs / folder_of(changes, recipe, base)
        net, result = run(name, recipe, folder, root, arguments.test)
        nets.append(net)
        results.append(result)
        print(f"{name}: {folder}, {result['hours']:.2f} hours", flush=True)
    for result, seconds in zip(results, times(nets), strict=True):
        result["seconds"] = seconds
    print(table(results, arguments.test))
    out = arguments.out / arguments.sweep
    out.with_suffix(".json").write_text(json.dumps(results, indent=1) + "\n")
    draw(results, arguments.test, DRAWN[arguments.sweep], out.with_suffix(".png"))
    print(out.with_suffix(".png"))


if __name__ == "__main__":
    main()
