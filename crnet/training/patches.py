"""Training patches, cut on the fly from photos that are kept in memory.

A photo is held as decoded 8-bit HR and one LR image per scale, which our ``imresize`` makes once:

- Networks that take a bicubic-enlarged image (CRNet-A) get Y, and LR in float, not rounded.  A
  patch is enlarged when it is drawn, with a margin, so that its values are those of the enlarged
  whole photo.
- Networks that take LR (CRNet-B) get RGB, and LR rounded to 8 bit, as the field's LR files are.
  Those that take the Y of LR get it in float, not rounded.

The batch of a step depends on (seed, step) alone.  It does not depend on the number of workers, on
the device, or on earlier batches.  Several devices divide that one batch among them.
:mod:`crnet.training.on_device` cuts the same patches on a GPU.
"""

import bisect
import hashlib
import itertools
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple, Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F
from torch.utils.data import IterableDataset, get_worker_info

from baselines.resample import bicubic, imresize, modcrop
from crnet.data import read_rgb, read_y
from crnet.ensemble import turned
from crnet.errors import DataError

Batch: TypeAlias = tuple[Tensor, Tensor, int]
"""Network input (B, C, h, w) and target (B, C, H, W), float32 in [0, 1], and the scale."""

MARGIN = 3
"""LR pixels around a patch that its enlargement depends on."""

_GRID = 4  # HR pixels between the positions of patches that have a probability of their own


@dataclass(frozen=True)
class Photo:
    """One photo: HR (C, H, W) in uint8, and LR (C, H // s, W // s) per scale, uint8 or float32.

    `taught` holds a teacher's image per scale, float16; it is empty without a teacher.
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
        The network takes the bicubic-enlarged image.  Its patches have any position, and each has
        its own scale.  Otherwise it takes LR, and a batch has one scale.
    rgb : bool
        It takes RGB rather than Y.
    detail : float
        A patch is drawn with probability ∝ (its mean |HR − bicubic|)^detail.
    flat : int
        The first patches of a step that are replaced by one flat colour each.
    """

    scales: tuple[int, ...]
    patch: int
    enlarged: bool
    rgb: bool
    detail: float = 0.0
    flat: int = 0

    def side(self, scale: int) -> int:
        """Return the side of a patch in HR pixels."""
        return self.patch if self.enlarged else self.patch * scale


