"""Convolutional dictionary learning by sporco, with the array shapes of this library.

sporco's ``OnlineConvBPDNDictLearn`` takes one image at a time.  It computes codes by ADMM, then
takes a projected gradient step of length η = a/(b + t) in the Fourier domain.  It is a reference:
:func:`csc.learn_dictionary` reaches the same objective in a fraction of the time.

References
----------
Liu, Garcia-Cardona, Wohlberg, Yin, "First- and second-order methods for online convolutional
dictionary learning", SIAM J. Imaging Sci. 11(2), 2018.
"""

import math
from collections.abc import Sequence
from numbers import Real

import numpy as np
import torch
from torch import Tensor

from csc.checks import check_finite, check_integer, check_pair
from csc.dictionary import unit_norm
from csc.solvers.admm import NEEDS_SPORCO


def sporco_dictionary(
    images: Sequence[Tensor],
    D: Tensor,
    lam: float,
    *,
    passes: int = 1,
    max_iter: int = 50,
    generator: torch.Generator | None = None,
) -> Tensor:
    """Return atoms that lower Σ_i min_z ½‖x_i − D z‖² + λ‖z‖₁ with ‖d_m‖ = 1, by sporco.

    Parameters
    ----------
    images : sequence of Tensors, shape (1, C, H, W)
        Sizes may differ.  sporco's codes wrap around the borders of the image.
    D : Tensor, shape (M, C, kh, kw)
        Dictionary to start from, float32 or float64.
    lam : float
        Weight λ > 0.
    passes : int
        Number of times every image is coded.
    max_iter : int
        Steps of ADMM per image.
    generator : torch.Generator, optional
        Draws the order of the images; by default torch's global generator.

    Returns
    -------
    Tensor, shape (M, C, kh, kw)

    Raises
    ------
    ValueError, TypeError
        If shapes or dtypes do not fit, a tensor holds NaN, an atom is zero, there are no images,
        or a number is out of range.

    Examples
    --------
    >>> import torch
    >>> from csc import random_dictionary
    >>> g = torch.Generator().manual_seed(0)
    >>> D = random_dictionary(4, 1, 3, generator=g)
    >>> learned = sporco_dictionary([torch.rand(1, 1, 16, 16, generator=g)], D, 0.1, generator=g)
    >>> torch.allclose(learned.flatten(1).norm(dim=1), torch.ones(4))
    True
    """
    _check(images, D, lam, passes, max_iter)
    try:
        from sporco.dictlrn import onlinecdl
    except ImportError as error:
        raise ImportError(f"sporco_dictionary {NEEDS_SPORCO}: {error}") from error

    options = {
        "CBPDN": {"MaxMainIter": max_iter, "RelStopTol": 1e-3, "rho": 50 * lam + 1},
    }
    learner = onlinecdl.OnlineConvBPDNDictLearn(
        # atoms (kh, kw, C, M), images (H, W, C, 1)
        np.ascontiguousarray(unit_norm(D).detach().permute(2, 3, 1, 0).cpu().numpy()),
        float(lam),
        onlinecdl.OnlineConvBPDNDictLearn.Options(options),
        dimK=1,
    )
    for _ in range(passes):
        for i in torch.randperm(len(images), generator=generator).tolist():
            image = images[i].permute(2, 3, 1, 0).detach().cpu().numpy()
            learner.solve(np.ascontiguousarray(image))
    atoms = np.array(learner.getdict()).reshape(*D.shape[2:], D.shape[1], D.shape[0])
    return torch.from_numpy(np.ascontiguousarray(atoms.transpose(3, 2, 0, 1))).to(D)


def _check(images: Sequence[Tensor], D: Tensor, lam: float, passes: int, max_iter: int) -> None:
    if not images:
        raise ValueError("there are no images; learning needs at least one")
    for x in images:
        check_pair(x, D)
        check_finite(x, "an image")
        if x.shape[0] != 1:
            raise ValueError(f"an image must have shape (1, C, H, W), got {tuple(x.shape)}")
    if D.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"sporco computes in float32 or float64, got {D.dtype}; use D.float()")
    if not isinstance(lam, Real) or not 0 < lam < math.inf:
        raise ValueError(f"lam must be a finite number > 0, got {lam!r}")
    check_integer(passes, "passes", 1)
    check_integer(max_iter, "max_iter", 1)
