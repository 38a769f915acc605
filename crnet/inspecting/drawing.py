"""How a network draws an image from its codes: :func:`drawing`.

For all four networks the image is

    image = base + Σ_n g_n * a_n,

where maps g_n are drawn by kernels a_n, `stride` pixels apart.  With certified codes, g = z and
a_n are the atoms.  In CRNet-A and CRNet-B, g = ReLU(b + Wh ⊗ z), and a_n is what the later layers,
which are linear, make of a unit in map n.  So an atom's part depends on the gates g > 0.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import bicubic
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from crnet.sparse import SparseCRNetA, SparseCRNetB


class Mixing(NamedTuple):
    """The layer Wh of a free network: kernel (N, M, 3, 3) and bias (N,)."""

    kernel: Tensor
    bias: Tensor


class Drawing(NamedTuple):
    """What draws one image; see the formula of :mod:`crnet.inspecting.drawing`.

    base : (C, H, W), the image without codes; codes : (M, h, w), z_K; kernel : (N, C, a, a), a_n;
    stride, edge : g_n at i draws from pixel stride·i − edge on; mixing : Wh, None where g = z.
    """

    base: Tensor
    codes: Tensor
    kernel: Tensor
    stride: int
    edge: int
    mixing: Mixing | None

    def image(self) -> Tensor:
        """Return the image (C, H, W)."""
        maps = self.codes[None]
        if self.mixing is not None:
            maps = F.conv2d(maps, self.mixing.kernel, self.mixing.bias, padding=1).relu_()
        drawn = F.conv_transpose2d(maps, self.kernel, stride=self.stride)[0]
        H, W = self.base.shape[1:]
        return self.base + drawn[:, self.edge : self.edge + H, self.edge : self.edge + W]


def drawing(net: Network, x: Tensor, scale: int) -> Drawing:
    """Return what draws the image of an LR image (1, C, h, w).

    Raises
    ------
    TypeError
        If the network has no codes.
    """
    if isinstance(net, SparseCRNetA):
        x = bicubic(x, scale)
        D = net.atoms()
        return Drawing(x[0], net.codes(x)[0], D, 1, D.shape[-1] // 2, None)
    if isinstance(net, SparseCRNetB):
        D = net.atoms(scale)
        edge = (D.shape[-1] - scale) // 2
        return Drawing(bicubic(x, scale)[0], net.codes(x)[0], D, scale, edge, None)
    if isinstance(net, CRNetA):
        x = bicubic(x, scale)
        kept = x if net.residual else torch.zeros_like(x)
        nothing = x.new_zeros(1, net.H.in_channels, *x.shape[2:])
        z = net.cista(net.features(x))[0]
        return Drawing((kept + net.H(nothing))[0], z, _impulses(net.H, net, 1), 1, 1, _mixing(net))
    if isinstance(net, CRNetB):
        return _of_crnet_b(net, x, scale)
    raise TypeError(f"{type(net).__name__} has no codes")


def _of_crnet_b(net: CRNetB, x: Tensor, scale: int) -> Drawing:
    body, maps = net.body, net.prepare(x, scale)

    def draw(gated: Tensor) -> Tensor:
        image: Tensor = net.tail(net.upsamplers[str(scale)](body.H(gated)))
        return image

    kept = maps if body.residual else torch.zeros_like(maps)
    kept = kept + body.H(maps.new_zeros(1, body.H.in_channels, *maps.shape[2:]))
    base = net.crop(net.tail(net.upsamplers[str(scale)](kept)), scale) + net.mean.view(3, 1, 1)
    far = 3  # H reaches one LR pixel, the upsampler one, the tail part of one
    edge = scale * (far + net.border)
    kernel = _impulses(draw, body, far)
    return Drawing(base[0], body.cista(body.features(maps))[0], kernel, scale, edge, _mixing(body))


def _impulses(draw: Callable[[Tensor], Tensor], net: CRNetA, far: int) -> Tensor:
    """Return what a unit in each map adds to the image, `far` pixels of the map around it."""
    n = net.H.in_channels
    unit = F.pad(torch.eye(n)[:, :, None, None], (far,) * 4).to(net.H.weight)
    return draw(unit) - draw(torch.zeros_like(unit))


def _mixing(net: CRNetA) -> Mixing:
    kernel, bias = net.Wh.weight, net.Wh.bias
    return Mixing(kernel, kernel.new_zeros(len(kernel)) if bias is None else bias)
