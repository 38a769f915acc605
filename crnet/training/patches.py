"""Training patches, cut on the fly from photos that are kept in memory.

A photo is held as decoded 8-bit HR and one LR image per scale, made once by our own ``imresize``:

- for networks that take a bicubic-enlarged image (CRNet-A), Y, and LR in float, not rounded; a
  patch of it is enlarged when it is drawn, with enough around it that the values are those of
  the enlarged whole photo;
- for networks that take LR (CRNet-B), RGB, and LR rounded to 8 bit, as the field's LR files are
  (Y, and not rounded, for those that take the Y of LR).

The batch of a step is a function of (seed, step) alone: not of the number of worker processes, not
of what was drawn before.  Of several devices, each takes its share of that one batch.
"""

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from baselines.resample import bicubic, imresize, modcrop
from crnet.data import read_rgb, read_y
from crnet.ensemble import turned
from crnet.errors import DataError

Batch: TypeAlias = tuple[Tensor, Tensor, int]
"""Network input (B, C, h, w) and target (B, C, H, W), float32 in [0, 1], and the scale."""

_GRID = 4  # positions of patches are weighted on a grid of so many HR pixels
_MARGIN = 3  # LR pixels around a patch that its enlargement depends on


@dataclass(frozen=True)
class Photo:
    """One photo: HR (C, H, W) in uint8, and LR (C, H // s, W // s) per scale, uint8 or float32.

    `taught` has, where a teacher is followed, its image per scale, float16.
    """

    path: Path
    hr: Tensor
    lr: dict[int, Tensor]
    taught: dict[int, Tensor] = field(default_factory=dict)


@dataclass(frozen=True)
class Cuts:
    """How patches are cut.

    Attributes
    ----------
    scales : tuple of int
        Enlargements.
    patch : int
        Side of the network's input.
    enlarged : bool
        The network takes the bicubic-enlarged image, in patches of any position, each of its own
        scale; otherwise it takes LR, one scale per batch.
    rgb : bool
        It takes RGB rather than Y.
    detail : float
        Exponent of the mean |HR − bicubic| of a patch in its probability.
    """

    scales: tuple[int, ...]
    patch: int
    enlarged: bool
    rgb: bool
    detail: float = 0.0

    def side(self, scale: int) -> int:
        """Return the side of a patch in HR pixels."""
        return self.patch if self.enlarged else self.patch * scale


def read_photos(
    paths: Sequence[Path], cuts: Cuts, on_photo: Callable[[int, int], None] | None = None
) -> tuple[list[Photo], list[Path]]:
    """Read photos and make their LR; return them and the files that are smaller than a patch.

    Parameters
    ----------
    paths : sequence of Path
        Image files; each is read whole, so a damaged one is found here.
    cuts : Cuts
        What will be cut from them.
    on_photo : callable, optional
        Called with (photos done, photos in all).

    Raises
    ------
    DataError
        If a file cannot be read, or every photo is smaller than a patch.
    """
    photos, small = [], []
    for done, path in enumerate(paths, 1):
        hr = read_rgb(path) if cuts.rgb else read_y(path)
        if min(hr.shape[-2:]) < max(cuts.side(s) + s for s in cuts.scales):
            small.append(path)
        else:
            lr = {}
            for s in cuts.scales:
                whole = modcrop(hr, s)
                lr[s] = imresize(whole if cuts.rgb else whole.float() / 255, 1 / s)[0]
            photos.append(Photo(path, hr[0], lr))
        if on_photo:
            on_photo(done, len(paths))
    if not photos:
        sides = ", ".join(f"{cuts.side(s)} for x{s}" for s in cuts.scales)
        raise DataError(f"all {len(paths)} images are smaller than a patch (HR side {sides})")
    return photos, small


def fingerprint(photos: Sequence[Photo]) -> str:
    """Return a hash of the training images."""
    digest = hashlib.sha256()
    for photo in photos:
        digest.update(photo.hr.numpy().tobytes())
    return digest.hexdigest()


