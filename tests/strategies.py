"""Random CSC problems: Hypothesis draws sizes and seeds, torch draws the values."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from csc import lam_max, lipschitz, random_dictionary


class Problem(NamedTuple):
    x: Tensor  # (B, C, H, W), float64
    D: Tensor  # (M, C, k, k), unit-norm atoms
    lam: float

    @property
    def size(self) -> tuple[int, int]:
        return (self.x.shape[2], self.x.shape[3])

    @property
    def L(self) -> float:
        return lipschitz(self.D, self.size)

    @property
    def code_shape(self) -> tuple[int, int, int, int]:
        k = self.D.shape[-1]
        return (self.x.shape[0], self.D.shape[0], self.size[0] - k + 1, self.size[1] - k + 1)

    def draw_codes(self, seed: int = 1) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(self.code_shape, generator=g, dtype=torch.float64)
        return z * (torch.rand(self.code_shape, generator=g, dtype=torch.float64) < 0.5)


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    batch: int = 2,
    weight: tuple[float, float] = (0.1, 0.9),
    odd: bool = False,
    slack: int = 6,
) -> Problem:
    """One and several channels and images, odd and even atoms, H ≠ W; λ a share of λ_max."""
    B, M = (draw(st.integers(1, n), label=s) for s, n in (("B", batch), ("M", 4)))
    # A kind costs seconds: the kernels are compiled for it.  Other tests share these.
    kinds = [(1, 1), (3, 1), (3, 2)] if odd else [(1, 1), (2, 3), (3, 1), (3, 2)]
    k, C = draw(st.sampled_from(kinds), label="k, C")
    H, W = (k + draw(st.integers(0, slack), label=s) for s in "HW")
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16), label="seed"))
    share = draw(st.floats(*weight), label="λ/λ_max")
    x = torch.randn(B, C, H, W, generator=g, dtype=torch.float64)
    D = random_dictionary(M, C, k, generator=g, dtype=torch.float64)
    return Problem(x, D, share * lam_max(x, D))
