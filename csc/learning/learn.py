"""Online convolutional dictionary learning: coordinate descent for codes, exact dictionary steps.

The atoms minimise the CSC objective of all images,

    min_D Σ_i min_z ½‖x_i − D z‖² + λ‖z‖₁    subject to ‖d_m‖ ≤ 1.

Step t codes a few images with the current dictionary.  It discounts two sums, A and B of
:mod:`csc.learning.surrogate`, by (1 − 1/t)^ρ, and adds the correlations of these codes and images.
A and B define a surrogate: the squared error of all images so far, with their codes held fixed.
The next dictionary minimises it.  An atom that stays unused is re-started from a patch of the
residual.

Where pixels are missing, the step fills them in with D z, of its codes and its dictionary.  The
squared error of the filled image is at least that of the known pixels, for any atoms, and equal for
the atoms of the step.  So the sums remain a surrogate from above.

References
----------
Mairal, Bach, Ponce, Sapiro, "Online learning for matrix factorization and sparse coding", JMLR 11,
2010 (the method for patches; the discount and the re-start are its section 3.4).  Liu,
Garcia-Cardona, Wohlberg, Yin, "First- and second-order methods for online convolutional dictionary
learning", SIAM J. Imaging Sci. 11(2), 2018 (for convolution).  Mairal, "Stochastic
majorization-minimization algorithms for large-scale optimization", NIPS 2013 (surrogates from
above).
"""

import functools
import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor
from dataclasses import dataclass
from itertools import islice
from typing import NamedTuple, TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from csc.checks import (
    Weight,
    check_dictionary,
    check_finite,
    check_images,
    check_integer,
    check_mask,
    check_number,
    check_pair,
    check_weight,
)
from csc.dictionary import unit_norm
from csc.learning.state import LearningState, Settings, begin, go_on, resume
from csc.learning.surrogate import Correlations, minimise_surrogate
from csc.solvers.cd import coordinate_descent
from csc.workers import each

