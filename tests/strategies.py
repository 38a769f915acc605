"""Random CSC problems: Hypothesis draws sizes and seeds, torch draws the values."""

from typing import NamedTuple

import torch
from hypothesis import strategies as st
from torch import Tensor

from csc import lam_max, lipschitz, random_dictionary


class Problem(NamedTuple):
    x: Tensor  # (B, C, H, W), float64
    D: Tensor  # (M, C, kh, kw), unit-norm atoms
    lam: float

    @property
    def size(self) -> tuple[int, int]:
        return (self.x.shape[2], self.x.shape[3])

    @property
    def L(self) -> float:
        return lipschitz(self.D, self.size)

    @property
    def code_shape(self) -> tuple[int, int, int, int]:
        kh, kw = self.D.shape[2:]
        return (self.x.shape[0], self.D.shape[0], self.size[0] - kh + 1, self.size[1] - kw + 1)

    def draw_codes(self, seed: int = 1) -> Tensor:
        g = torch.Generator().manual_seed(seed)
        z = torch.randn(self.code_shape, generator=g, dtype=torch.float64)
        return z * (torch.rand(self.code_shape, generator=g, dtype=torch.float64) < 0.5)


class Penalties(NamedTuple):
    """Options of a solver: a ridge, groups of atoms, z ≥ 0."""

    nonneg: bool
    ridge: float
    groups: Tensor | None  # (M,)

    @property
    def options(self) -> dict:
        return self._asdict()


@st.composite
def penalties(draw: st.DrawFn, M: int, *, groups: bool = True) -> Penalties:
    """Any penalty for M atoms; a ridge from far below ‖D‖² to above it."""
    partition = None
    if groups and draw(st.booleans(), label="groups"):
        partition = torch.tensor(draw(st.lists(st.integers(0, M), min_size=M, max_size=M)))
    ridge = draw(st.sampled_from([0.0, 1e-4, 0.1, 1.0, 10.0]), label="ridge")
    return Penalties(draw(st.booleans(), label="nonneg"), ridge, partition)


@st.composite
def penalised(draw: st.DrawFn, **sizes: object) -> tuple[Problem, Penalties]:
    """A problem of `problems` and a penalty."""
    p = draw(problems(**sizes))
    return p, draw(penalties(len(p.D)))


@st.composite
def problems(
    draw: st.DrawFn,
    *,
    batch: int = 2,
    weight: tuple[float, float] = (0.1, 0.9),
    odd: bool = False,
    slack: int = 6,
) -> Problem:
    """Channels, batches, square atoms and others, images of one row; λ a part of λ_max."""
    B, M = (draw(st.integers(1, n), label=s) for s, n in (("B", batch), ("M", 4)))
    # A kind costs seconds: the kernels are compiled for it.  Other tests share these.
    kinds = [(1, 1, 1), (3, 3, 1), (1, 3, 2)]
    if not odd:
        kinds = [(1, 4, 1), (2, 2, 3), (3, 3, 1), (3, 2, 2)]
    kh, kw, C = draw(st.sampled_from(kinds), label="kh, kw, C")
    H, W = (k + draw(st.integers(0, slack), label=s) for k, s in ((kh, "H"), (kw, "W")))
    g = torch.Generator().manual_seed(draw(st.integers(0, 2**16), label="seed"))
    part = draw(st.floats(*weight), label="λ/λ_max")
    x = torch.randn(B, C, H, W, generator=g, dtype=torch.float64)
    D = random_dictionary(M, C, (kh, kw), generator=g, dtype=torch.float64)
    return Problem(x, D, part * lam_max(x, D))
