"""Held-out objective against time of convolutional dictionary learning: ours and sporco's.

    python benchmarks/learning.py [--passes 4] [--lam 0.1] [--eta-b 5] [--quick] [--json FILE]
    python benchmarks/learning.py --stream 10000 [--lam 0.1] [--quick]

64 atoms of 8×8 are learned from twenty 256² grey crops of nine photos that ship with scikit-image
and scikit-learn (crops of a photo do not overlap), high-passed by tikhonov_filter(5, 16),
and judged on the middle of sporco's five example photos, which neither learner sees.  sporco's
OnlineConvBPDNDictLearn has the options of its own example, onlinecdl_gry.py, but for the length of
its steps, η = 10/(5 + t), which is the default of its class and better here than the example's
10/(20 + t) (--eta-b 20).  Both start from the same random atoms, see the same images in the same
order, and run in this process, in float32, warmed up, with torch's number of threads.

--stream N learns 256 atoms from N crops of 64², which are never in memory together, in steps of
50.  It draws them one by one from seven of these photos, and prints the peak resident memory of
this process.

Judging is off the clock: atoms projected on the unit ball, the mean objective of the held-out
photos by csc.coordinate_descent certified to 1e-3.  Quote the ratios, that of processor time where
other programs run: the seconds are this machine's, now.
"""

import argparse
import json
import resource
import sys
import time
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from csc import (
    LearningStep,
    coordinate_descent,
    learn_dictionary,
    random_dictionary,
    tikhonov_filter,
)

# photo: number of crops; the photos of 512² give their quarters, others left and right, or middle
TRAINING = {
    "astronaut": 4,
    "camera": 4,
    "china": 2,
    "coffee": 2,
    "flower": 2,
    "motorcycle": 2,
    "rocket": 2,
    "chelsea": 1,
    "coins": 1,
}
SCIKIT_LEARN = ("china", "flower")  # not in the stream: importing it takes 60 MiB
HELD_OUT = ("barbara", "kodim23", "monarch", "sail", "tulips")


class Point(NamedTuple):
    step: int
    seconds: float
    cpu_seconds: float
    D: Tensor


class Judged(NamedTuple):
    step: int
    seconds: float
    cpu_seconds: float
    objective: float


def clock() -> np.ndarray:
    """Return the time and the time of the processor, of all threads: two seconds."""
    return np.array([time.perf_counter(), time.process_time()])


def photo(name: str) -> np.ndarray:
    """Return a grey photo (H, W) in [0, 1]."""
    if name in HELD_OUT:
        from sporco import util

        image = util.ExampleImages().image(f"{name}.png")
    elif name in SCIKIT_LEARN:
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        from skimage import data

        image = data.stereo_motorcycle()[0] if name == "motorcycle" else getattr(data, name)()
    image = np.asarray(image) / 255.0
    return image if image.ndim == 2 else image @ [0.299, 0.587, 0.114]


