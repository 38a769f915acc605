"""CRNet: super-resolution networks unfolded from convolutional sparse coding."""

from crnet import analysis
from crnet.checkpoint import Card, CheckpointError, bundled, card, load, save
from crnet.ensemble import Ensemble
from crnet.evaluate import TABLE_2, TABLE_3, Protocol, evaluate
from crnet.metrics import psnr, ssim
from crnet.model import CRNetA, CRNetB
from crnet.upscale import Upscaler, apply_tiled, upscale_picture

__version__ = "0.1.0"

__all__ = [
    "TABLE_2",
    "TABLE_3",
    "CRNetA",
    "CRNetB",
    "Card",
    "CheckpointError",
    "Ensemble",
    "Protocol",
    "Upscaler",
    "analysis",
    "apply_tiled",
    "bundled",
    "card",
    "evaluate",
    "load",
    "psnr",
    "save",
    "ssim",
    "upscale_picture",
]
