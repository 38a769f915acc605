"""Time of CRNet-A's inference, against the plain module and a single convolution.

    python benchmarks/inference.py [--repeats 7] [--side 512] [--json FILE]

The network has n0 = 64, m0 = 128, K = 12; the image has 512×512 pixels.  All ratios are of medians;
the runs take turns.

- `inference_speedup`: time of the plain module (float32, NCHW; benchmarks/plain.py) over the time
  of `crnet.Upscaler(net, precision="bfloat16")` with the same weights.
- `conv_rate_fraction`: multiplications per second of the Upscaler, over the best rate of a single
  bfloat16 3×3 convolution of 128 maps in the same run.  Margins of tiles and bicubic count as time
  but not as work.

Quote the ratios; the seconds depend on the machine and the moment.
"""

import argparse
from pathlib import Path

import torch
from plain import Plain, conv_rate, finish, multiplications, race, tell

from crnet import CRNetA, Upscaler


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