# Largest number of epochs per image, for codes that nothing certifies, such as where λ = 0.
MOST_EPOCHS = 1000


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
    dictionary : Tensor, shape (M, C, kh, kw)
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
    dictionary : Tensor, shape (M, C, kh, kw)
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
    images: Tensor | Iterable[Tensor],
    D: Tensor,
    lam: Weight,
    *,
    nonneg: bool = False,
    mask: Tensor | Sequence[Tensor] | None = None,
    passes: int = 4,
    batch: int = 1,
    forgetting: float = 10.0,
    patience: int = 20,
    coding_tol: float = 1.0,
    dictionary_tol: float = 1e-4,
    generator: torch.Generator | None = None,
    state: LearningState | None = None,
    after: LearningState | None = None,
    on_step: Callable[[LearningStep], None] | None = None,
    threads: int | None = None,
    executor: Executor | None = None,
) -> LearnedDictionary:
    """Learn atoms that minimise Σ_i min_z ½‖x_i − D z‖² + λ‖z‖₁ with ‖d_m‖ ≤ 1.

    Parameters
    ----------
    images : Tensor, shape (N, C, H, W), or iterable of Tensors, shape (C, H, W) or (1, C, H, W)
        Images may differ in size.  A tensor or a sequence, such as a list, is checked before any
        work, and every pass has a new order.  Any other iterable is a stream: it is read once per
        pass, in its own order, and only the images of one step are in memory.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary to start from, such as :func:`csc.random_dictionary`.
    lam : float or Tensor, shape () or (M,)
        Weight λ ≥ 0.
    nonneg : bool
        Require z ≥ 0.
    mask : Tensor of bool that broadcasts to the images, or a sequence of one per image, optional
        True where a pixel is known.  What the images hold elsewhere is ignored.
    passes : int
        Number of times every image is coded; in a resumed run, counted from its first start.  An
        iterator, such as a generator, can be read in one pass only.
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
        differ.  `D` and `generator` are ignored, since the state holds both.
    after : LearningState, optional
        Learn on from this state, with other images: atoms, sums and discount continue, and `passes`
        counts from here.  λ, `nonneg`, and the shape and dtype of the atoms must be those of its
        run.  `D` and `generator` are ignored.  A stream cut into pieces that fill whole steps,
        each learned after the state of the one before, gives the atoms of the whole stream, bit
        for bit.
    on_step : callable, optional
        Called with a :class:`LearningStep` after every step.  It may keep the tensors, but must not
        change them.
    threads : int, optional
        As in :func:`csc.coordinate_descent`.
    executor : concurrent.futures.Executor, optional
        Codes the images of a step in parallel (:mod:`csc.workers`); use a `batch` of several images
        per worker.  The atoms are the same, bit for bit.  An image whose worker is lost is left out
        of the sums, with a warning.

    Returns
    -------
    LearnedDictionary

    Raises
    ------
    ValueError, TypeError
        If shapes, dtypes or devices do not fit, images or D hold NaN, an atom of D is zero, a
        number is out of range, a mask does not fit or is given for a stream, `state` comes from
        other images or settings, or `after` has sums that do not fit.

    Warns
    -----
    UserWarning
        If λ ≥ λ_max: with the atoms of D all codes are zero, and zero codes move no atom.

    Notes
    -----
    With the same number of threads, the same seed gives the same atoms bit for bit, interrupted or
    not.  The computation always runs on the CPU.  :mod:`csc.learning.state` saves and loads states.

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
    >>> stream = (torch.rand(1, 16, 16, generator=g, dtype=torch.float64) for _ in range(5))
    >>> more = learn_dictionary(stream, D, lam=0.1, passes=1, after=learned.state)
    >>> len(learned.objective), len(more.objective)
    (12, 17)
    """
    _check_atoms(D)
    parts = _in_memory(images, D) if mask is None else _in_memory_known(images, mask, D)
    check_weight(lam, (1, D.shape[0], 1, 1), dtype=D.dtype)
    _check_numbers(passes, batch, forgetting, patience, coding_tol, dictionary_tol, threads)
    _check_generator(generator)
    if state is not None and after is not None:
        raise ValueError("give state to resume a run, or after to learn on from it, not both")
    settings = Settings(
        images=[list(x.shape[1:]) for x in parts or []],
        D=list(D.shape),
        dtype=str(D.dtype),
        lam=torch.as_tensor(lam, dtype=torch.float64).detach().flatten().expand(len(D)).tolist(),
        nonneg=bool(nonneg),
        batch=int(batch),
        forgetting=float(forgetting),
        patience=int(patience),
        coding_tol=float(coding_tol),
        dictionary_tol=float(dictionary_tol),
        digests=[_digest(x) for x in parts or []],
    )
    if parts is None:
        _check_stream(images, passes, state)
    if state is not None:
        state = resume(state, settings)
    elif after is not None:
        state = go_on(after, settings)
    else:
        state = begin(D, settings, generator)
        if parts is not None:
            _warn_of_zero_codes(parts, state["D"], settings)
    code = functools.partial(_code, threads=threads, executor=executor)
    if parts is None:
        steps = _learn_stream(images, D, state, passes, code)
    else:
        steps = _learn_images(parts, state, passes, code)
    for step in steps:
        state = step.state
        if on_step:
            on_step(step)
    return LearnedDictionary(state["D"].to(D.device), state["objective"], state)


