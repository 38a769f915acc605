"""Time and memory of a training step of CRNet-A, against the straightforward module.

    python benchmarks/train_step.py [--repeats 7] [--batch 16] [--json FILE]

1. A step (forward, L1, backward, Adam) of n0 = 64, m0 = 128, K = 12 on a batch of 41×41: ours, as
   `crnet train` runs it (bfloat16 autocast, channels last, W ⊗ y once), and the module as one
   would write it down first (float32, NCHW; benchmarks/plain.py), same weights, in turn.
   `step_speedup` is the ratio of their medians.
2. A step at K = 25 with and without recomputing the recursions, each in a process of its own:
   `recompute_memory_ratio` is that of the peaks of resident memory above what the process held
   before the step, `recompute_time_ratio` that of the median times.

Quote the ratios: the seconds are this machine's, now.
"""

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from plain import Plain, finish, multiplications, race, tell
from torch import nn

from crnet import CRNetA


def stepper(net: nn.Module, batch: int, *, fast: bool) -> Callable[[], None]:
    """Return a training step on random patches."""
    x = torch.rand(batch, 1, 41, 41)
    target = torch.rand(batch, 1, 41, 41)
    if fast:
        net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    optimizer = torch.optim.Adam(net.parameters(), 1e-4)

    def step() -> None:
        with torch.autocast("cpu", torch.bfloat16, enabled=fast):
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
    """MiB that one step needs beyond what the process holds; for a process of its own."""
    stepper(network(1, recompute=recompute), 1, fast=True)()  # load what a step loads
    step = stepper(network(25, recompute=recompute), batch, fast=True)
    before = held("VmRSS")
    step()
    return held("VmHWM") - before


def held(what: str) -> float:
    """MiB resident now (VmRSS) or at most so far (VmHWM)."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(what):
            return int(line.split()[1]) / 1024
    raise LookupError(what)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--peak", type=int, choices=(0, 1), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.peak is not None:
        print(peak(bool(arguments.peak), arguments.batch))
        return

    net, batch = network(12), arguments.batch
    runs = {
        "ours": stepper(network(12), batch, fast=True),
        "plain float32": stepper(Plain(net), batch, fast=False),
        "W once": stepper(Plain(net, once=True), batch, fast=False),
        "plain bfloat16": stepper(Plain(net), batch, fast=True),
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
