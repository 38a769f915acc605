"""Learn CSC-SR: LR atoms from LR residuals, then mapping and HR atoms from their codes.

For pairs of LR and HR images, all that is left of the images once they are coded are two sums,

    min_{W, f} Σ ½‖x − l↑ − Σ_j f_j * Z_j‖²     with ‖f_j‖² ≤ e, w_j ≥ 0, Σ_i w_ji = 1
             = const + ½⟨G, A * G⟩ − ⟨B, G⟩,     G_i = Σ_j w_ji f_j,

A and B as of :mod:`csc.learning.surrogate`: where an HR image is laid out as s² channels of LR
size, zero insertion and an HR atom of side s k are an ordinary convolution with s² channels of
side k.  So the number of images costs nothing after the coding, and the alternation runs to
convergence:

- f, W held: the surrogate of A_f = W A Wᵀ and B_f = W B over atoms in a ball, by
  :func:`csc.learning.surrogate.minimise_surrogate`;
- W, f held: a quadratic over simplices, by accelerated projected gradients.

Neither step ever raises the objective.  With as many HR atoms as LR atoms, or more, and a slack
energy bound, G is free and its minimiser is reached by the first step in f alone; the mapping does
something only where M < N or where the bound binds.

References
----------
Gu, Zuo, Xie, Meng, Feng, Zhang, "Convolutional sparse coding for image super-resolution", ICCV
2015: there by stochastic ADMM, image by image.  Duchi, Shalev-Shwartz, Singer, Chandra, "Efficient
projections onto the ℓ1-ball for learning in high dimensions", ICML 2008 (the simplex).
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral, Real

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize, mirror, modcrop
from baselines.sparse.csc_sr import Filters, check_numbers, check_scale, margin, split
from baselines.sparse.csc_sr_refine import refine
from csc import Solution, coordinate_descent, learn_dictionary, random_dictionary
from csc.checks import check_finite, check_images
from csc.learning.surrogate import (
    apply_correlations,
    correlation_spectrum,
    correlations,
    minimise_surrogate,
    project,
)

# Defaults that are ours; the paper's are unknown.  λ and μ are for Y in [0, 1], the best
# of a handful at ×3 on 12 photos of General100; Set5 was measured along with them.
LAM, MU = 0.004, 0.1
# e over s².  On Set5 ×3, the LR atoms held: 1 comes to 32.23 dB, 2 to 32.36, 16, which binds
# nowhere, to 32.36.
ENERGY = 2.0
CODING_TOL, MOST_STEPS = 0.03, 300  # of the codes of training images
ATOMS_TOL = 1e-5  # relative gap of a step in f
W_STEPS = 50  # projected gradients in a step in W


@dataclass(frozen=True)
class Pair:
    """A training image, split.

    Attributes
    ----------
    low : Tensor, shape (1, 1, h, w)
        y − l, mirrored around by the margin.
    high : Tensor, shape (1, 1, scale·h, scale·w)
        x − l↑, mirrored alike.
    """

    low: Tensor
    high: Tensor


@dataclass(frozen=True)
class Sums:
    """All that the HR side needs of images and codes, float64.

    Attributes
    ----------
    A : Tensor, shape (N, N, 2k-1, 2k-1)
        Correlations of the LR codes.
    B : Tensor, shape (N, s², k, k)
        Correlations of the LR codes with the HR residuals, laid out as s² channels.
    energy : float
        Σ ‖x − l↑‖².
    """

    A: Tensor
    B: Tensor
    energy: float


@dataclass(frozen=True)
class Trained:
    """Filters and how they came about.

    Attributes
    ----------
    filters : Filters
        What was learned.
    objective : tuple of float
        Σ ½‖x − l↑ − Σ_j f_j * Z_j‖² after every step in f and every step in W: it never rises.
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
        Source of randomness.

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
    learner: Callable[..., Tensor] = our_dictionary,
    refinement: int = 0,
    solver: Callable[..., Solution] = coordinate_descent,
    generator: torch.Generator | None = None,
    on_step: Callable[[int, float], None] | None = None,
) -> Trained:
    """Learn D, W and F of one scale from HR images.

    Parameters
    ----------
    images : sequence of Tensors, shape (1, 1, H, W)
        HR Y in [0, 1], float32 or float64; sizes may differ.
    scale : int
        s ≥ 2.
    atoms, hr_atoms : int
        N and M; the paper has 800 and 1000.
    side : int
        k, odd; HR atoms have side s k.
    lam, mu : float
        Weight λ > 0 of the codes and smoothing μ ≥ 0 of the split.
    energy : float, optional
        Bound e > 0 on ‖f_j‖²; 2 s² by default, since an HR atom has s² times the pixels.
    rounds : int
        Alternations of a step in f and a step in W.
    learner : callable
        Called as ``learner(residuals, D, lam, generator=)``, returns the LR atoms:
        :func:`our_dictionary`, or :func:`csc.learning.sporco.sporco_dictionary`.
    refinement : int
        Steps of :func:`baselines.sparse.csc_sr_refine.refine` on the LR atoms, before the rounds;
        none in the paper.
    solver : callable
        As of :func:`baselines.sparse.csc_sr.upscale`.
    generator : torch.Generator, optional
        Source of randomness; torch's global one by default.
    on_step : callable, optional
        Called with (step, mean squared error of its crops) in the refinement.

    Returns
    -------
    Trained

    Raises
    ------
    ValueError, TypeError
        If there is no image, one is too small or holds NaN, or a number is out of its range.

    Examples
    --------
    >>> g = torch.Generator().manual_seed(0)
    >>> x = [torch.rand(1, 1, 48, 48, generator=g)]
    >>> trained = train(x, 2, atoms=4, hr_atoms=6, side=3, lam=0.1, generator=g)
    >>> tuple(trained.filters.F.shape), trained.objective[-1] <= trained.objective[0]
    ((6, 1, 6, 6), True)
    """
    check_scale(scale)
    check_numbers(lam, mu)
    _check_sizes(atoms, hr_atoms, side, rounds, refinement)
    energy = ENERGY * scale**2 if energy is None else energy
    if not isinstance(energy, Real) or not 0 < energy < math.inf:
        raise ValueError(f"energy must be a finite number > 0, got {energy!r}")
    D = random_dictionary(atoms, 1, side, generator=generator)
    pairs = make_pairs(images, scale, mu, margin(D))
    D = D.to(pairs[0].low)
    D = learner([pair.low for pair in pairs], D, lam, generator=generator)
    sums = code_pairs(pairs, D, lam, scale, solver=solver)
    if refinement:
        W, hr, _ = fit_hr(sums, hr_atoms, energy, rounds, generator=generator)
        both = [(pair.low, pair.high) for pair in pairs]
        D, _ = refine(
            D,
            W,
            hr,
            both,
            lam,
            energy,
            steps=refinement,
            solver=solver,
            generator=generator,
            on_step=on_step,
        )
        sums = code_pairs(pairs, D, lam, scale, solver=solver)
    W, hr, objective = fit_hr(sums, hr_atoms, energy, rounds, generator=generator)
    hr = F.pixel_shuffle(hr, scale)  # (M, 1, s k, s k)
    return Trained(Filters(scale, D, W.to(D), hr.to(D), lam, mu), objective)


