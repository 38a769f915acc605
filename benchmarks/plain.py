"""CRNet-A as one would write it down first: float32, NCHW, one line per equation."""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn

from crnet import CRNetA


class Plain(nn.Module):
    """The straightforward module that the benchmarks compare with, with the weights of ours.

    W ⊗ y is in every recursion, as in eq. 12, unless `once`.
    """

    def __init__(self, net: CRNetA, *, once: bool = False) -> None:
        super().__init__()
        self.once = once
        names = ("F0", "F1", "W", "S", "Wh", "H")
        weights = (net.F0.weight, net.F1.weight, net.cista.W, net.cista.S, net.Wh.weight,
                   net.H.weight)  # fmt: skip
        for name, weight in zip(names, weights, strict=True):
            layer = nn.Conv2d(weight.shape[1], weight.shape[0], 3, padding=1, bias=False)
            layer.weight = nn.Parameter(
                weight.detach().clone(memory_format=torch.contiguous_format)
            )
            setattr(self, name, layer)
        self.recursions = net.cista.recursions

    def forward(self, x: Tensor) -> Tensor:
        y = torch.relu(self.F1(torch.relu(self.F0(x))))
        u = self.W(y)
        z = torch.relu(u)
        for _ in range(self.recursions):
            z = torch.relu((u if self.once else self.W(y)) + self.S(z))
        return x + self.H(torch.relu(self.Wh(z)))


def multiplications(net: CRNetA) -> int:
    """Multiply-accumulates per pixel of a forward pass, W ⊗ y counted once."""
    return sum(
        p.numel() * (net.cista.recursions if name == "cista.S" else 1)
        for name, p in net.named_parameters()
    )


def race(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Median seconds of each, run in turn after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(t) for name, t in times.items()}


def tell(seconds: dict[str, float], work: float) -> None:
    """Print a line per run: time, rate, and how many times as fast as "plain float32"."""
    for name, t in seconds.items():
        ratio = seconds["plain float32"] / t
        print(f"  {name:15} {1e3 * t:8.0f} ms {work / t / 1e9:6.0f} GFLOP/s   x{ratio:.2f}")


def finish(ratios: dict[str, float], file: Path | None) -> None:
    """Print the ratios, and write them as JSON."""
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    if file:
        file.write_text(json.dumps(ratios, indent=1) + "\n")
