"""Convolutional sparse coding in PyTorch: operators, certified solvers, and their unfolding.

Images are (B, C, H, W), dictionaries (M, C, k, k), codes (B, M, H-k+1, W-k+1).  The modules
analysis, attribution, spectrum, contraction, settling and distance look at codes and recursions;
csc.plot, to be imported by itself, draws them.
"""

from csc import analysis, attribution, contraction, distance, settling, spectrum
from csc.admm import admm
from csc.cd import coordinate_descent
from csc.cista import CISTA
from csc.conv import adjoint, gram, synthesis
from csc.dictionary import dct_dictionary, random_dictionary, unit_norm
from csc.filters import tikhonov_filter
from csc.fista import fista
from csc.implicit import SparseCoding, attach_gradients, sparse_code
from csc.ista import ista
from csc.learn import LearnedDictionary, LearningState, LearningStep, learn_dictionary
from csc.objective import dual_point, duality_gap, gradient, lam_max, lipschitz, objective
from csc.prox import nonneg_soft_threshold, soft_threshold
from csc.solution import Solution
from csc.unfold import Kernels, recur, unfold

__all__ = [
    "CISTA",
    "Kernels",
    "LearnedDictionary",
    "LearningState",
    "LearningStep",
    "Solution",
    "SparseCoding",
    "adjoint",
    "admm",
    "analysis",
    "attach_gradients",
    "attribution",
    "contraction",
    "coordinate_descent",
    "dct_dictionary",
    "distance",
    "dual_point",
    "duality_gap",
    "fista",
    "gradient",
    "gram",
    "ista",
    "lam_max",
    "learn_dictionary",
    "lipschitz",
    "nonneg_soft_threshold",
    "objective",
    "random_dictionary",
    "recur",
    "settling",
    "soft_threshold",
    "sparse_code",
    "spectrum",
    "synthesis",
    "tikhonov_filter",
    "unfold",
    "unit_norm",
]
