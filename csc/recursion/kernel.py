"""The recursion kernel S: its checks, and the kernel δ − S of I − S."""

from typing import TypeAlias

import torch
from torch import Tensor

from csc.checks import check_finite, check_floats, check_images, check_same_type

Size: TypeAlias = tuple[int, int]
"""Height and width of codes, or of a periodic grid."""


def centre(kernel: Tensor) -> tuple[int, int]:
    """Return row and column of a kernel's centre: the zero padding that keeps sizes."""
    return (kernel.shape[2] // 2, kernel.shape[3] // 2)


def complement(S: Tensor) -> Tensor:
    """Return δ − S, shape (M, M, sh, sw): the kernel of I − S.  No checks."""
    A, maps = -S, torch.arange(S.shape[0])
    A[(maps, maps, *centre(S))] += 1
    return A


def check_kernel(S: Tensor, M: int | None = None) -> None:
    """Require a finite kernel (M, M, sh, sw) with odd sides."""
    check_kernel_shape(S, M)
    check_finite(S, "S")


def check_kernel_shape(S: Tensor, M: int | None = None) -> None:
    """Require a floating-point kernel (M, M, sh, sw) with odd sides."""
    if not isinstance(S, Tensor) or not S.is_floating_point():
        raise TypeError("S must be a floating-point torch.Tensor, as csc.unfold returns it")
    check_floats(S, "S")
    fits = S.ndim == 4 and S.shape[0] == S.shape[1] and S.shape[2] % 2 == S.shape[3] % 2 == 1
    if not fits or S.numel() == 0 or M not in (None, S.shape[0]):
        maps = "M, M" if M is None else f"{M}, {M}"
        raise ValueError(
            f"S must have shape ({maps}, sh, sw) with sh and sw odd, got {tuple(S.shape)}"
        )


def check_odd(kernel: Tensor, name: str) -> None:
    """Require a kernel with odd sides."""
    if kernel.shape[2] % 2 == 0 or kernel.shape[3] % 2 == 0:
        raise ValueError(f"{name} must have odd sides, got {tuple(kernel.shape[2:])}")


def check_not_identity(theta: Tensor | None, nonneg: bool) -> None:
    """Require a threshold or non-negative codes."""
    if theta is None and not nonneg:
        raise ValueError("no threshold and signed codes make h the identity; pass nonneg=True")


def check_recursion(u: Tensor, S: Tensor, theta: Tensor | None, nonneg: bool) -> None:
    """Require u (B, M, h, w), a kernel S for its M maps, and an h other than the identity."""
    check_images(u, "u")
    check_kernel_shape(S, u.shape[1])
    if u.is_meta or not torch.is_autocast_enabled(u.device.type):
        check_same_type(u, S, "u", "S")
    check_not_identity(theta, nonneg)
