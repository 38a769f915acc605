"""Learn the bundled dictionary of csc.denoise and csc.inpaint, and write it to a file.

    OMP_NUM_THREADS=1 python benchmarks/photo_dictionary.py --data ROOT --out FILE [--seed 0]

This call made csc/photo_dictionary.safetensors.  ROOT/gb82 has 25 photos of 576×576, which their
authors gave to the public domain (CC0).  Two opposite corners of each are turned to grey and
high-passed.  The call takes about a minute of processor time.
"""

import argparse
from pathlib import Path

import torch
from safetensors.torch import save_file

from csc import learn_dictionary, random_dictionary, read_images, tikhonov_filter

SIDE = 256


def main() -> None:
    """Learn and write."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, required=True, metavar="ROOT")
    parser.add_argument("--out", type=Path, required=True, metavar="FILE")
    parser.add_argument("--atoms", type=int, default=64)
    parser.add_argument("--side", type=int, default=8, help="of an atom")
    parser.add_argument("--lam", type=float, default=0.1)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    photos = read_images(sorted((options.data / "gb82").glob("*.png")))
    grey = [photo.mean(1, keepdim=True) for photo in photos]
    crops = torch.cat(
        [crop for x in grey for crop in (x[..., :SIDE, :SIDE], x[..., -SIDE:, -SIDE:])]
    )
    generator = torch.Generator().manual_seed(options.seed)
    learned = learn_dictionary(
        tikhonov_filter(crops)[1],
        random_dictionary(options.atoms, 1, options.side, generator=generator),
        options.lam,
        passes=options.passes,
        generator=generator,
        on_step=lambda step: print(f"{step.step} {step.objective:.3f}", flush=True),
    )
    save_file({"D": learned.dictionary.half()}, options.out)


if __name__ == "__main__":
    main()
