"""PSNR and processor time of denoising and inpainting: ours, sporco's way, scikit-image, BM3D.

    OMP_NUM_THREADS=1 python benchmarks/tasks.py [--data ROOT] [--photos 4] [--methods NAME ...]
        [--plot FOLDER]

Grey crops from the middle of photos: four of Set5 and Set14 under ROOT, or four of scikit-image.
The methods and their settings:

- csc: csc.denoise and csc.inpaint as they are, with the bundled dictionary.
- sporco: the scripts gwnden_gry.py and cbpdn_ams_grd_gry.py of its examples, with the same
  dictionary.  λ of denoising, written there for σ = 0.1, is scaled by σ³.  Its inpainting takes
  minutes for larger crops; --photos 2 --side 64 ends within a few.
- TV: denoise_tv_chambolle, with the best of four weights for each image, so it sees the truth; the
  seconds are of all four.
- NLM: denoise_nl_means with the settings of scikit-image's example: patches of 5, distance 6,
  h = 0.8 σ, slow mode.
- biharmonic: inpaint_biharmonic.
- BM3D: of the package bm3d, where it is installed.  Its licence excludes commercial use.

The seconds are process_time, in one thread.  Our kernels are compiled before.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from skimage import data, restoration

import csc

Image = NDArray[np.float64]
Method = Callable[[Image], Image]
SET = ("Set5/butterfly", "Set14/barbara", "Set5/bird", "Set5/baby")
LEVELS = (15, 25, 50)  # standard deviation of the noise, in grey levels
SHARES = (0.5, 0.2)  # of known pixels


def load_photos(root: Path | None, side: int) -> dict[str, Image]:
    """Return grey crops (side, side) in [0, 1]."""
    if root is None:
        names = ("astronaut", "camera", "coffee", "chelsea")
        images = {name: np.asarray(getattr(data, name)()) for name in names}
    else:
        images = {}
        for name in SET:
            x = csc.read_images(next((root / name).parent.glob(f"{Path(name).name}*")))
            images[name] = (255 * x[0].permute(1, 2, 0)).numpy()
    crops = {}
    for name, image in images.items():
        grey = image.reshape(*image.shape[:2], -1).mean(2) / 255
        top, left = (max(0, (n - side) // 2) for n in grey.shape)
        crops[name] = grey[top : top + side, left : left + side].astype(np.float64)
    return crops


def psnr(x: Image, truth: Image) -> float:
    """Return the PSNR in dB of images in [0, 1], clipped."""
    return float(-10 * np.log10(np.square(x.clip(0, 1) - truth).mean()))


def ours_denoise(noisy: Image, sigma: float) -> Image:
    """Denoise by csc."""
    image: Image = csc.denoise(noisy, sigma).image
    return image


def ours_inpaint(x: Image, known: NDArray[np.bool_]) -> Image:
    """Inpaint by csc."""
    image: Image = csc.inpaint(x, known).image
    return image


def atoms() -> Image:
    """Return the bundled dictionary as sporco takes it, (k, k, M)."""
    array: Image = csc.photo_dictionary(torch.float64)[:, 0].permute(1, 2, 0).numpy()
    return array


def sporco_denoise(noisy: Image, sigma: float) -> Image:
    """Denoise as sporco's gwnden_gry.py does."""
    from sporco import fft, signal
    from sporco.admm import cbpdn

    D, lam = atoms(), 4.8e-2 * (sigma / 0.1) ** 3
    low, high = signal.tikhonov_filter(noisy, 5.0, 16)
    padded = signal.tikhonov_filter(np.pad(noisy, 8, "symmetric"), 5.0, 16)[1]
    shape, axes = padded.shape, (0, 1)
    spectrum = np.conj(fft.rfftn(D, shape, axes)) * fft.rfftn(padded[..., None], None, axes)
    W = 1 / np.maximum(fft.irfftn(spectrum, shape, axes) ** 2, 1e-8)
    options = {
        "MaxMainIter": 250,
        "HighMemSolve": True,
        "RelStopTol": 3e-3,
        "AuxVarObj": False,
        "L1Weight": W,
        "AutoRho": {"Enabled": False},
        "rho": 4e2 * lam,
    }
    solver = cbpdn.ConvBPDN(
        D, np.pad(high, 8, "symmetric"), lam, cbpdn.ConvBPDN.Options(options), dimK=0
    )
    solver.solve()
    restored: Image = solver.reconstruct().squeeze()[8:-8, 8:-8] + low
    return restored