def _learn_images(
    images: list[Tensor], state: LearningState, passes: int, code: "_Code"
) -> Iterator[LearningStep]:
    """Take the steps that are left of `passes` passes, each in an order of its own."""
    batch = state["settings"]["batch"]
    per_pass = -(-len(images) // batch)
    while state["step"] - state["begun"] < passes * per_pass:
        generator = _generator(state)
        first = (state["step"] - state["begun"]) % per_pass * batch
        order = torch.randperm(len(images), generator=generator) if first == 0 else state["order"]
        chosen = order[first : first + batch].tolist()
        state = {**state, "order": order}
        step = _step([images[i] for i in chosen], chosen, state, generator, code)
        state = step.state
        yield step


def _learn_stream(
    images: Iterable[Tensor], D: Tensor, state: LearningState, passes: int, code: "_Code"
) -> Iterator[LearningStep]:
    """Read the stream `passes` times, one step at a time."""
    batch, used = state["settings"]["batch"], False
    for _ in range(passes):
        stream, seen = iter(images), 0
        while parts := [
            _check_image(x, f"images[{i}]", D) for i, x in enumerate(islice(stream, batch), seen)
        ]:
            step = _step(parts, range(seen, seen + len(parts)), state, _generator(state), code)
            state, seen, used = step.state, seen + len(parts), used or step.density > 0
            del parts  # before the next images are read
            yield step
        if not seen:
            raise ValueError("the stream gave no images; learning needs at least one")
    if passes and not used:
        warnings.warn(
            "all codes were zero, so no atom learned from an image; use a smaller lam",
            UserWarning,
            stacklevel=3,
        )


def _generator(state: LearningState) -> torch.Generator:
    generator = torch.Generator()
    generator.set_state(state["random"])
    return generator


def _step(
    images: list[Tensor],
    chosen: Sequence[int],
    state: LearningState,
    generator: torch.Generator,
    code: "_Code",
) -> LearningStep:
    """Code a batch, minimise the surrogate, re-start unused atoms."""
    settings, t = state["settings"], state["step"] + 1
    coded = code([x.cpu() for x in images], state["D"], settings)

    discount = (1 - 1 / t) ** settings["forgetting"]
    A = coded.A.add_(discount * state["A"])  # in place: A is the largest tensor of a run
    B = discount * state["B"] + coded.B
    D = minimise_surrogate(A, B, state["D"].double(), settings["dictionary_tol"])
    D = D.to(state["D"].dtype, copy=True)  # a copy: the old state must not change

    unused = torch.where(coded.used, 0, state["unused"] + len(coded.residuals))
    dead = (unused >= settings["patience"]).nonzero().flatten()
    dead = dead if coded.residuals else dead[:0]  # an image whose worker was lost has none
    if len(dead):
        patches = _draw_patches(coded.residuals, len(dead), (D.shape[2], D.shape[3]), generator)
        dead = dead[: len(patches)]
        D[dead], unused[dead], A[dead], A[:, dead], B[dead] = patches, 0, 0, 0, 0

    objective = coded.objective.mean()
    now: LearningState = {
        **state,
        "step": t,
        "D": D,
        "A": A,
        "B": B,
        "unused": unused,
        "random": generator.get_state(),
        "objective": torch.cat([state["objective"], objective[None]]),
    }
    return LearningStep(
        step=t,
        images=tuple(chosen),
        objective=float(objective),
        density=coded.density,
        restarted=tuple(dead.tolist()),
        dictionary=D.to(images[0].device),
        state=now,
    )


class _Coded(NamedTuple):
    """The contribution of a batch of images."""

    A: Tensor  # (M, M, 2kh-1, 2kw-1)
    B: Tensor  # (M, C, kh, kw)
    used: Tensor  # (M,), bool
    residuals: list[Tensor]  # each (1, C, H, W)
    objective: Tensor  # (batch,)
    density: float


_Code: TypeAlias = Callable[[list[Tensor], Tensor, Settings], _Coded]


class _Codes(NamedTuple):
    """The codes of one image, as a list of those that are not zero."""

    places: Tensor  # (n, 3): atom, row, column
    values: Tensor  # (n,)
    of: int  # number of codes, with the zeros
    image: Tensor  # (1, C, H, W), with missing pixels filled in
    residual: Tensor  # (1, C, H, W)
    objective: Tensor  # (1,)


def _code(
    images: list[Tensor],
    D: Tensor,
    settings: Settings,
    threads: int | None,
    executor: Executor | None,
) -> _Coded:
    """Code images and add up their correlations, in their order."""
    solve = functools.partial(
        _code_image,
        D=D,
        lam=torch.tensor(settings["lam"], dtype=D.dtype),
        nonneg=settings["nonneg"],
        tol=settings["coding_tol"],
        threads=threads,
    )
    M, sums = len(D), Correlations(D.shape)
    counts, positions = torch.zeros(M, dtype=torch.int64), 0
    residuals, objectives = [], [torch.zeros(0, dtype=torch.float64)]
    for _, codes in each(solve, (x.clone() for x in images), executor):
        sums.add(codes.image[0], codes.places, codes.values)
        counts += torch.bincount(codes.places[:, 0], minlength=M)
        positions += codes.of
        residuals.append(codes.residual)
        objectives.append(codes.objective)
    density = int(counts.sum()) / max(positions, 1)
    return _Coded(sums.A(), sums.B, counts > 0, residuals, torch.cat(objectives), density)


def _code_image(
    x: Tensor, *, D: Tensor, lam: Tensor, nonneg: bool, tol: float, threads: int | None
) -> _Codes:
    missing = x.isnan()
    mask = ~missing if bool(missing.any()) else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # of zero codes, as in a flat image
        solution = coordinate_descent(
            x, D, lam, nonneg=nonneg, mask=mask, tol=tol, max_iter=MOST_EPOCHS, threads=threads
        )
    z = solution.codes
    places, Dz = z[0].nonzero(), F.conv_transpose2d(z, D)
    image = torch.where(missing, Dz, x)
    return _Codes(places, z[0][tuple(places.T)], z.numel(), image, image - Dz, solution.objective)


def _draw_patches(
    residuals: list[Tensor], n: int, size: tuple[int, int], generator: torch.Generator
) -> Tensor:
    """Return n patches (n, C, kh, kw) of unit norm, drawn with probability ∝ energy.

    If all residuals are zero, return no patch: shape (0, C, kh, kw).
    """
    energies = [
        F.avg_pool2d(r.double().square().sum(1, keepdim=True), size, stride=1) for r in residuals
    ]
    ends = torch.cat([energy.flatten() for energy in energies]).cumsum(0)
    if n == 0 or ends[-1] == 0:
        return residuals[0].new_zeros(0, residuals[0].shape[1], *size)
    drawn = ends[-1] * torch.rand(n, generator=generator, dtype=torch.float64)
    patches = []
    for place in torch.searchsorted(ends, drawn, right=True).clamp(max=len(ends) - 1).tolist():
        for r, energy in zip(residuals, energies, strict=True):
            if place < energy.numel():
                p, q = divmod(place, energy.shape[-1])
                patches.append(r[:, :, p : p + size[0], q : q + size[1]])
                break
            place -= energy.numel()
    return unit_norm(torch.cat(patches).double()).to(patches[0])


def _check_atoms(D: Tensor) -> None:
    check_dictionary(D)
    check_finite(D, "D")
    unit_norm(D)  # names the atoms that are zero
    if D.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"dictionary learning is in float32 or float64, got {D.dtype}")


