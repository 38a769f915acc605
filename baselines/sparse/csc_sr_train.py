"""Learn CSC-SR: LR atoms from LR residuals, then the mapping and the HR atoms from their codes.

After the images are coded, two sums hold all that the HR side needs,

    min_{W, f} Σ ½‖x − l↑ − Σ_j f_j * Z_j‖²     with ‖f_j‖² ≤ e, w_j ≥ 0, Σ_i w_ji = 1
             = const + ½⟨E, A * E⟩ − ⟨B, E⟩,     E_i = Σ_j w_ji f_j,

with the effective HR atoms E, and A and B as in :mod:`csc.learning.surrogate`.  An HR image is laid
out as s² channels of LR size.  Then zero insertion and an HR atom of side s k are an ordinary
convolution with s² channels of side k.  After the coding, the cost does not depend on the number
of images, so the alternation runs to convergence:

- f, with W fixed: the surrogate of A_f = W A Wᵀ and B_f = W B over atoms in a ball, by
  :func:`csc.learning.surrogate.minimise_surrogate`;
- W, with f fixed: a quadratic over simplices, by accelerated projected gradients.

Neither step raises the objective.  If M ≥ N and the bound does not bind, E is free and the first
step in f finds its minimiser.  So the mapping matters only where M < N or where the bound binds.

References
----------
Gu, Zuo, Xie, Meng, Feng, Zhang, "Convolutional sparse coding for image super-resolution", ICCV
2015, which learns by stochastic ADMM, image by image.  Duchi, Shalev-Shwartz, Singer, Chandra,
"Efficient projections onto the ℓ1-ball for learning in high dimensions", ICML 2008 (the simplex).
"""

import functools
import math
from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize, mirror, modcrop
from baselines.sparse.csc_sr import Filters, check_weights, effective_atoms, margin, split
from baselines.sparse.csc_sr_refine import Pair, refine
from csc import Solver, coordinate_descent, learn_dictionary, random_dictionary
from csc.acceleration import momentum
from csc.checks import check_finite, check_images, check_integer, check_number
from csc.learning.surrogate import (
    apply_correlations,
    correlation_spectrum,
    correlations,
    minimise_surrogate,
    project,
)
from csc.workers import each

# Ours, since the paper's are unknown.  λ and μ are for Y in [0, 1]: the best of a few values at ×3
# on 12 photos of General100, where Set5 was measured, too.
LAM, MU = 0.004, 0.1
# e/s².  On Set5 ×3 with fixed LR atoms: 1 gives 32.23 dB, 2 and 16 give 32.36; 16 never binds.
ENERGY = 2.0
CODING_TOL, MOST_STEPS = 0.03, 300  # of the codes of training images
ATOMS_TOL = 1e-5  # relative gap of a step in f
W_STEPS = 50  # projected gradients in a step in W


class Learner(Protocol):
    """Learns LR atoms from LR residuals, as :func:`our_dictionary`."""

    def __call__(
        self,
        images: Sequence[Tensor],
        D: Tensor,
        lam: float,
        *,
        generator: torch.Generator | None = None,
    ) -> Tensor:
        """Return atoms (N, 1, k, k), learned from the start D with weight λ."""


@dataclass(frozen=True)
class Sums:
    """The sums of images and codes that the HR side needs, float64.

    Attributes
    ----------
    A : Tensor, shape (N, N, 2k-1, 2k-1)
        Correlations of the LR codes.
    B : Tensor, shape (N, s², k, k)
        Correlations of the LR codes with the HR residuals; these are laid out as s² channels.
    energy : float
        Σ ‖x − l↑‖².
    """

    A: Tensor
    B: Tensor
    energy: float


@dataclass(frozen=True)
class Trained:
    """Learned filters, and the course of their objective.

    Attributes
    ----------
    filters : Filters
        The filters.
    objective : tuple of float
        Σ ½‖x − l↑ − Σ_j f_j * Z_j‖² after every step in f and every step in W.  It never rises.
    """

    filters: Filters
    objective: tuple[float, ...]


