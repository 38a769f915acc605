"""CRNet: super-resolution networks unfolded from convolutional sparse coding."""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from crnet import analysis
    from crnet.certificate import CodesCertificate, certify_codes
    from crnet.ensemble import Ensemble
    from crnet.errors import (
        CRNetError,
        DataError,
        ImageFileError,
        RecipeError,
        TrainingFailed,
        WeightsError,
    )
    from crnet.errors import WeightsError as CheckpointError
    from crnet.files import read_image
    from crnet.loading import Card, bundled, card, load, save
    from crnet.measuring.evaluate import evaluate
    from crnet.measuring.metrics import psnr, ssim
    from crnet.measuring.protocol import TABLE_2, TABLE_3, Protocol
    from crnet.model import CRNetA, CRNetB
    from crnet.resize import enlarge
    from crnet.sparse import SparseCRNetA, SparseCRNetB
    from crnet.upscale import Upscaler, apply_tiled, upscale_picture
    from csc import __version__ as __version__

__all__ = [
    "TABLE_2",
    "TABLE_3",
    "CRNetA",
    "CRNetB",
    "CRNetError",
    "Card",
    "CheckpointError",
    "CodesCertificate",
    "DataError",
    "Ensemble",
    "ImageFileError",
    "Protocol",
    "RecipeError",
    "SparseCRNetA",
    "SparseCRNetB",
    "TrainingFailed",
    "Upscaler",
    "WeightsError",
    "analysis",
    "apply_tiled",
    "bundled",
    "card",
    "certify_codes",
    "enlarge",
    "evaluate",
    "load",
    "psnr",
    "read_image",
    "save",
    "ssim",
    "upscale_picture",
]

# A name imports its module at first use, because importing torch takes seconds.  Until then the
# command line can already answer and take Ctrl-C.
_NAMES = {
    "crnet.certificate": ("CodesCertificate", "certify_codes"),
    "crnet.ensemble": ("Ensemble",),
    "crnet.errors": (
        "CRNetError", "DataError", "ImageFileError", "RecipeError", "TrainingFailed",
        "WeightsError",
    ),
    "crnet.files": ("read_image",),
    "crnet.loading": ("Card", "bundled", "card", "load", "save"),
    "crnet.measuring.evaluate": ("evaluate",),
    "crnet.measuring.metrics": ("psnr", "ssim"),
    "crnet.measuring.protocol": ("TABLE_2", "TABLE_3", "Protocol"),
    "crnet.model": ("CRNetA", "CRNetB"),
    "crnet.resize": ("enlarge",),
    "crnet.sparse": ("SparseCRNetA", "SparseCRNetB"),
    "crnet.upscale": ("Upscaler", "apply_tiled", "upscale_picture"),
    "csc": ("__version__",),
}  # fmt: skip
_HOMES = {name: (module, name) for module, names in _NAMES.items() for name in names}
_HOMES["CheckpointError"] = ("crnet.errors", "WeightsError")  # its former name


def __getattr__(name: str) -> object:
    """Return a public name from its module."""
    if name == "analysis":
        return import_module("crnet.analysis")
    if name not in _HOMES:
        raise AttributeError(f"module 'crnet' has no attribute {name!r}")
    module, there = _HOMES[name]
    found: object = getattr(import_module(module), there)
    globals()[name] = found
    return found


def __dir__() -> list[str]:
    """Return the public names."""
    return [*__all__, "__version__"]
