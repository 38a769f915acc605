"""Laws of the functions on networks: size, reach, memory, seed."""

import pytest
import torch
from torch import Tensor, nn

from baselines.networks.vdsr import VDSR
from crnet import CRNetA, CRNetB, Upscaler, apply_tiled, networks
from crnet.networks import (
    ARCHITECTURES,
    Network,
    apply,
    build,
    check,
    multiplications,
    outline,
    reach,
    tile_maps,
)
from crnet.sparse import SparseCRNetA, SparseCRNetB
from tests.laws import close, only_outlines

SMALL: dict[str, dict] = {
    "CRNetA": {"n0": 4, "m0": 4, "recursions": 2},
    "CRNetB": {"n0": 4, "m0": 4, "recursions": 1},
    "SparseCRNetA": {"n0": 4, "m0": 4, "recursions": 1, "blocks": 2, "rank": 2, "atom": 3},
    "SparseCRNetB": {"n0": 4, "m0": 4, "recursions": 1, "blocks": 2, "rank": 2, "atom": 3},
    "SCN": {"M": 8}, "CSCN": {"M": 4}, "SRCNN": {}, "RED30": {"depth": 2, "maps": 4},
    "VDSR": {"depth": 3, "maps": 4},
    "DRCN": {"maps": 4, "recursions": 2}, "DRRN": {"units": 1, "maps": 4},
    "MemNet": {"blocks": 2, "units": 1, "maps": 4},
    "SRDenseNet": {"blocks": 1, "layers": 2, "growth": 2, "bottleneck": 4},
    "MSRN": {"scale": 3, "blocks": 1, "maps": 4},
    "DDBPN": {"scale": 2, "stages": 2, "maps": 2, "features": 4},
    "EDSR": {"scale": 4, "blocks": 1, "maps": 4}, "MDSR": {"blocks": 1, "maps": 4},
    "RDN": {"scale": 2, "blocks": 1, "layers": 2, "growth": 2, "maps": 4},
}  # fmt: skip
SCALE = {
    "CSCN": 3,
    "SRDenseNet": 4,
    "MSRN": 3,
    "DDBPN": 2,
    "EDSR": 4,
    "RDN": 2,
    "MDSR": 4,
    "CRNetB": 4,
    "SparseCRNetB": 3,
}


def small(name: str, seed: int = 0) -> Network:
    g = torch.Generator().manual_seed(seed)
    return build(name, SMALL[name], g).double().eval()


def test_every_network_is_tried() -> None:
    assert set(SMALL) == set(ARCHITECTURES)


@pytest.mark.parametrize("name", SMALL)
def test_reach_bounds_what_a_pixel_depends_on(name: str) -> None:
    net, scale = small(name), SCALE.get(name, 1)
    side = 2 * reach(net) + 9
    x = torch.rand(1, 3 if net.rgb else 1, side, side, dtype=torch.float64, requires_grad=True)
    out = apply(net, x, scale)
    middle = out.shape[-1] // 2
    out[0, 0, middle, middle].backward()
    touched = x.grad.abs().sum((0, 1, 2)).nonzero().flatten()
    centre = (middle + 0.5) / scale - 0.5
    far = max(centre - int(touched[0]), int(touched[-1]) - centre)
    assert 0 < far <= reach(net)


@pytest.mark.parametrize("name", SMALL)
def test_tiles_give_the_whole(name: str) -> None:
    net, scale = small(name), SCALE.get(name, 2)
    side = 2 * reach(net) + 25
    x = torch.rand(1, 3 if net.rgb else 1, side // (2 if net.enlarged else 1), side,
                   dtype=torch.float64)  # fmt: skip
    tiles: list[int] = []
    cut = Upscaler(net, 1e-6, lambda done, total: tiles.append(total))(x, scale)
    assert tiles[0] > 1
    close(cut, Upscaler(net)(x, scale), 1e-10)


@pytest.mark.parametrize("name", SMALL)
def test_the_seed_decides_the_weights_and_the_global_one_is_left_alone(name: str) -> None:
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    a, b, c = (small(name, seed).state_dict() for seed in (0, 0, 1))
    assert torch.equal(torch.rand(1), expected)
    assert all(torch.equal(v, b[k]) for k, v in a.items())
    assert any(not torch.equal(v, c[k]) for k, v in a.items())


@pytest.mark.parametrize(("stages", "less"), [(1, 4), (2, 6)])
@torch.no_grad()
def test_a_cascade_is_tiled_at_every_scale(stages: int, less: int) -> None:
    """Tiles give the whole image; with a little less overlap they differ."""
    g = torch.Generator().manual_seed(1)
    net = build("CSCN", {"stages": stages, "M": 4}, g).double()
    x = torch.rand(1, 1, 2, 2 * reach(net) + 9, generator=g, dtype=torch.float64)
    for stage in net.stages:  # make codes non-zero, and every tap of the filters
        stage.W.weight *= 10
        stage.H.weight += 0.1 * torch.randn(stage.H.weight.shape, generator=g, dtype=x.dtype)
    for scale in net.scales:
        whole = net(x, scale)

        def tiled(overlap: int, scale: int = scale) -> Tensor:
            return apply_tiled(lambda part: net(part, scale), x, 2 * overlap + 5, overlap, scale)

        close(tiled(reach(net)), whole, 1e-10)
    assert (tiled(less) - whole).abs().max() > 1e-9


