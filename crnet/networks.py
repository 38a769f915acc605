"""Which networks a recipe or a weights file may name, and how each of them is called.

CRNet-A and -B, and every network of :mod:`baselines`, all trained and measured by the same code.
What differs between them is said here and nowhere else: a network takes the bicubic-enlarged image
(``enlarged``) or the LR image, Y or RGB (``rgb``), for one scale or for several.
"""

import copy
import inspect
import math
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from baselines.networks.cscn import CSCN
from baselines.networks.dbpn import DDBPN
from baselines.networks.drcn import DRCN
from baselines.networks.drrn import DRRN
from baselines.networks.edsr import EDSR
from baselines.networks.mdsr import MDSR
from baselines.networks.memnet import MemNet
from baselines.networks.msrn import MSRN
from baselines.networks.rdn import RDN
from baselines.networks.red30 import RED30
from baselines.networks.scn import SCN
from baselines.networks.srcnn import SRCNN
from baselines.networks.srdensenet import SRDenseNet
from baselines.networks.vdsr import VDSR
from crnet.model import CRNetA, CRNetB

OnEnlarged: TypeAlias = CRNetA | SCN | SRCNN | RED30 | VDSR | DRCN | DRRN | MemNet
OnLR: TypeAlias = CRNetB | CSCN | MDSR | EDSR | RDN | MSRN | DDBPN | SRDenseNet
Network: TypeAlias = OnEnlarged | OnLR

ARCHITECTURES: dict[str, type[Network]] = {
    kind.__name__: kind
    for kind in (
        CRNetA, CRNetB, SCN, CSCN, SRCNN, RED30, VDSR, DRCN, DRRN, MemNet, SRDenseNet, MSRN, DDBPN,
        EDSR, MDSR, RDN,
    )
}  # fmt: skip


DEEPLY_SUPERVISED = ("DRCN", "MemNet")
"""Networks that make an image after each of their recursions or blocks (``predictions``)."""


def build(
    architecture: str, arguments: dict[str, Any], generator: torch.Generator | None = None
) -> Network:
    """Return a network by the name of its class and its arguments, with initial weights.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such class, or the arguments are not its own.
    """
    kind = ARCHITECTURES[architecture]
    # The layers of torch draw from its global generator, which is left as it was.
    with torch.random.fork_rng(devices=[]):
        if "generator" in inspect.signature(kind).parameters:
            return kind(**arguments, generator=generator)  # type: ignore[call-arg]
        torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
        return kind(**arguments)


def arguments_of(architecture: str) -> dict[str, Any]:
    """Return what the constructor of a network takes, by name, with the defaults."""
    parameters = inspect.signature(ARCHITECTURES[architecture]).parameters
    return {name: p.default for name, p in parameters.items() if name != "generator"}


def check(architecture: str, arguments: dict[str, Any]) -> tuple[int, ...]:
    """Return the scales of a network by its class and arguments; no weights are made.

    Raises
    ------
    TypeError, ValueError, RuntimeError
        If the arguments are not its own, or the network would be larger than any.
    """
    with torch.device("meta"):
        return scales(ARCHITECTURES[architecture](**arguments))


def scales(net: Network) -> tuple[int, ...]:
    """Return the scales that a network upscales by; none where it takes the enlarged image."""
    return tuple(getattr(net, "scales", ()))


def apply(net: Network, x: Tensor, scale: int) -> Tensor:
    """Return the image of a network: of the enlarged image, or of LR, `scale` times as large."""
    out: Tensor = net(x, scale) if isinstance(net, CRNetB | CSCN | MDSR) else net(x)
    return out


@torch.no_grad()
def reach(net: Network) -> int:
    """Bound the pixels of the input to each side that an output pixel depends on.

    For CRNet-A and SCN it is exact, for CSCN almost.  For the others it is what all the layers that
    run add up to, as if they stood in one row.
    """
    if isinstance(net, CRNetA | CRNetB | SCN | CSCN):
        return net.reach
    side, total = 16, 0.0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        pixel = side / inputs[0].shape[-1]  # of the layer's input, in pixels of the network's
        if isinstance(layer, nn.PixelShuffle):
            total += pixel
        elif isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            k, s, p = layer.kernel_size[0], layer.stride[0], int(layer.padding[0])
            far = max(p, k - 1 - p) + s - 1
            total += pixel * (far / s if isinstance(layer, nn.ConvTranspose2d) else far)

    shape = copy.deepcopy(net).eval().to("meta").float()
    for layer in shape.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d | nn.PixelShuffle):
            layer.register_forward_hook(add)
    scale = max(int(s) for s in net.upsamplers) if isinstance(net, MDSR) else 1
    apply(shape, torch.zeros(1, 3 if net.rgb else 1, side, side, device="meta"), scale)
    return math.ceil(total)


@torch.no_grad()
def multiplications(net: Network, scale: int) -> float:
    """Return the multiply-accumulates of all convolutions per pixel of the HR image.

    An image as large as any is meant, where a border that a network adds counts for nothing.

    Examples
    --------
    >>> multiplications(CRNetA(64, 128, 8), 3) == 9 * (64 + 64**2 + 2 * 64 * 128 + 8 * 128**2 + 64)
    True
    """
    shape, side = copy.deepcopy(net).eval(), 4

    def count(side: int) -> int:
        x = next(net.parameters()).new_zeros(1, 3 if net.rgb else 1, side, side)
        with FlopCounterMode(display=False) as counter:
            apply(shape, x, scale)
        return int(counter.get_total_flops())

    # The count is quadratic in the side; borders are its lower terms.
    square = (count(side) - 2 * count(2 * side) + count(3 * side)) / (2 * side**2)
    return square / 2 / (1 if net.enlarged else scale**2)


def tile_maps(net: Network) -> int:
    """Bound the maps, per pixel of the input, that a network is taken to hold at once.

    Four times those in and out of its widest convolution, an upsampler's at its own size.
    """
    widest = 0
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            area = layer.stride[0] ** 2 if isinstance(layer, nn.ConvTranspose2d) else 1
            widest = max(widest, layer.in_channels + layer.out_channels * area)
    # The last stage of a cascade works on an image that much larger than LR.
    return 4 * widest * (4 ** len(net.stages) if isinstance(net, CSCN) else 1)
