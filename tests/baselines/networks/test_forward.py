"""Each network computes its equations: forward passes written anew, in torch.nn.functional.

All weights, biases, statistics, slopes and combination weights are random and of a size at which
every branch matters, so a skip, a ReLU or an order of maps that differs is seen.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, cat, nn
from torch.nn import functional as F

from baselines.networks.dbpn import DDBPN
from baselines.networks.drcn import DRCN
from baselines.networks.drrn import DRRN
from baselines.networks.edsr import EDSR
from baselines.networks.mdsr import MDSR
from baselines.networks.memnet import MemNet
from baselines.networks.msrn import MSRN
from baselines.networks.rdn import RDN
from baselines.networks.red30 import RED30
from baselines.networks.srcnn import SRCNN
from baselines.networks.srdensenet import SRDenseNet
from baselines.networks.vdsr import VDSR

# Subtracted before a network and added after it; the networks store it in single precision.
MEAN = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(3, 1, 1)


@torch.no_grad()
def draw(net: nn.Module, seed: int = 0) -> None:
    """Maps of about one through all layers: kernels of He et al., and everything else random."""
    g = torch.Generator().manual_seed(seed)
    for module in net.modules():
        for name, p in module.named_parameters(recurse=False):
            p.copy_(torch.randn(p.shape, generator=g))
            if p.ndim == 4:
                p *= (2 / p[0].numel()) ** 0.5
            elif isinstance(module, nn.PReLU):
                p.copy_(0.1 + 0.4 * torch.rand(p.shape, generator=g))
            elif isinstance(module, nn.BatchNorm2d) and name == "weight":
                p.copy_(1 + 0.3 * p)
            elif name == "bias":
                p *= 0.3
        if isinstance(module, nn.BatchNorm2d):
            module.running_mean.copy_(0.5 * torch.randn(module.running_mean.shape, generator=g))
            module.running_var.copy_(0.5 + torch.rand(module.running_var.shape, generator=g))


class Layers:
    """The layers of a network by the names of their weights."""

    def __init__(self, net: nn.Module) -> None:
        self.w = net.state_dict()

    def conv(self, h: Tensor, name: str) -> Tensor:
        w = self.w[f"{name}.weight"]
        return F.conv2d(h, w, self.w[f"{name}.bias"], padding=w.shape[-1] // 2)

    def norm(self, h: Tensor, name: str) -> Tensor:
        """ReLU of what batch normalisation makes of h with its running statistics."""
        names = ("running_mean", "running_var", "weight", "bias")
        return F.batch_norm(h, *(self.w[f"{name}.{n}"] for n in names)).relu()

    def block(self, h: Tensor, name: str, size: float) -> Tensor:
        """Residual block of EDSR."""
        return h + size * self.conv(self.conv(h, f"{name}.layers.0").relu(), f"{name}.layers.2")

    def enlarge(self, h: Tensor, name: str, scale: int) -> Tensor:
        for i, s in enumerate((2, 2) if scale == 4 else (scale,)):
            h = F.pixel_shuffle(self.conv(h, f"{name}.{2 * i}"), s)
        return h


def srcnn(net: Layers, x: Tensor, _: int) -> Tensor:
    for i in (0, 2, 4):
        w = net.w[f"layers.{i}.weight"]
        x = F.pad(x, [w.shape[-1] // 2] * 4, mode="replicate")
        x = F.conv2d(x if i == 0 else x.relu(), w, net.w[f"layers.{i}.bias"])
    return x


def vdsr(net: Layers, x: Tensor, _: int) -> Tensor:
    h = net.conv(x, "layers.0")
    for i in (2, 4, 6):
        h = net.conv(h.relu(), f"layers.{i}")
    return x + h


def drcn(net: Layers, x: Tensor, _: int) -> Tensor:
    h = net.conv(net.conv(x, "embed.0").relu(), "embed.2").relu()
    out = torch.zeros_like(x)
    for weight in net.w["weights"]:
        h = net.conv(h, "recurse").relu()
        image = x + net.conv(net.conv(h, "reconstruct.0").relu(), "reconstruct.2")
        out = out + weight * image
    return out


def drrn(net: Layers, x: Tensor, _: int) -> Tensor:
    def pre(h: Tensor, name: str) -> Tensor:
        return net.norm(h, f"{name}.0") if "last.0.0.weight" in net.w else h.relu()

    first = h = net.conv(pre(x, "first.0"), "first.1")
    for u in range(3):
        inner = net.conv(pre(h, f"before1.{u}"), "C1")
        h = first + net.conv(pre(inner, f"before2.{u}"), "C2")
    return x + net.conv(pre(h, "last.0"), "last.1")


def memnet(net: Layers, x: Tensor, shared: int) -> Tensor:
    first = net.conv(net.norm(x, "first.0"), "first.2")
    past, out = [first], torch.zeros_like(x)
    for b in range(3):
        h, recent = past[-1], []
        for r in range(2):
            unit, kernels = (f"blocks.{b}.units.{i}" for i in (r, 0 if shared else r))
            inner = net.conv(net.norm(h, f"{unit}.0.0"), f"{kernels}.0.2")
            h = h + net.conv(net.norm(inner, f"{unit}.1.0"), f"{kernels}.1.2")
            recent.append(h)
        memory = net.norm(cat([*recent, *past], 1), f"blocks.{b}.gate.0")
        past.append(net.conv(memory, f"blocks.{b}.gate.2"))
        image = x + net.conv(net.norm(past[-1], f"normalize.{b}"), "reconstruct")
        out = out + net.w["weights"][b] * image
    return out


def red30(net: Layers, x: Tensor, _: int) -> Tensor:
    """Level i is the image after i convolutions; the even ones meet their mirror images."""
    levels = [x]
    for i in range(15):
        levels.append(net.conv(levels[-1], f"encoder.{i}").relu())
    h = levels[15]
    for i in reversed(range(15)):
        weight, bias = (net.w[f"decoder.{14 - i}.{n}"] for n in ("weight", "bias"))
        h = F.conv_transpose2d(h, weight, bias, padding=1)
        h = h + levels[i] if i % 2 == 0 else h
        h = h.relu() if i else h
    return h


def srdensenet(net: Layers, x: Tensor, _: int) -> Tensor:
    h = net.conv(x, "first").relu()
    found = [h]
    for b in range(3):
        inside = net.conv(h, f"blocks.{b}.first").relu()
        for i in range(2):
            new = net.conv(inside, f"blocks.{b}.rest.{i}").relu()
            inside = cat([inside, new], 1)
        h = inside
        found.append(h)
    h = net.conv(cat(found, 1), "bottleneck").relu()
    for i in range(2):
        weight, bias = (net.w[f"deconvolutions.{i}.{n}"] for n in ("weight", "bias"))
        h = F.conv_transpose2d(h, weight, bias, stride=2, padding=1, output_padding=1).relu()
    return net.conv(h, "last")


def msrn(net: Layers, x: Tensor, scale: int) -> Tensor:
    first = h = net.conv(x - MEAN, "head")
    found = []
    for b in range(2):
        name = f"blocks.{b}"
        one = cat([net.conv(h, f"{name}.layers.0"), net.conv(h, f"{name}.layers.1")], 1).relu()
        two = cat([net.conv(one, f"{name}.layers.2"), net.conv(one, f"{name}.layers.3")], 1).relu()
        h = h + net.conv(two, f"{name}.fuse")
        found.append(h)
    h = net.conv(net.conv(cat([*found, first], 1), "fuse"), "tail.0")
    return net.conv(net.enlarge(h, "tail.1", scale), "tail.2") + MEAN


def ddbpn(net: Layers, x: Tensor, scale: int) -> Tensor:
    stride, side = scale, {2: 6, 4: 8, 8: 12}[scale]

    def layer(h: Tensor, name: str, up: bool) -> Tensor:
        weight, bias = net.w[f"{name}.0.weight"], net.w[f"{name}.0.bias"]
        assert weight.shape[-1] == side
        h = (F.conv_transpose2d if up else F.conv2d)(h, weight, bias, stride, padding=2)
        return F.prelu(h, net.w[f"{name}.1.weight"])

    def project(seen: list[Tensor], unit: int, up: bool) -> Tensor:
        name, h = f"units.{unit}", cat(seen[::-1], 1)  # the newest first
        if len(seen) > 1:
            h = F.prelu(net.conv(h, f"{name}.reduce.0"), net.w[f"{name}.reduce.1.weight"])
        there = layer(h, f"{name}.there", up)
        error = layer(there, f"{name}.back", not up) - h
        return there + layer(error, f"{name}.again", up)

    h = F.prelu(net.conv(x, "first.0"), net.w["first.1.weight"])
    h = F.prelu(net.conv(h, "first.2"), net.w["first.3.weight"])
    high, low = [project([h], 0, True)], []
    for t in range(3):
        low.append(project(high, 2 * t + 1, False))
        high.append(project(low, 2 * t + 2, True))
    return net.conv(cat(high[::-1], 1), "last")


def edsr(net: Layers, x: Tensor, scale: int) -> Tensor:
    first = h = net.conv(x - MEAN, "head")
    for b in range(2):
        h = net.block(h, f"body.{b}", 0.1)
    h = first + net.conv(h, "body.2")
    return net.conv(net.enlarge(h, "tail.0", scale), "tail.1") + MEAN


def mdsr(net: Layers, x: Tensor, scale: int) -> Tensor:
    h = net.conv(x - MEAN, "head")
    for b in range(2):
        h = net.block(h, f"before.{scale}.{b}", 1)
    first = h
    for b in range(2):
        h = net.block(h, f"body.{b}", 1)
    h = first + net.conv(h, "body.2")
    return net.conv(net.enlarge(h, f"upsamplers.{scale}", scale), "tail") + MEAN


def rdn(net: Layers, x: Tensor, scale: int) -> Tensor:
    shallow = net.conv(x, "first")
    h, found = net.conv(shallow, "second"), []
    for b in range(2):
        seen = [h]
        for i in range(3):
            seen.append(net.conv(cat(seen, 1), f"blocks.{b}.layers.{i}").relu())
        h = h + net.conv(cat(seen, 1), f"blocks.{b}.fuse")
        found.append(h)
    h = shallow + net.conv(net.conv(cat(found, 1), "fuse.0"), "fuse.1")
    return net.conv(net.enlarge(h, "tail.0", scale), "tail.1")


CASES: dict[str, tuple[Callable[[], nn.Module], Callable[[Layers, Tensor, int], Tensor], int]] = {
    **{f"srcnn-9-{k}-5": (lambda k=k: SRCNN(k), srcnn, 1) for k in (1, 3, 5)},
    "vdsr": (lambda: VDSR(4, 5), vdsr, 1),
    "drcn": (lambda: DRCN(5, 3), drcn, 1),
    "drrn": (lambda: DRRN(3, 5), drrn, 1),
    "drrn-plain": (lambda: DRRN(3, 5, normalize=False), drrn, 1),
    "memnet-shared": (lambda: MemNet(3, 2, 5), memnet, 1),
    "memnet": (lambda: MemNet(3, 2, 5, shared=False), memnet, 0),
    "red30": (lambda: RED30(15, 5), red30, 1),
    "srdensenet": (lambda: SRDenseNet(3, 3, 2, 5), srdensenet, 4),
    **{f"msrn-{s}": (lambda s=s: MSRN(s, 2, 4), msrn, s) for s in (2, 3, 4)},
    **{f"d-dbpn-{s}": (lambda s=s: DDBPN(s, 4, 3, 5), ddbpn, s) for s in (2, 4, 8)},
    **{f"edsr-{s}": (lambda s=s: EDSR(s, 2, 4), edsr, s) for s in (2, 3, 4)},
    **{f"mdsr-{s}": (lambda: MDSR((2, 3, 4), 2, 4), mdsr, s) for s in (2, 3, 4)},
    **{f"rdn-{s}": (lambda s=s: RDN(s, 2, 3, 3, 4), rdn, s) for s in (2, 3, 4)},
}


@pytest.mark.parametrize("name", CASES)
def test_it_computes_its_equations(name: str) -> None:
    make, oracle, option = CASES[name]
    net = make().double().eval()
    draw(net)
    x = torch.rand(
        2, 3 if net.rgb else 1, 8, 7, generator=torch.Generator().manual_seed(1)
    ).double()
    with torch.no_grad():
        out = net(x, option) if isinstance(net, MDSR) else net(x)
        expected = oracle(Layers(net), x, option)
    assert out.shape == expected.shape
    assert 0.1 < expected.std() < 30  # not degenerate
    assert (out - expected).abs().max() < 1e-10 * expected.abs().max()
