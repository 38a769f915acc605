"""Tune the LR atoms of CSC-SR for what their codes are for: the HR image.  Ours, not the paper's.

Dictionary learning makes atoms that explain the LR residual r with sparse codes; what they are
wanted for is the HR residual.  So, as in task-driven dictionary learning, descend

    ½‖x − l↑ − Σ_j f_j * Z_j‖²,     z = argmin ½‖r − D z‖² + λ‖z‖₁,

in D and in the HR atoms f, by Adam on random crops, flipped and turned.  ‖d_i‖ = 1 and ‖f_j‖² ≤ e
throughout, and the mapping W is held, so that D is tuned for HR atoms that the learning may have.
On the support S of z, the gradient g of a loss in z becomes one in D by v with

    D_Sᵀ D_S v_S = g_S,     ∂/∂D (⟨D v, r − D z⟩ − ⟨D z, D v⟩),     v and z held,

see :mod:`csc.implicit`.  A crop has a few hundred non-zero codes, so the system is solved directly,
with a little added to its diagonal, several times faster than :mod:`csc.implicit` iterates.

References
----------
Mairal, Bach, Ponce, "Task-driven dictionary learning", IEEE TPAMI 34(4), 2012.  Kingma, Ba, "Adam:
a method for stochastic optimization", ICLR 2015.
"""

import math
from collections.abc import Callable, Sequence
from numbers import Integral
from typing import TypeAlias

import torch
from torch import Tensor
from torch.nn import functional as F

from csc import Solution, coordinate_descent, gram, unit_norm
from csc.checks import check_dictionary
from csc.learning.surrogate import project

Pairs: TypeAlias = Sequence[tuple[Tensor, Tensor]]
"""LR residuals (1, 1, h, w) and HR residuals (1, 1, s·h, s·w)."""

BATCH, CROP = 8, 32  # crops in a step, and their side in LR pixels
RATE_D, RATE_F = 4e-3, 1e-2  # of Adam; D has unit atoms, those of f have norms of about s
WARM_UP = 20  # steps
DAMPING = 1e-2  # on the diagonal, where ‖d_i‖² = 1
TOL, MOST_STEPS = 3e-3, 200  # of the codes


