"""Checks of arguments, before any work.

Every message names what was wrong, the value, and the remedy.
"""

import math
from collections.abc import Iterable
from numbers import Integral, Real
from typing import TypeAlias

import torch
from torch import Tensor

Weight: TypeAlias = float | Tensor
"""A weight λ or threshold θ: a number, (M,), or four axes that broadcast to codes (B, M, h, w)."""


FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def check_integer(value: int, name: str, least: int = 0) -> None:
    """Require an integer ≥ `least`."""
    if not isinstance(value, Integral) or isinstance(value, bool):
        raise TypeError(f"{name} must be an integer, got {value!r}")
    if value < least:
        raise ValueError(f"{name} must be ≥ {least}, got {value}")


def check_number(value: float, name: str, hint: str = "") -> None:
    """Require a finite number ≥ 0."""
    if not isinstance(value, Real) or isinstance(value, bool):
        raise TypeError(f"{name} must be a number, got {type(value).__name__}")
    if not 0 <= value < math.inf:
        raise ValueError(f"{name} must be finite and ≥ 0, got {value}{hint}")


def check_size(size: tuple[int, int], name: str = "size") -> None:
    """Require a height and a width."""
    if len(size) != 2 or not all(isinstance(n, Integral) and n > 0 for n in size):
        raise ValueError(f"{name} must be two integers > 0, height and width; got {size}")


def check_sides(k: int | tuple[int, int], name: str = "k") -> tuple[int, int]:
    """Require a side ≥ 1 or two, and return the height and width."""
    sides = k if isinstance(k, tuple) else (k, k)
    if len(sides) != 2:
        raise ValueError(f"{name} must be an integer or two, height and width; got {k}")
    for side in sides:
        check_integer(side, name, 1)
    return sides


def check_floats(t: Tensor, name: str) -> None:
    """Require a dense floating-point tensor."""
    if t.layout != torch.strided:
        raise TypeError(f"{name} must be dense, got {t.layout}; use {name}.to_dense()")
    if t.dtype in FLOATS:
        return
    if t.is_complex():
        raise TypeError(f"{name} must be real, got {t.dtype}; use {name}.real or {name}.abs()")
    if t.dtype == torch.uint8 and name == "x":
        raise TypeError(f"{name} must be floating point, got {t.dtype}; use {name}.double() / 255")
    raise TypeError(f"{name} must be floating point, got {t.dtype}; use {name}.double()")


def check_images(x: Tensor, name: str = "x") -> None:
    """Require floating-point images (B, C, H, W)."""
    if not isinstance(x, Tensor):
        raise TypeError(
            f"{name} must be a torch.Tensor, got {type(x).__name__}; use torch.as_tensor"
        )
    if x.ndim != 4:
        raise ValueError(
            f"{name} must have shape (B, C, H, W), got {tuple(x.shape)}; "
            f"a single (H, W) is {name}[None, None]"
        )
    check_floats(x, name)
    if x.numel() == 0:
        raise ValueError(f"{name} is empty: its shape is {tuple(x.shape)}")


def check_dictionary(D: Tensor) -> None:
    """Require a non-empty dictionary (M, C, kh, kw) of floating-point atoms."""
    if not isinstance(D, Tensor):
        raise TypeError(f"D must be a torch.Tensor, got {type(D).__name__}; use torch.as_tensor")
    if D.ndim != 4:
        raise ValueError(f"D must have shape (M, C, kh, kw), got {tuple(D.shape)}")
    check_floats(D, "D")
    if D.numel() == 0:
        raise ValueError(f"the dictionary is empty: its shape is {tuple(D.shape)}")


def check_same_type(a: Tensor, b: Tensor, name_a: str, name_b: str) -> None:
    """Require tensors of one dtype and device."""
    if a.dtype != b.dtype or a.device != b.device:
        raise TypeError(
            f"{name_a} is {a.dtype} on {a.device} but {name_b} is {b.dtype} on {b.device}; "
            f"use {name_b}.to({name_a})"
        )


def check_pair(x: Tensor, D: Tensor) -> None:
    """Require images and a dictionary with the same channels, and atoms that fit in an image."""
    check_images(x)
    check_dictionary(D)
    check_same_type(x, D, "x", "D")
    if x.shape[1] != D.shape[1]:
        raise ValueError(f"x has {x.shape[1]} channels but the atoms of D have {D.shape[1]}")
    check_fit(D, (x.shape[2], x.shape[3]))


def check_fit(D: Tensor, size: tuple[int, int]) -> None:
    """Require atoms that fit in an image of a height and a width."""
    (H, W), (kh, kw) = size, D.shape[2:]
    if H < kh or W < kw:
        raise ValueError(
            f"an atom of {kh}x{kw} does not fit in an image of {H}x{W}; "
            "use smaller atoms or pad the image"
        )


def code_shape(x: Tensor, D: Tensor) -> tuple[int, int, int, int]:
    """Return the shape (B, M, H-kh+1, W-kw+1) of the codes of images x with dictionary D."""
    kh, kw = D.shape[2:]
    return (x.shape[0], D.shape[0], x.shape[2] - kh + 1, x.shape[3] - kw + 1)


