"""What the constructors of all networks refuse, before they make a layer."""

import inspect
import warnings

import pytest
import torch
from torch import nn

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

OF_ONE_SCALE = (EDSR, RDN, MSRN, DDBPN)
ON_Y_OR_RGB = (SRCNN, VDSR, DRCN, DRRN, MemNet, RED30)
ALL = (*OF_ONE_SCALE, *ON_Y_OR_RGB, MDSR, SRDenseNet, SCN, CSCN)


def sizes(kind: type[nn.Module]) -> list[str]:
    """Names of the whole numbers that a constructor takes."""
    parameters = inspect.signature(kind).parameters.values()
    return [p.name for p in parameters if p.annotation is int]


def make(kind: type[nn.Module], **arguments: object) -> nn.Module:
    with torch.device("meta"):  # shapes alone
        return kind(**({"scale": 2} if kind in OF_ONE_SCALE else {}) | arguments)


CASES = [(kind, name) for kind in ALL for name in sizes(kind)]


def test_sizes_are_found() -> None:
    assert len(CASES) > 35
    assert {kind for kind, _ in CASES} == set(ALL)
    for kind in ALL:
        make(kind)


@pytest.mark.parametrize(("kind", "name"), CASES)
@pytest.mark.parametrize("value", [0, -1, 4.0, True, "8", None])
def test_sizes_are_positive_whole_numbers(kind, name: str, value: object) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(
            ValueError, match=f"^{name} must be a whole number ≥ [12], got {value!r}$"
        ):
            make(kind, **{name: value})


@pytest.mark.parametrize(
    ("kind", "arguments", "says"),
    [
        (VDSR, {"depth": 1}, "depth must be a whole number ≥ 2, got 1"),
        (RED30, {"depth": 1}, "depth must be a whole number ≥ 2, got 1"),
        (SRCNN, {"middle": 2}, "middle must be 1, 3 or 5, got 2"),
        (EDSR, {"scale": 5}, "scale must be 2, 3 or 4, got 5"),
        (DDBPN, {"scale": 3}, "upscales by 2, 4 or 8, not by 3"),
        (MDSR, {"scales": ()}, "scales must be some of 2, 3 and 4, got none"),
        (MDSR, {"scales": (2, 5)}, "scale must be 2, 3 or 4, got 5"),
        (EDSR, {"size": float("nan")}, "size must be finite, got nan"),
        (SCN, {"lam": 0.0}, "lam must be finite and > 0, got 0.0"),
        (CSCN, {"lam": float("inf")}, "lam must be finite and > 0, got inf"),
        (CSCN, {"stages": 7}, "at most 6 stages, which make ×64; got 7"),
        *((kind, {"channels": 2}, "channels must be 1, which is Y, or 3") for kind in ON_Y_OR_RGB),
    ],
)
def test_other_bad_arguments(kind, arguments: dict, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        make(kind, **arguments)


@pytest.mark.parametrize("kind", ON_Y_OR_RGB)
def test_three_channels_are_rgb(kind) -> None:
    assert (make(kind).rgb, make(kind, channels=3).rgb) == (False, True)


def test_networks_on_lr_know_their_scales() -> None:
    assert all(make(kind, scale=4).scales == (4,) for kind in OF_ONE_SCALE)
    assert SRDenseNet.scales == (4,)
    assert make(MDSR, scales=[4, 2]).scales == (4, 2)
    assert make(CSCN, stages=3).scales == tuple(range(2, 9))


@pytest.mark.parametrize("kind", ALL)
def test_attributes_say_how_a_network_is_called(kind) -> None:
    net = make(kind)
    assert {type(net.enlarged), type(net.rgb), type(net.takes_scale)} == {bool}
    assert net.enlarged == (not net.scales)
    assert net.takes_scale == ("scale" in inspect.signature(kind.forward).parameters)
    size = net.scales[0] if net.scales else 1
    x = torch.zeros(1, 3 if net.rgb else 1, 6, 5, device="meta")
    out = net(x, size) if net.takes_scale else net(x)
    assert out.shape == (1, x.shape[1], 6 * size, 5 * size)
