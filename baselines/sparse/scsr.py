"""ScSR: patches of LR and HR that share their sparse codes in a pair of coupled dictionaries.

Bicubic enlarges the LR image to u.  In every p×p patch of u, y are the first and second
derivatives, m is the mean, and e = u − m.  The codes

    z = argmin_z ½‖y / max(‖y‖, ε) − D_l z‖² + λ‖z‖₁

give the HR patch h = m + g ‖e‖ D_h z / ‖D_h z‖.  Overlapping patches are averaged.  Then
back-projection makes the image x fit the LR image again, x ← x + k * up(lr − down(x)).

Both dictionaries are learned together on stacked pairs, so one code explains both halves.

We differ from the authors' package in this:

- Every scale has its own dictionary.  The package upscales ×2 twice, which excludes ×3 and passes
  the errors of the first step to the second.
- Patches are 7×7 (×2) or 9×9, every two pixels.  The package has 5×5 at every pixel, which is as
  sharp and takes three times as long.
- Patches extend to the border of the image, which is replicated beyond it.
- A patch without a code stays bicubic; in the package it becomes flat.

References
----------
Yang, Wright, Huang, Ma, "Image super-resolution via sparse representation", IEEE TIP 19(11), 2010.
Irani, Peleg, "Improving resolution by image registration", CVGIP 53(3), 1991 (back-projection).
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import ClassVar

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize
from baselines.sparse.coupled import Coupled, features, unit_lr
from baselines.sparse.lasso import lasso
from baselines.weights import WeightsError, bundled, read
from csc.checks import check_finite, check_images, words

LEAST_NORM = 1 / 255  # ε: derivatives of a smaller norm are not scaled up, as in the package
CODING_TOL = 1e-2  # finer codes change PSNR on Set5 by a few thousandths of a decibel
PATCHES = 512  # coded together: enough to keep the processor busy, and they fit into its cache


@dataclass(frozen=True)
class ScSR:
    """ScSR as a map from LR to HR.

    It maps LR images (B, 1, h, w), Y in [0, 1], and a scale to HR images (B, 1, scale·h, scale·w),
    not clipped, in the dtype and on the device of the input.

    Attributes
    ----------
    dictionaries : mapping of int to Coupled
        The coupled dictionaries of each scale.
    lam : float
        Weight λ of the codes.
    gain : float
        Contrast g of an HR patch, relative to the bicubic patch.
    steps : int
        Steps of back-projection.
    stride : int
        Pixels from one patch to the next.
    on_tile : callable, optional
        Called with (done, total) of the bands of patches: before the first and after each.
    """

    dictionaries: Mapping[int, Coupled]
    lam: float = 0.2
    gain: float = 1.2
    steps: int = 20
    stride: int = 2
    on_tile: Callable[[int, int], None] | None = None
    channels: ClassVar[int] = 1

    @property
    def scales(self) -> tuple[int, ...]:
        """The scales it upscales by."""
        return tuple(sorted(self.dictionaries))

    @property
    def parameters(self) -> int:
        """Count the numbers in all dictionaries; ``parameters_at(scale)`` counts one scale."""
        return sum(pair.parameters for pair in self.dictionaries.values())

    def parameters_at(self, scale: int) -> int:
        """Count the numbers in the dictionaries of a scale."""
        return self.at(scale).parameters

    def following(
        self, on_tile: Callable[[int, int], None], memory_mib: float | None = None
    ) -> "ScSR":
        """Return the same system, which calls `on_tile`; its memory does not depend on a budget."""
        return replace(self, on_tile=on_tile)

    def at(self, scale: int) -> Coupled:
        """Return the coupled dictionaries of a scale.

        Raises
        ------
        ValueError
            If there are none for this scale.
        """
        if scale not in self.dictionaries:
            raise ValueError(f"this ScSR upscales by {words(self.scales)}, not by {scale}")
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
        lasso(u.new_zeros(0, len(G)), G, self.lam)  # compiles before the first band is timed

        def sharpen(patches: Tensor) -> Tensor:
            u, y = patches[:, : p * p], patches[:, p * p :]
            norm = y.norm(dim=1, keepdim=True).clamp_min(LEAST_NORM)
            h = lasso(y @ Dl.T / norm, G, self.lam, tol=CODING_TOL) @ Dh
            m = u.mean(1, keepdim=True)
            size = h.norm(dim=1, keepdim=True)
            contrast = self.gain * (u - m).norm(dim=1, keepdim=True)
            return torch.where(size > 0, m + contrast * h / size, u)

        stacked = torch.cat([u, features(u)], 1)
        sr = map_patches(sharpen, stacked, p, self.stride, on_band=self.on_tile)
        return back_project(sr, x, self.steps)


def load(path: str | Path | None = None) -> ScSR:
    """Return ScSR with the dictionaries of a file.

    Parameters
    ----------
    path : str or Path, optional
        A file of ``benchmarks/train_scsr.py``.  The bundled file is the default: ×2, ×3 and ×4,
        learned on T91.

    Returns
    -------
    ScSR

    Raises
    ------
    WeightsError
        If the file is missing, damaged, or not a file of ScSR.

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


def map_patches(
    change: Callable[[Tensor], Tensor],
    x: Tensor,
    p: int,
    stride: int = 1,
    *,
    on_band: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Replace all p×p patches of images by `change(patches)`, and average where they overlap.

    Parameters
    ----------
    change : callable
        Maps patches (N, C·p²) to patches (N, p²).
    x : Tensor, shape (B, C, H, W)
        Images.
    p : int
        Side of a patch.
    stride : int
        Pixels from one patch to the next, ≤ p.  The image is replicated beyond its lower and right
        border, so the last patches cover the border.
    on_band : callable, optional
        Called with (done, total) of the bands of patches: before the first and after each.

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
    step = stride * max(1, PATCHES // (B * across))  # pixels from one band of patches to the next
    bands = range(0, height - p + 1, step)
    if on_band:
        on_band(0, len(bands))
    for done, top in enumerate(bands, 1):
        band = x[..., top : top + step - stride + p, :]
        patches = F.unfold(band, p, stride=stride).transpose(1, 2)  # (B, n, C·p²)
        changed = change(patches.flatten(0, 1)).view(B, -1, p * p).transpose(1, 2)
        total[..., top : top + step - stride + p, :] += F.fold(
            changed, (band.shape[-2], width), p, stride=stride
        )
        if on_band:
            on_band(done, len(bands))
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
        Number of steps; k is the square of a 5×5 Gaussian with σ = 1, normalised.

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
