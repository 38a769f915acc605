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
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnet import networks
from crnet.contracts import OnTile
from crnet.networks import Network
from crnet.onnx import AtScale
from crnet.upscale import apply_tiled, replicated, tile_side

_HALF = ("use_fp16_packed", "use_fp16_storage", "use_fp16_arithmetic", "use_bf16_storage")


@dataclass(frozen=True)
class Ncnn:
    """A network run by ncnn on the CPU in float32: a map from LR to HR images, in tiles.

    Called with LR images in [0, 1], (B, channels, h, w), and a scale of the network, it returns the
    HR images, (B, channels, scale·h, scale·w), unclipped.  The first call of a scale converts the
    network.

    Parameters
    ----------
    net : Network
        The network, on the CPU.
    memory_mib : float
        Working memory of a tile in MiB, which decides its size.
    on_tile : callable, optional
        Called with (tiles done, tiles in all).
    threads : int
        Threads of ncnn.

    Raises
    ------
    ModuleNotFoundError
        If ncnn or pnnx is missing.
    """

    net: Network
    memory_mib: float = 1024
    on_tile: OnTile | None = None
    threads: int = 1
    _converted: dict[int, Any] = field(default_factory=dict, repr=False)

    def __post_init__(self) -> None:
        """Look for ncnn and pnnx before any work."""
        importlib.import_module("ncnn")
        _pnnx()

    @property
    def channels(self) -> int:
        """Channels of the image it takes: 1 is Y, 3 is RGB."""
        return 3 if self.net.rgb else 1

    def following(self, on_tile: OnTile, memory_mib: float | None = None) -> "Ncnn":
        """Return the same system with another `on_tile`, and another `memory_mib` if given."""
        memory_mib = self.memory_mib if memory_mib is None else memory_mib
        return replace(self, on_tile=on_tile, memory_mib=memory_mib)

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR images (B, channels, scale·h, scale·w) of LR images.

        Raises
        ------
        ValueError
            If the images are not (B, channels, h, w), or the network does not have the scale.
        """
        if x.ndim != 4 or x.shape[1] != self.channels or not x.is_floating_point():
            raise ValueError(
                f"x must be floating point (B, {self.channels}, h, w), "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        h, w = (scale * n for n in x.shape[-2:])
        enlarged = scale if self.net.enlarged else 1
        reach = math.ceil(networks.reach(self.net) / enlarged) + 2 * self.net.enlarged  # LR pixels
        tile = max(tile_side(self.net, self.memory_mib) // enlarged, 2 * reach + 16)
        run = partial(self._run, self._at(scale))
        out = apply_tiled(run, replicated(x.float()), tile, reach, scale, on_tile=self.on_tile)
        return out[..., :h, :w].to(x.dtype)

    def _at(self, scale: int) -> Any:
        """Return ncnn's network for a scale."""
        if scale not in self._converted:
            ncnn: Any = importlib.import_module("ncnn")
            made = ncnn.Net()
            made.opt.num_threads = self.threads
            for option in _HALF:
                setattr(made.opt, option, False)
            with tempfile.TemporaryDirectory() as folder:
                param, weights = convert(self.net, scale, Path(folder))
                made.load_param(str(param))
                made.load_model(str(weights))
            self._converted[scale] = made
        return self._converted[scale]

    def _run(self, made: Any, tile: Tensor) -> Tensor:
        ncnn: Any = importlib.import_module("ncnn")
        images = []
        for image in tile:
            array = image.contiguous().numpy()  # Mat refers to its memory
            extractor = made.create_extractor()
            extractor.input("in0", ncnn.Mat(array))
            images.append(torch.from_numpy(extractor.extract("out0")[1].numpy().copy()))
        return torch.stack(images)


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
    channels = 3 if net.rgb else 1
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("ignore")  # of checks that the trace leaves out
        x = torch.rand(1, channels, 64, 64)
        traced = torch.jit.trace(AtScale(net, scale).eval(), x)  # type: ignore[no-untyped-call]
    traced.save(str(folder / "net.pt"))
    # Two sizes tell pnnx that the sizes are free.
    shapes = [f"inputshape{i}=[1,{channels},{n},{n}]" for i, n in (("", 64), ("2", 80))]
    command = [_pnnx(), "net.pt", "fp16=0", *shapes]
    subprocess.run(command, cwd=folder, check=True, capture_output=True)  # noqa: S603
    return folder / "net.ncnn.param", folder / "net.ncnn.bin"


def _pnnx() -> str:
    """Return the path of the program pnnx."""
    beside = Path(sys.executable).with_name("pnnx")
    program = str(beside) if beside.exists() else shutil.which("pnnx")
    if program is None:
        raise ModuleNotFoundError("no program pnnx", name="pnnx")
    return program
