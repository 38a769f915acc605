"""Time to a given accuracy of the CSC solvers: ours and sporco's, on the same grid.

    python benchmarks/pursuit.py [--problems A G] [--repeats 3] [--json FILE] [--plot FILE]
    python benchmarks/pursuit.py --quick        # A, E and G, in about two minutes

Photos ship with scikit-image, dictionaries with sporco.  Every solver runs in this process, in
float32, with as many threads as PyTorch, warmed up.  A first run is watched: it tells after how
many iterations the error (P − P*)/P* is below a bound, with P* certified in float64; codes for a
report and objectives are off the clock.  A time is the median over the repeats of a whole call that
takes so many iterations, unwatched; runs of more than 1.5 seconds are not repeated.  "-" is not
reached within the seconds of --limit.  "certified" is the whole call that proves an error of 1e-3,
by the duality gap.  Memory is the peak of a short run above what the process held.  Quote the
ratios: seconds are this machine's.
"""

import argparse
import contextlib
import ctypes
import json
import math
import statistics
import time
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from csc import Solution, coordinate_descent, fista, objective
from csc.solvers.active_set import ActiveSet
from csc.solvers.fista import Iterate

# name: photo, side, sporco dictionary, λ (images high-passed by sporco's tikhonov_filter(5, 16))
PROBLEMS = {
    "A": ("camera", 256, "G:8x8x32", 0.05),
    "B": ("camera", 256, "G:8x8x32", 0.01),
    "C": ("camera", 512, "G:8x8x32", 0.05),
    "D": ("camera", 512, "G:12x12x36", 0.05),
    "E": ("astronaut", 256, "RGB:8x8x3x64", 0.05),
    "F": ("camera", 256, "G:8x8x64", 0.02),
    "G": ("camera", 256, "G:8x8x32", 0.2),
    # H to K are at λ/λ_max = .03, .01, .003 and .001.
    "H": ("camera", 128, "G:8x8x32", 0.0405),
    "I": ("camera", 128, "G:8x8x32", 0.0135),
    "J": ("camera", 128, "G:8x8x32", 0.00405),
    "K": ("camera", 128, "G:8x8x32", 0.00135),
}
ERRORS = (1e-2, 1e-3, 1e-4, 1e-6)
MEAN = "ABCDEF"  # the problems of the geometric means
EVERY = 3  # iterations between reports
LONG = 1.5  # seconds from which a run is not repeated
Report = Callable[[int, Callable[[], Tensor]], None]
"""Hears (iteration, a function that returns the codes)."""
Run = Callable[[Tensor, Tensor, float, int, Report | None], None]
"""Takes (x, D, λ, iterations, report or None)."""


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
    """The last error that is asked for is reached, or time is up."""


class Clock:
    """Seconds since the start, but for what happened while it was stopped."""

    def __init__(self) -> None:
        self.off, self.begun = 0.0, time.perf_counter()

    def now(self) -> float:
        return time.perf_counter() - self.begun - self.off

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        threads, begun = torch.get_num_threads(), time.perf_counter()
        torch.set_num_threads(1)  # idle threads of PyTorch spin, in the way of what follows
        try:
            yield
        finally:
            torch.set_num_threads(threads)
            self.off += time.perf_counter() - begun


@contextlib.contextmanager
def reports_off(clock: Clock) -> Iterator[None]:
    """Stop the clock where our solvers make codes for a report."""
    with contextlib.ExitStack() as stack:
        for owner, name in ((ActiveSet, "codes"), (Iterate, "codes")):
            made = getattr(owner, name)

            def timed(*arguments: Any, made: Any = made) -> Any:
                with clock.stopped():
                    return made(*arguments)

            stack.callback(setattr, owner, name, made)
            setattr(owner, name, timed)
        yield


def run_ours(solve: Callable[..., Solution]) -> Run:
    def run(x: Tensor, D: Tensor, lam: float, steps: int, report: Report | None) -> None:
        tell = (lambda k, z: report(k, lambda: z)) if report else None
        solve(x, D, lam, max_iter=steps, tol=0.0, on_step=tell)

    return run


