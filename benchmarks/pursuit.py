"""Time to a given accuracy of the CSC solvers: ours and sporco's ADMM, on the same grid.

    python benchmarks/pursuit.py [--problems A G] [--repeats 3] [--json FILE]

Photos ship with scikit-image, dictionaries with sporco.  Every solver runs in this process, in
float32, warmed up; objectives are evaluated outside the clock.  A time is the
median of the repeats of the first report at or below the error (P − P*)/P*, with P* certified in
float64.  Quote the ratios: the seconds are this machine's, now.
"""

import argparse
import contextlib
import json
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from csc import coordinate_descent, fista, objective

# name: photo, side, sporco dictionary, λ (images high-passed by sporco's tikhonov_filter(5, 16))
PROBLEMS = {
    "A": ("camera", 256, "G:8x8x32", 0.05),
    "B": ("camera", 256, "G:8x8x32", 0.01),
    "C": ("camera", 512, "G:8x8x32", 0.05),
    "D": ("camera", 512, "G:12x12x36", 0.05),
    "E": ("astronaut", 256, "RGB:8x8x3x64", 0.05),
    "F": ("camera", 256, "G:8x8x64", 0.02),
    "G": ("camera", 256, "G:8x8x32", 0.2),
}
ERRORS = (1e-2, 1e-3, 1e-4)
STEPS = 250
Report = Callable[[int, Callable[[], Tensor]], None]
"""Hears (iteration, a function that returns the codes), the function being off the clock."""


def problem(name: str) -> tuple[Tensor, Tensor, float]:
    """Return image (1, C, H, W), dictionary (M, C, k, k) and λ, in float64."""
    from skimage import data, transform
    from sporco import signal, util

    photo, side, dictionary, lam = PROBLEMS[name]
    image = getattr(data, photo)() / 255.0
    if image.shape[0] != side:
        image = transform.resize(image, (side, side), anti_aliasing=True)
    high = signal.tikhonov_filter(image, 5, 16)[1]
    high = high.reshape(side, side, -1).transpose(2, 0, 1)[None]
    D = util.convdicts()[dictionary]
    D = D.reshape(*D.shape[:2], -1, D.shape[-1]).transpose(3, 2, 0, 1)
    return torch.from_numpy(np.array(high)), torch.from_numpy(np.array(D, dtype=np.float64)), lam


class EnoughError(Exception):
    """The last error that is asked for is reached."""


def run_cd(x: Tensor, D: Tensor, lam: float, steps: int, report: Report) -> None:
    """Run ours; making its codes for a report stays on the clock."""
    coordinate_descent(
        x, D, lam, max_iter=5 * steps, tol=0.0, on_step=lambda k, z: report(0, lambda: z)
    )


def run_fista(x: Tensor, D: Tensor, lam: float, steps: int, report: Report) -> None:
    """Run ours."""
    fista(x, D, lam, max_iter=steps, tol=0.0, on_step=lambda k, z: report(k, lambda: z))


def run_sporco(x: Tensor, D: Tensor, lam: float, steps: int, report: Report) -> None:
    """Run sporco's ADMM with its automatic ρ, by itself and not through `csc.admm`."""
    from sporco.admm import cbpdn

    k = D.shape[-1]
    h, w = x.shape[2] - k + 1, x.shape[3] - k + 1

    def callback(solver: cbpdn.ConvBPDN) -> None:
        def codes() -> Tensor:
            inside = solver.Y[:h, :w, 0].transpose(2, 3, 0, 1)
            return torch.from_numpy(np.array(inside))

        report(solver.k, codes)

    options = cbpdn.ConvBPDN.Options(
        {"MaxMainIter": steps, "RelStopTol": 0.0, "NoBndryCross": True, "Callback": callback}
    )
    image = np.ascontiguousarray(x.permute(2, 3, 1, 0).numpy())
    atoms = np.ascontiguousarray(D.permute(2, 3, 1, 0).numpy())
    cbpdn.ConvBPDN(atoms, image, lam, options, dimK=1, dimN=2).solve()


SOLVERS = {"coordinate_descent": run_cd, "fista": run_fista, "sporco ADMM": run_sporco}


def trajectory(
    run: Callable[[Tensor, Tensor, float, int, Report], None],
    x: Tensor,
    D: Tensor,
    lam: float,
    best: float,
    steps: int,
) -> dict[float, float]:
    """Return error → seconds, reports and evaluations of the objective taken off the clock."""
    reached: dict[float, float] = {}
    paused, begun = 0.0, time.perf_counter()

    def report(k: int, codes: Callable[[], Tensor]) -> None:
        nonlocal paused
        now = time.perf_counter()
        if k % 3 == 0:
            error = (float(objective(x, D, codes(), lam)) - best) / best
            for target in ERRORS:
                if error <= target and target not in reached:
                    reached[target] = now - begun - paused
        if len(reached) == len(ERRORS):
            raise EnoughError
        paused += time.perf_counter() - now

    with contextlib.suppress(EnoughError):
        run(x, D, lam, steps, report)
    return reached


def certified(x: Tensor, D: Tensor, lam: float) -> float:
    """Return the seconds of a coordinate descent that certifies 1e-3."""
    begun = time.perf_counter()
    if not coordinate_descent(x, D, lam, tol=1e-3).converged:
        return float("nan")
    return time.perf_counter() - begun


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    results = []
    ratios: dict[tuple[str, float], list[float]] = {}
    print(f"{'':3}{'':20}" + "".join(f"{f'{e:.0e}':>10}" for e in ERRORS) + "   certified 1e-3")
    for name in arguments.problems:
        x, D, lam = problem(name)
        exact = coordinate_descent(x, D, lam, tol=1e-8, max_iter=200_000)
        best = float(exact.objective - exact.gap / 2)
        x, D = x.float(), D.float()
        times: dict[str, dict[float, float]] = {}
        for solver, run in SOLVERS.items():
            trajectory(run, x, D, lam, best, 5)
            runs = [trajectory(run, x, D, lam, best, STEPS) for _ in range(arguments.repeats)]
            times[solver] = {
                e: statistics.median(reached[e] for reached in runs)
                for e in ERRORS
                if all(e in reached for reached in runs)
            }
            proof = None
            if run is run_cd:
                proof = statistics.median(certified(x, D, lam) for _ in range(arguments.repeats))
            cells = "".join(f"{times[solver].get(e, float('nan')):10.3f}" for e in ERRORS)
            print(f"{name:3}{solver:20}{cells}" + (f"{proof:17.3f}" if proof else ""), flush=True)
            results.append(
                {
                    "problem": name,
                    "solver": solver,
                    "dtype": "float32",
                    "seconds": {f"{e:.0e}": t for e, t in times[solver].items()},
                    "certified_seconds": proof,
                }
            )
        for solver in ("coordinate_descent", "fista"):
            for e in ERRORS:
                if e in times[solver] and e in times["sporco ADMM"]:
                    ratio = times["sporco ADMM"][e] / times[solver][e]
                    ratios.setdefault((solver, e), []).append(ratio)
    print("\ntimes faster than sporco's ADMM, geometric mean over the problems that both reach:")
    means: dict[str, dict[str, float]] = {}
    for (solver, e), values in ratios.items():
        means.setdefault(solver, {})[f"{e:.0e}"] = statistics.geometric_mean(values)
    for solver, row in means.items():
        print(
            f"   {solver:20}"
            + "".join(f"{row.get(f'{e:.0e}', float('nan')):10.1f}" for e in ERRORS)
        )
    if arguments.json:
        written = {"results": results, "ratio_to_sporco_admm": means}
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
