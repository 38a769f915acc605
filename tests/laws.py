"""Oracles that share no code with the library: D as a dense matrix, scikit-learn's Lasso."""

from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import torch
from sklearn.linear_model import Lasso
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.utils._python_dispatch import TorchDispatchMode


def dense(D: Tensor, size: tuple[int, int], *, periodic: bool = False) -> np.ndarray:
    """D as a matrix (C·H·W, M·h·w), each column an atom put at a position by hand.

    periodic: atoms at all H·W positions, wrapped around the image.
    """
    M, C, kh, kw = D.shape
    H, W = size
    h, w = (H, W) if periodic else (H - kh + 1, W - kw + 1)
    A = np.zeros((C, H, W, M, h, w))
    for p in range(h):
        for q in range(w):
            for i in range(kh):
                for j in range(kw):
                    A[:, (p + i) % H, (q + j) % W, :, p, q] += D[:, :, i, j].numpy().T
    return A.reshape(C * H * W, M * h * w)


def lasso(A: np.ndarray, y: np.ndarray, lam: float, *, nonneg: bool = False) -> float:
    """min ½‖y − A z‖² + λ‖z‖₁ by scikit-learn."""
    model = Lasso(
        alpha=lam / y.size, fit_intercept=False, positive=nonneg, tol=1e-10, max_iter=200_000
    ).fit(A, y)
    z = model.coef_
    return float(0.5 * np.sum((y - A @ z) ** 2) + lam * np.abs(z).sum())


def lasso_objective(x: Tensor, D: Tensor, lam: float, *, nonneg: bool = False) -> float:
    """P* = min ½‖x − D z‖² + λ‖z‖₁ of one image (1, C, H, W)."""
    return lasso(dense(D, (x.shape[2], x.shape[3])), x.flatten().numpy(), lam, nonneg=nonneg)


def best_objective(
    x: Tensor, D: Tensor, lam: Tensor, *, nonneg: bool = False, known: Tensor | None = None
) -> float:
    """P* of one image in float64 with any weights λ > 0 (1, M, h, w) and known pixels.

    A missing pixel is a row left out.  Columns, images and weights are scaled to one λ and to unit
    size: scikit-learn's tolerance is an absolute number.
    """
    kept = np.ones(x.numel(), bool) if known is None else known.expand_as(x).flatten().numpy()
    A, y = dense(D.double(), (x.shape[2], x.shape[3]))[kept], x.double().flatten().numpy()[kept]
    size = np.abs(y).max() or 1.0
    weights = lam.double().flatten().numpy()
    atoms = np.sqrt((A**2).sum(0)).max() or 1.0
    one = weights.max()
    lam_unit = one / (atoms * size)
    return size**2 * lasso(A * (one / weights) / atoms, y / size, lam_unit, nonneg=nonneg)


def close(a: Tensor, b: Tensor, tol: float = 1e-9) -> None:
    torch.testing.assert_close(a, b, rtol=tol, atol=tol)


@contextmanager
def only_outlines() -> Iterator[None]:
    """Fail where a module gets a weight tensor with memory, or where there are too many."""
    count = 0

    def check(module: nn.Module, name: str, weight: nn.Parameter | None) -> None:
        nonlocal count
        count += 1
        assert weight is None or weight.is_meta
        assert count < 10_000

    hook = register_module_parameter_registration_hook(check)
    try:
        yield
    finally:
        hook.remove()


class Reads(TorchDispatchMode):
    """Counts the numbers that are read from tensors, each of which waits for a GPU."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        self.count += f.overloadpacket is torch.ops.aten._local_scalar_dense
        return f(*args, **(kwargs or {}))
