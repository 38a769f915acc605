"""What a solver returns."""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Solution:
    """Codes and what is certain about them.

    A solver that stopped at `max_iter` has not failed: `converged` and `gap` say where it got to.

    Attributes
    ----------
    codes : Tensor, shape (B, M, H-k+1, W-k+1)
        z, in the dtype and on the device of the images.
    objective : Tensor, shape (B,), float64
        P(z) = ½‖x − D z‖² + λ‖z‖₁ of each image.
    gap : Tensor, shape (B,), float64
        Duality gap: P(z) − P* ≤ gap.
    iterations : int
        Steps taken.
    converged : bool
        Whether (P(z) − P*)/P* ≤ tol is certified for every image.
    """

    codes: Tensor
    objective: Tensor
    gap: Tensor
    iterations: int
    converged: bool

    @property
    def relative_gap(self) -> Tensor:
        """Return gap / (P − gap) ≥ (P(z) − P*)/P*, shape (B,).

        Zero where the gap is; infinite where P − gap ≤ 0 and nothing relative is certain.
        """
        dual = self.objective - self.gap
        relative = torch.where(dual > 0, self.gap / dual, torch.inf)
        return torch.where(self.gap == 0, 0.0, relative)
