"""Learn the dictionaries of ScSR on T91, measure them on Set5, and write them to a file.

    OMP_NUM_THREADS=1 python benchmarks/train_scsr.py --data ROOT --out FILE [--seed 0]

This call made baselines/sparse/weights/scsr.safetensors.  Each image gives patches in proportion to
its size.  T91 does not contain Set5's woman.
"""

import argparse
from pathlib import Path

import torch

from baselines.resample import modcrop
from baselines.sparse.coupled import Coupled, Pairs, learn_coupled, sample_pairs
from baselines.sparse.scsr import ScSR, load
from baselines.weights import write
from crnet.data import find_images, read_y
from crnet.measuring.evaluate import evaluate
from crnet.measuring.protocol import TABLE_2

SIDE = {2: 7, 3: 9, 4: 9}
"""Side of a patch, by scale."""


def main() -> None:
    """Learn, measure, write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--atoms", type=int, default=512)
    parser.add_argument("--patches", type=int, default=100_000, help="drawn per scale")
    parser.add_argument("--passes", type=int, default=4)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    pairs = {scale: learn(options, scale) for scale in SIDE}
    system = ScSR(pairs)
    psnr = measure(system, options.data)
    tensors = {
        f"{end}.{scale}": D.half()
        for scale, pair in pairs.items()
        for end, D in pair._asdict().items()
    }
    card = {
        "name": "scsr",
        "scales": list(pairs),
        "lam": system.lam,
        "gain": system.gain,
        "steps": system.steps,
        "stride": system.stride,
        "training": {
            "data": "T91",
            "atoms": options.atoms,
            "patches": options.patches,
            "passes": options.passes,
            "seed": options.seed,
        },
        "psnr": {"Set5": psnr},
    }
    write(options.out, tensors, card)
    print(f"{options.out}: {options.out.stat().st_size} bytes; read back:")
    measure(load(options.out), options.data)


def learn(options: argparse.Namespace, scale: int) -> Coupled:
    """Return the dictionaries of a scale."""
    generator = torch.Generator().manual_seed(options.seed)
    images = [
        modcrop(read_y(path), scale).float() / 255 for path in find_images(options.data / "T91")
    ]
    pixels = sum(y.numel() for y in images)
    drawn = [
        sample_pairs(
            y, scale, SIDE[scale], round(options.patches * y.numel() / pixels), generator=generator
        )
        for y in images
    ]
    pairs = Pairs(*(torch.cat(ends) for ends in zip(*drawn, strict=True)))
    side = f"{SIDE[scale]}×{SIDE[scale]}"
    print(f"×{scale}: {len(pairs.lr)} patches of {side} from {len(images)} images", flush=True)

    def tell(step: int, objective: float) -> None:
        if step % 50 == 0:
            print(f"  step {step}: {objective:.4f} a patch", flush=True)

    return learn_coupled(
        pairs, options.atoms, passes=options.passes, generator=generator, on_step=tell
    )


def measure(system: ScSR, root: Path) -> dict[str, float]:
    """Return the mean PSNR on Set5 by scale, and print it."""
    rows = evaluate({"ScSR": system}, root, ["Set5"], system.scales, protocol=TABLE_2)
    for row in rows:
        measured = f"{row.psnr:.2f} dB / {row.ssim:.4f}, {row.seconds:.1f} s an image"
        print(f"  Set5 ×{row.scale}: {measured}", flush=True)
    return {str(row.scale): round(row.psnr, 4) for row in rows}


if __name__ == "__main__":
    main()
