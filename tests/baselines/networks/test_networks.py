"""The networks the paper compares with: published counts, shapes, sharing, learning."""

import copy

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import bicubic
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
from tests.laws import close


def count(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


def weights(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters() if p.ndim == 4)


@pytest.mark.parametrize(
    ("net", "parameters"),
    [
        (SRCNN, 57_281),
        (lambda: SRCNN(1), 8_129),
        (RED30, 4_134_785),
        (VDSR, 665_921),
        (DRCN, 1_775_105 + 16),
        (DRRN, 297_601 + 13_058),
        (lambda: DRRN(normalize=False), 297_601),
        (SRDenseNet, 2_143_489),
        *((lambda s=s: MSRN(s), n) for s, n in ((2, 5_930_307), (3, 6_114_947), (4, 6_078_019))),
        *((lambda s=s: DDBPN(s), n) for s, n in ((2, 5_953_526), (4, 10_426_358), (8, 23_205_878))),
        *((lambda s=s: EDSR(s), n) for s, n in ((2, 40_729_603), (3, 43_680_003), (4, 43_089_923))),
        *((lambda s=s: EDSR(s, 16, 64, size=1.0), n)
          for s, n in ((2, 1_369_859), (3, 1_554_499), (4, 1_517_571))),
        (MDSR, 7_953_987),
        (lambda: MDSR(blocks=16), 3_227_203),
        *((lambda s=s: RDN(s), n) for s, n in ((2, 22_123_395), (3, 22_308_035), (4, 22_271_107))),
    ],
)  # fmt: skip
def test_published_counts(net, parameters: int) -> None:
    with torch.device("meta"):  # shapes alone
        assert count(net()) == parameters


def test_published_counts_of_weights() -> None:
    assert count(SCN()) == weights(SCN()) == 40_509  # its start is computed, so not on meta
    with torch.device("meta"):
        assert weights(MemNet()) == 676_992
        assert weights(MemNet(shared=False)) == 2_888_832
        assert weights(VDSR()) == 664_704
        assert weights(DRRN()) == 297_216


ENLARGED = {
    "scn": lambda: SCN(16),
    "srcnn": lambda: SRCNN(),
    "vdsr": lambda: VDSR(4, 8),
    "drcn": lambda: DRCN(8, 3),
    "drrn": lambda: DRRN(3, 8),
    "memnet": lambda: MemNet(2, 2, 8),
    "red30": lambda: RED30(5, 8),
}
FROM_LR = {
    "edsr": lambda s: EDSR(s, 2, 8),
    "rdn": lambda s: RDN(s, 2, 2, 4, 8),
    "msrn": lambda s: MSRN(s, 2, 8),
    "ddbpn": lambda s: DDBPN(s, 3, 4, 8),
}


def image(C: int, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, C, 11, 9, generator=g, dtype=torch.float64)


@pytest.mark.parametrize("name", ENLARGED)
def test_enlarged_images_keep_their_size_and_every_weight_is_used(name: str) -> None:
    torch.manual_seed(0)
    net, x = ENLARGED[name]().double(), image(1)
    out = net(x)
    assert out.shape == x.shape
    out.square().sum().backward()
    assert net.enlarged
    assert all(p.grad is not None for p in net.parameters())


@pytest.mark.parametrize("name", FROM_LR)
@pytest.mark.parametrize("scale", [2, 3, 4])
def test_lr_images_are_enlarged(name: str, scale: int) -> None:
    if (name, scale) == ("ddbpn", 3):
        with pytest.raises(ValueError, match="2, 4 or 8, not by 3"):
            FROM_LR[name](scale)
        return
    torch.manual_seed(0)
    net = FROM_LR[name](scale).double()
    out = net(image(3))
    assert not net.enlarged
    assert out.shape == (2, 3, 11 * scale, 9 * scale)
    out.square().sum().backward()
    assert all(p.grad is not None for p in net.parameters())


def test_mdsr_runs_the_path_of_its_scale() -> None:
    net = MDSR(blocks=1, maps=4).double()
    assert net(image(3), 3).shape == (2, 3, 33, 27)
    net(image(3), 3).sum().backward()
    for name, p in net.named_parameters():
        own = name.split(".")[1] if name.startswith(("before", "upsamplers")) else "3"
        assert (p.grad is not None) == (own == "3"), name
    with pytest.raises(ValueError, match="upscales by 2, 3 or 4, not by 5"):
        net(image(3), 5)


def test_srdensenet_is_for_times_four() -> None:
    assert SRDenseNet(2, 2, 4, 8).double()(image(1)).shape == (2, 1, 44, 36)


def test_recursions_share_their_weights() -> None:
    deep, shallow = DRCN(8, 16), DRCN(8, 2)
    assert count(deep) - count(shallow) == 14  # one weight of the sum each
    assert len(DRCN(8, 5).predictions(image(1).float())) == 5
    net = MemNet(2, 3, 8)
    first, *others = net.blocks[1].units
    for unit in others:
        for one, other in zip(first, unit, strict=True):
            assert one[2].weight.data_ptr() == other[2].weight.data_ptr()
            assert one[0].weight.data_ptr() != other[0].weight.data_ptr()  # normalisation is not
    apart = MemNet(2, 3, 8, shared=False).blocks[1].units
    assert apart[0][0][2].weight.data_ptr() != apart[1][0][2].weight.data_ptr()


def test_recursions_are_calls_of_one_layer() -> None:
    """K recursions of DRCN, U units of DRRN: so many calls, on one tensor."""
    for net, layer, calls in (
        (DRCN(8, 5), "recurse", 5),
        (DRRN(4, 8), "C1", 4),
        (DRRN(4, 8), "C2", 4),
    ):
        seen: list[int] = []
        module = getattr(net, layer)
        module.register_forward_hook(lambda m, *_, seen=seen: seen.append(m.weight.data_ptr()))
        net(image(1).float())
        assert seen == [module.weight.data_ptr()] * calls
    units = MemNet(1, 3, 8).blocks[0].units
    assert len({conv.weight.data_ptr() for unit in units for conv in kernels(unit)}) == 2


def kernels(net: nn.Module) -> list[nn.Module]:
    return [m for m in net.modules() if isinstance(m, nn.Conv2d | nn.ConvTranspose2d)]


SMALL = {
    **ENLARGED,
    **{name: lambda make=make: make(2) for name, make in FROM_LR.items()},
    "mdsr": lambda: MDSR(blocks=1, maps=8),
    "srdensenet": lambda: SRDenseNet(2, 2, 4, 8),
}


def channels(name: str) -> int:
    return 1 if name in ENLARGED or name == "srdensenet" else 3


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_lists_the_layers_in_their_order(name: str) -> None:
    """The kernels of a state_dict are in the order in which the forward pass last uses them."""
    net = SMALL[name]().double()
    at = {p.data_ptr(): key for key, p in reversed(net.state_dict().items())}  # by its first name
    used: list[str] = []
    for module in set(kernels(net)):
        module.register_forward_hook(lambda m, *_: used.append(at[m.weight.data_ptr()]))
    x = image(channels(name))
    _ = net(x, 3) if name == "mdsr" else net(x)
    listed = [key for key in net.state_dict() if key in used]
    assert list(dict.fromkeys(reversed(used)))[::-1] == listed
    if name != "mdsr":  # whose other scales have layers of their own
        assert {at[m.weight.data_ptr()] for m in kernels(net)} == set(listed)


@pytest.mark.parametrize("name", SMALL)
def test_one_patch_can_be_learned_by_heart(name: str) -> None:
    """A few dozen steps of Adam take the squared error of a patch down by more than five.

    To be learned: sharpening where the input is the enlarged image, enlarging where it is LR.
    """
    torch.manual_seed(0)
    net = SMALL[name]().train()
    scale = 4 if name == "srdensenet" else 2
    x = torch.rand(1, channels(name), 8, 8)
    y = bicubic(x, scale)
    if name in ENLARGED:
        x = y
        y = x + (x - F.avg_pool2d(F.pad(x, (1, 1, 1, 1), mode="reflect"), 3, 1))
    optimizer = torch.optim.Adam(net.parameters(), 3e-3)
    losses = []
    for _ in range(80):
        loss = ((net(x, 2) if name == "mdsr" else net(x)) - y).square().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
    assert min(losses[-5:]) < losses[0] / 5, losses[::10]


def test_srcnn_replicates_its_borders() -> None:
    """Of a constant image it makes a constant one, which zero padding would not."""
    out = SRCNN()(torch.full((1, 1, 20, 20), 0.5))
    close(out, out[..., :1, :1].expand_as(out), 1e-5)


@pytest.mark.parametrize("name", SMALL)
def test_state_dict_round_trip(name: str) -> None:
    net, other = (SMALL[name]().double().eval() for _ in range(2))
    x = (image(channels(name)), *((3,) if name == "mdsr" else ()))
    assert not torch.equal(net(*x), other(*x))
    other.load_state_dict(net.state_dict())
    twin = copy.deepcopy(net)
    expected = net(*x)
    for p in net.parameters():
        p.data.add_(1)
    assert torch.equal(other(*x), expected)
    assert torch.equal(twin(*x), expected)


@pytest.mark.parametrize(
    "make", [lambda: SRCNN(2), lambda: VDSR(1), lambda: DRCN(8, 0), lambda: DRRN(0),
             lambda: MemNet(0), lambda: RED30(1), lambda: EDSR(5)]
)  # fmt: skip
def test_bad_sizes_are_refused(make) -> None:
    with pytest.raises(ValueError, match="must be"):
        make()