def sporco_inpaint(x: Image, known: NDArray[np.bool_]) -> Image:
    """Inpaint as sporco's cbpdn_ams_grd_gry.py does: an impulse atom with a gradient penalty."""
    from sporco.admm import cbpdn

    D, lam, mu = atoms(), 1e-2, 2e-1
    impulse = np.zeros((*D.shape[:2], 1))
    impulse[0, 0] = 1
    D = np.dstack((impulse, D))
    weights, gradients = np.ones((1, 1, 1, 1, D.shape[2] + 1)), 0.2 * np.ones(D.shape[2] + 1)
    weights[..., [0, -1]], gradients[0], gradients[-1] = 0, 1, 0
    options = {
        "MaxMainIter": 200,
        "HighMemSolve": True,
        "RelStopTol": 5e-3,
        "AuxVarObj": False,
        "RelaxParam": 1.8,
        "rho": 5e1 * lam + 1e-1,
        "L1Weight": weights,
        "GradWeight": gradients,
        "AutoRho": {"Enabled": False, "StdResiduals": False},
    }
    solver = cbpdn.AddMaskSim(
        cbpdn.ConvBPDNGradReg, D, np.pad(x * known, 8, "symmetric"), np.pad(known, 8) * 1.0,
        lam, mu, opt=cbpdn.ConvBPDNGradReg.Options(options),
    )  # fmt: skip
    solver.solve()
    restored: Image = solver.reconstruct().squeeze()[8:-8, 8:-8]
    return np.where(known, x, restored)


def denoisers(sigma: float, truth: Image) -> dict[str, Method]:
    """Return the methods for white noise of standard deviation σ."""

    def tv(x: Image) -> Image:
        images = [
            restoration.denoise_tv_chambolle(x, weight=c * sigma) for c in (0.7, 0.9, 1.1, 1.3)
        ]
        return max(images, key=lambda image: psnr(image, truth))

    def nlm(x: Image) -> Image:
        image: Image = restoration.denoise_nl_means(
            x, sigma=sigma, h=0.8 * sigma, patch_size=5, patch_distance=6, fast_mode=False
        )
        return image

    methods: dict[str, Method] = {
        "csc": lambda x: ours_denoise(x, sigma),
        "sporco": lambda x: sporco_denoise(x, sigma),
        "TV": tv,
        "NLM": nlm,
    }
    try:
        import bm3d
    except ImportError:
        return methods
    return methods | {"BM3D": lambda x: bm3d.bm3d(x, sigma)}


def inpainters(known: NDArray[np.bool_]) -> dict[str, Method]:
    """Return the methods for missing pixels."""
    return {
        "csc": lambda x: ours_inpaint(x, known),
        "sporco": lambda x: sporco_inpaint(x, known),
        "biharmonic": lambda x: restoration.inpaint_biharmonic(x, ~known),
    }


class Table:
    """PSNR, seconds and images of the methods, by task."""

    def __init__(self, methods: list[str] | None) -> None:
        self.methods = methods
        self.rows: dict[str, dict[str, list[tuple[float, float]]]] = {}
        self.images: dict[str, dict[str, Image]] = {}

    def add(self, task: str, name: str, methods: dict[str, Method], x: Image, truth: Image) -> None:
        """Run the methods on one photo."""
        for method, run in methods.items():
            if self.methods and method not in self.methods:
                continue
            begun = time.process_time()
            image = run(x.copy())
            seconds = time.process_time() - begun
            found = self.rows.setdefault(task, {}).setdefault(method, [])
            found.append((psnr(image, truth), seconds))
            self.images.setdefault(f"{task}, {name}", {"given": x})[method] = image

    def show(self) -> None:
        """Print the means, in the order of the methods."""
        for task, methods in self.rows.items():
            means = {method: np.mean(found, axis=0) for method, found in methods.items()}
            line = "  ".join(f"{method} {m[0]:.2f} dB {m[1]:.2f} s" for method, m in means.items())
            print(f"{task:10} {line}", flush=True)


def main() -> None:
    """Run all methods on all photos and print the means."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, metavar="ROOT")
    parser.add_argument("--photos", type=int, default=4, help="use the first so many")
    parser.add_argument("--methods", nargs="+", metavar="NAME", help="run only these")
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--plot", type=Path, metavar="FOLDER", help="save figures of one photo")
    options = parser.parse_args()
    photos = load_photos(options.data, options.side)
    photos = dict(list(photos.items())[: options.photos])
    table = Table(options.methods)
    warm = next(iter(photos.values()))[:64, :64]
    ours_denoise(warm, 0.1)  # compiles
    ours_inpaint(warm, warm > 0)
    for seed, (name, truth) in enumerate(photos.items()):
        random = np.random.default_rng(seed)
        for level in LEVELS:
            noisy = truth + level / 255 * random.standard_normal(truth.shape)
            table.add(f"noise {level}", name, denoisers(level / 255, truth), noisy, truth)
        for share in SHARES:
            known = random.random(truth.shape) < share
            task = f"known {share:.0%}"
            table.add(task, name, inpainters(known), np.where(known, truth, 0), truth)
        print(f"\nafter {name}", flush=True)
        table.show()
    if options.plot:
        save_figures(table, photos, options.plot)


def save_figures(table: Table, photos: dict[str, Image], folder: Path) -> None:
    """Save the images of one photo, for one level of noise and one share of known pixels."""
    from csc import plot

    name = next(iter(photos))
    truth = torch.from_numpy(photos[name])[None, None]
    for file, task in (("denoising", "noise 25"), ("inpainting", "known 20%")):
        images = {
            f"{method}, {psnr(image, photos[name]):.2f} dB": torch.from_numpy(image)[None, None]
            for method, image in table.images[f"{task}, {name}"].items()
        }
        figure = plot.images({"original": truth} | images)
        figure.savefig(folder / f"{file}.png", dpi=90)


if __name__ == "__main__":
    main()
