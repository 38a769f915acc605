"""Time of inference: against the plain module, and against other engines.

    python benchmarks/inference.py [--repeats 7] [--side 512] [--json FILE]
    python benchmarks/inference.py --engines [--models crnet-a crnet-b] [--scales 2 4]

Without `--engines`, CRNet-A with n0 = 64, m0 = 128, K = 12 on an image of 512×512 pixels, in the
precision that `auto` chooses here (:mod:`crnet.precision`):

- `inference_speedup`: time of the plain module (float32, NCHW; benchmarks/plain.py) over the time
  of `crnet.Upscaler` with the same weights.
- `conv_rate_fraction`: multiplications per second of the Upscaler, over the best rate of a single
  3×3 convolution of 128 maps in the same precision and run.  Margins of tiles and bicubic count as
  time but not as work.

With `--engines`, bundled networks in float32 on one thread: PyTorch (NCHW; channels last, as the
Upscaler calls it; compiled with frozen weights), onnxruntime, OpenVINO and ncnn, as far as they are
installed.  Prints the processor's seconds per megapixel of the output, how many times as fast as
channels last that is, and the largest difference of the images.

All times are medians; the runs take turns.  Quote the ratios; the seconds depend on the machine and
the moment.
"""

import argparse
import importlib.util
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path

import torch
from plain import Plain, conv_rate, finish, multiplications, race, tell
from torch import Tensor

from crnet import CRNetA, Upscaler, load
from crnet.ncnn import Ncnn
from crnet.networks import Network
from crnet.onnx import AtScale, onnx_file
from crnet.precision import resolve

Run = Callable[[], Tensor]

NEEDED = {
    "torch, NCHW": [],
    "torch, channels last": [],
    "torch, compiled": [],
    "onnxruntime": ["onnxscript", "onnxruntime"],
    "OpenVINO": ["onnxscript", "openvino"],
    "ncnn": ["ncnn", "pnnx"],
}
"""The engines, and the packages that they need."""


def against_plain(arguments: argparse.Namespace) -> None:
    net = CRNetA(64, 128, 12, generator=torch.Generator().manual_seed(0)).eval()
    plain, once = Plain(net).eval(), Plain(net, once=True).eval()
    y = torch.rand(1, 1, arguments.side // 2, arguments.side // 2)
    x = torch.rand(1, 1, arguments.side, arguments.side)
    precision = resolve("auto", "cpu")
    runs = {
        "plain float32": lambda: plain(x),
        "W once": lambda: once(x),
        "float32": lambda: Upscaler(net)(y, 2),
    }
    if precision != "float32":
        runs[precision] = lambda: Upscaler(net, precision=precision)(y, 2)
    before = conv_rate(arguments.repeats, precision)
    seconds = race(runs, arguments.repeats)
    rate = max(before, conv_rate(arguments.repeats, precision))
    work = 2 * multiplications(net) * arguments.side**2
    print(f"n0 64, m0 128, K 12, {arguments.side}x{arguments.side}, medians of "
          f"{arguments.repeats}, {torch.get_num_threads()} threads")  # fmt: skip
    tell(seconds, work)
    print(f"  one {precision} convolution {rate / 1e9:6.0f} GFLOP/s")
    ratios = {
        "inference_speedup": seconds["plain float32"] / seconds[precision],
        "conv_rate_fraction": work / seconds[precision] / rate,
    }
    finish(ratios, arguments.json)


def engine(name: str, net: Network, scale: int, x: Tensor) -> Run:
    """Return the network for a scale as an engine runs it, on one thread, on the image x."""
    at_scale = AtScale(net, scale).eval()
    if name.startswith("torch"):
        if "NCHW" not in name:
            x = x.contiguous(memory_format=torch.channels_last)
        if "compiled" in name:
            import torch._inductor.config as inductor

            inductor.freezing = True
            at_scale = torch.compile(at_scale)
        return lambda: at_scale(x)
    if name == "ncnn":
        upscale = Ncnn(net)
        return lambda: upscale(x, scale)
    data, array = onnx_file(net, scale), x.numpy()
    if name == "onnxruntime":
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        session = onnxruntime.InferenceSession(data, options, providers=["CPUExecutionProvider"])
        return lambda: torch.from_numpy(session.run(None, {"lr": array})[0])
    import openvino

    told = {"INFERENCE_NUM_THREADS": 1, "INFERENCE_PRECISION_HINT": "f32"}
    core = openvino.Core()
    model = core.compile_model(core.read_model(data), "CPU", told)
    return lambda: torch.from_numpy(model(array)[0])


def against_engines(arguments: argparse.Namespace) -> None:
    torch.set_num_threads(1)
    missing = {name: [p for p in packages if importlib.util.find_spec(p) is None]
               for name, packages in NEEDED.items()}  # fmt: skip
    for name, packages in missing.items():
        if packages:
            print(f"{name} is left out: pip install {' '.join(packages)}")
    names = [name for name, packages in missing.items() if not packages]
    found: dict[str, float] = {}
    print(f"{torch.backends.cpu.get_cpu_capability()}, one thread, float32, "
          f"medians of {arguments.repeats}")  # fmt: skip
    for model in arguments.models:
        for scale in arguments.scales:
            net = load(model)
            side = arguments.side // scale
            x = torch.rand(1, 3 if net.rgb else 1, side, side)
            runs = {name: engine(name, net, scale, x) for name in names}
            exact = runs["torch, NCHW"]()
            apart = {name: float((run() - exact).abs().max()) for name, run in runs.items()}
            seconds = cpu_race(runs, arguments.repeats)
            usual = seconds["torch, channels last"]
            for name, s in seconds.items():
                per_megapixel = 1e6 * s / (side * scale) ** 2
                print(f"  {model} x{scale}  {name:20}  {per_megapixel:7.2f} s/MP  "
                      f"x{usual / s:.2f}   apart {apart[name]:.0e}")  # fmt: skip
                found[f"{model} x{scale} {name}"] = usual / s
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=1) + "\n")


def cpu_race(runs: dict[str, Run], repeats: int) -> dict[str, float]:
    """Return the median seconds of processor time of each run; the runs take turns."""
    times: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            started = time.process_time()
            run()
            times[name].append(time.process_time() - started)
    return {name: statistics.median(t) for name, t in times.items()}


@torch.inference_mode()
def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--side", type=int, default=512, help="of the HR image")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--engines", action="store_true", help="compare engines")
    parser.add_argument("--models", nargs="+", default=["crnet-a", "crnet-b"])
    parser.add_argument("--scales", nargs="+", type=int, default=[2, 4])
    arguments = parser.parse_args()
    if arguments.engines:
        against_engines(arguments)
    else:
        against_plain(arguments)


if __name__ == "__main__":
    main()
