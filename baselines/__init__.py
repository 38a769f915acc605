"""Systems to compare with, each a map x_lr → x_sr, and the bicubic resampling they share."""

from baselines.bicubic import bicubic, imresize, modcrop, round_uint8
from baselines.matlab import load_matlab

__all__ = ["bicubic", "imresize", "load_matlab", "modcrop", "round_uint8"]