class Sampler:
    """Draw the batch of any step.

    Parameters
    ----------
    photos : list of Photo
        Of :func:`read_photos`.
    cuts : Cuts
        As given to it.
    batch : int
        Patches.
    seed : int
        Of all draws.
    """

    def __init__(self, photos: Sequence[Photo], cuts: Cuts, batch: int, seed: int) -> None:
        self.photos, self.cuts, self.batch, self.seed = photos, cuts, batch, seed
        # Positions of all photos in one row per scale: where those of a photo begin, and, unless
        # they are all as likely, their cumulated weights.
        self._first: dict[int, np.ndarray] = {}
        self._cumulated: dict[int, np.ndarray] = {}
        for s in cuts.scales:
            counts = [math.prod(_positions(photo, s, cuts)) for photo in photos]
            self._first[s] = np.cumsum([0, *counts])
            if cuts.detail == 0:
                continue
            weights = torch.cat([_weights(photo, s, cuts).flatten() for photo in photos])
            self._cumulated[s] = weights.cumsum(0).numpy()
            if not self._cumulated[s][-1] > 0:
                raise DataError("the photos have no detail at all; train with detail = 0")

    def draw(self, step: int, share: slice = slice(None)) -> Batch:
        """Return (input, target, scale) of a step, or the patches of it in a share.

        The scale is 0 where every patch has its own.
        """
        rng = np.random.default_rng((self.seed, step))
        scales = rng.choice(self.cuts.scales, self.batch)
        if not self.cuts.enlarged:
            scales[:] = scales[0]
        draws = [
            (int(s), float(rng.random()), rng.integers(_GRID, size=2), int(rng.integers(8)))
            for s in scales
        ]
        inputs, targets = zip(*(self._cut(*d) for d in draws[share]), strict=True)
        scale = 0 if self.cuts.enlarged else int(scales[0])
        return torch.stack(inputs), torch.stack(targets), scale

    def _cut(self, s: int, where: float, jitter: np.ndarray, turn: int) -> tuple[Tensor, Tensor]:
        first, P = self._first[s], self.cuts.side(s)
        if self.cuts.detail == 0:
            at = int(where * first[-1])
        else:
            cumulated = self._cumulated[s]
            at = int(np.searchsorted(cumulated, where * cumulated[-1], side="right"))
        at = min(at, int(first[-1]) - 1)
        index = int(np.searchsorted(first, at, side="right")) - 1
        photo = self.photos[index]
        h, w = photo.lr[s].shape[-2:]
        columns = _positions(photo, s, self.cuts)[1]
        corner = divmod(at - int(first[index]), columns)
        top, left = (
            min(_GRID * p + int(j), n * s - P)
            for p, j, n in zip(corner, jitter, (h, w), strict=True)
        )
        if self.cuts.enlarged:
            x = _enlarge_part(photo.lr[s], s, top, left, P)
        else:
            top, left = top - top % s, left - left % s
            p = self.cuts.patch
            x = _unit(photo.lr[s][:, top // s : top // s + p, left // s : left // s + p])
        whole = photo.taught.get(s, photo.hr)
        target = _unit(whole[:, top : top + P, left : left + P])
        return turned(x, turn), turned(target, turn)


class Batches(IterableDataset[Batch]):
    """The batches of the steps from `first` on, without end, for a DataLoader.

    Of n worker processes each draws every n-th batch, and the loader takes them in turn.
    """

    def __init__(self, sampler: Sampler, first: int = 0, share: slice = slice(None)) -> None:
        super().__init__()
        self.sampler, self.first, self.share = sampler, first, share

    def __iter__(self) -> Iterator[Batch]:
        """Yield batch after batch."""
        info = get_worker_info()
        step, stride = (self.first, 1) if info is None else (self.first + info.id, info.num_workers)
        while True:
            yield self.sampler.draw(step, self.share)
            step += stride


def _unit(levels: Tensor) -> Tensor:
    """Return an image in [0, 1] as float32."""
    return levels.float() if levels.is_floating_point() else levels.float() / 255


def _positions(photo: Photo, s: int, cuts: Cuts) -> tuple[int, int]:
    """Return the rows and columns of positions of patches in a photo."""
    h, w = photo.lr[s].shape[-2:]
    P = cuts.side(s)
    return (h * s - P) // _GRID + 1, (w * s - P) // _GRID + 1


def _weights(photo: Photo, s: int, cuts: Cuts) -> Tensor:
    """Return the weights of the patches at every _GRID-th position of a photo, float64."""
    P = cuts.side(s)
    h, w = photo.lr[s].shape[-2:]
    lr = photo.lr[s][None]
    error = (_unit(photo.hr[:, : h * s, : w * s]) - _unit(bicubic(lr, s))[0]).abs().mean(0)
    sums = F.pad(error.double().cumsum(0).cumsum(1), (1, 0, 1, 0))
    part = sums[P:, P:] - sums[:-P, P:] - sums[P:, :-P] + sums[:-P, :-P]
    return (part[::_GRID, ::_GRID] / P**2).clamp(min=0) ** cuts.detail


def _enlarge_part(lr: Tensor, s: int, top: int, left: int, P: int) -> Tensor:
    """Return rows and columns [top, top + P) × [left, left + P) of the bicubic-enlarged LR."""
    spans = []
    for start, n in ((top, lr.shape[-2]), (left, lr.shape[-1])):
        a = max(0, start // s - _MARGIN)
        spans.append((a, min(n, -(-(start + P) // s) + _MARGIN)))
    (a, b), (c, d) = spans
    x = bicubic(lr[None, :, a:b, c:d], s)[0]
    return x[:, top - a * s : top - a * s + P, left - c * s : left - c * s + P]
