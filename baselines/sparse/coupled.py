"""Coupled dictionaries: one code for the derivatives of an LR patch and for its HR patch.

In every patch, y are the derivatives of the bicubic-enlarged LR image, and e is the HR image minus
its mean.  Both are scaled to unit length, weighted by the root of their dimension, stacked, and
coded together,

    min Σ_i min_z ½‖x_i − [D_h; D_l] z‖² + λ‖z‖₁,    x = [√n_h e/‖e‖; √n_l y/‖y‖] / √(n_h + n_l),

over unit atoms D, online.  Step t codes some patches with the current atoms.  It discounts two
sums A and B by (1 − 1/t)^ρ, adds zᵀz and zᵀx to them, and lowers ½⟨D, A D⟩ − ⟨B, D⟩ by one pass
over the atoms.  In the end both halves of an atom are divided by the norm of its LR half, because
only the LR half is coded when an image is upscaled.

References
----------
Yang, Wright, Huang, Ma, "Image super-resolution via sparse representation", IEEE TIP 19(11), 2010;
weights, pruning and derivatives as in the authors' package.  Mairal, Bach, Ponce, Sapiro, "Online
learning for matrix factorization and sparse coding", JMLR 11, 2010.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize
from baselines.sparse.lasso import lasso
from csc.checks import check_images

PATCHES = 1024  # in a step of learning
CODING_TOL = 1e-2  # of codes; from step to step they change by more than this
FORGETTING = 10.0  # ρ of the discount of old codes, as in csc.learn_dictionary


class Coupled(NamedTuple):
    """A pair of dictionaries: D_l, (M, 4, p, p), with unit atoms, and D_h, (M, 1, p, p)."""

    lr: Tensor
    hr: Tensor

    @property
    def parameters(self) -> int:
        """Count the numbers in both."""
        return self.lr.numel() + self.hr.numel()


class Pairs(NamedTuple):
    """Patches: derivatives y of LR, (N, 4·p²), and HR minus its mean, e, (N, p²)."""

    lr: Tensor
    hr: Tensor


def features(u: Tensor) -> Tensor:
    """Return u(i, j+1) − u(i, j−1), u(i, j+2) − 2 u(i, j) + u(i, j−2), and the same along i.

    Parameters
    ----------
    u : Tensor, shape (B, 1, H, W)
        Images; they are replicated beyond their border.

    Returns
    -------
    Tensor, shape (B, 4, H, W)
        First derivatives along j and along i, then second derivatives along j and along i.

    Examples
    --------
    >>> features(torch.arange(6.0).square().expand(1, 1, 6, 6))[0, :, 3, 3]
    tensor([12.,  0.,  8.,  0.])
    """
    H, W = u.shape[-2:]
    u = F.pad(u, (2, 2, 2, 2), mode="replicate")

    def at(i: int, j: int) -> Tensor:
        return u[..., 2 + i : 2 + i + H, 2 + j : 2 + j + W]

    first = [at(0, 1) - at(0, -1), at(1, 0) - at(-1, 0)]
    second = [at(0, 2) - 2 * at(0, 0) + at(0, -2), at(2, 0) - 2 * at(0, 0) + at(-2, 0)]
    return torch.cat(first + second, 1)


def sample_pairs(
    y: Tensor, scale: int, p: int, n: int, *, generator: torch.Generator | None = None
) -> Pairs:
    """Draw patches of an HR image and of its LR image, and drop flat ones.

    Parameters
    ----------
    y : Tensor, shape (1, 1, H, W)
        HR image in [0, 1]; H and W are multiples of the scale.
    scale : int
        Factor of the bicubic degradation.
    p : int
        Side of a patch.
    n : int
        Patches to draw, or all if there are fewer.  Patches of a variance below 10 (grey levels of
        255 squared) are then dropped.
    generator : torch.Generator, optional
        Source of randomness; torch's global generator by default.

    Returns
    -------
    Pairs

    Raises
    ------
    ValueError, TypeError
        If `y` is not (1, 1, H, W) in floating point, not a multiple of the scale, or smaller than
        a patch.
    """
    check_images(y, "y")
    if y.shape[:2] != (1, 1) or y.shape[2] % scale or y.shape[3] % scale or min(y.shape[2:]) < p:
        raise ValueError(
            f"y must be (1, 1, H, W) with multiples of {scale} that hold a patch of {p}, "
            f"got {tuple(y.shape)}; baselines.modcrop crops it"
        )
    maps = features(bicubic(imresize(y, 1 / scale), scale))
    hr, lr = (F.unfold(image, p)[0].T for image in (y, maps))
    drawn = torch.randperm(len(hr), generator=generator)[:n]
    hr, lr = hr[drawn], lr[drawn]
    hr = hr - hr.mean(1, keepdim=True)
    kept = (hr.var(1) > 10 / 255**2) & (lr.norm(dim=1) > 0)
    return Pairs(lr[kept], hr[kept])


def learn_coupled(
    pairs: Pairs,
    M: int,
    *,
    lam: float = 0.15,
    passes: int = 4,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Coupled:
    """Learn M coupled atoms from pairs of patches.

    Parameters
    ----------
    pairs : Pairs
        At least M patches from :func:`sample_pairs`, without flat ones.
    M : int
        Number of atoms.
    lam : float
        Weight λ > 0 of the codes of stacked patches, which have unit length.
    passes : int
        Number of times every patch is coded.
    generator : torch.Generator, optional
        Source of randomness; torch's global generator by default.
    on_step : callable, optional
        Called with the step, from 1, and the mean objective of its patches.

    Returns
    -------
    Coupled

    Raises
    ------
    ValueError
        If there are fewer patches than atoms, their numbers differ, or a patch is flat.
    """
    (N, n_l), (N_hr, n_h) = pairs.lr.shape, pairs.hr.shape
    if N != N_hr or n_l != 4 * n_h or not 1 <= M <= N:
        raise ValueError(
            f"learning {M} atoms needs at least {M} pairs, (N, 4·p²) and (N, p²); "
            f"got {tuple(pairs.lr.shape)} and {tuple(pairs.hr.shape)}"
        )
    norms = pairs.hr.norm(dim=1, keepdim=True), pairs.lr.norm(dim=1, keepdim=True)
    if not all(bool((norm > 0).all()) for norm in norms):
        raise ValueError("a patch is flat, so it cannot have unit length; drop such pairs")
    x = torch.cat([n_h**0.5 * pairs.hr / norms[0], n_l**0.5 * pairs.lr / norms[1]], 1)
    x /= (n_h + n_l) ** 0.5  # (N, n_h + n_l), of unit length
    D = x[torch.randperm(N, generator=generator)[:M]]
    A, B, step = x.new_zeros(M, M), torch.zeros_like(D), 0
    for _ in range(passes):
        order = torch.randperm(N, generator=generator)
        for first in range(0, N, PATCHES):
            step, y = step + 1, x[order[first : first + PATCHES]]
            z = lasso(y @ D.T, D @ D.T, lam, tol=CODING_TOL)
            if on_step:
                errors = 0.5 * (y - z @ D).square().sum(1) + lam * z.abs().sum(1)
                on_step(step, float(errors.mean()))
            discount = (1 - 1 / step) ** FORGETTING
            A, B = discount * A + z.T @ z, discount * B + z.T @ y
            D = _improve(D, A, B)
    p = round(n_h**0.5)
    return unit_lr(Coupled(D[:, n_h:].reshape(M, 4, p, p), D[:, :n_h].reshape(M, 1, p, p)))


def _improve(D: Tensor, A: Tensor, B: Tensor) -> Tensor:
    """Minimise ½⟨D, A D⟩ − ⟨B, D⟩ over each unit atom in turn; unused atoms do not change."""
    D = D.clone()
    for j in A.diagonal().nonzero()[:, 0].tolist():
        d = B[j] - A[j] @ D + A[j, j] * D[j]
        D[j] = d / d.norm().clamp_min(torch.finfo(d.dtype).tiny)
    return D


def unit_lr(pair: Coupled) -> Coupled:
    """Divide both halves of every atom by the norm of its LR half.

    Raises
    ------
    ValueError
        If the shapes do not fit, or the LR half of an atom is zero.
    """
    lr, hr = pair
    M, C, p, q = lr.shape if lr.ndim == 4 else (0, 0, 0, 0)
    if C != 4 or p != q or hr.shape != (M, 1, p, p) or lr.numel() == 0:
        raise ValueError(
            "coupled dictionaries have shapes (M, 4, p, p) and (M, 1, p, p); "
            f"got {tuple(lr.shape)} and {tuple(hr.shape)}"
        )
    norm = lr.flatten(1).norm(dim=1).view(-1, 1, 1, 1)
    if not bool((norm > 0).all()):
        raise ValueError("the LR half of an atom is zero; learn from more patches, or fewer atoms")
    return Coupled(lr / norm, hr / norm)
