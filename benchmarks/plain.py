"""What the benchmarks of networks share: the plain CRNet-A, clocks, and a convolution's rate.

The plain CRNet-A is the first version that one would write: float32, NCHW, a line per equation.
"""

import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from crnet import CRNetA


class Plain(nn.Module):
    """The plain module with the weights of ours.

    It computes W ⊗ y in every recursion, as eq. 12 says, or only once with `once`.
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
    """Return the multiply-accumulates per pixel of a forward pass, with W ⊗ y counted once."""
    return sum(
        p.numel() * (net.cista.recursions if name == "cista.S" else 1)
        for name, p in net.named_parameters()
    )


def race(runs: dict[str, Callable[[], object]], repeats: int) -> dict[str, float]:
    """Return the median seconds of each; they run in turn, after a warm-up."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for repeat in range(repeats + 1):
        for name, run in runs.items():
            started = time.perf_counter()
            run()
            if repeat:
                times[name].append(time.perf_counter() - started)
    return {name: statistics.median(t) for name, t in times.items()}


@torch.inference_mode()
def conv_rate(repeats: int, precision: str, device: str = "cpu") -> float:
    """Return the best rate of a 3×3 convolution of 128 maps in a precision, in FLOP/s.

    Channels last; one image on a CPU and 32 on a GPU, of 64² to 256² pixels.
    """
    gpu = device != "cpu"
    batch, form = 32 if gpu else 1, torch.channels_last
    dtype = torch.bfloat16 if precision == "bfloat16" else torch.float32
    weight = torch.randn(128, 128, 3, 3, device=device).to(dtype).contiguous(memory_format=form)
    best = 0.0
    for side in (64, 96, 128, 192, 256):
        z = torch.rand(batch, 128, side, side, device=device).to(dtype)
        z = z.contiguous(memory_format=form)
        n = max(1, 256**2 // side**2)

        def convolve(z: Tensor = z, n: int = n) -> None:
            for _ in range(n):
                F.conv2d(z, weight, padding=1)
            if gpu:
                torch.accelerator.synchronize()

        with torch.backends.cudnn.flags(enabled=True, benchmark=True):
            seconds = race({"conv": convolve}, repeats)["conv"]
        best = max(best, n * batch * 2 * 128 * 128 * 9 * side**2 / seconds)
    return best


def tell(seconds: dict[str, float], work: float) -> None:
    """Print a line per run: time, rate, and how many times as fast as "plain float32"."""
    for name, t in seconds.items():
        ratio = seconds["plain float32"] / t
        print(f"  {name:21} {1e3 * t:8.0f} ms {work / t / 1e9:6.0f} GFLOP/s   x{ratio:.2f}")


def finish(ratios: dict[str, float], file: Path | None) -> None:
    """Print the ratios, and write them as JSON."""
    for name, value in ratios.items():
        print(f"{name}: {value:.2f}")
    if file:
        file.write_text(json.dumps(ratios, indent=1) + "\n")
