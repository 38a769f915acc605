"""Our solvers beside alphacsc's on a signal: three neurons' waveforms, as in benchmarks/spikes.py.

    OMP_NUM_THREADS=1 python benchmarks/signals.py [--seconds 1] [--lam 0.1]

It needs ``pip install alphacsc``.  All codes are non-negative, and all solve

    ½‖x − Σ_m d_m * z_m‖² + λ Σ z.

alphacsc's solver is its locally greedy coordinate descent (`update_z_multi`, ``solver="lgcd"``).
The table has P(z)/P* − 1, where P* is the objective of FISTA at a gap of 1e-10, and the median
processor time of some runs.  What compiles is compiled before.
"""

import argparse
import statistics
import time
from collections.abc import Callable

import numpy as np
import torch
from alphacsc.update_z_multi import update_z_multi
from spikes import RATE, recording, waveforms
from torch import Tensor

from csc import coordinate_descent, fista, lam_max, objective

Solve = Callable[[float], Tensor]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=float, default=1.0, help="of the recording")
    parser.add_argument("--lam", type=float, default=0.1, help="as a part of λ_max")
    parser.add_argument("--runs", type=int, default=5)
    options = parser.parse_args()
    D = waveforms().double()
    x = recording(waveforms(), torch.Generator().manual_seed(0))[0].double()
    x = x[..., : int(options.seconds * RATE)]
    lam = options.lam * float(lam_max(x, D, nonneg=True))

    def ours(solver: Callable[..., object]) -> Solve:
        return lambda tol: solver(x, D, lam, nonneg=True, tol=tol).codes  # type: ignore[attr-defined]

    def theirs(tol: float) -> Tensor:
        kwargs = {"tol": tol, "max_iter": 10_000_000}
        z, *_ = update_z_multi(
            x[:, 0].numpy(), D[:, 0].numpy(), lam, solver="lgcd", solver_kwargs=kwargs
        )
        return torch.from_numpy(np.asarray(z))[:, :, None]

    solvers: dict[str, tuple[Solve, tuple[float, ...]]] = {
        "csc.coordinate_descent": (ours(coordinate_descent), (1e-2, 1e-4, 1e-6)),
        "csc.fista": (ours(fista), (1e-2, 1e-4, 1e-6)),
        "alphacsc lgcd": (theirs, (1e-1, 1e-2, 1e-3, 1e-4)),
    }
    print(f"{x.shape[-1]} samples, {len(D)} atoms of {D.shape[-1]}, λ = {options.lam:g} λ_max")
    least = float(fista(x, D, lam, nonneg=True, tol=1e-10, max_iter=100_000).objective)
    print("| solver | tol | P/P* - 1 | seconds |\n| --- | --- | --- | --- |")
    for name, (solve, tols) in solvers.items():
        solve(tols[0])  # compiles
        for tol in tols:
            seconds = []
            for _ in range(options.runs):
                begun = time.process_time()
                z = solve(tol)
                seconds.append(time.process_time() - begun)
            above = float(objective(x, D, z, lam, nonneg=True)) / least - 1
            print(f"| `{name}` | {tol:g} | {above:.1e} | {statistics.median(seconds):.3f} |")


if __name__ == "__main__":
    main()
