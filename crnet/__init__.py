"""CRNet: super-resolution networks unfolded from convolutional sparse coding."""

from crnet import analysis
from crnet.ensemble import Ensemble
from crnet.errors import (
    CRNetError,
    DataError,
    ImageFileError,
    RecipeError,
    TrainingFailed,
    WeightsError,
)
from crnet.files import read_image
from crnet.loading import Card, bundled, card, load, save
from crnet.measuring.evaluate import evaluate
from crnet.measuring.metrics import psnr, ssim
from crnet.measuring.protocol import TABLE_2, TABLE_3, Protocol
from crnet.model import CRNetA, CRNetB
from crnet.upscale import Upscaler, apply_tiled, upscale_picture
from csc import __version__ as __version__

CheckpointError = WeightsError  # its former name

__all__ = [
    "TABLE_2",
    "TABLE_3",
    "CRNetA",
    "CRNetB",
    "CRNetError",
    "Card",
    "CheckpointError",
    "DataError",
    "Ensemble",
    "ImageFileError",
    "Protocol",
    "RecipeError",
    "TrainingFailed",
    "Upscaler",
    "WeightsError",
    "analysis",
    "apply_tiled",
    "bundled",
    "card",
    "evaluate",
    "load",
    "psnr",
    "read_image",
    "save",
    "ssim",
    "upscale_picture",
]