def _in_memory(images: Tensor | Iterable[Tensor], D: Tensor) -> list[Tensor] | None:
    """Return the images of a tensor or a sequence, each (1, C, H, W); None for a stream."""
    if isinstance(images, Tensor):
        check_images(images, "images")
        parts: Sequence[Tensor] = [images[i : i + 1] for i in range(len(images))]
    elif isinstance(images, Iterable) and not isinstance(images, str | np.ndarray):
        if not isinstance(images, Sequence):
            return None
        parts = images
    else:
        raise TypeError(
            "images must be a torch.Tensor or a sequence or stream of them, "
            f"got {type(images).__name__}"
        )
    if not parts:
        raise ValueError("there are no images; learning needs at least one")
    return [_check_image(x, f"images[{i}]", D) for i, x in enumerate(parts)]


def _in_memory_known(
    images: Tensor | Iterable[Tensor], mask: Tensor | Sequence[Tensor], D: Tensor
) -> list[Tensor]:
    """Return the images, each (1, C, H, W), with NaN at missing pixels."""
    if not isinstance(images, Tensor | Sequence):
        raise ValueError("a mask needs images in memory; give a tensor or a list of images")
    if isinstance(images, Tensor):
        check_images(images, "images")
        images = [images[i : i + 1] for i in range(len(images))]
    if isinstance(mask, Tensor):
        mask = [mask] if mask.ndim != 4 else [mask[i : i + 1] for i in range(len(mask))]
        mask = mask * len(images) if len(mask) == 1 else mask
    if len(mask) != len(images):
        raise ValueError(f"there are {len(images)} images but {len(mask)} masks; give one for each")
    parts = []
    for i, (x, m) in enumerate(zip(images, mask, strict=True)):
        x = x[None] if isinstance(x, Tensor) and x.ndim == 3 else x
        m = m[None] if isinstance(m, Tensor) and m.ndim == 3 else m
        check_images(x, f"images[{i}]")
        check_mask(m, x)
        known = _check_image(torch.where(m, x, 0.0), f"images[{i}]", D)
        parts.append(torch.where(m, known, torch.nan))
    return parts


def _check_image(x: Tensor, name: str, D: Tensor) -> Tensor:
    """Return an image as (1, C, H, W)."""
    if isinstance(x, Tensor) and x.ndim == 3:
        x = x[None]
    check_images(x, name)
    if x.shape[0] != 1:
        raise ValueError(
            f"{name} must have shape (C, H, W) or (1, C, H, W), got {tuple(x.shape)}; "
            "give a batch of images as one tensor"
        )
    try:
        check_pair(x, D)
    except (TypeError, ValueError) as error:
        raise type(error)(f"{name}: {error}") from None
    check_finite(x, name)
    return x.detach()


def _check_stream(images: Iterable[Tensor], passes: int, state: LearningState | None) -> None:
    """Refuse what a stream cannot do."""
    if isinstance(images, Iterator) and passes > 1:
        raise ValueError(
            f"an iterator is read once, so it cannot give {passes} passes; use passes=1, or an "
            "object whose __iter__ starts anew"
        )
    if state is not None:
        raise ValueError("a stream cannot be resumed; give the rest of it, with after=state")


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
        peaks = F.conv2d(x.cpu().nan_to_num(0.0), D)
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