def read_photos(
    paths: Sequence[Path],
    cuts: Cuts,
    on_photo: Callable[[int, int], None] | None = None,
    device: torch.device | str = "cpu",
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
    device : torch.device or str
        Where LR is made; the values are the same.  The photos are kept on the CPU.

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
            levels = (hr if cuts.rgb else hr.float() / 255).to(device)
            lr = {s: imresize(modcrop(levels, s), 1 / s)[0].cpu() for s in cuts.scales}
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


class Place(NamedTuple):
    """Where a patch lies: scale, index of the photo, first row and column in HR, and its turn."""

    scale: int
    photo: int
    top: int
    left: int
    turn: int


class Draws(Protocol):
    """Draws the batch of any step: `Sampler`, or `DeviceSampler` on a GPU."""

    def draw(self, step: int, part: slice = ...) -> Batch:
        """Return (input, target, scale) of a step; `part` selects its patches."""


class Sampler:
    """Draw the batch of any step.

    Parameters
    ----------
    photos : list of Photo
        Photos from :func:`read_photos`.
    cuts : Cuts
        The same as for :func:`read_photos`.
    batch : int
        Patches per step.
    seed : int
        Seed of all draws.
    """

    def __init__(self, photos: Sequence[Photo], cuts: Cuts, batch: int, seed: int) -> None:
        self.photos, self.cuts, self.batch, self.seed = photos, cuts, batch, seed
        # The positions of all photos form one row per scale.  `_first` says where each photo
        # begins.  `_cumulated` sums the weights; it is empty if all positions are equally likely.
        self._first: dict[int, list[int]] = {}
        self._cumulated: dict[int, NDArray[np.float64]] = {}
        self._grids: dict[int, list[_Grid]] = {}
        for s in cuts.scales:
            self._grids[s] = [_grid(photo, s, cuts) for photo in photos]
            counts = (grid.rows * grid.columns for grid in self._grids[s])
            self._first[s] = list(itertools.accumulate(counts, initial=0))
            if cuts.detail == 0:
                continue
            weights = torch.cat([_weights(photo, s, cuts).flatten() for photo in photos])
            self._cumulated[s] = weights.cumsum(0).numpy()
            if not self._cumulated[s][-1] > 0:
                raise DataError("the photos have no detail at all; train with detail = 0")

    def draw(self, step: int, part: slice = slice(None)) -> Batch:
        """Return (input, target, scale) of a step; `part` selects its patches.

        The scale is 0 if every patch has its own.
        """
        places = self.places(step)
        inputs, targets = zip(*(self._cut(place) for place in places[part]), strict=True)
        scale = 0 if self.cuts.enlarged else places[0].scale
        batch = torch.stack(inputs), torch.stack(targets), scale
        return flattened(batch, self.colors(step)[part])

    def places(self, step: int) -> list[Place]:
        """Return where the patches of a step lie."""
        rng = np.random.default_rng((self.seed, step))
        scales = rng.choice(self.cuts.scales, self.batch)
        if not self.cuts.enlarged:
            scales[:] = scales[0]
        return [
            self._place(int(s), float(rng.random()), rng.integers(_GRID, size=2), rng.integers(8))
            for s in scales
        ]

    def colors(self, step: int) -> Tensor:
        """Return the colours of the flat patches, (flat, C); half of their values are 0 or 1."""
        rng = np.random.default_rng((self.seed, step, 1))
        values = rng.uniform(-0.5, 1.5, (self.cuts.flat, self.photos[0].hr.shape[0]))
        return torch.from_numpy(values.clip(0, 1)).float()

    def _place(self, s: int, where: float, jitter: NDArray[np.int64], turn: np.int64) -> Place:
        first = self._first[s]
        if self.cuts.detail == 0:
            at = int(where * first[-1])
        else:
            cumulated = self._cumulated[s]
            at = int(np.searchsorted(cumulated, where * cumulated[-1], side="right"))
        at = min(at, first[-1] - 1)
        index = bisect.bisect_right(first, at) - 1
        grid = self._grids[s][index]
        row, column = divmod(at - first[index], grid.columns)
        down, right = jitter.tolist()
        top = min(_GRID * row + down, grid.last_row)
        left = min(_GRID * column + right, grid.last_column)
        if not self.cuts.enlarged:
            top, left = top - top % s, left - left % s
        return Place(s, index, top, left, int(turn))

    def _cut(self, place: Place) -> tuple[Tensor, Tensor]:
        s, index, top, left, turn = place
        photo, P, p = self.photos[index], self.cuts.side(s), self.cuts.patch
        if self.cuts.enlarged:
            x = _enlarge_part(photo.lr[s], s, top, left, P)
        else:
            x = _unit(photo.lr[s][:, top // s : top // s + p, left // s : left // s + p])
        whole = photo.taught.get(s, photo.hr)
        target = _unit(whole[:, top : top + P, left : left + P])
        return turned(x, turn), turned(target, turn)


class Batches(IterableDataset[Batch]):
    """The batches of the steps from `first` on, without end, for a DataLoader.

    Each of n worker processes draws every n-th batch, and the loader takes them in turn.
    """

    def __init__(self, sampler: Draws, first: int = 0, part: slice = slice(None)) -> None:
        super().__init__()
        self.sampler, self.first, self.part = sampler, first, part

    def __iter__(self) -> Iterator[Batch]:
        """Yield batch after batch."""
        info = get_worker_info()
        step, stride = (self.first, 1) if info is None else (self.first + info.id, info.num_workers)
        while True:
            yield self.sampler.draw(step, self.part)
            step += stride


def flattened(batch: Batch, colors: Tensor) -> Batch:
    """Replace the first patches of a batch, input and target, by colours (n, C) on its device."""
    for patches in batch[:2]:
        patches[: len(colors)] = colors[..., None, None]
    return batch


def _unit(levels: Tensor) -> Tensor:
    """Return an image in [0, 1] as float32."""
    return levels.float() if levels.is_floating_point() else levels.float() / 255


class _Grid(NamedTuple):
    """Positions of patches in a photo: rows and columns of them, and the last corner in HR."""

    rows: int
    columns: int
    last_row: int
    last_column: int


def _grid(photo: Photo, s: int, cuts: Cuts) -> _Grid:
    last_row, last_column = (n * s - cuts.side(s) for n in photo.lr[s].shape[-2:])
    return _Grid(last_row // _GRID + 1, last_column // _GRID + 1, last_row, last_column)


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
        a = max(0, start // s - MARGIN)
        spans.append((a, min(n, -(-(start + P) // s) + MARGIN)))
    (a, b), (c, d) = spans
    x = bicubic(lr[None, :, a:b, c:d], s)[0]
    return x[:, top - a * s : top - a * s + P, left - c * s : left - c * s + P]
