"""One image as the compiled kernels take it.

Only what runs on a CPU imports this module, and only when it runs: numba takes a while to load.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import code_shape
from csc.compiled import kernels
from csc.compiled.threads import together
from csc.problem import Problem

Span = tuple[int, int]


class Image:
    """The problem of one image on the CPU, as flat numpy arrays."""

    def __init__(self, p: Problem, threads: int) -> None:
        (M, C, k, _), (H, W) = p.D.shape, p.size
        self.nonneg, self.k, self.shape = p.nonneg, k, p.x.shape[1:]
        self.codes = code_shape(p.x, p.D)[1:]  # (M, h, w)
        self.threads = min(threads, self.codes[1])
        self.n, self.dtype = p.x.numel(), p.x.numpy().dtype
        self.width = kernels.width(self.dtype)
        self._scratch: list[Any] = []
        self.x = self.flat(p.x)
        self.mask = () if p.mask is None else p.mask.expand_as(p.x).numpy().ravel()
        self.D = p.D.contiguous().numpy().ravel()
        # What the kernels are compiled for: the lengths of the two tuples are k and C.
        self.frame = ((np.int64(W), np.int64(H * W)), (0,) * k, (0,) * C)
        groups = -(-M // kernels.ATOMS)
        padded = F.pad(p.D, [0, 0, 0, 0, 0, 0, 0, groups * kernels.ATOMS - M])
        padded = padded.view(groups, kernels.ATOMS, C, k, k).permute(0, 2, 3, 4, 1)
        self.groups = padded.contiguous().numpy().ravel()  # (groups, C, k, k, ATOMS)
        # λ and what is left of ‖d_m‖² under the mask, at every position, (M, h, w).
        self.lam = np.broadcast_to(p.lam.numpy()[0], self.codes)
        self.floor = p.lam[0].amin((1, 2)).expand(M).contiguous().numpy()  # the least λ of an atom
        squares = p.D.square().sum((1, 2, 3))[:, None, None]
        if p.mask is not None:
            squares = F.conv2d(p.mask.expand_as(p.x), p.D.square())[0]
        self.norm2 = np.broadcast_to(squares.numpy(), self.codes)

    def flat(self, r: Tensor | None = None) -> Any:
        """Return an image, or zeros, with some entries to spare: kernels read over the end."""
        out = np.zeros(self.n + self.width, self.dtype)
        if r is not None:
            out[: self.n] = r.numpy().ravel()
        return out

    def scratch(self, i: int, r: Tensor | None = None) -> Any:
        """Return image number i of those that are used again and again, filled with r if given."""
        while len(self._scratch) <= i:
            self._scratch.append(self.flat())
        if r is not None:
            self._scratch[i][: self.n] = r.numpy().ravel()
        return self._scratch[i]

    def tensor(self, r: Any) -> Tensor:
        """Return a flat image as a tensor (1, C, H, W), which shares its memory."""
        return torch.from_numpy(r[: self.n]).view(1, *self.shape)

    def dense_pass(self, r: Any, stage: float, listed: Any) -> tuple[Any, float]:
        """Return coordinates (3, n) with |Dᵀr| > stage · λ that were not listed, and max |Dᵀr|/λ.

        They are marked as listed.  The maximum is over coordinates with λ > 0.
        """

        def run(span: Span) -> Any:
            return kernels.dense_pass(
                r, self.groups, *self.frame, self.width, self.floor, self.lam,
                self.dtype.type(stage), self.nonneg, listed, *span,
            )  # fmt: skip

        found, ratios = zip(*together(run, self.stripes()), strict=True)
        return np.concatenate(found, axis=1), float(max(ratios))

    def stripes(self) -> list[Span]:
        """Return the rows of codes of each thread."""
        h, T = self.codes[1], self.threads
        return [(h * t // T, h * (t + 1) // T) for t in range(T)]
