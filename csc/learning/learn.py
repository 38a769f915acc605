"""Online convolutional dictionary learning: coordinate descent for codes, exact dictionary steps.

The atoms minimise the CSC objective of all images,

    min_D Σ_i min_z ½‖x_i − D z‖² + λ‖z‖₁    subject to ‖d_m‖ ≤ 1.

Step t codes a few images with the current dictionary.  It discounts two sums, A and B of
:mod:`csc.learning.surrogate`, by (1 − 1/t)^ρ, and adds the correlations of these codes and images.
A and B define a surrogate: the squared error of all images so far, with their codes held fixed.
The next dictionary minimises it.  An atom that stays unused is re-started from a patch of the
residual.

References
----------
Mairal, Bach, Ponce, Sapiro, "Online learning for matrix factorization and sparse coding", JMLR 11,
2010 (the method for patches; the discount and the re-start are its section 3.4).  Liu,
Garcia-Cardona, Wohlberg, Yin, "First- and second-order methods for online convolutional dictionary
learning", SIAM J. Imaging Sci. 11(2), 2018 (for convolution).
"""

import hashlib
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, TypedDict, cast

import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import (
    Weight,
    check_dictionary,
    check_finite,
    check_images,
    check_integer,
    check_number,
    check_pair,
    check_weight,
)
from csc.dictionary import unit_norm
from csc.learning.surrogate import correlations, minimise_surrogate, project
from csc.solvers.cd import coordinate_descent

# Largest number of epochs per image, for codes that nothing certifies, such as where λ = 0.
MOST_EPOCHS = 1000


class Settings(TypedDict):
    """What a run was started with; a resumed run must have the same.

    `images` has the shape of each image, `digests` a hash of its values.
    """

    images: list[list[int]]
    D: list[int]
    dtype: str
    lam: list[float]
    nonneg: bool
    batch: int
    forgetting: float
    patience: int
    coding_tol: float
    dictionary_tol: float
    digests: list[str]


class LearningState(TypedDict):
    """All that a run needs to go on: numbers, text and tensors, for torch.save and torch.load.

    A and B are the discounted sums of :mod:`csc.learning.surrogate`.  `unused` counts the images
    since each atom was last used.  `order` is the order of the images in the current pass.
    `random` is the state of the generator.
    """

    step: int
    D: Tensor  # (M, C, k, k)
    A: Tensor  # (M, M, 2k-1, 2k-1), float64
    B: Tensor  # (M, C, k, k), float64
    unused: Tensor  # (M,), int64
    order: Tensor  # (N,), int64
    random: Tensor  # uint8
    objective: Tensor  # (step,), float64
    settings: Settings


@dataclass(frozen=True)
class LearningStep:
    """The argument of `on_step`.

    Attributes
    ----------
    step : int
        Number of this step, from 1.
    images : tuple of int
        Indices of the images it coded.
    objective : float
        Mean of P(z) over these images, with the dictionary before the step.
    density : float
        Fraction of their codes that are not zero.
    restarted : tuple of int
        Unused atoms that were re-started.
    dictionary : Tensor, shape (M, C, k, k)
        The atoms after the step.
    state : LearningState
        State to resume from.
    """

    step: int
    images: tuple[int, ...]
    objective: float
    density: float
    restarted: tuple[int, ...]
    dictionary: Tensor
    state: LearningState


@dataclass(frozen=True)
class LearnedDictionary:
    """A dictionary and the history of its run.

    Attributes
    ----------
    dictionary : Tensor, shape (M, C, k, k)
        D, ‖d_m‖ ≤ 1, in the dtype and on the device of the images.
    objective : Tensor, shape (steps,), float64
        Mean of P(z) over the images of each step, with the dictionary before it.
    state : LearningState
        State to resume from.
    """

    dictionary: Tensor
    objective: Tensor
    state: LearningState


