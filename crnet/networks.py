"""The networks that recipes and weights files name, and functions that take any of them.

CRNet-A and -B and all networks of :mod:`baselines.networks` are trained and measured by the same
code.  Their attributes say how they differ, see :class:`Network`.
"""

# ruff: noqa: D102  # the methods of a protocol are documented where they are defined

import copy
import inspect
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol, Self, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.modules.module import register_module_parameter_registration_hook
from torch.overrides import TorchFunctionMode

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
from crnet.sparse import SparseCRNetA, SparseCRNetB
from csc.recursion.ridge import RidgeBlock


class Network(Protocol):
    """A super-resolution network: an ``nn.Module`` with four attributes that say how to call it.

    ``net(x)``, or ``net(x, scale)`` where it `takes_scale`, maps images (B, C, h, w) in [0, 1] to
    sharp images.  :func:`apply` makes the right call.

    Attributes
    ----------
    enlarged : bool
        Whether it takes the bicubic-enlarged image; otherwise it takes the LR image.
    rgb : bool
        Whether its images are RGB, C = 3; otherwise they are Y, C = 1.
    scales : tuple of int
        The scales it upscales by; empty where it takes the enlarged image.
    takes_scale : bool
        Whether its second argument is the scale.
    """

    enlarged: bool
    rgb: bool
    scales: tuple[int, ...]
    takes_scale: bool

    # The part of nn.Module that callers use:
    def __call__(self, *args: Any) -> Any: ...
    def parameters(self) -> Iterator[nn.Parameter]: ...
    def modules(self) -> Iterator[nn.Module]: ...
    def named_modules(self) -> Iterator[tuple[str, nn.Module]]: ...
    def state_dict(self) -> dict[str, Any]: ...
    def load_state_dict(self, state_dict: Mapping[str, Any]) -> Any: ...
    def train(self, mode: bool = True) -> Self: ...
    def eval(self) -> Self: ...
    def to(self, *args: Any, **kwargs: Any) -> Self: ...
    def half(self) -> Self: ...
    def float(self) -> Self: ...


@runtime_checkable
class KnowsReach(Protocol):
    """A network that knows its own reach."""

    @property
    def reach(self) -> int:
        """How many input pixels to each side an output pixel depends on."""


