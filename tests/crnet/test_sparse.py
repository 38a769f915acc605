"""The networks that draw their image from certified sparse codes: their laws."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import crnet
from baselines import bicubic
from crnet.networks import multiplications
from crnet.sparse import SparseCRNetA, SparseCRNetB
from crnet.upscale import apply_tiled
from csc.recursion.ridge import norm_bound
from tests.laws import close

SIZES = {"n0": 6, "m0": 10, "blocks": 3, "rank": 4}
SCALES = (2, 3, 4)


def trained(net: SparseCRNetA | SparseCRNetB, seed: int = 1) -> SparseCRNetA | SparseCRNetB:
    """A network whose weights have moved away from their start, back under the bound."""
    g = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(0.3 * p.std().clamp(min=0.1) * torch.randn(p.shape, generator=g))
    net.project()
    return net


def net_a(seed: int = 0) -> SparseCRNetA:
    net = trained(SparseCRNetA(**SIZES, generator=torch.Generator().manual_seed(seed)))
    assert isinstance(net, SparseCRNetA)
    return net


def net_b(seed: int = 0) -> SparseCRNetB:
    net = trained(SparseCRNetB(**SIZES, generator=torch.Generator().manual_seed(seed)))
    assert isinstance(net, SparseCRNetB)
    return net


def photo(*shape: int) -> Tensor:
    """A smooth random image."""
    B, C, H, W = shape
    coarse = torch.rand(B, C, H // 4 + 1, W // 4 + 1, generator=torch.Generator().manual_seed(7))
    return bicubic(coarse, 4)[..., :H, :W].clamp(0, 1)


@torch.no_grad()
def test_the_image_is_the_enlarged_image_and_a_sum_of_atoms() -> None:
    """Atom by atom, by a transposed convolution in float64 that shares no code with the network."""
    a, x = net_a(), photo(2, 1, 20, 17)
    z = a.codes(x)
    assert bool((z > 0).any())
    drawn = F.conv_transpose2d(z.double(), a.atoms().double())[..., 3:-3, 3:-3]
    close(a(x).double() - x.double(), drawn, 1e-5)
    b, y = net_b(), photo(1, 3, 12, 9)
    z = b.codes(y)
    for scale in SCALES:
        edge = scale * 2  # an atom of 5 LR pixels begins two before its code
        drawn = F.conv_transpose2d(z.double(), b.atoms(scale).double(), stride=scale)
        image = drawn[..., edge : edge + 12 * scale, edge : edge + 9 * scale]
        close(b(y, scale).double() - bicubic(y.double(), scale), image, 1e-5)


@torch.no_grad()
@given(
    st.lists(st.floats(0, 1, width=32), min_size=3, max_size=3),
    st.integers(1, 12), st.integers(1, 12), st.sampled_from(SCALES),
)  # fmt: skip
def test_flat_images_stay_flat(color: list[float], h: int, w: int, scale: int) -> None:
    flat = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, h, w).contiguous()
    expected = torch.tensor(color).view(1, 3, 1, 1).expand(1, 3, scale * h, scale * w)
    close(net_b()(flat, scale), expected, 1e-5)
    close(net_a()(flat[:, :1]), flat[:, :1], 1e-5)


@torch.no_grad()
@settings(max_examples=20)
@given(st.integers(0, 2**20))
def test_the_codes_are_certified_near_their_minimiser(seed: int) -> None:
    net, x = net_b(seed), photo(2, 3, 10, 11).double()
    net.double()
    found = net.certify(x)
    z = net.codes(x)
    net.coder.recursions = 200
    exact = net.codes(x)
    true = (z - exact).flatten(1).norm(dim=1)
    assert bool((true <= found.total[-1] + 1e-9).all())
    for block in found.blocks:  # K = 2 at bound 1: 1/27 of the way is left, and the gap is tight
        assert bool((block.relative < 0.08).all())


@torch.no_grad()
def test_bfloat16_codes_agree_within_the_certificate() -> None:
    """The certificate holds for any given codes, so it also bounds the error of bfloat16."""
    net, x = net_a(), photo(1, 1, 24, 24)
    block = next(iter(net.coder.stack.blocks))
    y = net.coder.features(x)
    with torch.autocast("cpu", torch.bfloat16):
        coarse = block(y).float()
    fine = block(y)
    bound = sum(block.certify(y, z).distance for z in (coarse, fine))
    assert bool(((coarse - fine).norm() <= bound).all())
    assert float((coarse - fine).norm() / fine.norm()) < 0.03


@torch.no_grad()
def test_tiles_give_the_whole() -> None:
    net, x = net_b(), photo(1, 3, 60, 53)
    for scale in SCALES:
        tiled = apply_tiled(lambda t, s=scale: net(t, s), x, 2 * net.reach + 5, net.reach, scale)
        close(tiled, net(x, scale), 1e-5)


def test_a_loaded_network_is_in_the_certified_set(tmp_path: Path) -> None:
    """Whatever the file holds: here a dictionary twice as large as allowed, in float16."""
    net = net_a()
    block = next(iter(net.coder.stack.blocks))
    with torch.no_grad():
        block.D.mul_(2)
    about = crnet.Card("x", "SparseCRNetA", {**SIZES, "recursions": 2}, (2,), {}, {})
    crnet.save(tmp_path / "x.safetensors", net.half(), about)
    loaded = crnet.load(tmp_path / "x.safetensors")
    assert isinstance(loaded, SparseCRNetA)
    assert norm_bound(next(iter(loaded.coder.stack.blocks)).D) <= 1
    assert all(bool((b.relative < 0.08).all()) for b in loaded.certify(photo(1, 1, 16, 16)).blocks)


def test_multiplications_are_counted() -> None:
    """By hand: features, blocks of W, K times D and Dᵀ, the way back, and the drawing."""
    n0, m0, p, B, K = 6, 10, 4, 3, 2
    features = 9 * (n0 + n0**2)
    blocks = 9 * (B * (n0 * m0 + K * 2 * m0 * p) + (B - 1) * n0 * m0)
    assert multiplications(SparseCRNetA(**SIZES), 3) == features + blocks + 49 * m0
    features = 9 * (3 * n0 + n0**2)
    own = (features + blocks + 25 * m0 * 3 * 16) / 16
    assert multiplications(SparseCRNetB(**SIZES), 4) == pytest.approx(own)


@pytest.mark.parametrize("change", [{"n0": 0}, {"blocks": 0}, {"rank": 0}, {"recursions": -1},
                                    {"atom": 4}, {"bound": 0.0}])  # fmt: skip
@pytest.mark.parametrize("kind", [SparseCRNetA, SparseCRNetB])
def test_sizes_that_make_no_sense_are_refused(
    kind: type[SparseCRNetA] | type[SparseCRNetB], change: dict[str, float]
) -> None:
    with pytest.raises(ValueError, match="must be"):
        kind(**{**SIZES, **change})  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="floating-point images"):
        SparseCRNetA(**SIZES)(torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="upscales by"):
        SparseCRNetB(**SIZES, scales=(2,))(torch.zeros(1, 3, 8, 8), 3)


def test_gradients_reach_every_weight() -> None:
    net, x = net_b(), photo(1, 3, 10, 10)
    sum(net(x, s).square().sum() for s in SCALES).backward()
    for name, p in net.named_parameters():
        assert p.grad is not None, name
        assert bool(p.grad.abs().sum() > 0), name
