"""Time and memory of a training step.

    python benchmarks/train_step.py [--repeats 7] [--batch 16] [--json FILE]
    python benchmarks/train_step.py --device cuda [--recipe crnet-b-compact] [--patches 64]

On a CPU, CRNet-A against the plain module:

1. A step (forward, L1, backward, Adam) of n0 = 64, m0 = 128, K = 12 on a batch of 41×41: ours as
   `crnet train` runs it (in the precision that `auto` chooses, channels last, W ⊗ y once), and the
   plain module (float32, NCHW; benchmarks/plain.py) with the same weights, in turn.
   `step_speedup` is the ratio of their medians.
2. A step at K = 25 with and without recomputing the recursions, each in a process of its own.
   `recompute_memory_ratio` is the ratio of their peaks of resident memory above what the process
   held before the step.  `recompute_time_ratio` is the ratio of their median times.

With `--device`, the whole engine (`crnet train` with patches, optimizer and averages) on photos of
noise: its arithmetic per second, and `conv_rate_fraction`, which is that over the best rate of a
single 3×3 convolution in the same precision on the same device.

Quote the ratios; the seconds depend on the machine and the moment.
"""

import argparse
import csv
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from plain import Plain, conv_rate, finish, multiplications, race, tell
from torch import nn

from crnet import CRNetA, networks
from crnet.precision import resolve
from crnet.training.recipe import Recipe, read
from crnet.training.train import train


def stepper(net: nn.Module, batch: int, *, fast: bool) -> Callable[[], None]:
    """Return a training step on random patches."""
    x = torch.rand(batch, 1, 41, 41)
    target = torch.rand(batch, 1, 41, 41)
    if fast:
        net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)
    low = fast and resolve("auto", "cpu") == "bfloat16"

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=low):
            out = net(x)
        loss = (out.float() - target).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()

    return step


def network(K: int, *, recompute: bool = False) -> CRNetA:
    net = CRNetA(64, 128, K, generator=torch.Generator().manual_seed(0))
    net.cista.recompute = recompute
    return net


def peak(recompute: bool, batch: int) -> float:
    """Return the MiB that a step needs beyond what the process holds; runs in its own process."""
    stepper(network(1, recompute=recompute), 1, fast=True)()  # load what a step loads
    step = stepper(network(25, recompute=recompute), batch, fast=True)
    before = held("VmRSS")
    step()
    return held("VmHWM") - before


def held(what: str) -> float:
    """Return the MiB resident now (VmRSS) or the most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def engine(recipe: Recipe, device: str) -> float:
    """Return the patches per second that `train` reaches, after a third of the steps."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        (root / "noise").mkdir()
        for i in range(4):
            image = Image.fromarray(rng.integers(256, size=(512, 512, 3), dtype=np.uint8))
            image.save(root / "noise" / f"{i}.png")
        train(recipe, root / "run", root, device=device, tell_every=recipe.steps // 3)
        with (root / "run" / "logs" / "0" / "metrics.csv").open() as file:
            told = [row["images_per_second"] for row in csv.DictReader(file)]
    return float([value for value in told if value][-1])


def arithmetic(recipe: Recipe) -> float:
    """Return the FLOP of a training step per patch: six per multiplication, mean of the scales."""
    net = networks.build(recipe.architecture, recipe.network())
    side = {s: recipe.patch * (1 if net.enlarged else s) for s in recipe.scales}  # in HR pixels
    return 6 * statistics.fmean(networks.multiplications(net, s) * side[s] ** 2 for s in side)


def measure_engine(arguments: argparse.Namespace) -> None:
    changes = {"batch": arguments.patches, "steps": arguments.steps, "sets": ["noise"]}
    changes |= {"validation": [], "exclude": [], "teacher": "", "start": ""}
    if arguments.side:
        changes["patch"] = arguments.side
    recipe = read(arguments.recipe, {**changes, "precision": "auto"})
    precision = resolve("auto", arguments.device)
    rate = conv_rate(arguments.repeats, precision, arguments.device)
    patches = engine(recipe, arguments.device)
    reached = patches * arithmetic(recipe)
    print(f"one 3x3 convolution, {precision:11} {rate / 1e12:8.2f} TFLOP/s on {arguments.device}")
    print(f"{arguments.recipe + ',':18} {recipe.batch:4} patches {reached / 1e12:8.2f} TFLOP/s, "
          f"{patches:.0f} patches/s, {patches / recipe.batch:.1f} steps/s")  # fmt: skip
    finish({"conv_rate_fraction": reached / rate}, arguments.json)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--device", help="measure the whole engine there: cuda, mps, cpu")
    parser.add_argument("--recipe", default="crnet-b-compact", help="of the engine")
    parser.add_argument("--patches", type=int, default=64, help="per step of the engine")
    parser.add_argument("--side", type=int, help="of the patches (default: as the recipe)")
    parser.add_argument("--steps", type=int, default=300, help="of the engine")
    parser.add_argument("--peak", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak is not None:
        print(peak(bool(arguments.peak), arguments.batch))
        return
    if arguments.device is not None:
        measure_engine(arguments)
        return

    net, batch = network(12), arguments.batch
    runs = {
        "ours": stepper(network(12), batch, fast=True),
        "plain float32": stepper(Plain(net), batch, fast=False),
        "W once": stepper(Plain(net, once=True), batch, fast=False),
        "plain, precision auto": stepper(Plain(net), batch, fast=True),
    }
    seconds = race(runs, arguments.repeats)
    pixels = batch * 41**2
    print(f"training step, n0 64, m0 128, K 12, batch {batch} x 41x41, medians of "
          f"{arguments.repeats}, {torch.get_num_threads()} threads")  # fmt: skip
    tell(seconds, 6 * multiplications(net) * pixels)

    times = race(
        {str(on): stepper(network(25, recompute=on), batch, fast=True) for on in (False, True)},
        max(3, arguments.repeats // 2),
    )
    peaks = {
        on: float(
            subprocess.run(
                [sys.executable, __file__, "--peak", str(int(on)), "--batch", str(batch)],
                check=True, capture_output=True, text=True,
            ).stdout
        )
        for on in (False, True)
    }  # fmt: skip
    print("K 25, recursions stored or recomputed")
    for on in (False, True):
        name = "recomputed" if on else "stored"
        print(f"  {name:15} {1e3 * times[str(on)]:8.0f} ms {peaks[on]:6.0f} MiB")
    ratios = {
        "step_speedup": seconds["plain float32"] / seconds["ours"],
        "recompute_memory_ratio": peaks[True] / peaks[False],
        "recompute_time_ratio": times["True"] / times["False"],
    }
    finish(ratios, arguments.json)


if __name__ == "__main__":
    main()
