"""Upscale an image with a network: whole, or in tiles that give the same result.

An output pixel depends on the input pixels up to `reach` away: its receptive field has a side of
2·reach + 1.  Each tile is read with a margin of `reach` pixels, which is cut off again.  At the
border of the image a tile has no margin, so the network pads there as it pads the whole image.  The
tiles give the output of the whole image up to floating-point rounding.

Networks are trained on patches, which they pad with zeros.  An image of one pixel would be nearly
all padding.  So images with a side below 4 pixels are replicated to 4, and the result is cut.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic, imresize
from crnet import networks
from crnet.color import rgb_to_ycbcr, ycbcr_to_rgb
from crnet.contracts import Function, OnTile, System, as_system
from crnet.errors import words
from crnet.files import Picture
from crnet.networks import Coded, Network
from crnet.precision import PRECISIONS, resolve
from crnet.resize import Plan, enlarge, plan
from csc.checks import check_images

_SMALLEST = 4  # pixels of LR


@dataclass(frozen=True)
class Upscaler:
    """A network as a map from LR to HR, in tiles.

    Called with an LR image in [0, 1] and a scale, it returns the HR image, (B, channels, scale·h,
    scale·w), unclipped, in the network's dtype and on its device.  CRNet-A takes Y, (B, 1, h, w),
    and enlarges it by bicubic first.  CRNet-B takes RGB, (B, 3, h, w).  `channels` tells which of
    the two a network takes.

    Attributes
    ----------
    net : Network
        The network, see :mod:`crnet.networks`.
    memory_mib : float
        Working memory of a tile in MiB, which decides its size.
    on_tile : callable, optional
        Called with (tiles done, tiles in all): before the first tile and after each.
    precision : str
        Of the convolutions: ``float32``, ``bfloat16``, or ``auto`` for the faster of them on the
        device (:mod:`crnet.precision`).  bfloat16 changes PSNR by up to 0.02 dB.

    Raises
    ------
    ValueError
        If the precision is unknown.
    """

    net: Network
    memory_mib: float = 1024
    on_tile: OnTile | None = None
    precision: str = "float32"

    def __post_init__(self) -> None:
        """Check before any work."""
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision must be {words(PRECISIONS)}, got {self.precision!r}")

    @property
    def channels(self) -> int:
        """Channels of the image it takes: 1 is Y, 3 is RGB."""
        return 3 if self.net.rgb else 1

    @property
    def parameters(self) -> int:
        """Count the learned numbers."""
        return sum(p.numel() for p in self.net.parameters())

    def parameters_at(self, scale: int) -> int:
        """Count the learned numbers; a network counts as a whole, whatever the scale."""
        return self.parameters

    def following(self, on_tile: OnTile, memory_mib: float | None = None) -> "Upscaler":
        """Return the same upscaler with another `on_tile`, and another `memory_mib` if given."""
        memory_mib = self.memory_mib if memory_mib is None else memory_mib
        return replace(self, on_tile=on_tile, memory_mib=memory_mib)

    @property
    def has_codes(self) -> bool:
        """Tell whether the network has recursions with codes."""
        return isinstance(self.net, Coded)

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR image (B, channels, scale·h, scale·w) of an LR image.

        Raises
        ------
        ValueError
            If the image is not finite or not (B, channels, h, w), or the network lacks the scale.
        """

        def run(part: Tensor) -> Tensor:
            return networks.apply(self.net, part, scale)

        return self._tiled(run, x, scale)

    def recursions(self, x: Tensor, scale: int) -> Tensor:
        """Return the HR images of the codes z_0, …, z_K, (K+1, B, channels, scale·h, scale·w).

        Raises
        ------
        TypeError
            If the network has no codes.
        ValueError
            As for a call.
        """
        net = self.net
        if not isinstance(net, Coded):
            raise TypeError(f"{type(net).__name__} has no recursions of codes")

        def run(part: Tensor) -> Tensor:
            return torch.cat([image for _, image in net.codes_and_images(part, scale)], 1)

        images = self._tiled(run, x, scale)  # (B, (K+1)·channels, scale·h, scale·w)
        B, _, H, W = images.shape
        return images.view(B, -1, self.channels, H, W).transpose(0, 1)

    @torch.no_grad()
    def _tiled(self, run: Callable[[Tensor], Tensor], x: Tensor, scale: int) -> Tensor:
        """Apply `run` to the network's input, in tiles and in the chosen precision."""
        plain = isinstance(x, Tensor) and x.layout == torch.strided and x.numel() > 0
        if not plain:
            check_images(x)  # raises and says why
        if x.ndim != 4 or x.shape[1] != self.channels or not x.is_floating_point():
            kind = "Y" if self.channels == 1 else "RGB"
            raise ValueError(
                f"{kind} must be floating point (B, {self.channels}, h, w) in [0, 1], "
                f"got {x.dtype} {tuple(x.shape)}"
            )
        made = self.net.scales
        if made and scale not in made:
            kind = type(self.net).__name__
            raise ValueError(f"this {kind} upscales by {words(made)}, not by {scale}")
        if not bool(torch.isfinite(torch.stack(x.aminmax())).all()):
            raise ValueError("the image has NaN or infinite entries")
        weight = next(self.net.parameters())
        device = weight.device.type
        low = resolve(self.precision, str(weight.device)) == "bfloat16"
        tile = tile_side(self.net, self.memory_mib, 2 if low else weight.element_size())
        h, w = (scale * n for n in x.shape[-2:])
        x = replicated(x)
        if self.net.enlarged:
            x, scale = bicubic(x, scale), 1

        def in_precision(part: Tensor) -> Tensor:
            with torch.autocast(device, torch.bfloat16, enabled=low):
                return run(part)

        reach = networks.reach(self.net)
        out = apply_tiled(in_precision, x.to(weight), tile, reach, scale, on_tile=self.on_tile)
        return out[..., :h, :w]


