"""One image as the compiled kernels take it.

Only the solvers on a CPU import this module, and only when they run, because numba loads slowly.
"""

from functools import cached_property

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import code_shape
from csc.compiled import kernels
from csc.compiled.records import (
    ATOMS,
    Active,
    Atoms,
    Float,
    Floats,
    Ints,
    Layout,
    Marks,
    Mask,
    Span,
    Weights,
    positions,
)
from csc.compiled.threads import together
from csc.problem import Problem


class Image:
    """The problem of one image on the CPU, as the records of the kernels."""

    def __init__(self, p: Problem, threads: int) -> None:
        M, C, kh, kw = p.D.shape
        H, W = p.size
        self.problem, self.shape = p, (C, H, W)
        self.codes = code_shape(p.x, p.D)[1:]  # (M, h, w)
        self.threads = min(threads, self.codes[1])
        self.n, self.dtype = p.x.numel(), p.x.numpy().dtype
        self.kh, self.width = kh, positions(self.dtype)
        self.x = self.flat(p.x)
        self.mask: Mask = () if p.mask is None else p.mask.expand_as(p.x).numpy().ravel()
        groups = -(-M // ATOMS)
        grouped = F.pad(p.D, [0, 0, 0, 0, 0, 0, 0, groups * ATOMS - M])
        grouped = grouped.view(groups, ATOMS, C, kh, kw).permute(0, 2, 3, 4, 1)
        layout = Layout(
            strides=(np.int64(W), np.int64(H * W)), kh=(0,) * kh, kw=(0,) * kw, C=(0,) * C
        )
        self.atoms = Atoms(
            D=p.D.contiguous().numpy().ravel(),
            groups=grouped.contiguous().numpy().ravel(),
            layout=layout,
        )
        self.weights = Weights(
            lam=np.broadcast_to(p.lam.numpy()[0], self.codes),
            least=p.lam[0].amin((1, 2)).expand(M).contiguous().numpy(),
            nonneg=p.nonneg,
        )

    @cached_property
    def norm2(self) -> Floats:
        """‖d_m‖² at every position, counting only known pixels, (M, h, w)."""
        p = self.problem
        squares = p.D.square().sum((1, 2, 3))[:, None, None]
        if p.mask is not None:
            squares = F.conv2d(p.mask.expand_as(p.x), p.D.square())[0]
        return np.broadcast_to(squares.numpy(), self.codes)

    def flat(self, r: Tensor | None = None) -> Floats:
        """Return an image, or zeros, as a flat array.

        It has `width` more entries than pixels, because kernels read past the last pixel.
        """
        out: Floats = np.zeros(self.n + self.width, self.dtype)
        if r is not None:
            out[: self.n] = r.numpy().ravel()
        return out

    def tensor(self, r: Floats) -> Tensor:
        """Return a flat image as a tensor (1, C, H, W), which shares its memory."""
        return torch.from_numpy(r[: self.n]).view(1, *self.shape)

    def scalar(self, value: float) -> Float:
        """Return a number in the dtype of the image."""
        number: Float = self.dtype.type(value)
        return number

    def dense_pass(self, r: Floats, factor: float, in_list: Marks) -> tuple[Ints, float]:
        """Return new coordinates (3, n) with |Dᵀr| > factor · λ, and max |Dᵀr|/λ where λ > 0.

        They are marked in `in_list`.
        """

        def run(span: Span) -> tuple[Ints, Float]:
            return kernels.dense_pass(
                r, self.atoms, self.weights, self.scalar(factor), in_list, span
            )

        found, ratios = zip(*together(run, self.stripes()), strict=True)
        return np.concatenate(found, axis=1), float(max(ratios))

    def largest_ratio(self, r: Floats) -> float:
        """Return max |Dᵀr|/λ, infinite where a λ is zero."""
        if not self.weights.least.all():
            return np.inf
        return self.dense_pass(r, np.inf, np.zeros(self.codes, bool))[1]

    def active(self, at: Ints, values: Floats) -> Active:
        """Return the list of coordinates (atoms, rows, columns), sorted by row, and their codes."""
        atoms, rows, columns = at
        return Active(
            atoms=atoms,
            rows=rows,
            columns=columns,
            at=rows.astype(np.int64) * self.shape[2] + columns,
            lam=self.weights.lam[tuple(at)],
            norm2=self.norm2[tuple(at)],
            values=values,
        )

    def residual(self, at: Ints, values: Floats) -> Floats:
        """Return x − D z, with codes z that are zero outside of a list."""
        r = self.x.copy()
        active = self.active(at, values)
        kernels.subtract_all(r, self.mask, self.atoms, active, values, (0, len(values)))
        return r

    def stripes(self) -> list[Span]:
        """Return the rows of codes of each thread."""
        h, T = self.codes[1], self.threads
        return [(h * t // T, h * (t + 1) // T) for t in range(T)]
