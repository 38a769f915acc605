"""Our solvers in benchopt's benchmark of convolutional sparse coding.

Copy this file to ``solvers/csc_crnet.py`` of https://github.com/benchopt/benchmark_csc, then

    benchopt run . -s csc-crnet

The benchmark's problem is ½ Σ‖y − D * θ‖² + λ‖θ‖₁ for signals y (n_times, n_samples) and atoms
D (n_atoms, k).  A signal is an image of one row here.
"""

import torch
from benchopt import BaseSolver

import csc


class Solver(BaseSolver):
    """`coordinate_descent` and `fista`, stopped at a relative duality gap."""

    name = "csc-crnet"
    sampling_strategy = "tolerance"
    parameters = {"solver": ["coordinate_descent", "fista"]}  # noqa: RUF012  # benchopt reads it
    requirements = ["pip::csc-crnet"]  # noqa: RUF012

    def set_objective(self, D, y, lmbd, positive):  # noqa: ANN001, ANN201
        """Keep the problem as tensors (samples, 1, 1, n_times) and (n_atoms, 1, 1, k)."""
        self.x = torch.from_numpy(y.T.copy())[:, None, None]
        self.D = torch.from_numpy(D.copy())[:, None, None]
        self.lam, self.positive = float(lmbd), bool(positive)
        self.run(0.1)  # compiles

    def run(self, tolerance):  # noqa: ANN001, ANN201
        """Solve it."""
        solve = getattr(csc, self.solver)
        found = solve(self.x, self.D, self.lam, nonneg=self.positive, tol=min(tolerance, 0.1))
        self.theta = found.codes[:, :, 0].permute(1, 2, 0).numpy()

    def get_result(self):  # noqa: ANN201
        """Return the codes (n_atoms, n_times − k + 1, n_samples)."""
        return {"theta": self.theta}
