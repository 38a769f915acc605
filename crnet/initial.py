"""Initial kernels of the CRNets, 3×3."""

import math
from typing import TypeAlias

import torch
from torch import Tensor

Spread: TypeAlias = tuple[tuple[float, float, float], ...]
"""Root mean square of the coefficients of the 3×3 cosines, rows by columns."""

ENLARGED: Spread = ((1.4, 0.048, 0.0092), (0.053, 0.012, 0.0026), (0.010, 0.0026, 0.00055))
"""Of bicubic-enlarged Y, every tenth image of BSDS300 train, geometric mean of ×2, ×3 and ×4."""

LR: Spread = ((1.4, 0.11, 0.055), (0.12, 0.059, 0.038), (0.062, 0.038, 0.024))
"""Of LR RGB of the same images."""

_FEATURES = 0.03  # initial spread per cosine, about that of the error of bicubic


def he_kernel(n_out: int, n_in: int, gain: float, generator: torch.Generator | None) -> Tensor:
    """Draw a kernel (n_out, n_in, 3, 3) from N(0, gain²·2/(9 n_in)) (He et al., ICCV 2015)."""
    weight = torch.randn(n_out, n_in, 3, 3, generator=generator)
    # CPUs convolve many channels fastest in the channels-last layout.
    weight = weight.contiguous(memory_format=torch.channels_last)
    return weight.mul_(gain * math.sqrt(2 / (9 * n_in)))


def whitening_kernel(
    n_out: int, n_in: int, spread: Spread, generator: torch.Generator | None
) -> Tensor:
    """Draw kernels (n_out, n_in, 3, 3) whose responses to photos have no mean and a flat spectrum.

    Each kernel sums the eight cosines that are not constant, with random weights, divided by their
    spread.  In an enlarged photo the constant has about 700 times the energy of the slopes.  The
    slopes have 20 to 8,000 times the energy of finer cosines.  Kernels without the division would
    respond to little else.
    """
    n = torch.arange(3.0)
    cosines = torch.stack([torch.cos(math.pi * (n + 0.5) * k / 3) for k in range(3)])
    cosines /= cosines.norm(dim=1, keepdim=True)
    gains = _FEATURES / torch.tensor(spread)
    gains[0, 0] = 0
    sums = torch.randn(n_out, n_in, 3, 3, generator=generator) / math.sqrt(n_in) * gains
    weight = torch.einsum("oiab,ah,bw->oihw", sums, cosines, cosines)
    return weight.contiguous(memory_format=torch.channels_last)
