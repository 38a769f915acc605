"""A folder of photos as it is: which are trained on, and which are held out for validation."""

import dataclasses
from pathlib import Path

from PIL import Image

from crnet.data import find_images, is_image_set
from crnet.training.module import VALIDATION_SIDE
from crnet.training.recipe import Recipe

MOST = 20
"""Largest number of photos that are held out; each costs time in every validation."""


def on_own_photos(recipe: Recipe, root: Path, *, validation: bool = True) -> Recipe:
    """Return the recipe for the photos that lie in `root` itself, instead of its image sets.

    A recipe whose sets are all there, or a folder without photos, changes nothing.

    Parameters
    ----------
    recipe : Recipe
        The recipe.
    root : Path
        Data root, or a folder of photos.
    validation : bool
        Hold out every tenth of the photos that are large enough, at most 20, as the validation
        sets.  They are added to `exclude`.

    Raises
    ------
    DataError
        If all photos are excluded.
    """
    if all((root / name).exists() for name in recipe.sets) or not is_image_set(root):
        return recipe
    own = dataclasses.replace(recipe, sets=(".",))
    if not validation:
        return own
    paths = find_images(root, recipe.exclude)
    large = [path for path in paths if _is_large(path)]
    count = min(MOST, max(1, len(paths) // 10)) if len(paths) > 1 else 0
    held = tuple(path.name for path in large[:: max(1, len(large) // max(1, count))][:count])
    return dataclasses.replace(own, validation=held, exclude=(*recipe.exclude, *held))


def _is_large(path: Path) -> bool:
    """Tell whether a photo is large enough to validate on; reading finds damaged ones later."""
    try:
        with Image.open(path) as image:
            return min(image.size) >= VALIDATION_SIDE
    except Exception:  # decoders raise anything
        return False
