"""Training patches cut on a GPU: the same patches as :mod:`crnet.training.patches`, by indexing.

All photos lie in one row on the device, HR as uint8.  A batch is cut by indexing that row, without
workers and without copies of images from the CPU.  The places of the patches are drawn on the CPU;
these few numbers are sent without waiting.

Inputs equal those of the CPU bit for bit; enlarged inputs (CRNet-A) equal them up to rounding.  For
these, two small matrices interpolate the rows and columns of an LR patch c,

    x = A c Bᵀ,     c (C, q, q),     A, B (P, q),

with one matrix per scale and position modulo the scale.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from baselines.resample import imresize
from crnet.ensemble import turned
from crnet.training.patches import MARGIN, Batch, Cuts, Place, Sampler, flattened
from csc.filters import mirrored


class DeviceSampler:
    """Draw the batch of any step on a device; `Sampler.draw` is the same on the CPU.

    Parameters
    ----------
    sampler : Sampler
        Draws the places of the patches; its photos are copied to the device.
    device : torch.device
        Where the batches are made.
    """

    def __init__(self, sampler: Sampler, device: torch.device) -> None:
        self.sampler, self.device, cuts = sampler, device, sampler.cuts
        photos = sampler.photos
        self._taught = bool(photos[0].taught)
        self._lr = _Row([p.lr[s] for s in cuts.scales for p in photos], device)
        self._target = _Row(
            [p.taught[s] for s in cuts.scales for p in photos]
            if self._taught
            else [p.hr for p in photos],
            device,
        )
        sides = {cuts.patch} | {cuts.side(s) for s in cuts.scales}
        self._turns = {n: _turns(n).to(device) for n in sides}
        self._matrices = _matrices(cuts).to(device) if cuts.enlarged else None

    def draw(self, step: int, part: slice = slice(None)) -> Batch:
        """Return (input, target, scale) of a step on the device; `part` selects its patches.

        The scale is 0 if every patch has its own.
        """
        places, cuts = self.sampler.places(step), self.sampler.cuts
        scale = 0 if cuts.enlarged else places[0].scale
        table = torch.tensor([self._numbers(place) for place in places[part]])
        numbers = self._sent(table.mT.contiguous())
        lr, target, lr_top, lr_left, top, left, turn, a, b = numbers  # each (B,)
        if self._matrices is None:
            x = self._lr.cut(lr, lr_top, lr_left, cuts.patch)
        else:
            A, B = self._matrices[a][:, None], self._matrices[b][:, None]  # (B, 1, P, q)
            x = A @ self._lr.cut(lr, lr_top, lr_left, A.shape[-1]) @ B.mT
        y = self._target.cut(target, top, left, cuts.side(scale))
        batch = self._turned(x, turn), self._turned(y, turn), scale
        return flattened(batch, self._sent(self.sampler.colors(step)[part])) if cuts.flat else batch

    def _sent(self, table: Tensor) -> Tensor:
        """Return a few numbers on the device; the copy does not wait."""
        if self.device.type == "cuda":
            table = table.pin_memory()
        return table.to(self.device, non_blocking=True)

    def _numbers(self, place: Place) -> tuple[int, ...]:
        """Return the indices of LR and target, their corners, the turn, and the two matrices."""
        s, index, top, left, turn = place
        scales, photos = self.sampler.cuts.scales, len(self.sampler.photos)
        of_scale = scales.index(s) * photos + index
        margin = MARGIN if self.sampler.cuts.enlarged else 0
        first = sum(scales[: scales.index(s)])  # matrix of the scale
        return (
            of_scale, of_scale if self._taught else index,
            top // s - margin, left // s - margin, top, left, turn,
            first + top % s, first + left % s,
        )  # fmt: skip

    def _turned(self, x: Tensor, turn: Tensor) -> Tensor:
        """Return images (B, C, n, n) flipped and turned, each by its own number."""
        at = self._turns[x.shape[-1]][turn][:, None]  # (B, 1, n²)
        return x.flatten(2).gather(2, at.expand(-1, x.shape[1], -1)).view(x.shape)


class _Row:
    """Images (C, H, W) of one dtype and of any sizes, one after the other in one tensor."""

    def __init__(self, images: Sequence[Tensor], device: torch.device) -> None:
        sizes = torch.tensor([image.numel() for image in images])
        first = images[0]
        self.channels = first.shape[0]
        self.values = torch.empty(int(sizes.sum()), dtype=first.dtype, device=device)
        for part, image in zip(torch.split(self.values, sizes.tolist()), images, strict=True):
            part.copy_(image.flatten())
        shapes = torch.tensor([image.shape[-2:] for image in images])
        self.height, self.width = shapes.to(device).unbind(1)
        self.start = (sizes.cumsum(0) - sizes).to(device)
        # A table, because a GPU rounds the division by 255 differently.
        self.unit = (torch.arange(256).float() / 255).to(device)

    def cut(self, index: Tensor, top: Tensor, left: Tensor, side: int) -> Tensor:
        """Return patches (B, C, side, side) in [0, 1], mirrored beyond the edges, as float32."""
        height, width = self.height[index][:, None], self.width[index][:, None]  # (B, 1)
        along = torch.arange(side, device=index.device)
        rows = mirrored(top[:, None] + along, height)  # (B, side)
        columns = mirrored(left[:, None] + along, width)
        plane = (height * width)[..., None]  # (B, 1, 1)
        start = self.start[index][:, None, None]
        inside = start + (rows * width)[:, :, None] + columns[:, None]  # (B, side, side)
        channel = torch.arange(self.channels, device=index.device)[:, None, None]
        values = self.values[inside[:, None] + channel * plane[:, None]]
        return self.unit[values.int()] if values.dtype == torch.uint8 else values.float()


def _turns(n: int) -> Tensor:
    """Return the source pixel of each pixel of a turned n×n image, (8, n²); see `turned`."""
    square = torch.arange(n * n).view(n, n)
    return torch.stack([turned(square, turn).flatten() for turn in range(8)])


def _matrices(cuts: Cuts) -> Tensor:
    """Return the matrices (P, q) that enlarge the rows of an LR patch, by scale and position."""
    P = cuts.patch
    q = max((P + 2 * s - 2) // s for s in cuts.scales) + 2 * MARGIN
    matrices = []
    for s in cuts.scales:
        whole = imresize(torch.eye(q)[None, None], size=(s * q, q))[0, 0]
        matrices += [whole[MARGIN * s + i : MARGIN * s + i + P] for i in range(s)]
    return torch.stack(matrices)
