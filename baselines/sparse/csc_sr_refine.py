"""Tune the LR atoms of CSC-SR for the HR image.  Ours, not the paper's.

Dictionary learning makes atoms that explain the LR residual r with sparse codes, but the codes
serve to predict the HR residual.  So, as in task-driven dictionary learning, we descend

    ½‖x − l↑ − Σ_j f_j * Z_j‖²,     z = argmin ½‖r − D z‖² + λ‖z‖₁,

in D and in the HR atoms f, by Adam on random crops, flipped and turned.  The constraints
‖d_i‖ = 1 and ‖f_j‖² ≤ e hold throughout.  The mapping W is fixed, so D is tuned for HR atoms that
the later learning can reach.  On the support S of z, the gradient g of a loss in z becomes a
gradient in D through v with

    D_Sᵀ D_S v_S = g_S,     ∂/∂D (⟨D v, r − D z⟩ − ⟨D z, D v⟩),     v and z held fixed,

see :mod:`csc.implicit`.  A crop has a few hundred non-zero codes.  We solve its system directly,
with a little added to the diagonal, which is several times faster than the iterations of
:mod:`csc.implicit`.

References
----------
Mairal, Bach, Ponce, "Task-driven dictionary learning", IEEE TPAMI 34(4), 2012.  Kingma, Ba, "Adam:
a method for stochastic optimization", ICLR 2015.
"""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.sparse.csc_sr import effective_atoms
from csc import Solver, coordinate_descent, gram, unit_norm
from csc.checks import check_dictionary, check_integer
from csc.implicit import gradient_in_dictionary
from csc.learning.surrogate import project

BATCH, CROP = 8, 32  # crops in a step, and their side in LR pixels
RATE_D, RATE_F = 4e-3, 1e-2  # of Adam; the norms of d_i are 1, those of f_j about s
WARM_UP = 20  # steps
DAMPING = 1e-2  # added to the diagonal, which is ‖d_i‖² = 1
TOL, MOST_STEPS = 3e-3, 200  # of the codes


class Pair(NamedTuple):
    """A training image without its smooth part.

    Attributes
    ----------
    low : Tensor, shape (1, 1, h, w)
        y − l, mirrored around by the margin.
    high : Tensor, shape (1, 1, scale·h, scale·w)
        x − l↑, mirrored in the same way.
    """

    low: Tensor
    high: Tensor


def refine(
    D: Tensor,
    W: Tensor,
    hr: Tensor,
    pairs: Sequence[Pair],
    lam: float,
    energy: float,
    *,
    steps: int,
    solver: Solver = coordinate_descent,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> tuple[Tensor, Tensor]:
    """Return LR and HR atoms that lower ½‖x − l↑ − Σ_j f_j * Z_j‖², where the codes depend on D.

    Parameters
    ----------
    D : Tensor, shape (N, 1, k, k)
        LR atoms to start from.
    W : Tensor, shape (M, N)
        Mapping of codes, which stays as it is.
    hr : Tensor, shape (M, s², k, k)
        HR atoms f_j to start from, laid out as s² channels.
    pairs : sequence of Pair
        Training images.
    lam : float
        Weight λ.
    energy : float
        Bound e on ‖f_j‖².
    steps : int
        Steps of Adam; the rate rises for `WARM_UP` of them, then falls as a cosine.
    solver : Solver
        As in :func:`baselines.sparse.csc_sr.upscale`.
    generator : torch.Generator, optional
        Draws the crops; torch's global one by default.
    on_step : callable, optional
        Called with the step, from 1, and the mean squared error of its crops.

    Returns
    -------
    D, hr : Tensor, shapes as given

    Raises
    ------
    ValueError, TypeError
        If all pairs are smaller than a crop, or `steps` is not an integer ≥ 0.
    """
    check_dictionary(D)
    check_integer(steps, "steps")
    large = [pair for pair in pairs if min(pair.low.shape[-2:]) >= CROP]
    if steps and not large:
        raise ValueError(
            f"all images are smaller than a crop, {CROP}x{CROP} LR pixels with the margin"
        )
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
        edge = D.shape[-1] - 1  # in an image, codes outside the crop reach these pixels, too
        error = F.conv_transpose2d(z, effective_atoms(W, hr)) - x
        loss = error[..., edge:-edge, edge:-edge].square().mean()
        gradient, hr.grad = torch.autograd.grad(loss, (z, hr))
        D.grad = dictionary_gradient(r, D.detach(), z.detach(), gradient)
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
        Codes, and the gradient in the codes.

    Returns
    -------
    Tensor, shape (N, 1, k, k)
        The gradient of :func:`csc.attach_gradients`, up to the damping.
    """
    kernel = gram(D.double())
    v = torch.stack([_solve(kernel, z_b, g_b) for z_b, g_b in zip(z, g, strict=True)])
    Dv, Dz = F.conv_transpose2d(v, D), F.conv_transpose2d(z, D)
    return gradient_in_dictionary(D.shape, z=z, v=v, r=r - Dz, u=Dv)


def _solve(kernel: Tensor, z: Tensor, g: Tensor) -> Tensor:
    """Return v with (D_Sᵀ D_S + damping) v_S = g_S on the support S of z, and zero elsewhere."""
    m, p, q = z.nonzero().T
    middle = kernel.shape[-1] // 2  # k − 1
    down, right = p - p[:, None], q - q[:, None]  # from code i to code j
    overlap = (down.abs() <= middle) & (right.abs() <= middle)
    i, j = overlap.nonzero().T
    matrix = DAMPING * torch.eye(len(m), dtype=kernel.dtype)
    matrix[i, j] += kernel[m[i], m[j], down[i, j] + middle, right[i, j] + middle]
    v = torch.zeros_like(g)
    solved = torch.linalg.solve(matrix, g[m, p, q].to(kernel)[:, None])
    v[m, p, q] = solved[:, 0].to(g)
    return v


def _crops(
    pairs: Sequence[Pair], scale: int, generator: torch.Generator | None
) -> tuple[Tensor, Tensor]:
    """Draw crops (B, 1, c, c) and (B, s², c, c) from images, larger images more often."""
    pixels = torch.tensor([float(pair.low.numel()) for pair in pairs])
    chosen = torch.multinomial(pixels, BATCH, replacement=True, generator=generator)
    lows, highs = [], []
    for i in chosen.tolist():
        low, high = _crop(pairs[i], scale, generator)
        lows.append(low)
        highs.append(high)
    return torch.cat(lows).contiguous(), F.pixel_unshuffle(torch.cat(highs), scale)


def _crop(pair: Pair, scale: int, generator: torch.Generator | None) -> Pair:
    """Draw a crop of c × c LR pixels, flipped and turned."""

    def draw(n: int) -> int:
        return int(torch.randint(n, (), generator=generator))

    p, q = (draw(n - CROP + 1) for n in pair.low.shape[-2:])
    low = pair.low[..., p : p + CROP, q : q + CROP]
    high = pair.high[..., scale * p : scale * (p + CROP), scale * q : scale * (q + CROP)]
    turn, flip = draw(4), draw(2)
    low, high = (t.rot90(turn, (2, 3)) for t in (low, high))
    return Pair(low.flip(3), high.flip(3)) if flip else Pair(low, high)
