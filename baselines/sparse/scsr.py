"""ScSR: patches of LR and HR that share their sparse codes in a pair of coupled dictionaries.

The LR image is enlarged by bicubic to u.  Of every p×p patch, y are the first and second
derivatives, m the mean and e = u − m the rest.  Its codes

    z = argmin_z ½‖y / max(‖y‖, ε) − D_l z‖² + λ‖z‖₁

give the HR patch h = m + g ‖e‖ D_h z / ‖D_h z‖.  Overlapping patches are averaged, and the image x
is made to fit the LR image again by back-projection, x ← x + k * up(lr − down(x)).

Both dictionaries are learned at once, on stacked pairs: one code has to explain both halves.

We differ from the authors' package in this: a dictionary for every scale, learned on its own
degradation, rather than ×2 twice, which does not serve ×3 at all and hands the errors of the first
pass to the second; patches of 7×7 (×2) and 9×9 every two pixels rather than of 5×5 at every pixel,
which is as sharp in a third of the time; patches up to the border, beyond which the image is
replicated; and a patch without a code stays bicubic rather than flat.

References
----------
Yang, Wright, Huang, Ma, "Image super-resolution via sparse representation", IEEE TIP 19(11), 2010.
Irani, Peleg, "Improving resolution by image registration", CVGIP 53(3), 1991 (back-projection).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize
from baselines.sparse.coupled import Coupled, features, unit_lr
from baselines.sparse.lasso import lasso
from baselines.weights import WeightsError, bundled, read
from csc.checks import check_finite, check_images

# ε, the norm from which derivatives are divided by it: one grey level of 255, as the authors have.
LEAST_NORM = 1 / 255
# Moves of a code below this do not show: on Set5 they change PSNR by some thousandths of a decibel.
CODING_TOL = 1e-2
# Patches coded together: enough to keep the processor busy, few enough to stay in its cache.
PATCHES = 2048


@dataclass(frozen=True)
class ScSR:
    """ScSR as a map from LR to HR.

    Called with LR images (B, 1, h, w), Y in [0, 1], and a scale, it returns HR images
    (B, 1, scale·h, scale·w), unclipped, in the dtype and on the device of the input.

    Attributes
    ----------
    dictionaries : mapping of int to Coupled
        The pair of every scale.
    lam : float
        Weight λ of the codes.
    gain : float
        Contrast g of an HR patch relative to that of the bicubic one.
    steps : int
        Steps of back-projection.
    stride : int
        Pixels from one patch to the next.
    """

    dictionaries: Mapping[int, Coupled]
    lam: float = 0.2
    gain: float = 1.2
    steps: int = 20
    stride: int = 2
    channels: ClassVar[int] = 1

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales there are dictionaries for."""
        return tuple(sorted(self.dictionaries))

    @property
    def parameters(self) -> int:
        """Numbers in all dictionaries; ``at(scale).parameters`` are those of one scale."""
        return sum(pair.parameters for pair in self.dictionaries.values())

    def parameters_at(self, scale: int) -> int:
        """Count the numbers in the dictionaries of a scale."""
        return self.at(scale).parameters

    def at(self, scale: int) -> Coupled:
        """Return the pair of a scale.

        Raises
        ------
        ValueError
            If there is none.
        """
        if scale not in self.dictionaries:
            known = ", ".join(map(str, self.scales))
            raise ValueError(f"this ScSR upscales by {known}, not by {scale}")
        return self.dictionaries[scale]

    @torch.no_grad()
    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR images (B, 1, scale·h, scale·w) of LR images (B, 1, h, w)."""
        check_images(x)
        check_finite(x, "x")
        if x.shape[1] != 1:
            raise ValueError(f"x must be Y, (B, 1, h, w), got {tuple(x.shape)}")
        pair = Coupled(*(D.to(x) for D in self.at(scale)))
        p = pair.hr.shape[-1]
        u = bicubic(x, scale)
        Dl, Dh = pair.lr.flatten(1), pair.hr.flatten(1)
        G = Dl @ Dl.T

        def sharpen(patches: Tensor) -> Tensor:
            u, y = patches[:, : p * p], patches[:, p * p :]
            norm = y.norm(dim=1, keepdim=True).clamp_min(LEAST_NORM)
            h = lasso(y @ Dl.T / norm, G, self.lam, tol=CODING_TOL) @ Dh
            m = u.mean(1, keepdim=True)
            size = h.norm(dim=1, keepdim=True)
            contrast = self.gain * (u - m).norm(dim=1, keepdim=True)
            return torch.where(size > 0, m + contrast * h / size, u)

        sr = map_patches(sharpen, torch.cat([u, features(u)], 1), p, self.stride)
        return back_project(sr, x, self.steps)


def load(path: str | Path | None = None) -> ScSR:
    """Return ScSR with the dictionaries of a file.

    Parameters
    ----------
    path : str or Path, optional
        A file that ``benchmarks/train_scsr.py`` wrote; by default the one that ships, for ×2, ×3
        and ×4, learned on T91.

    Returns
    -------
    ScSR

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or holds something else.

    Examples
    --------
    >>> load()(torch.rand(1, 1, 8, 6), 3).shape
    torch.Size([1, 1, 24, 18])
    """
    path = bundled("scsr") if path is None else path
    tensors, card = read(path)
    try:
        if card["name"] != "scsr":
            raise ValueError(f"it is of {card['name']!r}")
        pairs = {
            s: unit_lr(Coupled(tensors[f"lr.{s}"].float(), tensors[f"hr.{s}"].float()))
            for s in card["scales"]
        }
        numbers = float(card["lam"]), float(card["gain"]), int(card["steps"]), int(card["stride"])
        return ScSR(pairs, *numbers)
    except (KeyError, TypeError, ValueError) as error:
        raise WeightsError(f"{path} holds no dictionaries of ScSR: {error}") from error


def map_patches(change: Callable[[Tensor], Tensor], x: Tensor, p: int, stride: int = 1) -> Tensor:
    """Replace p×p patches of images by `change` of them, and average where they overlap.

    Parameters
    ----------
    change : callable
        From patches (N, C·p²) to patches (N, p²).
    x : Tensor, shape (B, C, H, W)
        Images.
    p : int
        Side of a patch.
    stride : int
        Pixels from one patch to the next, ≤ p.  The image is replicated beyond its lower and right
        border, so that the last patches reach it.

    Returns
    -------
    Tensor, shape (B, 1, H, W)
    """
    H, W = x.shape[-2:]
    down, right = (max(p - n, (p - n) % stride) for n in (H, W))
    x = F.pad(x, (0, right, 0, down), mode="replicate")
    B, _, height, width = x.shape
    total = x.new_zeros(B, 1, height, width)
    across = (width - p) // stride + 1
    rows = stride * max(1, PATCHES // (B * across))
    for top in range(0, height - p + 1, rows):
        band = x[..., top : top + rows - stride + p, :]
        patches = F.unfold(band, p, stride=stride).transpose(1, 2)  # (B, n, C·p²)
        changed = change(patches.flatten(0, 1)).view(B, -1, p * p).transpose(1, 2)
        total[..., top : top + rows - stride + p, :] += F.fold(
            changed, (band.shape[-2], width), p, stride=stride
        )
    grid = x.new_ones(1, 1, (height - p) // stride + 1, across)
    count = F.conv_transpose2d(grid, x.new_ones(1, 1, p, p), stride=stride)
    return (total / count)[..., :H, :W]


def back_project(sr: Tensor, lr: Tensor, steps: int = 20) -> Tensor:
    """Make HR images fit their LR images: x ← x + k * up(lr − down(x)).

    Parameters
    ----------
    sr : Tensor, shape (B, 1, scale·h, scale·w)
        HR images.
    lr : Tensor, shape (B, 1, h, w)
        LR images.
    steps : int
        Number of steps; k is the normalised square of a 5×5 Gaussian of σ = 1.

    Returns
    -------
    Tensor, shape (B, 1, scale·h, scale·w)
    """
    g = torch.exp(-((torch.arange(5.0) - 2) ** 2)).to(sr)  # the square of exp(−r²/2)
    k = (g[:, None] * g / g.sum() ** 2)[None, None]
    for _ in range(steps):
        missing = lr - imresize(sr, size=(lr.shape[-2], lr.shape[-1]))
        up = imresize(missing, size=(sr.shape[-2], sr.shape[-1]))
        sr = sr + F.conv2d(F.pad(up, (2, 2, 2, 2), mode="replicate"), k)
    return sr
