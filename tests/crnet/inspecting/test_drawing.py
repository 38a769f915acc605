"""What draws an image, and the states of the codes on the way."""

import pytest
import torch
from torch import Tensor

import crnet
from baselines import bicubic
from crnet.inspecting.drawing import drawing
from crnet.inspecting.states import states
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from crnet.upscale import Upscaler
from tests.crnet.test_sparse import net_a, net_b
from tests.laws import close


def free(kind: type[CRNetA] | type[CRNetB], **options: bool | int) -> Network:
    """A network without certificate, whose biases are not zero."""
    net = kind(5, 6, 2, **options, generator=torch.Generator().manual_seed(0))  # type: ignore[arg-type]
    g = torch.Generator().manual_seed(1)
    for name, parameter in net.named_parameters():
        if "bias" in name:
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=g)
    return net


NETWORKS = {
    "free a": lambda: free(CRNetA),
    "free a with biases": lambda: free(CRNetA, bias=True, residual=False),
    "free b": lambda: free(CRNetB, border=11),
    "free b with biases": lambda: free(CRNetB, border=11, bias=True),
    "certified a": net_a,
    "certified b": net_b,
}


def image(net: Network) -> Tensor:
    g = torch.Generator().manual_seed(2)
    return torch.rand(1, 3 if net.rgb else 1, 7, 9, generator=g)


@torch.no_grad()
@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("name", NETWORKS)
def test_it_draws_the_image_of_the_network(name: str, scale: int) -> None:
    net = NETWORKS[name]()
    x = image(net)
    close(drawing(net, x, scale).image(), Upscaler(net)(x, scale)[0], 1e-5)


@torch.no_grad()
@pytest.mark.parametrize("name", NETWORKS)
def test_the_last_state_is_the_output_and_the_bounds_are_certificates(name: str) -> None:
    net = NETWORKS[name]()
    x = image(net)
    made, found = states(net, x, 3)
    assert made[-1].image is not None
    close(made[-1].image, Upscaler(net)(x, 3)[0], 1e-5)
    assert [s.k for s in made if s.block == 0] == [0, 1, 2]
    assert [s.change is None for s in made] == [s.k == 0 for s in made]
    if found is None:
        assert {s.block for s in made} == {0}
        assert all(s.bound is None and s.image is not None for s in made)
        return
    assert [s.block for s in made if s.image is not None] == [2, 2, 2]  # of three blocks
    own = crnet.certify_codes(net, bicubic(x, 3) if net.enlarged else x)
    close(found.relative, own.relative, 1e-9)
    for s in made:
        assert s.bound is not None
        if s.k == 2:
            assert s.bound == pytest.approx(float(found.relative[s.block, 0]), rel=1e-6)


@torch.no_grad()
def test_the_bound_of_an_earlier_recursion_holds() -> None:
    net = net_b()
    x = image(net)
    made, _ = states(net, x, 3)
    block, y = next(iter(net.coder.stack.blocks)), net.coder.features(x)
    codes = list(block.codes(y))
    block.recursions = 60
    best = block.double()(y.double())
    for s, z in zip(made, codes, strict=False):
        assert s.bound is not None
        true = float((z - best).norm() / best.norm())
        assert true <= s.bound + 1e-9
        assert s.bound <= 3 * true


def test_networks_without_codes_are_refused() -> None:
    net = crnet.load("vdsr-compact")
    with pytest.raises(TypeError, match="VDSR has no codes"):
        drawing(net, torch.zeros(1, 1, 8, 8), 2)
    with pytest.raises(TypeError, match="VDSR has no codes"):
        states(net, torch.zeros(1, 1, 8, 8), 2)