def replicated(x: Tensor) -> Tensor:
    """Return images whose sides are at least 4 pixels; the last pixels are repeated."""
    below, right = (max(0, _SMALLEST - n) for n in x.shape[-2:])
    return F.pad(x, (0, right, 0, below), mode="replicate") if below or right else x


def apply_tiled(
    run: Callable[[Tensor], Tensor],
    x: Tensor,
    tile: int,
    reach: int,
    scale: int = 1,
    *,
    on_tile: OnTile | None = None,
) -> Tensor:
    """Return run(x), computed in tiles of at most tile × tile pixels of x.

    Parameters
    ----------
    run : callable
        Maps (B, C, h, w) to (B, C', scale·h, scale·w).  An output pixel depends on the input pixels
        up to `reach` away.
    x : Tensor, shape (B, C, H, W)
        Input of `run`.
    tile : int
        Side of a tile with its margins, > 2·reach.
    reach : int
        Width of the margin at each side, in pixels of x.
    scale : int
        Enlargement of `run`.
    on_tile : callable, optional
        Called with (tiles done, tiles in all): before the first tile and after each.

    Returns
    -------
    Tensor, shape (B, C', scale·H, scale·W)

    Raises
    ------
    ValueError
        If tile ≤ 2·reach, or `run` enlarges by another scale.
    """
    if tile <= 2 * reach:
        raise ValueError(f"a tile needs more than twice the reach of {reach} pixels, got {tile}")
    H, W = x.shape[-2:]
    spans = [
        (rows, columns) for rows in _spans(H, tile, reach) for columns in _spans(W, tile, reach)
    ]
    out = None
    if on_tile:
        on_tile(0, len(spans))
    for done, ((top, bottom), (left, right)) in enumerate(spans, 1):
        t, b = max(0, top - reach), min(H, bottom + reach)
        l, r = max(0, left - reach), min(W, right + reach)  # noqa: E741
        part = run(x[..., t:b, l:r].contiguous(memory_format=torch.channels_last))
        if part.shape[-2:] != (scale * (b - t), scale * (r - l)):
            raise ValueError(
                f"the system enlarges by another scale than {scale}: "
                f"{b - t}x{r - l} pixels became {part.shape[-2]}x{part.shape[-1]}"
            )
        if out is None:
            out = part.new_empty(*part.shape[:2], scale * H, scale * W)
        out[..., scale * top : scale * bottom, scale * left : scale * right] = part[
            ...,
            scale * (top - t) : scale * (bottom - t),
            scale * (left - l) : scale * (right - l),
        ]
        if on_tile:
            on_tile(done, len(spans))
    assert out is not None  # noqa: S101  # an image has at least one tile
    return out


def _spans(n: int, tile: int, margin: int) -> list[tuple[int, int]]:
    """Cut [0, n) into pieces that fit in a tile with both margins; into one if n fits."""
    if n <= tile:
        return [(0, n)]
    step = tile - 2 * margin
    return [(start, min(n, start + step)) for start in range(0, n, step)]


def tile_side(net: Network, memory_mib: float, bytes_per_number: int = 4) -> int:
    """Return the side of the largest tile whose maps fit in a memory budget.

    Each pixel holds :func:`crnet.networks.tile_maps` numbers at once.  The side is at least
    2·reach + 16 pixels, also above the budget.

    Raises
    ------
    ValueError
        If the budget is not finite and > 0.
    """
    if not 0 < memory_mib < float("inf"):
        raise ValueError(f"the memory budget must be finite and > 0 MiB, got {memory_mib}")
    pixels = memory_mib * 2**20 / (networks.tile_maps(net) * bytes_per_number)
    return max(int(pixels**0.5), 2 * networks.reach(net) + 16)


