"""What crnet raises: `CRNetError` and its kinds.

A wrong argument is a ``ValueError`` or ``TypeError``, as everywhere in Python.  These errors are
about files, image sets, recipes and runs.  The command line prints their message in one line.
"""

from baselines.weights import CRNetError, WeightsError
from csc.checks import words

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
