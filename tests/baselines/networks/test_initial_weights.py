"""Fresh networks start as their papers and codes say, and a signal passes through them."""

import pytest
import torch
from torch import nn

from baselines.networks.dbpn import DDBPN
from baselines.networks.drcn import DRCN
from baselines.networks.drrn import DRRN
from baselines.networks.memnet import MemNet
from baselines.networks.srcnn import SRCNN
from baselines.networks.vdsr import VDSR
from tests.laws import close

HE = {
    "vdsr": lambda: VDSR(6, 16), "drcn": lambda: DRCN(16, 4), "drrn": lambda: DRRN(2, 16),
    "memnet": lambda: MemNet(2, 2, 16), "d-dbpn": lambda: DDBPN(4, 3, 8, 16),
}  # fmt: skip


def layers(net: nn.Module) -> dict[str, nn.Module]:
    kinds = nn.Conv2d | nn.ConvTranspose2d
    return {name: m for name, m in net.named_modules() if isinstance(m, kinds)}


@pytest.mark.parametrize("seed", range(2))
def test_a_fresh_vdsr_passes_on_its_input(seed: int) -> None:
    """Through twenty layers; torch's own kernels leave some 4e-8 of it, and of the gradient."""
    torch.manual_seed(seed)
    net, (x, y) = VDSR(), torch.rand(2, 1, 1, 16, 16)
    first, *_, last = layers(net).values()
    R, other = net(x) - x, net(y) - y
    assert 0.05 < (R - other).norm() / (x - y).norm() < 5
    R.square().mean().backward()
    assert first.weight.grad.norm() > 1e-3 * last.weight.grad.norm()


@pytest.mark.parametrize("name", HE)
def test_kernels_are_of_he_et_al(name: str) -> None:
    """N(0, 2/fan_in), with fan_in the entries of a kernel that makes one map, and no biases."""
    torch.manual_seed(0)
    for key, layer in layers(HE[name]()).items():
        assert not layer.bias.any()
        if key == "recurse":  # of DRCN, which is not drawn
            continue
        # n entries find their standard deviation to within 1/√(2n) of it; five times that.
        w = layer.weight
        assert abs((w[0].numel() / 2) ** 0.5 * w.std() - 1) < 5 / (2 * w.numel()) ** 0.5, key


def test_the_recursion_of_drcn_starts_as_the_identity() -> None:
    net, x = DRCN(8, 3), torch.rand(2, 1, 9, 8)
    h = net.embed(x)
    assert h.std() > 0.01
    close(net.recurse(h), h, 1e-6)
    first, *others = net.predictions(x)
    for image in others:  # so that all its predictions start as the same
        close(image, first, 1e-6)


def test_srcnn_starts_from_the_stated_spread() -> None:
    torch.manual_seed(0)
    for layer in layers(SRCNN()).values():
        n = layer.weight.numel()
        assert abs(layer.weight.std() / 0.001 - 1) < 5 / (2 * n) ** 0.5
        assert abs(layer.weight.mean()) < 5 * 0.001 / n**0.5
        assert not layer.bias.any()