def upscale_picture(
    picture: Picture,
    scale: float | None,
    upscale: System | Function,
    *,
    size: tuple[int, int] | None = None,
    scales: Sequence[int] | None = None,
) -> Picture:
    """Enlarge a picture: Y or RGB by a system, chroma and alpha by bicubic; grey stays grey.

    Parameters
    ----------
    picture : Picture
        Image of (h, w) pixels.
    scale : float
        Factor ≥ 1.
    upscale : callable
        Such as an :class:`Upscaler`: Y (1, 1, h, w) and scale → Y (1, 1, scale·h, scale·w).  With
        `channels` of 3 it maps RGB instead.
    size : (int, int), optional
        New height and width, instead of `scale`, which is then None.
    scales : sequence of int, optional
        The scales that the system makes, see :func:`crnet.enlarge`.

    Returns
    -------
    Picture
        Clipped to [0, 1], with metadata for its size.

    Raises
    ------
    ValueError
        If the picture is not floating point (1, C, H, W), or the system refuses it.
    """
    if picture.color.ndim != 4 or not picture.color.is_floating_point():
        raise ValueError(
            "a picture is floating point (1, C, H, W) in [0, 1], "
            f"got {picture.color.dtype} of shape {tuple(picture.color.shape)}"
        )
    h, w = picture.color.shape[-2:]
    chosen = plan((h, w), scale, size=size, scales=scales)

    def sharp(x: Tensor) -> Tensor:
        return enlarge(x, upscale, scale, size=size, scales=scales).to(x.device)

    with torch.inference_mode():
        if as_system(upscale).channels == 3:
            rgb = sharp(picture.color.expand(-1, 3, -1, -1))
            color = rgb.mean(1, keepdim=True) if picture.color.shape[1] == 1 else rgb
            color = color.clone() if color.data_ptr() == picture.color.data_ptr() else color
        elif picture.color.shape[1] == 1:
            # Grey becomes Y as in MATLAB's rgb2ycbcr with r = g = b, which networks are trained on.
            color = (255 * sharp((16 + 219 * picture.color) / 255) - 16) / 219
        else:
            ycbcr = rgb_to_ycbcr(picture.color)
            color = _joined(sharp(ycbcr[:, :1]), ycbcr[:, 1:])
        color.clamp_(0, 1)
        alpha = picture.alpha
        if alpha is not None:
            alpha = imresize(alpha, size=chosen.size).clamp_(0, 1)
    return Picture(
        color,
        alpha,
        picture.bits,
        picture.icc_profile,
        picture.metadata.enlarged(chosen.size[1] / w if scale is None else scale),
    )


def _joined(y: Tensor, chroma: Tensor) -> Tensor:
    """Return RGB of Y (1, 1, H, W) and of Cb and Cr (1, 2, h, w), which bicubic enlarges."""
    H, W = y.shape[-2:]
    rgb = y.new_empty(1, 3, H, W)
    for c in (0, 1):  # one at a time takes less memory
        rgb[:, c : c + 1] = imresize(chroma[:, c : c + 1], size=(H, W))
    step = max(1, 2**18 // W)  # few rows at a time, too
    for top in range(0, H, step):
        rows = slice(top, top + step)
        parts = torch.cat([y[..., rows, :], rgb[:, :2, rows]], 1)
        rgb[..., rows, :] = ycbcr_to_rgb(parts)
    return rgb


def picture_mib(
    shape: tuple[int, ...], chosen: Plan, channels: int, passes: int = 1
) -> tuple[float, float]:
    """Estimate the memory in MiB of the images alone: while the system runs, and at most.

    Parameters
    ----------
    shape : (1, C, h, w)
        Of the picture.
    chosen : Plan
        How it is enlarged.
    channels : int
        Of the system's images.
    passes : int
        8 for an ensemble, which keeps sums.
    """
    _, C, h, w = shape
    H, W = chosen.size
    pixels = [h * w]
    for scale in chosen.passes:
        pixels.append(pixels[-1] * scale**2)
    reduced = 3 * H * W if pixels[-1] != H * W else 0  # bicubic adds products
    images = max(a + b for a, b in zip(pixels, [*pixels[1:], reduced], strict=True))
    images += 2 * pixels[-1] * (passes > 1)
    same = channels == C == 3  # the system's first image is the picture
    network = 4 * (channels * images + C * h * w * (not same))
    if channels == 1 and C == 3:  # Y, and then chroma
        network += 4 * 3 * h * w
        at_most = 4 * (6 * h * w + 6 * H * W)
    else:
        at_most = 4 * C * (h * w + H * W)
    written = 4 * C * H * W + 7 * H * W * (C == 3)  # levels, and Pillow's copy
    return network / 2**20, max(network, at_most, written) / 2**20
