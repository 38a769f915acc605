"""Train CSC-SR for ×2, ×3 and ×4, write its weights, and print PSNR on Set5.

    OMP_NUM_THREADS=1 python benchmarks/train_csc_sr.py --data ROOT --out FILE

This made baselines/weights/csc-sr.safetensors.  A scale that is done is kept beside FILE, as
FILE.x2 and so on, which a second call with the same settings takes up; remove them to begin anew.
Scales may be trained by several calls at a time (--scales 2), and gathered by one more for all.
302003.jpg of the Berkeley images is Set5's woman and is never trained on.
"""

import argparse
import functools
import json
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.sparse.csc_sr import CSCSR, Filters, card, load, write
from baselines.sparse.csc_sr_train import ENERGY, our_dictionary, train
from baselines.weights import WeightsError
from crnet.data import find_images, read_y
from crnet.measuring.evaluate import evaluate
from crnet.measuring.protocol import TABLE_2

EXCLUDED = ("302003.jpg",)


def learned(
    arguments: argparse.Namespace, scale: int, images: list[Tensor], settings: dict[str, Any]
) -> tuple[Filters, dict[str, Any]]:
    """Return the filters of a scale and what to say of them: from its file, or trained now."""
    file = arguments.out.with_name(f"{arguments.out.name}.x{scale}")
    if file.is_file():
        about = card(file)["training"]
        if about["settings"] != settings:
            raise SystemExit(f"{file} comes from other settings; remove it to train anew")
        print(f"x{scale}: taken from {file}", flush=True)
        return load(file).at(scale), about
    began = time.process_time()
    learner: Callable[..., Tensor] = our_dictionary
    if arguments.sporco:
        from csc.learning.sporco import sporco_dictionary

        learner = functools.partial(sporco_dictionary, passes=2)
    trained = train(
        images,
        scale,
        learner=learner,
        generator=torch.Generator().manual_seed(arguments.seed),
        on_step=lambda t, e: t % 100 or print(f"x{scale}, step {t}: {e:.2e}", flush=True),
        **{k: v for k, v in settings.items() if k not in ("sets", "seed", "learner", "energy")},
        energy=settings["energy"] * scale**2,
    )
    about = {
        "settings": settings,
        "energy": settings["energy"] * scale**2,
        "processor_minutes": round((time.process_time() - began) / 60, 1),
        "objective": [round(value, 2) for value in trained.objective],
    }
    write(file, [trained.filters], about)
    return load(file).at(scale), about


def main() -> None:
    """Train, write, measure."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of image sets")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--sets", nargs="+", default=["T91"])
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--atoms", type=int, default=96)
    parser.add_argument("--hr-atoms", type=int, default=192)
    parser.add_argument("--lam", type=float, default=0.004)
    parser.add_argument("--mu", type=float, default=0.1)
    parser.add_argument("--energy", type=float, default=ENERGY, help="bound on ‖f‖², over s²")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refinement", type=int, default=600, help="steps on the LR atoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sporco", action="store_true", help="LR atoms by sporco's learning")
    parser.add_argument("--test", nargs="+", default=["Set5"])
    arguments = parser.parse_args()
    settings = {
        "sets": arguments.sets,
        "atoms": arguments.atoms,
        "hr_atoms": arguments.hr_atoms,
        "lam": arguments.lam,
        "mu": arguments.mu,
        "energy": arguments.energy,
        "rounds": arguments.rounds,
        "refinement": arguments.refinement,
        "seed": arguments.seed,
        "learner": "sporco" if arguments.sporco else "csc.learn_dictionary",
    }
    paths = [p for name in arguments.sets for p in find_images(arguments.data / name, EXCLUDED)]
    images = [read_y(path).float() / 255 for path in paths]
    print(f"{len(images)} images of {', '.join(arguments.sets)}", flush=True)
    filters, abouts, psnr = [], {}, {}
    for scale in arguments.scales:
        one, about = learned(arguments, scale, images, settings)
        rows = evaluate({"": CSCSR((one,))}, arguments.data, arguments.test, [scale])
        psnr[f"x{scale}"] = {row.set: round(row.psnr, 3) for row in rows}
        seconds = statistics.median(row.seconds for row in rows)
        print(f"x{scale}: {json.dumps(about)}\n  {psnr[f'x{scale}']} dB, {seconds:.2f} s per image")
        filters.append(one)
        abouts[f"x{scale}"] = about
    training = {
        "data": f"{' + '.join(arguments.sets)} without {', '.join(EXCLUDED)}",
        "by_scale": abouts,
        "psnr": psnr,
        "protocol": TABLE_2.name,
    }
    write(arguments.out, filters, training)
    try:
        load(arguments.out)
    except WeightsError as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {arguments.out}, {arguments.out.stat().st_size / 1e6:.2f} MB")


if __name__ == "__main__":
    main()