def our_dictionary(
    images: Sequence[Tensor], D: Tensor, lam: float, *, generator: torch.Generator | None = None
) -> Tensor:
    """Return atoms learned by two passes of :func:`csc.learn_dictionary`.

    Parameters
    ----------
    images : sequence of Tensors, shape (1, 1, h, w)
        LR residuals.
    D : Tensor, shape (N, 1, k, k)
        Dictionary to start from.
    lam : float
        Weight λ.
    generator : torch.Generator, optional
        Source of randomness; torch's global one by default.

    Returns
    -------
    Tensor, shape (N, 1, k, k)
    """
    return learn_dictionary(images, D, lam, passes=2, generator=generator).dictionary


def train(
    images: Sequence[Tensor],
    scale: int,
    *,
    atoms: int = 96,
    hr_atoms: int = 192,
    side: int = 5,
    lam: float = LAM,
    mu: float = MU,
    energy: float | None = None,
    rounds: int = 5,
    learner: Learner = our_dictionary,
    refinement: int = 0,
    solver: Solver = coordinate_descent,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
    executor: Executor | None = None,
) -> Trained:
    """Learn D, W and F of one scale from HR images.

    Parameters
    ----------
    images : sequence of Tensors, shape (1, 1, H, W)
        HR Y in [0, 1], float32 or float64, of any sizes.
    scale : int
        s ≥ 2.
    atoms, hr_atoms : int
        N and M; 800 and 1000 in the paper.
    side : int
        k, odd; HR atoms have side s k.
    lam, mu : float
        Weight λ > 0 of the codes and smoothing μ ≥ 0 of the split.
    energy : float, optional
        Bound e > 0 on ‖f_j‖²; 2 s² by default, since an HR atom has s² times the pixels.
    rounds : int
        Number of steps in f, each with a step in W.
    learner : Learner
        Learns the LR atoms: :func:`our_dictionary`, or
        :func:`csc.learning.sporco.sporco_dictionary`.
    refinement : int
        Steps of :func:`baselines.sparse.csc_sr_refine.refine` on the LR atoms, before the rounds;
        0 is the paper's method.
    solver : Solver
        As in :func:`baselines.sparse.csc_sr.upscale`.
    generator : torch.Generator, optional
        Source of randomness; torch's global one by default.
    on_step : callable, optional
        As in :func:`baselines.sparse.csc_sr_refine.refine`.
    executor : concurrent.futures.Executor, optional
        As in :func:`code_pairs`.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError, TypeError
        If there are no images, one is too small or holds NaN, or a number is out of its range.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = [torch.rand(1, 1, 48, 48, generator=g)]
    >>> trained = train(x, 2, atoms=4, hr_atoms=6, side=3, lam=0.1, generator=g)
    >>> tuple(trained.filters.F.shape), trained.objective[-1] <= trained.objective[0]
    ((6, 1, 6, 6), True)
    """
    check_integer(scale, "scale", least=2)
    check_weights(lam, mu)
    _check_sizes(atoms, hr_atoms, side, rounds, refinement)
    energy = ENERGY * scale**2 if energy is None else energy
    check_number(energy, "energy")
    if energy == 0:
        raise ValueError("energy must be > 0, got 0")
    D = random_dictionary(atoms, 1, side, generator=generator)
    pairs = make_pairs(images, scale, mu, margin(D))
    D = D.to(pairs[0].low)
    D = learner([pair.low for pair in pairs], D, lam, generator=generator)
    sums = code_pairs(pairs, D, lam, scale, solver=solver, executor=executor)
    if refinement:
        W, hr, _ = fit_hr(sums, hr_atoms, energy, rounds, generator=generator)
        D, _ = refine(
            D, W, hr, pairs, lam, energy,
            steps=refinement, solver=solver, generator=generator, on_step=on_step,
        )  # fmt: skip
        sums = code_pairs(pairs, D, lam, scale, solver=solver, executor=executor)
    W, hr, objective = fit_hr(sums, hr_atoms, energy, rounds, generator=generator)
    hr = F.pixel_shuffle(hr, scale)  # (M, 1, s k, s k)
    return Trained(Filters(scale, D, W.to(D), hr.to(D), lam, mu), objective)


