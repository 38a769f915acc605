"""Run a network with ncnn, CRNet-B 1.6 times as fast as PyTorch on AVX2: ``csc-crnet[ncnn]``.

ncnn computes 3×3 convolutions by Winograd's algorithm.  pnnx converts the network, which takes some
seconds.
"""

import importlib
import math
import shutil
import subprocess
import sys
import tempfile
import warnings
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnet import networks
from crnet.networks import Network
from crnet.onnx import AtScale
from crnet.upscale import apply_tiled, tile_side

_HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


class Ncnn:
    """A network for one scale, run by ncnn on the CPU in float32: a map from LR to HR, in tiles.

    Called with an LR image in [0, 1], (1, channels, h, w) with h, w ≥ 2, and the scale, it returns
    the HR image, (1, channels, scale·h, scale·w), unclipped.  :func:`crnet.upscale_picture` takes
    it.

    Parameters
    ----------
    net : Network
        The network, on the CPU.
    scale : int
        2, 3 or 4, and one of the network's scales.
    threads : int
        Threads of ncnn.
    memory_mib : float
        Working memory of a tile in MiB, which decides its size.

    Raises
    ------
    ModuleNotFoundError
        If ncnn or pnnx is missing.
    ValueError
        If the network does not upscale by the scale.
    """

    def __init__(
        self, net: Network, scale: int, *, threads: int = 1, memory_mib: float = 1024
    ) -> None:
        self.channels, self.scale = 3 if net.rgb else 1, scale
        enlarged = scale if net.enlarged else 1
        self._reach = math.ceil(networks.reach(net) / enlarged) + 2 * net.enlarged  # LR pixels
        side = tile_side(net, memory_mib) // enlarged
        self._tile = max(side, 2 * self._reach + 16)
        self._module = importlib.import_module("ncnn")
        self._net = self._module.Net()
        self._net.opt.num_threads = threads
        for option in _HALF:
            setattr(self._net.opt, option, False)
        with tempfile.TemporaryDirectory() as folder:
            param, weights = convert(net, scale, Path(folder))
            self._net.load_param(str(param))
            self._net.load_model(str(weights))

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR image (1, channels, scale·h, scale·w) of an LR image.

        Raises
        ------
        ValueError
            If the scale is another one, or the image is not (1, channels, h, w) with h, w ≥ 2.
        """
        if scale != self.scale:
            raise ValueError(f"this network was converted for x{self.scale}, got x{scale}")
        if x.ndim != 4 or len(x) != 1 or x.shape[1] != self.channels or min(x.shape[2:]) < 2:
            raise ValueError(f"x must be (1, {self.channels}, h, w), got {tuple(x.shape)}")
        return apply_tiled(self._run, x.float(), self._tile, self._reach, scale)

    def _run(self, tile: Tensor) -> Tensor:
        array = tile[0].contiguous().numpy()  # Mat refers to its memory
        extractor: Any = self._net.create_extractor()
        extractor.input("in0", self._module.Mat(array))
        return torch.from_numpy(extractor.extract("out0")[1].numpy().copy())[None]


def convert(net: Network, scale: int, folder: Path) -> tuple[Path, Path]:
    """Write a network for a scale as ncnn's files net.ncnn.param and net.ncnn.bin, in float32.

    The input is `in0`, (channels, h, w), and the output `out0`; both are images in [0, 1].

    Raises
    ------
    ModuleNotFoundError
        If pnnx is missing.
    ValueError
        If the network does not upscale by the scale.
    """
    beside = Path(sys.executable).with_name("pnnx")
    program = str(beside) if beside.exists() else shutil.which("pnnx")
    if program is None:
        raise ModuleNotFoundError("no program pnnx", name="pnnx")
    channels = 3 if net.rgb else 1
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of checks that the trace leaves out
        x = torch.rand(1, channels, 64, 64)
        traced = torch.jit.trace(AtScale(net, scale).eval(), x)  # type: ignore[no-untyped-call]
    traced.save(str(folder / "net.pt"))
    # Two sizes tell pnnx that the sizes are free.
    shapes = [f"inputshape{i}=[1,{channels},{n},{n}]" for i, n in (("", 64), ("2", 80))]
    command = [program, "net.pt", "fp16=0", *shapes]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603
    return folder / "net.ncnn.param", folder / "net.ncnn.bin"
