"""One image as the compiled kernels take it.

Only the solvers on a CPU import this module, and only when they run, because numba loads slowly.
"""

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import code_shape
from csc.compiled import kernels
from csc.compiled.records import (
    ATOMS,
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
        self.shape = (C, H, W)
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
        squares = p.D.square().sum((1, 2, 3))[:, None, None]
        if p.mask is not None:
            squares = F.conv2d(p.mask.expand_as(p.x), p.D.square())[0]
        # ‖d_m‖² at every position, counting only known pixels, (M, h, w).
        self.norm2: Floats = np.broadcast_to(squares.numpy(), self.codes)

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

    def stripes(self) -> list[Span]:
        """Return the rows of codes of each thread."""
        h, T = self.codes[1], self.threads
        return [(h * t // T, h * (t + 1) // T) for t in range(T)]
