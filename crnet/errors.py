"""What crnet raises: `CRNetError` and its kinds.

A wrong argument is a ``ValueError`` or ``TypeError``, as everywhere in Python.  These errors are
about files, image sets, recipes and runs.  The command line prints their message in one line.
"""

from collections.abc import Iterable

from baselines.weights import CRNetError, WeightsError

__all__ = [
    "CRNetError",
    "DataError",
    "ImageFileError",
    "RecipeError",
    "TrainingFailed",
    "WeightsError",
    "words",
]


class DataError(CRNetError):
    """An image set is missing, empty or damaged."""


class ImageFileError(CRNetError):
    """A file cannot be read as an image without loss, or cannot be written."""


class RecipeError(CRNetError):
    """A recipe is missing, cannot be read, or asks for something that cannot be trained."""


class TrainingFailed(CRNetError):
    """The run cannot go on: its loss is not finite, or all its codes are zero."""


def words(items: Iterable[object], last: str = "or") -> str:
    """Return items as a list in words, as messages print them.

    Examples
    --------
    >>> words([2, 3, 4]), words([2]), words(["Set5", "B100"], "and")
    ('2, 3 or 4', '2', 'Set5 and B100')
    """
    *first, final = map(str, items)
    return f"{', '.join(first)} {last} {final}" if first else final