def make_pairs(images: Sequence[Tensor], scale: int, mu: float, pad: int) -> list[Pair]:
    """Reduce HR images, split the LR images, and subtract the smooth part from both.

    Parameters
    ----------
    images : sequence of Tensors, shape (1, 1, H, W)
        HR Y in [0, 1].
    scale : int
        s ≥ 2; images are cropped to multiples of it.
    mu : float
        Smoothing of the split.
    pad : int
        LR pixels of mirror image around.

    Raises
    ------
    ValueError, TypeError
        If there are no images, or one is not (1, 1, H, W), is too small or is not finite.
    """
    if not images:
        raise ValueError("there are no images; training needs at least one")
    pairs = []
    for i, image in enumerate(images):
        check_images(image, f"images[{i}]")
        if tuple(image.shape[:2]) != (1, 1):
            raise ValueError(f"images[{i}] must have shape (1, 1, H, W), got {tuple(image.shape)}")
        check_finite(image, f"images[{i}]")
        x = modcrop(image, scale)
        smooth, low = split(imresize(x, 1 / scale), mu, pad)
        pairs.append(Pair(low, mirror(x, pad * scale) - bicubic(smooth, scale)))
    return pairs


def code_pairs(
    pairs: Sequence[Pair],
    D: Tensor,
    lam: float,
    scale: int,
    *,
    solver: Solver = coordinate_descent,
    executor: Executor | None = None,
) -> Sums:
    """Return the sums of LR codes and HR residuals over all pairs.

    Parameters
    ----------
    pairs : sequence of Pair
        From :func:`make_pairs`.
    D : Tensor, shape (N, 1, k, k)
        LR atoms.
    lam : float
        Weight λ.
    scale : int
        s.
    solver : Solver
        As in :func:`baselines.sparse.csc_sr.upscale`.
    executor : concurrent.futures.Executor, optional
        Codes the images in parallel (:mod:`csc.workers`).  The sums are the same, bit for bit.  An
        image whose worker is lost is left out, with a warning.
    """
    N, _, k, _ = D.shape
    A = torch.zeros(N, N, 2 * k - 1, 2 * k - 1, dtype=torch.float64)
    B = torch.zeros(N, scale**2, k, k, dtype=torch.float64)
    energy = 0.0
    code = functools.partial(_code, D=D, lam=lam, solver=solver)
    for i, z in each(code, [pair.low for pair in pairs], executor):
        high = pairs[i].high
        channels = F.pixel_unshuffle(high, scale)  # (1, s², h, w)
        a, b = correlations(channels[0], z.to_dense()[0])
        A, B = A + a, B + b
        energy += float(high.double().square().sum())
    return Sums(A, B, energy)


def _code(low: Tensor, *, D: Tensor, lam: float, solver: Solver) -> Tensor:
    """Return the codes as a sparse tensor, which is small to send."""
    return solver(low, D, lam, tol=CODING_TOL, max_iter=MOST_STEPS).codes.to_sparse()


