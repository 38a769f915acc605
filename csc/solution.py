"""What a solver returns."""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

import torch
from torch import Tensor

from csc.html import percent, table


class Status(Enum):
    """Why a solver stopped at an image."""

    CONVERGED = "converged"
    """(P(z) − P*)/P* ≤ tol is certified."""
    ITERATIONS = "iterations spent"
    """`max_iter` steps were taken."""
    FLOOR = "floor of the dtype"
    """Rounding in the dtype of the images hides any further improvement; use float64."""
    UNCERTIFIED = "settled, uncertified"
    """λ = 0 for some codes, so the gap proves nothing; the codes are almost fixed by ISTA."""
    LOST = "worker lost"
    """The worker of this image ended before it answered; the codes are those of the start."""


@dataclass(frozen=True, repr=False)
class Solution:
    """Codes and what is certain about them.

    A solver that stopped at `max_iter` has not failed: `status` and `gap` say where it got to.

    Attributes
    ----------
    codes : Tensor, shape (B, M, H-kh+1, W-kw+1)
        z, in the dtype and on the device of the images.
    objective : Tensor, shape (B,), float64
        P(z) = ½‖x − D z‖² + λ‖z‖₁ of each image, or with the penalty that was given.
    gap : Tensor, shape (B,), float64
        Duality gap: P(z) − P* ≤ gap.  It bounds the error of the objective, not ‖z − z*‖; see
        :mod:`csc.problem`.
    iterations : int
        Steps taken.
    status : tuple of Status
        Why the solver stopped, for each image.
    """

    codes: Tensor
    objective: Tensor
    gap: Tensor
    iterations: int
    status: tuple[Status, ...]

    @staticmethod
    def of_parts(parts: "Sequence[Solution]", device: torch.device) -> "Solution":
        """Return the solution of a batch from those of its parts, in their order."""
        return Solution(
            codes=joined([part.codes for part in parts]).to(device),
            objective=joined([part.objective for part in parts]).to(device),
            gap=joined([part.gap for part in parts]).to(device),
            iterations=max(part.iterations for part in parts),
            status=tuple(status for part in parts for status in part.status),
        )

    @property
    def converged(self) -> bool:
        """Tell whether (P(z) − P*)/P* ≤ tol is certified for every image."""
        return all(status is Status.CONVERGED for status in self.status)

    @property
    def relative_gap(self) -> Tensor:
        """Return gap / (P − gap) ≥ (P(z) − P*)/P*, shape (B,).

        Zero where the gap is zero; infinite where P − gap ≤ 0, because the gap is too wide.
        """
        dual = self.objective - self.gap
        relative = torch.where(dual > 0, self.gap / dual, torch.inf)
        return torch.where(self.gap == 0, 0.0, relative)

    def __repr__(self) -> str:
        """Return sizes, worst gap and status in one line."""
        shape = "×".join(map(str, self.codes.shape))
        status = ", ".join(sorted({status.value for status in self.status}))
        return (
            f"Solution(codes={shape} {self.codes.dtype}, "
            f"objective={float(self.objective.sum()):.6g}, "
            f"relative_gap={float(self.relative_gap.max()):.1e}, "
            f"iterations={self.iterations}, {status})"
        )

    def _repr_html_(self) -> str:
        """Return a table of the images for notebooks: objective, certificate, density, status."""
        density = (self.codes != 0).double().flatten(1).mean(1)
        columns = zip(self.objective, self.relative_gap, density, self.status, strict=True)
        rows = [
            [str(b), f"{float(P):.6g}", f"{float(gap):.1e}", percent(float(on)), status.value]
            for b, (P, gap, on, status) in enumerate(columns)
        ]
        shape = "×".join(map(str, self.codes.shape))
        title = f"Codes {shape} after {self.iterations} iterations"
        return table(title, ["image", "objective", "(P − P*)/P* ≤", "codes on", "status"], rows)


def joined(parts: list[Tensor]) -> Tensor:
    """Return one batch; that of a single part is not copied."""
    return torch.cat(parts) if len(parts) > 1 else parts[0]