def check_codes(z: Tensor, D: Tensor) -> None:
    """Require codes (B, M, h, w) for the M atoms of D."""
    check_images(z, "z")
    check_dictionary(D)
    check_same_type(z, D, "z", "D")
    if z.shape[1] != D.shape[0]:
        raise ValueError(f"z has {z.shape[1]} maps but D has {D.shape[0]} atoms")


def _broadcasts(given: tuple[int, ...], shape: tuple[int, ...]) -> bool:
    return len(given) == 4 and all(n in (1, of) for n, of in zip(given, shape, strict=True))


def check_weight(
    value: Weight,
    shape: tuple[int, ...],
    name: str = "lam",
    dtype: torch.dtype | None = None,
) -> None:
    """Require finite weights ≥ 0 in the range of a dtype, for codes of shape (B, M, h, w)."""
    shape = tuple(shape)
    if isinstance(value, Tensor):
        given, M = tuple(value.shape), shape[1]
        if given not in ((), (M,)) and not _broadcasts(given, shape):
            raise ValueError(
                f"{name} must be a number, one value per atom, shape ({M},), or 4-D and "
                f"broadcast to the codes' {shape}; got shape {given}"
            )
        if value.is_complex():
            raise TypeError(f"{name} must be real, got {value.dtype}; use {name}.real")
        if value.is_floating_point():
            check_floats(value, name)
        if value.is_meta:  # has no values
            return
        low, high = float(value.detach().min()), float(value.detach().max())
    elif isinstance(value, Real) and not isinstance(value, bool):
        low = high = float(value)
    else:
        raise TypeError(f"{name} must be a number or a torch.Tensor, got {type(value).__name__}")
    if not (low >= 0 and math.isfinite(high)):
        raise ValueError(f"{name} must be finite and ≥ 0, got {value}")
    if dtype is not None and high > torch.finfo(dtype).max:
        raise ValueError(f"{name} is beyond the range of {dtype}: {value}; scale the images down")


def check_mask(mask: Tensor, x: Tensor) -> None:
    """Require a bool mask that broadcasts to images x (B, C, H, W)."""
    if not isinstance(mask, Tensor) or mask.dtype != torch.bool:
        kind = mask.dtype if isinstance(mask, Tensor) else type(mask).__name__
        raise TypeError(
            f"mask must be a bool tensor, True where a pixel is known; got {kind}; "
            "use torch.as_tensor(mask).bool()"
        )
    given, shape = tuple(mask.shape), tuple(x.shape)
    if not _broadcasts(given, shape):
        raise ValueError(
            f"mask must be 4-D and broadcast to the images {shape}, got {given}; "
            "mask[None, None] for one (H, W)"
        )
    if mask.device != x.device:
        raise TypeError(f"x is on {x.device} but mask is on {mask.device}; use mask.to(x.device)")


def check_finite(x: Tensor, name: str) -> None:
    """Require that no entry is NaN or infinite; a meta tensor has a shape and no entries."""
    if x.is_meta:
        return
    bad = int((~torch.isfinite(x.detach())).sum())
    if bad:
        raise ValueError(
            f"{name} has {bad} NaN or infinite entries of {x.numel()}; "
            f"use torch.where({name}.isfinite(), {name}, 0)"
        )


def check_squares(t: Tensor, name: str, *, underflow: bool = False) -> None:
    """Require squared norms of images or atoms in the range of their dtype, at least float32.

    With `underflow` they may round to zero.
    """
    if t.is_meta:
        return
    t = t.detach().to(torch.promote_types(t.dtype, torch.float32))
    squares, peaks = t.square().sum((1, 2, 3)), t.abs().amax((1, 2, 3))
    lost = (squares == 0) & (peaks > 0) & (not underflow)
    bad = (~squares.isfinite() | lost).nonzero().flatten().tolist()
    if bad:
        raise ValueError(
            f"{name}[{bad[0]}] has values up to {float(peaks[bad[0]]):.3g}, and their squares are "
            f"beyond the range of {t.dtype}; use float64 or scale {name}"
        )


def spread(value: Weight, like: Tensor) -> Tensor:
    """Return `value` as a tensor with four axes that broadcasts against codes (B, M, h, w)."""
    w = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    return w if w.ndim == 4 else w.view(1, -1, 1, 1)


def check_run(x: Tensor, D: Tensor, start: Tensor | None, max_iter: int, tol: float) -> None:
    """Check the arguments of a solver beside the problem: its start and when it stops."""
    check_integer(max_iter, "max_iter")
    check_number(tol, "tol", "; 0 runs to max_iter")
    if start is not None:
        check_codes(start, D)
        check_finite(start, "start")
        shape = code_shape(x, D)
        if tuple(start.shape) != shape:
            raise ValueError(f"start must have shape {shape}, got {tuple(start.shape)}")


def words(items: Iterable[object], last: str = "or") -> str:
    """Return items as a list in words, as messages print them.

    Examples
    --------
    >>> words([2, 3, 4]), words([2]), words(["Set5", "B100"], "and"), words([])
    ('2, 3 or 4', '2', 'Set5 and B100', 'none')
    """
    *first, final = map(str, [*items] or ["none"])
    return f"{', '.join(first)} {last} {final}" if first else final
