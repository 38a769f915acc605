"""The state of dictionary learning: how a run begins, resumes, goes on, and is stored in a file.

A state is a dict of numbers, text and tensors.  It holds no image.  From the state after step t a
run takes step t + 1 as if it had never stopped.
"""

import json
import os
from pathlib import Path
from typing import TypedDict, cast

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from csc.checks import check_finite
from csc.learning.surrogate import project


class Settings(TypedDict):
    """What a run was started with; a resumed run must have the same.

    `images` has the shape of each image, `digests` a hash of its values.  Both are empty for a
    stream, whose images are not known in advance.
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
    """All that a run needs to go on: numbers, text and tensors.

    A and B are the discounted sums of :mod:`csc.learning.surrogate`.  `begun` is the step after
    which the present images came.  `unused` counts the images since each atom was last used.
    `order` is the order of the images in the current pass.  `random` is the state of the generator.
    """

    step: int
    begun: int
    D: Tensor  # (M, C, kh, kw)
    A: Tensor  # (M, M, 2kh-1, 2kw-1), float64
    B: Tensor  # (M, C, kh, kw), float64
    unused: Tensor  # (M,), int64
    order: Tensor  # (N,), int64
    random: Tensor  # uint8
    objective: Tensor  # (step,), float64
    settings: Settings


KINDS: dict[str, type] = {"step": int, "begun": int, "settings": dict}  # the others are tensors
MUST_AGREE = ("D", "dtype", "lam", "nonneg")  # of two runs whose sums are added


def begin(D: Tensor, settings: Settings, generator: torch.Generator | None) -> LearningState:
    """Return the state before the first step."""
    seed = int(torch.randint(2**62, (), generator=generator))
    M, _, kh, kw = D.shape
    return LearningState(
        step=0,
        begun=0,
        D=project(D.detach().cpu()),
        A=torch.zeros(M, M, 2 * kh - 1, 2 * kw - 1, dtype=torch.float64),
        B=torch.zeros(D.shape, dtype=torch.float64),
        unused=torch.zeros(M, dtype=torch.int64),
        order=torch.arange(len(settings["images"])),
        random=torch.Generator().manual_seed(seed).get_state(),
        objective=torch.zeros(0, dtype=torch.float64),
        settings=settings,
    )


def resume(state: LearningState, settings: Settings) -> LearningState:
    """Return a state unchanged, after checking that it is of a run with these images and settings.

    Raises
    ------
    ValueError, TypeError
        If it is not.
    """
    check_state(state, "state")
    for name, value in settings.items():
        came = cast(dict[str, object], state["settings"]).get(name)
        if came == value:
            continue
        if name == "digests":
            raise ValueError(
                "state comes from a run on other images of the same sizes; give the images of that "
                "run, or learn on from other images with after=state and no state"
            )
        raise ValueError(
            f"state comes from a run with {name} = {came}, this one has {value}; resume with the "
            "same images and settings, or learn on from other images with after=state and no state"
        )
    return state


def go_on(after: LearningState, settings: Settings) -> LearningState:
    """Return the state that begins a run on other images with the atoms and sums of `after`.

    Raises
    ------
    ValueError, TypeError
        If it is not a state, or its atoms, dtype, λ or sign are others.
    """
    check_state(after, "after")
    for name in MUST_AGREE:
        came, value = (cast(dict[str, object], s)[name] for s in (after["settings"], settings))
        if came != value:
            raise ValueError(
                f"after comes from a run with {name} = {came}, this one has {value}, so its sums "
                'do not fit; start a new run from its atoms, with D=after["D"]'
            )
    return {
        **after,
        "begun": after["step"],
        "order": torch.arange(len(settings["images"])),
        "settings": settings,
    }


def check_state(state: LearningState, name: str) -> None:
    """Require all entries of a state, with the types and shapes that its settings say."""
    if not isinstance(state, dict):
        raise TypeError(
            f"{name} must be that of a LearnedDictionary or a LearningStep, "
            f"got {type(state).__name__}"
        )
    entries = cast(dict[str, object], state)
    missing = sorted(LearningState.__annotations__.keys() - entries.keys())
    if missing:
        raise ValueError(f"{name} lacks {missing}; give one that learn_dictionary returned")
    for key in LearningState.__annotations__:
        kind = KINDS.get(key, Tensor)
        if not isinstance(entries[key], kind):
            raise TypeError(
                f"{name} has {key} of type {type(entries[key]).__name__}, "
                f"expected {kind.__name__}; give one that learn_dictionary returned"
            )
    settings = state["settings"]
    missing = sorted(Settings.__annotations__.keys() - settings.keys())
    if missing:
        raise ValueError(f"{name}'s settings lack {missing}")
    M, _, kh, kw = settings["D"]
    for key, entry, shape in (
        ("D", state["D"], tuple(settings["D"])),
        ("A", state["A"], (M, M, 2 * kh - 1, 2 * kw - 1)),
        ("B", state["B"], tuple(settings["D"])),
        ("unused", state["unused"], (M,)),
        ("order", state["order"], (len(settings["images"]),)),
        ("random", state["random"], tuple(torch.Generator().get_state().shape)),
    ):
        if tuple(entry.shape) != shape:
            raise ValueError(
                f"{name} has {key} of shape {tuple(entry.shape)}, expected {shape}; "
                "give one that learn_dictionary returned"
            )
    for key, entry in (("D", state["D"]), ("A", state["A"]), ("B", state["B"])):
        check_finite(entry, f"{name}'s {key}")


def save(path: str | Path, state: LearningState) -> None:
    """Write a state to a safetensors file; a file that is there is replaced when all is written.

    Parameters
    ----------
    path : str or Path
        The file.
    state : LearningState
        Of a :class:`csc.LearnedDictionary` or a :class:`csc.LearningStep`.

    Raises
    ------
    ValueError, TypeError
        If it is not a state.
    OSError
        If the file cannot be written.

    Examples
    --------
    >>> import tempfile
    >>> from csc import learn_dictionary, random_dictionary
    >>> x, D = torch.rand(2, 1, 12, 12), random_dictionary(4, 1, 3)
    >>> learned = learn_dictionary(x, D, lam=0.1, passes=1)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(f"{folder}/atoms.safetensors", learned.state)
    ...     state = load(f"{folder}/atoms.safetensors")
    >>> torch.equal(state["A"], learned.state["A"])
    True
    """
    check_state(state, "state")
    tensors = {key: entry.contiguous() for key, entry in state.items() if isinstance(entry, Tensor)}
    rest = {key: state[key] for key in ("step", "begun", "settings")}
    unfinished = f"{path}.{os.getpid()}.part"
    try:
        save_file(tensors, unfinished, {"learning": json.dumps(rest)})
        os.replace(unfinished, path)
    finally:
        Path(unfinished).unlink(missing_ok=True)


def load(path: str | Path) -> LearningState:
    """Read the state that :func:`save` wrote.  The file holds data, and no code.

    Raises
    ------
    ValueError, TypeError
        If the file is damaged or holds no state.
    OSError
        If the file cannot be read.
    """
    try:
        with safe_open(str(path), framework="pt") as file:
            entries: dict[str, object] = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
            entries |= json.loads((file.metadata() or {})["learning"])
    except (SafetensorError, KeyError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} holds no state of dictionary learning: {error}") from error
    state = cast(LearningState, entries)
    check_state(state, "the state in the file")
    return state
