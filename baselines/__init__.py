"""Systems to compare with, each a map x_lr → x_sr, and the bicubic resampling they share."""

from baselines.matlab import load_matlab
from baselines.resample import bicubic, imresize, modcrop, round_uint8

__all__ = ["bicubic", "imresize", "load_matlab", "modcrop", "round_uint8"]
