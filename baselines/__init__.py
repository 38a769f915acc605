"""Systems to compare with, each a map x_lr → x_sr, and the bicubic resampling they share.

The ``state_dict`` of a network lists the kernels in the order of the layers of its paper, which is
that in which they last run.  Layers that are shared between recursions are there once, or under
several names for one tensor; weights of a sum of predictions come first.  The attribute `enlarged`
says whether a network takes the bicubic-enlarged image, as those of the paper's Table 2 do, or LR.
"""

from baselines.matlab import load_matlab
from baselines.resample import bicubic, imresize, modcrop, round_uint8

__all__ = ["bicubic", "imresize", "load_matlab", "modcrop", "round_uint8"]
