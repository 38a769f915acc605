"""Attribute an image to its atoms: x = Σ_m x_m with x_m = d_m * z_m, exactly.

Synthesis is linear.  Each pixel is therefore the sum of the atoms' contributions to it, and so is
any sum over a region.  Contributions have signs and may cancel.
"""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import check_codes, check_finite, check_mask


def contributions(z: Tensor, D: Tensor, atoms: Sequence[int] | None = None) -> Tensor:
    """Return the contributions x_m = d_m * z_m of the atoms; over all atoms they sum to D z.

    Parameters
    ----------
    z : Tensor, shape (B, M, h, w)
        Codes.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary.
    atoms : sequence of int, optional
        Indices of A atoms.  By default all M, which takes M times the memory of the images.

    Returns
    -------
    Tensor, shape (B, A, C, h+k-1, w+k-1)

    Raises
    ------
    ValueError, TypeError
        If z and D do not fit, one holds NaN, or `atoms` is empty or has an index out of range.

    Examples
    --------
    >>> D = torch.tensor([[1.0, 0.0], [0.0, 10.0]]).view(2, 1, 1, 2)
    >>> D = torch.nn.functional.pad(D, (0, 0, 0, 1))  # atoms 1 0 / 0 0 and 0 10 / 0 0
    >>> parts = contributions(torch.tensor([2.0, 3.0]).view(1, 2, 1, 1), D)
    >>> parts[0, :, 0, 0]
    tensor([[ 2.,  0.],
            [ 0., 30.]])
    """
    check_codes(z, D)
    check_finite(z, "z")
    check_finite(D, "D")
    if atoms is not None:
        kept = check_atoms(atoms, D.shape[0])
        z, D = z[:, kept], D[kept]
    parts = F.conv_transpose2d(z, D, groups=D.shape[0])  # (B, A·C, H, W)
    return parts.view(len(z), D.shape[0], D.shape[1], *parts.shape[2:])


def shares(parts: Tensor, region: Tensor | None = None) -> Tensor:
    """Return s_m = ⟨x_m, x⟩_Ω/⟨x, x⟩_Ω, the signed share of each part in x = Σ_m x_m on Ω.

    The shares sum to one.  A negative share means that the part points against the sum.

    Parameters
    ----------
    parts : Tensor, shape (B, A, C, H, W)
        Contributions, such as those of :func:`contributions`.
    region : Tensor of bool, optional
        Ω, True inside: (H, W), or broadcasts to (B, C, H, W).  By default the whole image.

    Returns
    -------
    Tensor, shape (B, A), float64
        All zero if x is zero on Ω.

    Raises
    ------
    ValueError, TypeError
        If `parts` is not finite (B, A, C, H, W), or `region` is not a mask of its images.

    Examples
    --------
    >>> parts = torch.tensor([[2.0, 1.0], [2.0, -1.0]]).view(1, 2, 1, 1, 2)  # sum 4, 0
    >>> shares(parts)
    tensor([[0.5000, 0.5000]], dtype=torch.float64)
    """
    if not isinstance(parts, Tensor) or not parts.is_floating_point():
        raise TypeError("parts must be a floating-point tensor, as contributions() returns it")
    if parts.ndim != 5 or parts.numel() == 0:
        raise ValueError(f"parts must have shape (B, A, C, H, W), got {tuple(parts.shape)}")
    check_finite(parts, "parts")
    parts = parts.detach().double()
    x = parts.sum(1)  # (B, C, H, W)
    if region is not None:
        region = region[None, None] if region.ndim == 2 else region
        check_mask(region, x)
        x = x * region
    along = torch.einsum("bachw,bchw->ba", parts, x)
    whole = x.square().sum((1, 2, 3))[:, None]
    return torch.where(whole > 0, along / whole, 0.0)


def check_atoms(atoms: Sequence[int], M: int) -> list[int]:
    """Require at least one index, each from 0 to M − 1, and return them as a list."""
    kept = [int(m) for m in atoms]
    if not kept or min(kept) < 0 or max(kept) >= M:
        raise ValueError(f"atoms must be indices from 0 to {M - 1}, got {list(atoms)}")
    return kept
