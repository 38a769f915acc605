"""Upscale an image with a network on Y: whole, or in tiles that give the same result.

A pixel of CRNet-A's output depends on the K + 5 pixels around it (`CRNetA.reach`).  Tiles that
overlap by that much, and end where the image ends so that the zero padding of the network is the
image's and never the tile's, give the output of the whole image up to floating-point rounding.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from baselines.bicubic import bicubic
from crnet.color import rgb_to_ycbcr, ycbcr_to_rgb
from crnet.files import Picture
from crnet.model import CRNetA

OnTile = Callable[[int, int], None]


@dataclass(frozen=True)
class Upscaler:
    """A CRNet-A as a map from LR to HR: bicubic, then the network in tiles.

    Called with LR Y in [0, 1], (1, 1, h, w), and a scale, it returns HR Y, (1, 1, scale·h,
    scale·w), unclipped, on the network's device.

    Attributes
    ----------
    net : CRNetA
        Network on one channel.
    memory_mib : float
        Working memory that a tile may take, in MiB; decides the size of the tiles.
    on_tile : callable, optional
        Called with (tiles done, tiles in all).
    """

    net: CRNetA
    memory_mib: float = 1024
    on_tile: OnTile | None = None

    @torch.no_grad()
    def __call__(self, y: Tensor, scale: int) -> Tensor:
        """Return HR Y of LR Y."""
        if y.ndim != 4 or y.shape[1] != 1 or not y.is_floating_point():
            raise ValueError(
                f"Y must be floating point (B, 1, h, w) in [0, 1], got {y.dtype} {tuple(y.shape)}"
            )
        p = self.net.H.weight
        x = bicubic(y, scale).to(p)
        return apply_tiled(self.net, x, tile_side(self.net, self.memory_mib), on_tile=self.on_tile)


def apply_tiled(net: CRNetA, x: Tensor, tile: int, *, on_tile: OnTile | None = None) -> Tensor:
    """Return net(x), computed in tiles of at most tile × tile pixels.

    Parameters
    ----------
    net : CRNetA
        The network.
    x : Tensor, shape (B, C, H, W)
        Its input.
    tile : int
        Side of a tile with its halo, > 2·net.reach.
    on_tile : callable, optional
        Called with (tiles done, tiles in all).

    Returns
    -------
    Tensor, shape (B, C, H, W)

    Raises
    ------
    ValueError
        If the tile leaves nothing inside its halo.
    """
    halo = net.reach
    if tile <= 2 * halo:
        raise ValueError(f"a tile needs more than twice the reach of {halo} pixels, got {tile}")
    H, W = x.shape[-2:]
    spans = [(rows, columns) for rows in _spans(H, tile, halo) for columns in _spans(W, tile, halo)]
    out = torch.empty_like(x)
    for done, ((top, bottom), (left, right)) in enumerate(spans, 1):
        t, b = max(0, top - halo), min(H, bottom + halo)
        l, r = max(0, left - halo), min(W, right + halo)  # noqa: E741
        sharp = net(x[..., t:b, l:r].contiguous(memory_format=torch.channels_last))
        out[..., top:bottom, left:right] = sharp[..., top - t : bottom - t, left - l : right - l]
        if on_tile:
            on_tile(done, len(spans))
    return out


def _spans(n: int, tile: int, halo: int) -> list[tuple[int, int]]:
    """Cut [0, n) into pieces that fit in a tile with a halo on both sides; one if all fits."""
    if n <= tile:
        return [(0, n)]
    step = tile - 2 * halo
    return [(start, min(n, start + step)) for start in range(0, n, step)]


def tile_side(net: CRNetA, memory_mib: float) -> int:
    """Return the side of the largest tile whose maps fit in a memory budget.

    A tile is taken to hold 2 n0 + 4 m0 maps at once.  Its side is never below twice the reach plus
    16 pixels, whatever the budget.
    """
    if not 0 < memory_mib < float("inf"):
        raise ValueError(f"the memory budget must be finite and > 0 MiB, got {memory_mib}")
    maps = 2 * net.F0.weight.shape[0] + 4 * net.cista.S.shape[0]
    pixels = memory_mib * 2**20 / (maps * net.H.weight.element_size())
    return max(int(pixels**0.5), 2 * net.reach + 16)


def upscale_picture(
    picture: Picture, scale: int, upscale: Callable[[Tensor, int], Tensor]
) -> Picture:
    """Enlarge a picture: Y by a system, chroma and alpha by bicubic; grey stays grey.

    Parameters
    ----------
    picture : Picture
        Image of (h, w) pixels.
    scale : int
        Factor ≥ 1.
    upscale : callable
        Y (1, 1, h, w) and scale → Y (1, 1, scale·h, scale·w), such as an :class:`Upscaler`.

    Returns
    -------
    Picture
        Image of (scale·h, scale·w) pixels, clipped to [0, 1].
    """
    if picture.color.ndim != 4 or not picture.color.is_floating_point():
        raise ValueError(
            "a picture is floating point (1, C, H, W) in [0, 1], "
            f"got {picture.color.dtype} of shape {tuple(picture.color.shape)}"
        )
    alpha = None if picture.alpha is None else bicubic(picture.alpha, scale).clamp(0, 1)
    with torch.inference_mode():
        if picture.color.shape[1] == 1:
            # Grey becomes Y as MATLAB's rgb2ycbcr of r = g = b, the range the network has seen.
            y = (16 + 219 * picture.color) / 255
            color = (255 * upscale(y, scale).to(y.device) - 16) / 219
        else:
            ycbcr = rgb_to_ycbcr(picture.color)
            y = upscale(ycbcr[:, :1], scale).to(ycbcr.device)
            color = ycbcr_to_rgb(torch.cat([y, bicubic(ycbcr[:, 1:], scale)], 1))
    return Picture(color.clamp(0, 1), alpha, picture.bits, picture.icc_profile)
