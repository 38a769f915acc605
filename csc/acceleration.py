"""Nesterov's acceleration, as in FISTA."""

from typing import TypeVar

from torch import Tensor

Number = TypeVar("Number", float, Tensor)


def momentum(t: Number) -> tuple[Number, Number]:
    """Return the momentum (t_k − 1)/t_{k+1} and t_{k+1} = (1 + √(1 + 4t_k²))/2, from t = t_k.

    The sequence starts, and restarts, at t = 1, where the momentum is zero.

    Parameters
    ----------
    t : float or Tensor
        t_k ≥ 1; each entry of a tensor is a sequence of its own.

    References
    ----------
    Beck, Teboulle, "A fast iterative shrinkage-thresholding algorithm for linear inverse problems",
    SIAM J. Imaging Sci. 2(1), 2009, eq. 4.2-4.3.

    Examples
    --------
    >>> momentum(1.0)
    (0.0, 1.618033988749895)
    """
    following = (1 + (1 + 4 * t * t) ** 0.5) / 2
    return (t - 1) / following, following
