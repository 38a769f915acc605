"""The signature that all solvers share."""

from collections.abc import Callable
from typing import Protocol, TypeAlias

from torch import Tensor

from csc.checks import Weight
from csc.solution import Solution

OnStep: TypeAlias = Callable[[int, Tensor], None]
"""Called with (k, z_k) for the start, k = 0, and after every step."""


class Solver(Protocol):
    """A solver of P(z) = ½‖x − D z‖² + Ω(z), as :func:`csc.ista`.

    A solver without a ridge or groups refuses them with a ValueError.  Solvers may have further
    keyword arguments of their own, with defaults.
    """

    def __call__(
        self,
        x: Tensor,
        D: Tensor,
        lam: Weight,
        *,
        nonneg: bool = False,
        mask: Tensor | None = None,
        ridge: float = 0.0,
        groups: Tensor | None = None,
        start: Tensor | None = None,
        max_iter: int = 10_000,
        tol: float = 1e-4,
        on_step: OnStep | None = None,
    ) -> Solution:
        """Minimise P."""
