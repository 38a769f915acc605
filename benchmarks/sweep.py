"""Train variants of a network alike, and tell what a choice is worth: the paper's ablations.

    python benchmarks/sweep.py residual    --data ROOT [--steps N] [--out DIR]     Fig. 4
    python benchmarks/sweep.py width       --data ROOT                             Fig. 10
    python benchmarks/sweep.py recursions  --data ROOT                             Fig. 11
    python benchmarks/sweep.py systems     --data ROOT                             Fig. 8

All variants of the first three see the same patches in the same order for the same number of steps.
Those of `systems` have the same budget of training arithmetic instead, that of CRNet-A for the
steps: a cheaper network takes more of them.  A run that is there is resumed, one that is done is
read, so that a sweep that was cut off goes on where it was.

Prints a table: parameters, multiplications per HR pixel, steps, PSNR on a test set at each scale,
and seconds of an image; writes it as JSON with the validation curves, and draws both.
"""

import argparse
import json
import statistics
from dataclasses import replace
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")

import matplotlib.pyplot as plt

from crnet import Upscaler, checkpoint, networks
from crnet.data import data_root
from crnet.evaluate import evaluate
from crnet.recipe import Recipe, read
from crnet.train import train
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
    },
    "recursions": {f"K = {K}": {"recursions": K} for K in (2, 4, 8, 12)},
    "systems": {
        "CRNet-A": {},
        "SRCNN": {"architecture": "SRCNN"},
        "VDSR-like, 10 layers": {"architecture": "VDSR", "sizes": {"depth": 10, "maps": 64}},
        "DRRN-like, 4 units": {
            "architecture": "DRRN", "sizes": {"units": 4, "maps": 64, "normalize": False},
        },
    },
}  # fmt: skip
OF_CRNETS = ("n0", "m0", "recursions", "bias", "threshold", "residual")


def variant(base: Recipe, changes: dict[str, Any]) -> Recipe:
    """Return the recipe of a variant; of another network, without what is a CRNet's."""
    if "architecture" in changes:
        defaults = Recipe()
        changes = {**{name: getattr(defaults, name) for name in OF_CRNETS}, **changes}
    return replace(base, **changes)


def cost(recipe: Recipe) -> float:
    """Multiplications of a training patch's forward pass."""
    net = networks.build(recipe.architecture, recipe.network())
    return statistics.fmean(networks.multiplications(net, s) for s in recipe.scales)


def run(name: str, recipe: Recipe, folder: Path, root: Path, test: str) -> dict[str, Any]:
    """Train a variant, or go on with it, and measure it."""
    net = train(recipe, folder, root, resume=True, validate_every=max(1, recipe.steps // 10),
                bar=True)  # fmt: skip
    work = [networks.multiplications(net, s) for s in recipe.scales]
    rows = evaluate({name: Upscaler(net, precision="bfloat16")}, root, [test], recipe.scales)
    state = checkpoint.training_state(folder / "last.ckpt")
    return {
        "variant": name,
        "parameters": sum(p.numel() for p in net.parameters()),
        "multiplications": statistics.fmean(work),
        "steps": recipe.steps,
        "psnr": {str(row.scale): row.psnr for row in rows},
        "seconds": statistics.fmean(row.seconds for row in rows),
        "curve": state["history"],
    }


def table(results: list[dict[str, Any]], test: str) -> str:
    scales = list(results[0]["psnr"])
    width = max(len(r["variant"]) for r in results)
    head = f"{'':{width}}  parameters  M mult/px   steps  " + "  ".join(
        f"{test} x{s}" for s in scales
    )
    lines = [head + "  s/image"]
    for r in results:
        cells = "  ".join(f"{r['psnr'][s]:{len(test) + 3}.2f}" for s in scales)
        lines.append(
            f"{r['variant']:{width}}  {r['parameters']:10,}  {r['multiplications'] / 1e6:9.3f}  "
            f"{r['steps']:6}  {cells}  {r['seconds']:7.3f}"
        )
    return "\n".join(lines)


def draw(results: list[dict[str, Any]], test: str, path: Path) -> None:
    figure, (left, right) = plt.subplots(1, 2, figsize=(10, 3.8), layout="constrained")
    scale = sorted(results[0]["psnr"])[len(results[0]["psnr"]) // 2]
    for i, r in enumerate(results):
        color, marker = CYCLE[i % len(CYCLE)], MARKERS[i % len(MARKERS)]
        steps, values = zip(*r["curve"], strict=True)
        left.plot(steps, values, color=color, marker=marker, ms=4, label=r["variant"])
        right.plot(r["parameters"], r["psnr"][scale], marker, color=color, ms=8, label=r["variant"])
    left.set(xlabel="training steps", ylabel="validation PSNR (dB)")
    right.set(xlabel="parameters", ylabel=f"PSNR on {test} ×{scale} (dB)", xscale="log")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    left.legend(fontsize=8)
    figure.savefig(path, dpi=110)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("sweep", choices=VARIANTS)
    parser.add_argument("--data", help="data root [$CRNET_DATA]")
    parser.add_argument("--recipe", default="crnet-a-compact", help="what is varied")
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--test", default="Set5", metavar="SET")
    parser.add_argument("--out", type=Path, help="folder of the runs [runs/SWEEP]")
    arguments = parser.parse_args()
    root, out = data_root(arguments.data), arguments.out or Path("runs") / arguments.sweep
    base = read(arguments.recipe, {"steps": arguments.steps, "teacher": ""})
    results = []
    for name, changes in VARIANTS[arguments.sweep].items():
        recipe = variant(base, changes)
        if arguments.sweep == "systems":
            recipe = replace(recipe, steps=round(base.steps * cost(base) / cost(recipe)))
        folder = out / "".join(c if c.isalnum() else "-" for c in name)
        results.append(run(name, recipe, folder, root, arguments.test))
        print(table(results, arguments.test), flush=True)
        (out / "results.json").write_text(json.dumps(results, indent=1) + "\n")
        draw(results, arguments.test, out / "results.png")
    print(out / "results.png")


if __name__ == "__main__":
    main()
