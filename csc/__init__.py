"""Convolutional sparse coding in PyTorch: operators, certified solvers, and their unfolding.

Images are (B, C, H, W), dictionaries (M, C, kh, kw), codes (B, M, H-kh+1, W-kw+1).  Signals
are images of one row.  The modules analysis, attribution, spectrum, contraction, settling and
distance analyse codes and recursions.
csc.plot draws them; import it separately.
"""

from csc import analysis, attribution
from csc.bounds import dual_point, duality_gap, gradient, lam_max, lipschitz, objective
from csc.conv import adjoint, gram, synthesis
from csc.dictionary import dct_dictionary, per_channel, random_dictionary, unit_norm
from csc.estimator import ConvolutionalSparseCoding
from csc.filters import tikhonov_filter
from csc.images import read_images
from csc.implicit import SparseCoding, attach_gradients, sparse_code
from csc.learning.learn import LearnedDictionary, LearningStep, learn_dictionary
from csc.learning.state import LearningState
from csc.prox import nonneg_soft_threshold, soft_threshold
from csc.recursion import contraction, distance, settling, spectrum
from csc.recursion.cista import CISTA
from csc.recursion.ridge import RidgeBlock, RidgeStack, TiedBlock
from csc.recursion.unfold import Kernels, recur, unfold
from csc.solution import Solution, Status
from csc.solvers.admm import admm
from csc.solvers.cd import coordinate_descent
from csc.solvers.fista import fista
from csc.solvers.ista import ista
from csc.solvers.parallel import ParallelSolver
from csc.solvers.protocol import Solver
from csc.tasks import Restored, denoise, inpaint, photo_dictionary

__version__ = "0.1.0"

__all__ = [
    "CISTA",
    "ConvolutionalSparseCoding",
    "Kernels",
    "LearnedDictionary",
    "LearningState",
    "LearningStep",
    "ParallelSolver",
    "Restored",
    "RidgeBlock",
    "RidgeStack",
    "Solution",
    "Solver",
    "SparseCoding",
    "TiedBlock",
    "Status",
    "adjoint",
    "admm",
    "analysis",
    "attach_gradients",
    "attribution",
    "contraction",
    "coordinate_descent",
    "dct_dictionary",
    "denoise",
    "distance",
    "dual_point",
    "duality_gap",
    "fista",
    "gradient",
    "gram",
    "inpaint",
    "ista",
    "lam_max",
    "learn_dictionary",
    "lipschitz",
    "nonneg_soft_threshold",
    "objective",
    "per_channel",
    "photo_dictionary",
    "random_dictionary",
    "read_images",
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