def learn_dictionary(
    images: Tensor | Sequence[Tensor],
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    passes: int = 4,
    batch: int = 1,
    forgetting: float = 10.0,
    patience: int = 20,
    coding_tol: float = 1.0,
    dictionary_tol: float = 1e-4,
    generator: torch.Generator | None = None,
    state: LearningState | None = None,
    on_step: Callable[[LearningStep], None] | None = None,
    threads: int | None = None,
) -> LearnedDictionary:
    """Learn atoms that minimise Σ_i min_z ½‖x_i − D z‖² + λ‖z‖₁ with ‖d_m‖ ≤ 1.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W), or sequence of Tensors, shape (C, H, W) or (1, C, H, W)
        Images in a sequence may differ in size.
    D : Tensor, shape (M, C, k, k)
        Dictionary to start from, such as :func:`csc.random_dictionary`.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0.
    nonneg : bool
        Require z ≥ 0.
    passes : int
        Number of times every image is coded; in a resumed run, counted from its first start.
    batch : int
        Images per step.
    forgetting : float
        Exponent ρ ≥ 0 of the discount.  About the last t/(ρ + 1) steps count; at 0, all count
        alike.
    patience : int
        An atom without a non-zero code in this many images is re-started.  It becomes a patch of
        the residual of the step's images, drawn with probability proportional to its energy.
    coding_tol, dictionary_tol : float
        Relative gaps at which codes and surrogate count as minimised.  Coarse codes are as good for
        learning as exact ones: on photographs a certified gap of 1 is an error of a few percent.
    generator : torch.Generator, optional
        Source of one seed, from which all else is drawn; by default torch's global generator.
    state : LearningState, optional
        State to resume from.  Images and settings must be those of its run; only `passes` may
        differ.  `D` and `generator` are ignored, since the state holds both.  To learn on from
        other images, start a new run from ``state["D"]``.
    on_step : callable, optional
        Called with a :class:`LearningStep` after every step.  It may keep the tensors, but must not
        change them.
    threads : int, optional
        As in :func:`csc.coordinate_descent`.

    Returns
    -------
    LearnedDictionary

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, images or D hold NaN, an atom of D is zero, a
        number is out of range, or `state` comes from other images or settings.

    Warns
    -----
    UserWarning
        If λ ≥ λ_max: with the atoms of D all codes are zero, and zero codes move no atom.

    Notes
    -----
    With the same number of threads, the same seed gives the same atoms bit for bit, interrupted or
    not.  The computation always runs on the CPU.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(4, 1, 3, generator=g, dtype=torch.float64)
    >>> x = torch.rand(3, 1, 16, 16, generator=g, dtype=torch.float64)
    >>> learned = learn_dictionary(x, D, lam=0.1, generator=g)
    >>> bool(learned.objective[-3:].mean() < learned.objective[:3].mean())
    True
    """
    parts = _check_images(images, D)
    check_weight(lam, (1, D.shape[0], 1, 1), dtype=D.dtype)
    _check_numbers(passes, batch, forgetting, patience, coding_tol, dictionary_tol, threads)
    _check_generator(generator)
    settings = Settings(
        images=[list(x.shape[1:]) for x in parts],
        D=list(D.shape),
        dtype=str(D.dtype),
        lam=torch.as_tensor(lam, dtype=torch.float64).detach().flatten().expand(len(D)).tolist(),
        nonneg=bool(nonneg),
        batch=int(batch),
        forgetting=float(forgetting),
        patience=int(patience),
        coding_tol=float(coding_tol),
        dictionary_tol=float(dictionary_tol),
        digests=[_digest(x) for x in parts],
    )
    if state is None:
        state = _begin(D, settings, generator)
        _warn_of_zero_codes(parts, state["D"], settings)
    else:
        _check_state(state, settings)
    per_pass = -(-len(parts) // batch)
    while state["step"] < passes * per_pass:
        step = _step(parts, state, threads)
        state = step.state
        if on_step:
            on_step(step)
    return LearnedDictionary(state["D"].to(D.device), state["objective"], state)


def _begin(D: Tensor, settings: Settings, generator: torch.Generator | None) -> LearningState:
    seed = int(torch.randint(2**62, (), generator=generator))
    M, _, k, _ = D.shape
    return LearningState(
        step=0,
        D=project(D.detach().cpu()),
        A=torch.zeros(M, M, 2 * k - 1, 2 * k - 1, dtype=torch.float64),
        B=torch.zeros(D.shape, dtype=torch.float64),
        unused=torch.zeros(M, dtype=torch.int64),
        order=torch.arange(len(settings["images"])),
        random=torch.Generator().manual_seed(seed).get_state(),
        objective=torch.zeros(0, dtype=torch.float64),
        settings=settings,
    )


def _step(images: list[Tensor], state: LearningState, threads: int | None) -> LearningStep:
    """Code a batch, minimise the surrogate, re-start unused atoms."""
    settings, t = state["settings"], state["step"] + 1
    generator = torch.Generator()
    generator.set_state(state["random"])
    N, batch = len(images), settings["batch"]
    first = (t - 1) % -(-N // batch) * batch
    order = torch.randperm(N, generator=generator) if first == 0 else state["order"]
    chosen = order[first : first + batch].tolist()
    coded = _code([images[i].cpu() for i in chosen], state["D"], settings, threads)

    discount = (1 - 1 / t) ** settings["forgetting"]
    A, B = discount * state["A"] + coded.A, discount * state["B"] + coded.B
    D = minimise_surrogate(A, B, state["D"].double(), settings["dictionary_tol"])
    D = D.to(state["D"].dtype, copy=True)  # a copy: the old state must not change

    unused = torch.where(coded.used, 0, state["unused"] + len(chosen))
    dead = (unused >= settings["patience"]).nonzero().flatten()
    patches = _draw_patches(coded.residuals, len(dead), D.shape[-1], generator)
    dead = dead[: len(patches)]
    D[dead], unused[dead], A[dead], A[:, dead], B[dead] = patches, 0, 0, 0, 0

    state = LearningState(
        step=t,
        D=D,
        A=A,
        B=B,
        unused=unused,
        order=order,
        random=generator.get_state(),
        objective=torch.cat([state["objective"], coded.objective.mean()[None]]),
        settings=settings,
    )
    restarted = tuple(dead.tolist())
    objective, device = float(coded.objective.mean()), images[0].device
    return LearningStep(t, tuple(chosen), objective, coded.density, restarted, D.to(device), state)


class _Coded(NamedTuple):
    """The contribution of a batch of images."""

    A: Tensor  # (M, M, 2k-1, 2k-1)
    B: Tensor  # (M, C, k, k)
    used: Tensor  # (M,), bool
    residuals: list[Tensor]  # each (1, C, H, W)
    objective: Tensor  # (batch,)
    density: float


def _code(images: list[Tensor], D: Tensor, settings: Settings, threads: int | None) -> _Coded:
    lam = torch.tensor(settings["lam"], dtype=D.dtype)
    M, _, k, _ = D.shape
    A = torch.zeros(M, M, 2 * k - 1, 2 * k - 1, dtype=torch.float64)
    B = torch.zeros(D.shape, dtype=torch.float64)
    counts, positions = torch.zeros(M, dtype=torch.int64), 0
    residuals, objectives = [], []
    for x in images:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of zero codes, as in a flat image
            solution = coordinate_descent(
                x,
                D,
                lam,
                nonneg=settings["nonneg"],
                tol=settings["coding_tol"],
                max_iter=MOST_EPOCHS,
                threads=threads,
            )
        z = solution.codes
        a, b = correlations(x[0], z[0])
        A, B = A + a, B + b
        counts += z.count_nonzero((0, 2, 3))
        positions += z.numel()
        residuals.append(x - F.conv_transpose2d(z, D))
        objectives.append(solution.objective)
    density = int(counts.sum()) / positions
    return _Coded(A, B, counts > 0, residuals, torch.cat(objectives), density)


def _draw_patches(residuals: list[Tensor], n: int, k: int, generator: torch.Generator) -> Tensor:
    """Return n patches (n, C, k, k) of unit norm, drawn with probability ∝ energy.

    If all residuals are zero, return no patch: shape (0, C, k, k).
    """
    energies = [
        F.avg_pool2d(r.double().square().sum(1, keepdim=True), k, stride=1) for r in residuals
    ]
    ends = torch.cat([energy.flatten() for energy in energies]).cumsum(0)
    if n == 0 or ends[-1] == 0:
        return residuals[0].new_zeros(0, residuals[0].shape[1], k, k)
    drawn = ends[-1] * torch.rand(n, generator=generator, dtype=torch.float64)
    patches = []
    for place in torch.searchsorted(ends, drawn, right=True).clamp(max=len(ends) - 1).tolist():
        for r, energy in zip(residuals, energies, strict=True):
            if place < energy.numel():
                p, q = divmod(place, energy.shape[-1])
                patches.append(r[:, :, p : p + k, q : q + k])
                break
            place -= energy.numel()
    return unit_norm(torch.cat(patches).double()).to(patches[0])


def _check_images(images: Tensor | Sequence[Tensor], D: Tensor) -> list[Tensor]:
    """Return the images one by one, each (1, C, H, W)."""
    check_dictionary(D)
    check_finite(D, "D")
    unit_norm(D)  # names the atoms that are zero
    if D.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dictionary learning is in float32 or float64, got {D.dtype}")
    if isinstance(images, Tensor):
        check_images(images, "images")
        parts = [images[i : i + 1] for i in range(len(images))]
    elif isinstance(images, Sequence) and not isinstance(images, str):
        parts = [x[None] if isinstance(x, Tensor) and x.ndim == 3 else x for x in images]
    else:
        raise TypeError(
            f"images must be a torch.Tensor or a sequence of them, got {type(images).__name__}"
        )
    if not parts:
        raise ValueError("there are no images; learning needs at least one")
    for i, x in enumerate(parts):
        check_images(x, f"images[{i}]")
        if x.shape[0] != 1:
            raise ValueError(
                f"images[{i}] must have shape (C, H, W) or (1, C, H, W), got {tuple(x.shape)}; "
                "give a batch of images as one tensor"
            )
        try:
            check_pair(x, D)
        except (TypeError, ValueError) as error:
            raise type(error)(f"images[{i}]: {error}") from None
        check_finite(x, f"images[{i}]")
    return [x.detach() for x in parts]


def _check_numbers(
    passes: int,
    batch: int,
    forgetting: float,
    patience: int,
    coding_tol: float,
    dictionary_tol: float,
    threads: int | None,
) -> None:
    check_integer(passes, "passes")
    check_integer(batch, "batch", 1)
    check_number(forgetting, "forgetting")
    check_integer(patience, "patience", 1)
    check_number(coding_tol, "coding_tol")
    check_number(dictionary_tol, "dictionary_tol")
    if threads is not None:
        check_integer(threads, "threads", 1)


def _check_generator(generator: torch.Generator | None) -> None:
    if generator is not None and not isinstance(generator, torch.Generator):
        raise TypeError(
            f"generator must be a torch.Generator, got {type(generator).__name__}; "
            "use torch.Generator().manual_seed(0)"
        )


def _digest(x: Tensor) -> str:
    """Return a hash of the values of an image."""
    return hashlib.blake2b(x.cpu().contiguous().numpy().data, digest_size=8).hexdigest()


def _warn_of_zero_codes(images: list[Tensor], D: Tensor, settings: Settings) -> None:
    """Warn if λ ≥ λ_max in every image, for the atoms D."""
    lam = torch.tensor(settings["lam"], dtype=D.dtype)[:, None, None]
    lam_max = 0.0
    for x in images:
        peaks = F.conv2d(x.cpu(), D)
        peaks = peaks if settings["nonneg"] else peaks.abs()
        if bool((peaks > lam).any()):
            return
        lam_max = max(lam_max, float(peaks.max()))
    remedy = f"use lam < {lam_max:.4g}" if lam_max > 0 else "use other images or atoms"
    warnings.warn(
        f"all codes are zero, because lam is at least λ_max = {lam_max:.4g} of these images and "
        f"atoms; no atom moves before `patience` re-starts it; {remedy}",
        UserWarning,
        stacklevel=3,
    )


def _check_state(state: LearningState, settings: Settings) -> None:
    """Require a state of a run with these images and settings."""
    if not isinstance(state, dict):
        raise TypeError(
            "state must be that of a LearnedDictionary or a LearningStep, "
            f"got {type(state).__name__}"
        )
    entries = cast(dict[str, object], state)
    missing = sorted(LearningState.__annotations__.keys() - entries.keys())
    if missing:
        raise ValueError(f"state lacks {missing}; give one that learn_dictionary returned")
    for name in LearningState.__annotations__:
        kind = {"step": int, "settings": dict}.get(name, Tensor)
        if not isinstance(entries[name], kind):
            raise TypeError(
                f"state has {name} of type {type(entries[name]).__name__}, "
                f"expected {kind.__name__}; give one that learn_dictionary returned"
            )
    _check_same_run(cast(dict[str, object], state["settings"]), settings)
    M, _, k, _ = settings["D"]
    for name, entry, shape in (
        ("D", state["D"], tuple(settings["D"])),
        ("A", state["A"], (M, M, 2 * k - 1, 2 * k - 1)),
        ("B", state["B"], tuple(settings["D"])),
        ("unused", state["unused"], (M,)),
        ("order", state["order"], (len(settings["images"]),)),
        ("random", state["random"], tuple(torch.Generator().get_state().shape)),
    ):
        if tuple(entry.shape) != shape:
            raise ValueError(
                f"state has {name} of shape {tuple(entry.shape)}, expected {shape}; "
                "give one that learn_dictionary returned"
            )
    for name, entry in (("D", state["D"]), ("A", state["A"]), ("B", state["B"])):
        check_finite(entry, f"state's {name}")


def _check_same_run(came: dict[str, object], settings: Settings) -> None:
    for name, value in settings.items():
        if came.get(name) == value:
            continue
        if name == "digests":
            raise ValueError(
                "state comes from a run on other images of the same sizes; give the images of that "
                'run, or start a new run on these from its atoms, with D=state["D"] and no state'
            )
        raise ValueError(
            f"state comes from a run with {name} = {came.get(name)}, this one has {value}; "
            "resume with the same, or begin anew from its dictionary"
        )
