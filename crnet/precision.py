"""The precision of convolutions: ``auto`` is bfloat16 where a device computes it faster.

bfloat16 is several times faster than float32 where the hardware multiplies it (AMX, tensor cores).
Elsewhere it is emulated and many times slower.  The names of the hardware do not decide: one
processor with AVX512_BF16 gains from it, another loses.  So :func:`fastest` measures.
"""

import functools
import time

import torch
from torch import Tensor
from torch.nn import functional as F

from crnet.errors import words

PRECISIONS = ("auto", "float32", "bfloat16")

_LIGHTNING = {"float32": "32-true", "bfloat16": "bf16-mixed"}  # the names in recipes

_MAPS = 64
_ON_CPU = (1, 32)  # images, side: 40 million multiplications, a millisecond of one core
_ON_GPU = (8, 128)  # 5 billion, well above the time to start a kernel
_ROUNDS = 3
_GAIN = 1.3  # how much faster a convolution must be to pay for the conversions between layers


def resolve(precision: str, device: str) -> str:
    """Return ``float32`` or ``bfloat16``; ``auto`` is the faster of them on the device.

    Parameters
    ----------
    precision : str
        One of :data:`PRECISIONS`.
    device : str
        Such as ``cpu`` or ``cuda:0``.

    Raises
    ------
    ValueError
        If the precision is unknown.

    Examples
    --------
    >>> resolve("float32", "cpu")
    'float32'
    """
    if precision not in PRECISIONS:
        raise ValueError(f"precision must be {words(PRECISIONS)}, got {precision!r}")
    return fastest(device) if precision == "auto" else precision


def for_training(precision: str, device: str) -> str:
    """Return Lightning's ``32-true`` or ``bf16-mixed`` for the precision of a recipe."""
    return _LIGHTNING[fastest(device)] if precision == "auto" else precision


@functools.cache
def fastest(device: str) -> str:
    """Return ``bfloat16`` if 3×3 convolutions are at least 1.3 times as fast in it.

    The first call for a device takes some ten milliseconds.  The answer is kept for the process.
    """
    try:
        exact, low = seconds(device)
    except (RuntimeError, TypeError, AssertionError):  # each backend refuses in its own way
        return "float32"
    return "bfloat16" if exact > _GAIN * low else "float32"


@torch.inference_mode()
@torch.backends.cudnn.flags(enabled=True, allow_tf32=False)
def seconds(device: str) -> tuple[float, float]:
    """Return the seconds of a small convolution in float32 and bfloat16: best of three, in turn."""
    images, side = _ON_CPU if device.startswith("cpu") else _ON_GPU
    layers = [
        (_ones(images, side, dtype, device), _ones(_MAPS, 3, dtype, device))
        for dtype in (torch.float32, torch.bfloat16)
    ]
    best = [float("inf"), float("inf")]
    for repeat in range(1 + _ROUNDS):
        for i, (x, weight) in enumerate(layers):
            started = time.perf_counter()
            F.conv2d(x, weight, padding=1)[0, 0, 0, 0].item()  # waits for the device
            best[i] = min(best[i], time.perf_counter() - started)  # the first call is the slowest
        if repeat and best[1] > 2 * best[0]:  # emulated: the other rounds would take long
            break
    return best[0], best[1]


def _ones(n: int, side: int, dtype: torch.dtype, device: str) -> Tensor:
    x = torch.ones(n, _MAPS, side, side, dtype=dtype, device=device)
    return x.contiguous(memory_format=torch.channels_last)