def test_multiplications_of_a_cascade_do_not_count_its_borders() -> None:
    """H, W, S, D, g, and the two fixed filters, per pixel of what a stage makes."""
    M = 8
    each = 81 * 100 + 100 * M + M * M + 25 * M + 25 + 169 + 25 * 81
    assert multiplications(build("SCN", {"M": M}), 3) == each
    net = build("CSCN", {"M": M})
    assert multiplications(net, 2) == each
    assert multiplications(net, 4) == pytest.approx(each * (1 + 1 / 4))
    assert multiplications(net, 3) == pytest.approx(each * (4 + 16) / 9)


def test_maps_of_a_tile() -> None:
    assert tile_maps(build("CSCN", {"M": 200})) == 16 * tile_maps(build("SCN", {"M": 200}))
    assert tile_maps(CRNetA(4, 8, 3)) == 4 * (8 + 4)  # Wl and Wh; the recursion's are as many
    assert tile_maps(SparseCRNetA(5, 9, 1)) == 4 * (5 + 9)
    assert tile_maps(CRNetB(4, 8, 3)) == 4 * (4 + 36)  # the upsampler of times 3


@pytest.mark.parametrize("name", SMALL)
def test_attributes_say_how_a_network_is_called(name: str) -> None:
    net = outline(name, SMALL[name])
    assert all(w.is_meta for w in net.parameters())
    assert net.enlarged == (not net.scales)
    assert check(name, SMALL[name]) == net.scales
    scale = max(net.scales, default=1)
    x = torch.zeros(1, 3 if net.rgb else 1, 9, 8, device="meta", dtype=torch.float32)
    out = net(x, scale) if net.takes_scale else net(x)
    assert out.shape == (*x.shape[:2], 9 * scale, 8 * scale)
    assert apply(net, x, scale).shape == out.shape


@pytest.mark.parametrize("name", SMALL)
def test_an_outline_has_the_shapes_of_the_network(name: str) -> None:
    net, shapes = small(name), outline(name, SMALL[name])
    assert {k: v.shape for k, v in net.state_dict().items()} == {
        k: v.shape for k, v in shapes.state_dict().items()
    }


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("VDSR", {"depth": 10**7}), ("DRRN", {"units": 10**7}), ("RED30", {"depth": 10**7}),
        ("MemNet", {"blocks": 10**7}), ("CSCN", {"stages": 10**7}), ("MSRN", {"blocks": 10**7}),
        ("EDSR", {"scale": 2, "blocks": 10**7}), ("CRNetA", {"n0": 10**12}),
    ],
)  # fmt: skip
def test_a_network_beyond_all_bounds_is_refused_at_once(name: str, arguments: dict) -> None:
    with only_outlines(), pytest.raises((ValueError, RuntimeError)):
        check(name, {**SMALL[name], **arguments})


def test_the_bound_on_weight_tensors_is_exact_and_ends_with_the_call() -> None:
    assert len(outline("VDSR", {"depth": 10, "maps": 4}, tensors=20).state_dict()) == 20
    with pytest.raises(ValueError, match="more than 19 tensors of weights"):
        outline("VDSR", {"depth": 10, "maps": 4}, tensors=19)
    assert len(VDSR(40, 4).state_dict()) == 80


@pytest.mark.parametrize("name", SMALL)
def test_a_network_is_float32_whatever_torch_defaults_to(name: str) -> None:
    expected = {k: v.dtype for k, v in build(name, SMALL[name]).state_dict().items()}
    torch.set_default_dtype(torch.float64)
    try:
        net = build(name, SMALL[name])
        scale = max(net.scales, default=1)
        out = apply(net, torch.rand(1, 3 if net.rgb else 1, 9, 8, dtype=torch.float32), scale)
    finally:
        torch.set_default_dtype(torch.float32)
    assert {k: v.dtype for k, v in net.state_dict().items()} == expected
    assert out.dtype == torch.float32


def test_multiplications_do_not_count_the_border_of_crnet_b() -> None:
    plain, net = CRNetB(4, 4, 1), CRNetB(4, 4, 1, border=3)
    for scale in net.scales:
        assert multiplications(net, scale) == multiplications(plain, scale)


def test_a_network_of_another_name_is_refused() -> None:
    with pytest.raises(KeyError):
        build("SRGAN", {})
    with pytest.raises(TypeError):
        build("VDSR", {"width": 3})


def test_whether_a_network_is_on_y_or_rgb_is_so() -> None:
    for name in SMALL:
        net = small(name)
        if isinstance(net, SparseCRNetA | SparseCRNetB):
            channels = net.coder.F0.shape[1]
        else:
            layers = (m for k, m in net.named_modules() if not k.startswith("body"))
            channels = next(m for m in layers if isinstance(m, nn.Conv2d)).in_channels
        assert channels == (3 if net.rgb else 1)
        assert networks.ARCHITECTURES[name].rgb == net.rgb