def run_sporco(kind: str) -> Run:
    """Return sporco's ADMM with its automatic ρ, or its PGM with robust backtracking, by itself."""

    def run(x: Tensor, D: Tensor, lam: float, steps: int, report: Report | None) -> None:
        from sporco import fft
        from sporco.admm import cbpdn as admm
        from sporco.pgm import cbpdn as pgm
        from sporco.pgm.backtrack import BacktrackRobust

        fft.pyfftw_threads = torch.get_num_threads()
        k = D.shape[-1]
        h, w = x.shape[2] - k + 1, x.shape[3] - k + 1

        def callback(solver: Any) -> None:
            codes = solver.Y if kind == "ADMM" else solver.X

            def crop() -> Tensor:
                return torch.from_numpy(np.array(codes[:h, :w, 0].transpose(2, 3, 0, 1)))

            report(solver.k + 1, crop)

        module, options = (
            (admm, {}) if kind == "ADMM" else (pgm, {"L": 1e2, "Backtrack": BacktrackRobust()})
        )
        options |= {"MaxMainIter": steps, "NoBndryCross": True}
        options |= {"RelStopTol": 0.0, "Callback": callback if report else None}
        image = np.ascontiguousarray(x.permute(2, 3, 1, 0).numpy())
        atoms = np.ascontiguousarray(D.permute(2, 3, 1, 0).numpy())
        given = module.ConvBPDN.Options(options)
        module.ConvBPDN(atoms, image, lam, given, dimK=1, dimN=2).solve()

    return run


OURS = {"coordinate_descent": coordinate_descent, "fista": fista}
PEERS = {"sporco ADMM": run_sporco("ADMM"), "sporco PGM": run_sporco("PGM")}
SOLVERS = {**{name: run_ours(solve) for name, solve in OURS.items()}, **PEERS}
Point = tuple[float, float, int]


def watched(
    run: Run, x: Tensor, D: Tensor, lam: float, best: float, limit: float, *, all_steps: bool
) -> list[Point]:
    """Return (seconds, error, iteration) of the reports."""
    points: list[Point] = []
    clock = Clock()

    def report(k: int, codes: Callable[[], Tensor]) -> None:
        now = clock.now()
        if all_steps or k % EVERY == 0:
            with clock.stopped():
                error = (float(objective(x, D, codes().to(x.dtype), lam)) - best) / best
                points.append((now, error, k))
            improved = min(points, key=lambda point: point[1])[0]
            if error <= min(ERRORS) or now > limit or now > 5 + 2 * improved:
                raise EnoughError

    with contextlib.suppress(EnoughError), reports_off(clock):
        run(x, D, lam, 100_000, report)
    return points


def seconds_to(
    error: float, points: list[Point], repeats: int, call: Callable[[int], None]
) -> float:
    """Return the seconds of a call that reaches an error, as the watched points tell."""
    seconds, _, steps = next((p for p in points if p[1] <= error), (math.inf, 0.0, 0))
    if seconds > LONG:
        return seconds
    times = []
    for _ in range(repeats):
        begun = time.perf_counter()
        call(steps)
        times.append(time.perf_counter() - begun)
    return statistics.median(times)


def certified(
    solve: Callable[..., Solution], x: Tensor, D: Tensor, lam: float, limit: float
) -> float:
    """Return the seconds of the whole call that certifies 1e-3."""
    begun = time.perf_counter()

    def out_of_time(k: int, z: Tensor) -> None:
        if time.perf_counter() - begun > limit:
            raise EnoughError

    options: dict[str, Any] = {"max_iter": 100_000, "tol": 1e-3}
    if solve is fista:  # which may take long; the call-back costs little beside a step
        options["on_step"] = out_of_time
    with contextlib.suppress(EnoughError):
        solution = solve(x, D, lam, **options)
        return time.perf_counter() - begun if solution.converged else math.inf
    return math.inf


def peak_mib(run: Callable[[], None]) -> float | None:
    """Return the peak of the process's memory in a run above what it held; Linux only."""
    try:
        ctypes.CDLL("libc.so.6").malloc_trim(0)
        Path("/proc/self/clear_refs").write_text("5")
        held = _memory("VmRSS")
        run()
        return round(_memory("VmHWM") - held, 1)
    except OSError:
        return None


