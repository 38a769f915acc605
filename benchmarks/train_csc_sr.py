"""Train CSC-SR for ×2, ×3 and ×4, write its weights, and print PSNR on Set5.

    OMP_NUM_THREADS=1 python benchmarks/train_csc_sr.py --data ROOT --out FILE

This call made baselines/sparse/weights/csc-sr.safetensors.  Each finished scale is kept beside
FILE, as FILE.x2 and so on.  A second call with the same settings takes it from there; remove these
files to start again.  Several calls can train scales side by side (--scales 2), and one more call
for all scales gathers them.  302003.jpg of the Berkeley images shows Set5's woman, so it is never
trained on.
"""

import argparse
import functools
import json
import statistics
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from baselines.sparse.csc_sr import CSCSR, Filters, card, load, write
from baselines.sparse.csc_sr_train import ENERGY, LAM, MU, Learner, our_dictionary, train
from baselines.weights import WeightsError
from crnet.data import find_images, read_y
from crnet.measuring.evaluate import evaluate
from crnet.measuring.protocol import TABLE_2

EXCLUDED = ("302003.jpg",)


@dataclass(frozen=True)
class Settings:
    """The settings of a training, as its card keeps them; `energy` is over s²."""

    sets: list[str]
    atoms: int
    hr_atoms: int
    lam: float
    mu: float
    energy: float
    rounds: int
    refinement: int
    seed: int
    learner: str


def learned(
    file: Path, scale: int, images: list[Tensor], settings: Settings
) -> tuple[Filters, dict[str, Any]]:
    """Return the filters of a scale and their card, from the file of the scale or trained now."""
    if file.is_file():
        about = card(file)["training"]
        if about["settings"] != asdict(settings):
            raise SystemExit(f"{file} comes from other settings; remove it to train anew")
        print(f"x{scale}: taken from {file}", flush=True)
        return load(file).at(scale), about
    began = time.process_time()
    learner: Learner = our_dictionary
    if settings.learner == "sporco":
        from csc.learning.sporco import sporco_dictionary

        learner = functools.partial(sporco_dictionary, passes=2)

    def tell(step: int, error: float) -> None:
        if step % 100 == 0:
            print(f"x{scale}, step {step}: {error:.2e}", flush=True)

    energy = settings.energy * scale**2
    trained = train(
        images,
        scale,
        atoms=settings.atoms,
        hr_atoms=settings.hr_atoms,
        lam=settings.lam,
        mu=settings.mu,
        energy=energy,
        rounds=settings.rounds,
        learner=learner,
        refinement=settings.refinement,
        generator=torch.Generator().manual_seed(settings.seed),
        on_step=tell,
    )
    about = {
        "settings": asdict(settings),
        "energy": energy,
        "processor_minutes": round((time.process_time() - began) / 60, 1),
        "objective": [round(value, 2) for value in trained.objective],
    }
    write(file, [trained.filters], about, {})
    return load(file).at(scale), about


def main() -> None:
    """Train, measure, write."""
    arguments = parse()
    settings = Settings(
        sets=arguments.sets,
        atoms=arguments.atoms,
        hr_atoms=arguments.hr_atoms,
        lam=arguments.lam,
        mu=arguments.mu,
        energy=arguments.energy,
        rounds=arguments.rounds,
        refinement=arguments.refinement,
        seed=arguments.seed,
        learner="sporco" if arguments.sporco else "csc.learn_dictionary",
    )
    paths = [p for name in arguments.sets for p in find_images(arguments.data / name, EXCLUDED)]
    images = [read_y(path).float() / 255 for path in paths]
    print(f"{len(images)} images of {', '.join(arguments.sets)}", flush=True)
    filters: list[Filters] = []
    by_scale: dict[str, dict[str, Any]] = {}
    psnr: dict[str, dict[str, float]] = {name: {} for name in arguments.test}
    for scale in arguments.scales:
        file = arguments.out.with_name(f"{arguments.out.name}.x{scale}")
        one, by_scale[f"x{scale}"] = learned(file, scale, images, settings)
        filters.append(one)
        print(f"x{scale}: {json.dumps(by_scale[f'x{scale}'])}")
        rows = evaluate({"": CSCSR((one,))}, arguments.data, arguments.test, [scale])
        for row in rows:
            psnr[row.set][str(scale)] = round(row.psnr, 4)
            print(f"  {row.set}: {row.psnr:.4f} dB")
        print(f"  {statistics.median(row.seconds for row in rows):.2f} s per image", flush=True)
    training = {
        "data": f"{' + '.join(arguments.sets)} without {', '.join(EXCLUDED)}",
        "by_scale": by_scale,
        "protocol": TABLE_2.name,
    }
    write(arguments.out, filters, training, psnr)
    try:
        load(arguments.out)
    except WeightsError as error:
        raise SystemExit(str(error)) from error
    print(f"wrote {arguments.out}, {arguments.out.stat().st_size / 1e6:.2f} MB")


def parse() -> argparse.Namespace:
    """Return the arguments of the command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of image sets")
    parser.add_argument("--out", type=Path, required=True, help="safetensors file to write")
    parser.add_argument("--sets", nargs="+", default=["T91"])
    parser.add_argument("--scales", type=int, nargs="+", default=[2, 3, 4])
    parser.add_argument("--atoms", type=int, default=96)
    parser.add_argument("--hr-atoms", type=int, default=192)
    parser.add_argument("--lam", type=float, default=LAM)
    parser.add_argument("--mu", type=float, default=MU)
    parser.add_argument("--energy", type=float, default=ENERGY, help="bound on ‖f‖², over s²")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--refinement", type=int, default=600, help="steps on the LR atoms")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sporco", action="store_true", help="learn the LR atoms with sporco")
    parser.add_argument("--test", nargs="+", default=["Set5"])
    return parser.parse_args()


if __name__ == "__main__":
    main()