def fit_hr(
    sums: Sums,
    hr_atoms: int,
    energy: float,
    rounds: int,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Alternate HR atoms and mapping; return W (M, N), f (M, s², k, k) and the objectives, float64.

    The HR atoms start as zero.  The HR codes start as copies of LR codes, those that explain most
    first.  If M > N, each further HR code starts as such a code mixed with another one: a second
    copy would get the same HR atom as the first in every step.

    Parameters
    ----------
    sums : Sums
        From :func:`code_pairs`.
    hr_atoms : int
        M.
    energy : float
        Bound e on ‖f_j‖².
    rounds : int
        Number of steps in f, each with a step in W.
    generator : torch.Generator, optional
        Draws the mixtures; torch's global one by default.
    """
    A, B = sums.A, sums.B
    spectrum = correlation_spectrum(A)
    W = _first_mapping(A, B, hr_atoms, generator)
    hr = torch.zeros(hr_atoms, *B.shape[1:], dtype=torch.float64)

    def value(W: Tensor, hr: Tensor) -> float:
        E = effective_atoms(W, hr)
        return 0.5 * sums.energy + float((E * (0.5 * apply_correlations(spectrum, E) - B)).sum())

    objective = [value(W, hr)]
    for _ in range(rounds):
        for step in (_step_atoms, _step_mapping):
            new = step(A, B, W, hr, energy)
            reached = value(*new)
            if reached < objective[-1]:
                W, hr = new
            objective.append(min(reached, objective[-1]))
    return W, hr, tuple(objective[1:])


def _first_mapping(
    A: Tensor, B: Tensor, hr_atoms: int, generator: torch.Generator | None
) -> Tensor:
    """Return a mapping (M, N): copies of the LR codes that explain most, then mixtures."""
    N, middle = len(B), A.shape[-1] // 2
    power = A[:, :, middle, middle].diagonal()  # Σ_p z_i(p)²
    gain = torch.where(power > 0, B.square().sum((1, 2, 3)) / power, 0.0)
    chosen = gain.argsort(descending=True, stable=True)[torch.arange(hr_atoms) % N]
    part = (1 + torch.rand(hr_atoms, 1, generator=generator, dtype=A.dtype)) / 4  # of the other
    part[:N] = 0
    shift = torch.randint(1, max(N, 2), (hr_atoms,), generator=generator)
    other = (chosen + shift) % N
    return torch.lerp(F.one_hot(chosen, N).to(A), F.one_hot(other, N).to(A), part)


def _step_atoms(
    A: Tensor, B: Tensor, W: Tensor, hr: Tensor, energy: float
) -> tuple[Tensor, Tensor]:
    """Return W, and the HR atoms in the ball that minimise the objective."""
    radius = math.sqrt(energy)
    A_hr = torch.einsum("ji,iluv,ml->jmuv", W, A, W)
    B_hr = torch.einsum("ji,icuv->jcuv", W, B)
    unit = minimise_surrogate(energy * A_hr, radius * B_hr, project(hr / radius), ATOMS_TOL)
    return W, radius * unit


def _step_mapping(
    A: Tensor, B: Tensor, W: Tensor, hr: Tensor, energy: float
) -> tuple[Tensor, Tensor]:
    """Return a mapping on the simplices that lowers the objective, and the HR atoms."""
    spectrum = correlation_spectrum(A)
    flat = hr.flatten(1)
    L = float(torch.linalg.eigvalsh(spectrum).max() * torch.linalg.matrix_norm(flat, 2) ** 2)
    if L == 0:
        return W, hr
    new, y, t = W, W, 1.0
    for _ in range(W_STEPS):
        E = effective_atoms(y, hr)
        gradient = flat @ (apply_correlations(spectrum, E) - B).flatten(1).T  # (M, N)
        previous, new = new, project_simplex(y - gradient / L)
        if float(((y - new) * (new - previous)).sum()) > 0:  # restart: the momentum raises it
            t = 1.0
        beta, t = momentum(t)
        y = new + beta * (new - previous)
    return new, hr


def project_simplex(W: Tensor) -> Tensor:
    """Project every row of W onto the simplex w ≥ 0, Σ w = 1.

    Parameters
    ----------
    W : Tensor, shape (M, N)
        Any rows.

    Returns
    -------
    Tensor, shape (M, N)

    Examples
    --------
    >>> project_simplex(torch.tensor([[0.25, 0.25], [2.0, 0.0]]))
    tensor([[0.5000, 0.5000],
            [1.0000, 0.0000]])
    """
    ordered = W.sort(1, descending=True).values
    excess = ordered.cumsum(1) - 1
    n = torch.arange(1, W.shape[1] + 1, dtype=W.dtype, device=W.device)
    support = (ordered * n > excess).sum(1, keepdim=True)
    theta = excess.gather(1, support - 1) / support
    return (W - theta).clamp(min=0)


def _check_sizes(atoms: int, hr_atoms: int, side: int, rounds: int, refinement: int) -> None:
    check_integer(atoms, "atoms", least=1)
    check_integer(hr_atoms, "hr_atoms", least=1)
    check_integer(side, "side", least=1)
    check_integer(rounds, "rounds", least=1)
    check_integer(refinement, "refinement")
    if side % 2 == 0:
        raise ValueError(f"side must be odd, got {side}")