def _memory(what: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return int(next(line for line in lines if line.startswith(what)).split()[1]) / 1024


def measure(name: str, repeats: int, limit: float) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Return the results of all solvers on a problem, and a trajectory of each."""
    x, D, lam = problem(name)
    exact = coordinate_descent(x, D, lam, tol=1e-7, max_iter=200_000)
    best = float(exact.objective - exact.gap / 2)
    x, D = x.float(), D.float()
    results, curves = [], {}
    for solver, run in SOLVERS.items():

        def call(steps: int, run: Run = run) -> None:
            run(x, D, lam, steps, None)

        call(12 if solver in PEERS else 80)  # all kernels are loaded
        memory = peak_mib(lambda call=call: call(12))
        points = watched(run, x, D, lam, best, limit, all_steps=solver == "coordinate_descent")
        seconds = {e: seconds_to(e, points, repeats, call) for e in ERRORS}
        proof = None
        if solver in OURS:
            times = [certified(OURS[solver], x, D, lam, limit) for _ in range(repeats)]
            proof = statistics.median(times)
        curves[solver] = points
        results.append(
            {
                "problem": name,
                "solver": solver,
                "dtype": "float32",
                "seconds": {f"{e:.0e}": _finite(t) for e, t in seconds.items()},
                "certified_seconds": None if proof is None else _finite(proof),
                "iterations": points[-1][2],
                "peak_mib": memory,
            }
        )
        cells = [*seconds.values(), math.inf if proof is None else proof]
        cell = "".join(f"{t:10.3f}" if math.isfinite(t) else f"{'-':>10}" for t in cells)
        print(f"{name:3}{solver:20}{cell}" + (f"{memory:10.0f}" if memory else ""), flush=True)
    return results, curves


def ratios(results: list[dict[str, Any]], solver: str, peers: tuple[str, ...]) -> dict[str, float]:
    """Return how many times faster than the best of the peers, by error, a geometric mean."""
    means = {}
    for e in (f"{e:.0e}" for e in ERRORS):
        values = []
        for name in sorted({r["problem"] for r in results} & set(MEAN)):
            at = {r["solver"]: r["seconds"][e] for r in results if r["problem"] == name}
            theirs = [at[peer] for peer in peers if at[peer] is not None]
            if at[solver] is not None and theirs:
                values.append(min(theirs) / at[solver])
        if values:
            means[e] = statistics.geometric_mean(values)
    return means


def plot(curves: dict[str, dict[str, list[Point]]], path: Path) -> None:
    """Draw error against time, both logarithmic, one panel a problem."""
    from matplotlib import pyplot as plt

    columns = min(4, len(curves))
    rows = -(-len(curves) // columns)
    figure, axes = plt.subplots(
        rows, columns, figsize=(3.3 * columns, 2.9 * rows), squeeze=False, layout="constrained"
    )
    colours = dict(zip(SOLVERS, ("#0072B2", "#009E73", "#D55E00", "#CC79A7"), strict=True))
    for axis in axes.flat[len(curves) :]:
        axis.set_axis_off()
    for axis, (name, by_solver) in zip(axes.flat, curves.items(), strict=False):
        for solver, points in by_solver.items():
            seconds, errors, _ = zip(*points, strict=True)
            axis.loglog(seconds, np.maximum(errors, 1e-8), label=solver, color=colours[solver])
        photo, side, dictionary, lam = PROBLEMS[name]
        axis.set_title(
            f"{name}: {photo} {side}², {dictionary.split(':')[1]}, λ = {lam}", fontsize=9
        )
        axis.set_ylim(5e-8, 10)
        axis.grid(alpha=0.3)
        axis.set_xlabel("seconds")
    for axis in axes[:, 0]:
        axis.set_ylabel("(P − P*) / P*")
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=len(labels), fontsize=8)
    figure.savefig(path, dpi=130)


def _finite(value: float) -> float | None:
    return value if math.isfinite(value) else None


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--problems", nargs="+", default=list(PROBLEMS), choices=PROBLEMS)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--limit", type=float, default=40.0, help="seconds of a run")
    parser.add_argument("--quick", action="store_true", help="A, E and G, one repeat, short runs")
    parser.add_argument("--json", type=Path)
    parser.add_argument("--plot", type=Path)
    arguments = parser.parse_args()
    if arguments.quick:
        arguments.problems, arguments.repeats, arguments.limit = ["A", "E", "G"], 1, 5.0
    warnings.simplefilter("ignore")
    results, curves = [], {}
    heads = [*(f"{e:.0e}" for e in ERRORS), "certified", "MiB"]
    print(f"{'':23}" + "".join(f"{head:>10}" for head in heads))
    for name in arguments.problems:
        found, curves[name] = measure(name, arguments.repeats, arguments.limit)
        results += found
    written: dict[str, Any] = {"results": results}
    for title, peers in (("sporco_admm", ("sporco ADMM",)), ("best_peer", tuple(PEERS))):
        written[f"ratio_to_{title}"] = {s: ratios(results, s, peers) for s in OURS}
        print(
            f"\ntimes faster than {' or '.join(peers)}, geometric mean over A-F where both arrive:"
        )
        for solver, row in written[f"ratio_to_{title}"].items():
            print(f"   {solver:20}" + "".join(f"{row.get(h, math.nan):10.1f}" for h in heads[:4]))
    if arguments.json:
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")
    if arguments.plot:
        plot(curves, arguments.plot)


if __name__ == "__main__":
    main()