def crops(image: np.ndarray, n: int, side: int) -> list[Tensor]:
    """Return n high-passed crops, each (1, side, side)."""
    bottom, right = (size - side for size in image.shape)
    corners = {
        1: [(bottom // 2, right // 2)],
        2: [(bottom // 2, 0), (bottom // 2, right)],
        4: [(0, 0), (0, right), (bottom, 0), (bottom, right)],
    }[n]
    x = torch.from_numpy(image)
    cut = [x[None, None, i : i + side, j : j + side] for i, j in corners]
    return [tikhonov_filter(c, 5, 16)[1][0].float() for c in cut]


def draw_crops(n: int, side: int) -> Iterator[Tensor]:
    """Yield n random high-passed crops, each (1, side, side), flipped and turned."""
    photos = []
    for name in (name for name in TRAINING if name not in SCIKIT_LEARN):
        image = photo(name)
        photos += crops(image, 1, min(image.shape))
    generator = torch.Generator().manual_seed(2)
    for _ in range(n):
        which, turn, flip, *corner = torch.randint(2**31, (5,), generator=generator).tolist()
        image = photos[which % len(photos)]
        i, j = (c % (image.shape[-1] - side + 1) for c in corner)
        crop = image[:, i : i + side, j : j + side].rot90(turn % 4, (1, 2))
        yield (crop.flip(2) if flip % 2 else crop).contiguous()


def stream(n: int, M: int, side: int, lam: float) -> None:
    """Learn from crops that are never in memory together, and print the peak memory."""
    D = random_dictionary(M, 1, 8, generator=torch.Generator().manual_seed(0))
    before, begun = peak_mib(), clock()

    def on_step(step: LearningStep) -> None:
        seconds = (clock() - begun)[0]
        print(
            f"{step.images[-1] + 1:6} crops {seconds:7.0f} s  objective {step.objective:.3f}  "
            f"{len(step.restarted)} atoms re-started  peak {peak_mib():.0f} MiB",
            flush=True,
        )

    generator = torch.Generator().manual_seed(1)
    images = draw_crops(n, side)
    learned = learn_dictionary(
        images, D, lam, passes=1, batch=50, patience=500, generator=generator, on_step=on_step
    )
    held_out = torch.stack([c for name in HELD_OUT for c in crops(photo(name), 1, 128)])
    seconds, cpu_seconds = clock() - begun
    peak = peak_mib()
    print(f"\n{n} crops of {side}², {M} atoms, λ = {lam}, {torch.get_num_threads()} threads")
    print(f"{seconds:.0f} s, {cpu_seconds:.0f} s of processor")
    print(f"peak resident memory {peak:.0f} MiB, of which imports {before:.0f}")
    for name, atoms in (("first", D), ("learned", learned.dictionary)):
        print(f"held-out objective of the {name} atoms: {judge(atoms, held_out, lam):.3f}")


def peak_mib() -> float:
    """Return the largest resident memory of this process so far, in MiB."""
    unit = 2**20 if sys.platform == "darwin" else 2**10
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / unit


def run_ours(x: Tensor, D: Tensor, lam: float, passes: int) -> tuple[list[Point], list[int]]:
    """Return the atoms after every step, and the images in the order they were seen."""
    points, order = [], []
    begun = clock()

    def on_step(step: LearningStep) -> None:
        points.append(Point(step.step, *(clock() - begun).tolist(), step.dictionary))
        order.extend(step.images)

    generator = torch.Generator().manual_seed(1)
    learn_dictionary(x, D, lam, passes=passes, generator=generator, on_step=on_step)
    return points, order


def run_sporco(x: Tensor, D: Tensor, lam: float, order: list[int], eta_b: float) -> list[Point]:
    """Return sporco's atoms after every step, an image each."""
    from sporco import fft
    from sporco.dictlrn import onlinecdl

    fft.pyfftw_threads = torch.get_num_threads()
    options = onlinecdl.OnlineConvBPDNDictLearn.Options(
        {
            "ZeroMean": False,
            "eta_a": 10.0,
            "eta_b": eta_b,
            "DataType": np.float32,
            "CBPDN": {
                "rho": 5.0,
                "AutoRho": {"Enabled": True},
                "RelaxParam": 1.8,
                "RelStopTol": 1e-4,
                "MaxMainIter": 50,
                "FastSolve": False,
                "DataType": np.float32,
            },
        }
    )
    atoms = np.ascontiguousarray(D[:, 0].permute(1, 2, 0).numpy())
    images = np.ascontiguousarray(x[:, 0].permute(1, 2, 0).numpy())
    points, seconds = [], np.zeros(2)
    learner = onlinecdl.OnlineConvBPDNDictLearn(atoms, lam, options)
    for step, i in enumerate(order, 1):
        begun = clock()
        learner.solve(images[..., [i]])
        seconds += clock() - begun
        found = np.array(learner.getdict().squeeze().transpose(2, 0, 1)[:, None])
        points.append(Point(step, *seconds.tolist(), torch.from_numpy(found)))
    return points


def judge(D: Tensor, x: Tensor, lam: float) -> float:
    """Return the mean held-out objective."""
    D = D / torch.linalg.vector_norm(D, dim=(1, 2, 3), keepdim=True).clamp(min=1)
    solution = coordinate_descent(x, D, lam, tol=1e-3)
    if not solution.converged:
        raise RuntimeError("an objective is not certified")
    return float(solution.objective.mean())


def first_below(curve: list[Judged], objective: float) -> Judged | None:
    """Return the first point at or below an objective."""
    return next((point for point in curve if point.objective <= objective), None)


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--passes", type=int, default=4, help="over the twenty images, for both")
    parser.add_argument("--lam", type=float, default=0.1)
    parser.add_argument("--eta-b", type=float, default=5.0, help="sporco's steps are 10/(b + t)")
    parser.add_argument("--every", type=int, default=4, help="steps between two judgements")
    parser.add_argument("--quick", action="store_true", help="16 atoms, small crops, one pass")
    parser.add_argument("--stream", type=int, metavar="N", help="learn from a stream of N crops")
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    lam, every = arguments.lam, arguments.every
    if arguments.stream:
        stream(arguments.stream, *((16, 32) if arguments.quick else (256, 64)), lam)
        return
    side, M, passes = (96, 16, 1) if arguments.quick else (256, 64, arguments.passes)
    x = torch.stack([c for name, n in TRAINING.items() for c in crops(photo(name), n, side)])
    held_out = torch.stack([c for name in HELD_OUT for c in crops(photo(name), 1, side)])
    D = random_dictionary(M, 1, 8, generator=torch.Generator().manual_seed(0))

    run_ours(x[:1], D, lam, 1)
    run_sporco(x, D, lam, [0], arguments.eta_b)
    ours, order = run_ours(x, D, lam, passes)
    theirs = run_sporco(x, D, lam, order, arguments.eta_b)
    curves = {
        name: [Judged(*p[:3], judge(p.D, held_out, lam)) for p in points[every - 1 :: every]]
        for name, points in (("learn_dictionary", ours), ("sporco", theirs))
    }

    print(f"{len(x)} images of {side}², {M} atoms, λ = {lam}, {torch.get_num_threads()} threads")
    print(f"held-out objective of the first atoms: {judge(D, held_out, lam):.3f}\n")
    print(f"{'step':>4}{'learn_dictionary':>28}{'sporco':>28}")
    for row in zip(*curves.values(), strict=True):
        cells = "".join(f"{p.seconds:16.2f} s{p.objective:10.3f}" for p in row)
        print(f"{row[0].step:4}{cells}")
    best = min(p.objective for p in curves["sporco"])
    a, b = (first_below(curve, best) for curve in curves.values())
    print(f"\nfirst at or below sporco's best objective, {best:.3f}:")
    ratios = None
    for name, point in zip(curves, (a, b), strict=True):
        told = (
            f"{point.seconds:.2f} s, {point.cpu_seconds:.2f} s of processor" if point else "never"
        )
        print(f"   {name:20}{told}")
    if a and b:
        ratios = {"seconds": b.seconds / a.seconds, "cpu_seconds": b.cpu_seconds / a.cpu_seconds}
        print(f"   {'ratio':20}{ratios['seconds']:.1f}, {ratios['cpu_seconds']:.1f} of processor")
    if arguments.json:
        written = {
            "lam": lam,
            "eta_b": arguments.eta_b,
            "threads": torch.get_num_threads(),
            "curves": {name: [p._asdict() for p in curve] for name, curve in curves.items()},
            "ratio_at_best_of_sporco": ratios,
        }
        arguments.json.write_text(json.dumps(written, indent=1) + "\n")


if __name__ == "__main__":
    main()