@runtime_checkable
class Coded(Protocol):
    """A network whose recursions have codes, each with its image."""

    def codes_and_images(self, x: Tensor, scale: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Yield z_k and its image for k = 0, …, K in one pass over the network's input x."""


@runtime_checkable
class Projected(Protocol):
    """A network whose weights must stay in a set: `project` puts them back after an update."""

    def project(self) -> None: ...


ARCHITECTURES: dict[str, type[Network]] = {
    kind.__name__: kind
    for kind in (
        CRNetA, CRNetB, SparseCRNetA, SparseCRNetB, SCN, CSCN, SRCNN, RED30, VDSR, DRCN, DRRN,
        MemNet, SRDenseNet, MSRN, DDBPN, EDSR, MDSR, RDN,
    )
}  # fmt: skip
"""The networks by the name of their class."""


DEEPLY_SUPERVISED = ("DRCN", "MemNet")
"""Networks that make an image after each of their recursions or blocks (``predictions``)."""


def build(
    architecture: str, arguments: Mapping[str, Any], generator: torch.Generator | None = None
) -> Network:
    """Return a network by the name of its class and its arguments, with initial weights in float32.

    Raises
    ------
    KeyError, TypeError, ValueError
        If there is no such class, or it does not take the arguments.
    """
    kind: Callable[..., Network] = ARCHITECTURES[architecture]
    # The layers of torch draw from its global generator; restore it afterwards.
    with torch.random.fork_rng(devices=[]):
        if "generator" in inspect.signature(kind).parameters:
            net = kind(**arguments, generator=generator)
        else:
            torch.manual_seed(int(torch.randint(2**62, (), generator=generator)))
            net = kind(**arguments)
    return net.float()  # whatever torch.get_default_dtype() is


def arguments_of(architecture: str) -> dict[str, Any]:
    """Return the arguments of a network's constructor and their defaults."""
    parameters = inspect.signature(ARCHITECTURES[architecture]).parameters
    return {name: p.default for name, p in parameters.items() if name != "generator"}


def outline(architecture: str, arguments: Mapping[str, Any], tensors: int = 2000) -> Network:
    """Return a network on the meta device: its shapes, without memory for its weights.

    Parameters
    ----------
    architecture : str
        Class of the network.
    arguments : mapping
        Arguments of its constructor.
    tensors : int
        Largest number of weight tensors; building stops when a network has more.

    Raises
    ------
    KeyError, TypeError, ValueError, RuntimeError
        If there is no such class, it does not take the arguments, or they are too large.
    """
    kind: Callable[..., Network] = ARCHITECTURES[architecture]
    with _at_most(tensors), torch.device("meta"):
        return kind(**arguments)


@contextmanager
def _at_most(tensors: int) -> Iterator[None]:
    """Raise ValueError when this thread builds modules with more weight tensors."""
    thread, seen = threading.get_ident(), set[tuple[int, str]]()

    def count(module: nn.Module, name: str, _: nn.Parameter | None) -> None:
        if threading.get_ident() == thread:
            seen.add((id(module), name))
            if len(seen) > tensors:
                raise ValueError(f"the network has more than {tensors} tensors of weights")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def check(architecture: str, arguments: Mapping[str, Any]) -> tuple[int, ...]:
    """Return the scales of a network by its class and arguments; no weights are made.

    Raises and limits are those of :func:`outline`.
    """
    return outline(architecture, arguments).scales


def code_block(net: Network) -> nn.Module | None:
    """Return the module whose output is the codes of a network, or None."""
    if isinstance(net, CRNetA | CRNetB):
        return net.cista
    return net.coder.stack if isinstance(net, SparseCRNetA | SparseCRNetB) else None


def apply(net: Network, x: Tensor, scale: int) -> Tensor:
    """Return ``net(x, scale)`` if the network `takes_scale`, otherwise ``net(x)``."""
    out: Tensor = net(x, scale) if net.takes_scale else net(x)
    return out


@torch.no_grad()
def reach(net: Network) -> int:
    """Return how many input pixels to each side an output pixel depends on, or an upper bound.

    The receptive field is 2·reach + 1 pixels wide.  Some networks know their reach.  For others,
    the bound is the sum over all layers that run, as if one followed the other.
    """
    if isinstance(net, KnowsReach):
        return net.reach
    side, total = 16, 0.0

    def add(layer: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        pixel = side / inputs[0].shape[-1]  # one of the layer, in pixels of the network's input
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
    x = torch.zeros(1, 3 if net.rgb else 1, side, side, device="meta", dtype=torch.float32)
    apply(shape, x, max(net.scales, default=1))
    return math.ceil(total)


@torch.no_grad()
def multiplications(net: Network, scale: int) -> float:
    """Return the multiply-accumulates of all convolutions per pixel of the HR image.

    In the limit of large images, ignoring padding.

    Examples
    --------
    >>> multiplications(CRNetA(64, 128, 8), 3) == 9 * (64 + 64**2 + 2 * 64 * 128 + 8 * 128**2 + 64)
    True
    """
    shape, side = copy.deepcopy(net).eval(), 4

    def count(side: int) -> int:
        x = next(net.parameters()).new_zeros(1, 3 if net.rgb else 1, side, side)
        counter = _Counter()
        with counter:
            apply(shape, x, scale)
        return counter.multiplications

    # The count is quadratic in the side; padding adds only lower terms.
    square = (count(side) - 2 * count(2 * side) + count(3 * side)) / (2 * side**2)
    return square / (1 if net.enlarged else scale**2)


class _Counter(TorchFunctionMode):
    """Count the multiply-accumulates of convolutions.

    torch's FlopCounterMode gives the same numbers, but first takes seconds to import a compiler.
    """

    def __init__(self) -> None:
        super().__init__()
        self.multiplications: int = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch; count it if it is a convolution."""
        out = func(*args, **(kwargs or {}))
        if func in (F.conv2d, F.conv_transpose2d):
            x, kernel = (args[0] if func is F.conv_transpose2d else out), args[1]
            self.multiplications += kernel.numel() * x[:, 0].numel()
        return out


def tile_maps(net: Network) -> int:
    """Estimate how many numbers per input pixel a network holds at once.

    Four times the maps in and out of its widest convolution.  An upsampler counts at its own size.
    """
    widest = 0
    for layer in net.modules():
        if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
            area = layer.stride[0] ** 2 if isinstance(layer, nn.ConvTranspose2d) else 1
            widest = max(widest, layer.in_channels + layer.out_channels * area)
        elif isinstance(layer, RidgeBlock):
            widest = max(widest, layer.W.shape[0] + layer.W.shape[1])
    # The last of n stages works on 4ⁿ times the pixels of LR.
    return 4 * widest * (4 ** len(net.stages) if isinstance(net, CSCN) else 1)
