"""Checkpoints of training (``.ckpt``): read without executing anything.

A checkpoint holds everything that a run needs to go on.  Only its tensors, numbers and text are
read (``weights_only=True``).  :mod:`crnet.training.train` writes it.
"""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from crnet.errors import RecipeError, WeightsError
from crnet.training.recipe import Recipe, from_fields


def training_state(path: Path) -> dict[str, Any]:
    """Return the content of a checkpoint of :mod:`crnet.training.train`.

    Raises
    ------
    WeightsError
        If the file is missing, cut off, or not a checkpoint of crnet.
    """
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
        wanted = {"recipe": dict, "data": str, "history": list, "seconds": float}
        for key, kind in {**wanted, "state_dict": dict, "global_step": int}.items():
            if not isinstance(state[key], kind):
                raise TypeError(f"its {key} is not a {kind.__name__}")
    except FileNotFoundError as error:
        raise WeightsError(f"no checkpoint {path}") from error
    except Exception as error:  # whatever a damaged or foreign file makes the loader raise
        first = (str(error) or type(error).__name__).splitlines()[0]
        raise WeightsError(f"{path} is damaged or not a checkpoint of crnet: {first}") from error
    return dict(state)


def averaged_weights(state: dict[str, Any]) -> dict[str, Tensor]:
    """Return the averaged weights in the content of a checkpoint, by their names in the network."""
    return {k.removeprefix("net."): v for k, v in state["state_dict"].items()}


def recipe_of(path: Path, state: dict[str, Any]) -> Recipe:
    """Return the recipe in the content of a checkpoint.

    Raises
    ------
    WeightsError
        If it is not a valid recipe.
    """
    try:
        return from_fields(state["recipe"])
    except RecipeError as error:
        raise WeightsError(f"{path} does not fit its recipe: {error}") from error