def refine(
    D: Tensor,
    W: Tensor,
    hr: Tensor,
    pairs: Pairs,
    lam: float,
    energy: float,
    *,
    steps: int,
    solver: Callable[..., Solution] = coordinate_descent,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return LR and HR atoms that lower ½‖x − l↑ − Σ_j f_j * Z_j‖², the codes following D.

    Parameters
    ----------
    D : Tensor, shape (N, 1, k, k)
        LR atoms to start from.
    W : Tensor, shape (M, N)
        Mapping of codes, held.
    hr : Tensor, shape (M, s², k, k)
        HR atoms f_j to start from, laid out as s² channels.
    pairs : sequence of (Tensor, Tensor)
        LR residuals (1, 1, h, w) and HR residuals (1, 1, s·h, s·w).
    lam : float
        Weight λ.
    energy : float
        Bound e on ‖f_j‖².
    steps : int
        Steps of Adam; the rate rises for `WARM_UP` of them and falls as a cosine.
    solver : callable
        As of :func:`baselines.sparse.csc_sr.upscale`.
    generator : torch.Generator, optional
        Draws the crops; torch's global one by default.
    on_step : callable, optional
        Called with (step, mean squared error of its crops).

    Returns
    -------
    D, hr : Tensor, shapes as given

    Raises
    ------
    ValueError
        If no pair is as large as a crop, or `steps` is negative.
    """
    check_dictionary(D)
    if not isinstance(steps, Integral) or steps < 0:
        raise ValueError(f"steps must be an integer ≥ 0, got {steps!r}")
    large = [pair for pair in pairs if min(pair[0].shape[-2:]) >= CROP]
    if steps and not large:
        raise ValueError(f"no image is as large as a crop, {CROP}x{CROP} LR pixels with its margin")
    W, radius = W.to(D), math.sqrt(energy)
    D, hr = unit_norm(D).requires_grad_(), hr.to(D).detach().clone().requires_grad_()
    adam = torch.optim.Adam(
        [{"params": [D], "lr": RATE_D}, {"params": [hr], "lr": RATE_F}], betas=(0.9, 0.99)
    )
    schedule = torch.optim.lr_scheduler.LambdaLR(
        adam,
        lambda t: min(1, (t + 1) / WARM_UP) * (1 + math.cos(math.pi * t / max(steps, 1))) / 2,
    )
    for step in range(1, steps + 1):
        r, x = _crops(large, math.isqrt(hr.shape[1]), generator)
        z = solver(r, D.detach(), lam, tol=TOL, max_iter=MOST_STEPS).codes.requires_grad_()
        edge = D.shape[-1] - 1  # fewer codes reach these pixels in a crop than in an image
        G = torch.einsum("mn,mcuv->ncuv", W, hr)
        error = (F.conv_transpose2d(z, G) - x)[..., edge:-edge, edge:-edge]
        loss = error.square().mean()
        slope, hr.grad = torch.autograd.grad(loss, (z, hr))
        D.grad = dictionary_gradient(r, D.detach(), z.detach(), slope)
        adam.step()
        schedule.step()
        with torch.no_grad():
            D.copy_(unit_norm(D))
            hr.copy_(radius * project(hr / radius))
        if on_step:
            on_step(step, float(loss.detach()))
    return D.detach(), hr.detach()


def dictionary_gradient(r: Tensor, D: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """Return the gradient in D of a loss whose gradient in z = argmin ½‖r − D z‖² + λ‖z‖₁ is g.

    Parameters
    ----------
    r : Tensor, shape (B, 1, h, w)
        Images.
    D : Tensor, shape (N, 1, k, k)
        Dictionary.
    z, g : Tensor, shape (B, N, h-k+1, w-k+1)
        Codes and the gradient in them.

    Returns
    -------
    Tensor, shape (N, 1, k, k)
        That of :func:`csc.attach_gradients`, but for the damping.
    """
    kernel = gram(D.double())
    v = torch.stack([_solve(kernel, codes, slope) for codes, slope in zip(z, g, strict=True)])
    with torch.enable_grad():
        atoms = D.detach().requires_grad_()
        Dv, Dz = F.conv_transpose2d(v, atoms), F.conv_transpose2d(z, atoms)
        value = (Dv * (r - Dz).detach()).sum() - (Dz * Dv.detach()).sum()
        (gradient,) = torch.autograd.grad(value, atoms)
    return gradient


def _solve(kernel: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """Return v, zero off the support S of z, with (D_Sᵀ D_S + damping) v_S = g_S."""
    m, p, q = z.nonzero().T
    reach = kernel.shape[-1] // 2  # k − 1
    row, column = p - p[:, None], q - q[:, None]  # from the code of a row to that of a column
    near = (row.abs() <= reach) & (column.abs() <= reach)
    i, j = near.nonzero().T
    matrix = DAMPING * torch.eye(len(m), dtype=kernel.dtype)
    matrix[i, j] += kernel[m[i], m[j], row[i, j] + reach, column[i, j] + reach]
    v = torch.zeros_like(g)
    solved = torch.linalg.solve(matrix, g[m, p, q].to(kernel)[:, None])
    v[m, p, q] = solved[:, 0].to(g)
    return v


def _crops(pairs: Pairs, scale: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
    """Draw crops (B, 1, c, c) and (B, s², c, c), an image with probability ∝ its pixels."""

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    sizes = torch.tensor([float(r.numel()) for r, _ in pairs])
    lows, highs = [], []
    for i in torch.multinomial(sizes, BATCH, replacement=True, generator=generator).tolist():
        r, x = pairs[i]
        p, q = (draw(n - CROP + 1) for n in r.shape[-2:])
        r = r[..., p : p + CROP, q : q + CROP]
        end_p, end_q = scale * (p + CROP), scale * (q + CROP)
        x = x[..., scale * p : end_p, scale * q : end_q]
        turn, flip = draw(4), draw(2)
        r, x = (t.rot90(turn, (2, 3)) for t in (r, x))
        lows.append(r.flip(3) if flip else r)
        highs.append(x.flip(3) if flip else x)
    return torch.cat(lows).contiguous(), F.pixel_unshuffle(torch.cat(highs), scale)