def make_pairs(images: Sequence[Tensor], scale: int, mu: float, pad: int) -> list[Pair]:
    """Reduce HR images, split them, and subtract the enlarged smooth part from both sides.

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
        If there is no image, or one is no (1, 1, H, W), too small or not finite.
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
    solver: Callable[..., Solution] = coordinate_descent,
) -> Sums:
    """Return the sums of LR codes and HR residuals over all pairs.

    Parameters
    ----------
    pairs : sequence of Pair
        Of :func:`make_pairs`.
    D : Tensor, shape (N, 1, k, k)
        LR atoms.
    lam : float
        Weight λ.
    scale : int
        s.
    solver : callable
        As of :func:`baselines.sparse.csc_sr.upscale`.
    """
    N, _, k, _ = D.shape
    A = torch.zeros(N, N, 2 * k - 1, 2 * k - 1, dtype=torch.float64)
    B = torch.zeros(N, scale**2, k, k, dtype=torch.float64)
    energy = 0.0
    for pair in pairs:
        z = solver(pair.low, D, lam, tol=CODING_TOL, max_iter=MOST_STEPS).codes
        channels = F.pixel_unshuffle(pair.high, scale)  # (1, s², h, w)
        a, b = correlations(channels[0], z[0])
        A, B = A + a, B + b
        energy += float(pair.high.double().square().sum())
    return Sums(A, B, energy)


def fit_hr(
    sums: Sums,
    hr_atoms: int,
    energy: float,
    rounds: int,
    *,
    generator: torch.Generator | None = None,
) -> tuple[Tensor, Tensor, tuple[float, ...]]:
    """Alternate HR atoms and mapping; return W (M, N), f (M, s², k, k) and the objectives, float64.

    It starts from HR atoms that are zero and from HR codes that are LR codes, w_j one-hot, those
    that explain most first.  Where there are more HR codes than LR codes, each one beyond is a
    mixture of such a code with another: a second copy would get the same HR atom as the first, and
    no step tells equals apart.

    Parameters
    ----------
    sums : Sums
        Of :func:`code_pairs`.
    hr_atoms : int
        M.
    energy : float
        Bound e on ‖f_j‖².
    rounds : int
        Alternations.
    generator : torch.Generator, optional
        Draws the mixtures; torch's global one by default.
    """
    A, B = sums.A, sums.B
    (N, channels, k, _), middle = B.shape, A.shape[-1] // 2
    spectrum = correlation_spectrum(A)
    power = A[:, :, middle, middle].diagonal()  # Σ_p z_i(p)²
    gain = torch.where(power > 0, B.square().sum((1, 2, 3)) / power, 0.0)
    chosen = gain.argsort(descending=True, stable=True)[torch.arange(hr_atoms) % N]
    share = (1 + torch.rand(hr_atoms, 1, generator=generator, dtype=A.dtype)) / 4
    share[:N] = 0
    shift = torch.randint(1, max(N, 2), (hr_atoms,), generator=generator)
    other = (chosen + shift) % N
    W = torch.lerp(F.one_hot(chosen, N).to(A), F.one_hot(other, N).to(A), share)  # (M, N)
    hr = torch.zeros(hr_atoms, channels, k, k, dtype=torch.float64)

    def value(W: Tensor, hr: Tensor) -> float:
        G = torch.einsum("mn,mcuv->ncuv", W, hr)
        return 0.5 * sums.energy + float((G * (0.5 * apply_correlations(spectrum, G) - B)).sum())

    objective = [value(W, hr)]
    for _ in range(rounds):
        for step in (_step_atoms, _step_mapping):
            new = step(A, B, W, hr, energy)
            reached = value(*new)
            if reached < objective[-1]:
                W, hr = new
            objective.append(min(reached, objective[-1]))
    return W, hr, tuple(objective[1:])


def _step_atoms(
    A: Tensor, B: Tensor, W: Tensor, hr: Tensor, energy: float
) -> tuple[Tensor, Tensor]:
    """Return W and the HR atoms in the ball that minimise the objective; in units of its radius."""
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
        G = torch.einsum("mn,mcuv->ncuv", y, hr)
        slope = flat @ (apply_correlations(spectrum, G) - B).flatten(1).T  # (M, N)
        previous, new = new, project_simplex(y - slope / L)
        if float(((y - new) * (new - previous)).sum()) > 0:  # the momentum points uphill
            t = 1.0
        t_next = (1 + math.sqrt(1 + 4 * t * t)) / 2
        y, t = new + (t - 1) / t_next * (new - previous), t_next
    return new, hr


def project_simplex(W: Tensor) -> Tensor:
    """Return the rows on the simplex w ≥ 0, Σ w = 1 that are nearest to those of W.

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
    for name, value in (
        ("atoms", atoms),
        ("hr_atoms", hr_atoms),
        ("side", side),
        ("rounds", rounds),
        ("refinement", refinement),
    ):
        least = 0 if name == "refinement" else 1
        if not isinstance(value, Integral) or isinstance(value, bool) or value < least:
            raise ValueError(f"{name} must be an integer ≥ {least}, got {value!r}")
    if side % 2 == 0:
        raise ValueError(f"side must be odd, got {side}")
