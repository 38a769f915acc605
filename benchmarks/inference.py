"""Time of CRNet-A's inference, against the straightforward module and a bare convolution.

    python benchmarks/inference.py [--repeats 7] [--side 512] [--json FILE]

The network is n0 = 64, m0 = 128, K = 12 on an image of 512×512 pixels.  `inference_speedup` is the
time of the module as one would write it down first (float32, NCHW; benchmarks/plain.py) over that
of `crnet.Upscaler(net, precision="bfloat16")`, same weights, run in turn, medians.
`conv_rate_fraction` is the rate of the Upscaler's multiplications, halos and bicubic not counted
as work but as time, over the best rate of a single bfloat16 3×3 convolution of 128 maps, channels
last, over sizes of 64² to 256², measured in the same run.

Quote the ratios: the seconds are this machine's, now.
"""

import argparse
from pathlib import Path

import torch
from plain import Plain, finish, multiplications, race, tell
from torch.nn import functional as F

from crnet import CRNetA, Upscaler


def conv_rate(repeats: int) -> float:
    """Best rate of a bfloat16 3×3 convolution of 128 maps, FLOP/s."""
    weight = torch.randn(128, 128, 3, 3).bfloat16().contiguous(memory_format=torch.channels_last)
    best = 0.0
    for side in (64, 96, 128, 192, 256):
        z = torch.rand(1, 128, side, side).bfloat16()
        z = z.contiguous(memory_format=torch.channels_last)
        n = max(1, 256**2 // side**2)
        seconds = race(
            {"conv": lambda z=z, n=n: [F.conv2d(z, weight, padding=1) for _ in range(n)]}, repeats
        )["conv"]
        best = max(best, n * 2 * 128 * 128 * 9 * side**2 / seconds)
    return best


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", type=int, default=512, help="of the HR image")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    net = CRNetA(64, 128, 12, generator=torch.Generator().manual_seed(0)).eval()
    plain, once = Plain(net).eval(), Plain(net, once=True).eval()
    y = torch.rand(1, 1, arguments.side // 2, arguments.side // 2)
    x = torch.rand(1, 1, arguments.side, arguments.side)
    runs = {
        "plain float32": lambda: plain(x),
        "W once": lambda: once(x),
        "float32": lambda: Upscaler(net)(y, 2),
        "bfloat16": lambda: Upscaler(net, precision="bfloat16")(y, 2),
    }
    before = conv_rate(arguments.repeats)
    seconds = race(runs, arguments.repeats)
    rate = max(before, conv_rate(arguments.repeats))
    work = 2 * multiplications(net) * arguments.side**2
    print(f"n0 64, m0 128, K 12, {arguments.side}x{arguments.side}, medians of "
          f"{arguments.repeats}, {torch.get_num_threads()} threads")  # fmt: skip
    tell(seconds, work)
    print(f"  one bfloat16 convolution        {rate / 1e9:6.0f} GFLOP/s")
    ratios = {
        "inference_speedup": seconds["plain float32"] / seconds["bfloat16"],
        "conv_rate_fraction": work / seconds["bfloat16"] / rate,
    }
    finish(ratios, arguments.json)


if __name__ == "__main__":
    main()
