import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import bicubic
from baselines.networks.cscn import CSCN
from baselines.networks.edsr import EDSR
from baselines.networks.mdsr import MDSR
from baselines.networks.srdensenet import SRDenseNet
from baselines.networks.vdsr import VDSR
from crnet import CRNetA, CRNetB, Upscaler, apply_tiled, upscale_picture
from crnet.files import Picture
from crnet.upscale import tile_side
from tests.laws import close


def small(seed: int = 0, dtype: torch.dtype = torch.float64, **options: int) -> CRNetA:
    options = {"n0": 4, "m0": 6, "recursions": 2, **options}
    return CRNetA(**options, generator=torch.Generator().manual_seed(seed)).to(dtype)


def image(H: int, W: int, C: int = 1, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    g = torch.Generator().manual_seed(H * W)
    return torch.rand(1, C, H, W, generator=g, dtype=torch.float64).to(dtype)


@given(st.integers(15, 60), st.integers(1, 70), st.integers(1, 70))
@torch.no_grad()
def test_tiles_give_the_whole(tile: int, H: int, W: int) -> None:
    """Any tile with more than twice the reach: equal to rounding, borders included."""
    net, x = small(), image(H, W)
    assert net.reach == 7
    close(apply_tiled(net, x, tile, net.reach), net(x), 1e-12)


@torch.no_grad()
def test_tiles_give_the_whole_in_float32_and_for_many_recursions() -> None:
    net = small(recursions=12, n0=16, m0=24, dtype=torch.float32)
    x = image(120, 90, dtype=torch.float32)
    whole = net(x)
    assert (whole - x).abs().max() > 1e-3
    for tile in (41, 50, 64, 119):
        close(apply_tiled(net, x, tile, net.reach), whole, 1e-5)


@torch.no_grad()
def test_a_smaller_margin_would_show() -> None:
    """The law above can fail: with a margin one short, tiles differ from the whole."""

    net, x = small(), image(50, 50)
    assert (apply_tiled(net, x, 20, net.reach - 1) - net(x)).abs().max() > 1e-9


def test_every_tile_is_reported() -> None:
    heard: list[tuple[int, int]] = []
    net = small()
    apply_tiled(net, image(30, 30), 24, net.reach, on_tile=lambda *now: heard.append(now))
    assert heard == [(i, 9) for i in range(10)]


def test_a_tile_of_margin_alone_is_refused() -> None:
    with pytest.raises(ValueError, match="more than twice the reach of 7 pixels, got 14"):
        apply_tiled(small(), image(30, 30), 14, 7)


def test_memory_decides_the_tile() -> None:
    net = small()
    sides = [tile_side(net, m) for m in (1e-6, 0.5, 8, 1024)]
    assert sides[0] == 2 * net.reach + 16
    assert sides == sorted(sides)
    assert sides[3] / sides[2] == pytest.approx(128**0.5, rel=0.02)


@given(st.integers(1, 12), st.integers(1, 12), st.sampled_from([2, 3, 4]))
@settings(max_examples=15)
def test_size_is_the_scale_times(h: int, w: int, scale: int) -> None:
    """Down to an image of 1×1 pixel."""
    upscale = Upscaler(small(dtype=torch.float32))
    result = upscale_picture(Picture(image(h, w, 3).float()), scale, upscale)
    assert result.color.shape == (1, 3, scale * h, scale * w)
    assert ((result.color >= 0) & (result.color <= 1)).all()


def test_grey_is_colour_with_equal_channels() -> None:
    upscale = Upscaler(small(dtype=torch.float32))
    grey = image(20, 17).float()
    one = upscale_picture(Picture(grey), 3, upscale)
    three = upscale_picture(Picture(grey.repeat(1, 3, 1, 1)), 3, upscale)
    assert one.color.shape[1] == 1
    close(three.color, one.color.repeat(1, 3, 1, 1), 1e-5)


def test_bicubic_as_the_system_is_bicubic_of_the_picture() -> None:
    """Y, chroma and alpha take separate ways and must meet again."""
    picture = Picture(image(9, 8, 3).float() * 0.8 + 0.1, image(9, 8).float(), 8, b"profile")
    result = upscale_picture(picture, 2, bicubic)
    close(result.color, bicubic(picture.color, 2).clamp(0, 1), 1e-5)
    close(result.alpha, bicubic(picture.alpha, 2).clamp(0, 1), 1e-6)
    assert (result.bits, result.icc_profile) == (8, b"profile")


def test_the_network_sees_luma_alone() -> None:
    seen = []

    def spy(y: torch.Tensor, scale: int) -> torch.Tensor:
        seen.append(y)
        return bicubic(y, scale)

    rgb = torch.ones(1, 3, 4, 4)
    upscale_picture(Picture(rgb), 2, spy)
    upscale_picture(Picture(rgb[:, :1]), 2, spy)
    for y in seen:
        close(y, torch.full((1, 1, 4, 4), 235 / 255), 1e-6)


def small_b(dtype: torch.dtype = torch.float64) -> CRNetB:
    return CRNetB(4, 6, 1, generator=torch.Generator().manual_seed(0)).to(dtype)


@given(st.sampled_from([2, 3, 4]), st.integers(1, 45), st.integers(1, 45))
@settings(max_examples=15)
def test_tiles_of_crnet_b_give_the_whole(scale: int, h: int, w: int) -> None:
    net, x = small_b(), image(h, w, 3)
    tiled = apply_tiled(lambda part: net(part, scale), x, 2 * net.reach + 3, net.reach, scale)
    close(tiled, net(x, scale), 1e-12)
    if min(h, w) >= 4:  # smaller ones are replicated
        close(Upscaler(net, memory_mib=1e-6)(x, scale), net(x, scale), 1e-12)


@pytest.mark.parametrize(("h", "w"), [(1, 1), (3, 9), (9, 2)])
def test_images_of_few_pixels_are_replicated_to_four(h: int, w: int) -> None:
    net, x = small_b(), image(h, w, 3)
    rows, columns = (torch.arange(max(4, n)).clamp(max=n - 1) for n in (h, w))
    whole = net(x[..., rows, :][..., columns], 3)
    close(Upscaler(net)(x, 3), whole[..., : 3 * h, : 3 * w], 1e-12)


def test_a_picture_goes_through_crnet_b_in_rgb() -> None:
    net = small_b(torch.float32)
    rgb = image(9, 8, 3).float()
    result = upscale_picture(Picture(rgb, image(9, 8).float()), 3, Upscaler(net))
    close(result.color, net(rgb, 3).clamp(0, 1).detach(), 1e-5)
    assert result.alpha is not None
    assert result.alpha.shape == (1, 1, 27, 24)
    grey = upscale_picture(Picture(rgb[:, :1]), 3, Upscaler(net)).color
    close(grey, net(rgb[:, :1].expand(-1, 3, -1, -1), 3).mean(1, True).clamp(0, 1).detach(), 1e-5)


@pytest.mark.parametrize("net", [small(), small_b()], ids=["a", "b"])
@pytest.mark.parametrize("memory", [1e-6, 1024])
def test_recursions_are_the_images_of_fewer_recursions(net, memory: float) -> None:
    x = image(30, 20, Upscaler(net).channels)
    images = Upscaler(net, memory).recursions(x, 2)
    K = net.cista.recursions
    assert images.shape == (K + 1, *Upscaler(net)(x, 2).shape)
    for k in range(K + 1):
        net.cista.recursions = k
        close(images[k], Upscaler(net)(x, 2), 1e-12)
    net.cista.recursions = K


@pytest.mark.parametrize(
    ("net", "channels", "says"),
    [
        (lambda: EDSR(4, 1, 4), 3, "this EDSR upscales by 4, not by 2"),
        (lambda: SRDenseNet(1, 2, 4, 8), 1, "this SRDenseNet upscales by 4, not by 2"),
        (lambda: CSCN(1, 4), 1, "this CSCN upscales by 2, not by 3"),
        (lambda: MDSR((3, 4), 1, 4), 3, "this MDSR upscales by 3 or 4, not by 2"),
        (lambda: CRNetB(4, 4, 1, scales=(3,)), 3, "this CRNetB upscales by 3, not by 2"),
    ],
)
def test_another_scale_is_refused_before_any_work(net, channels: int, says: str) -> None:
    tiles: list[int] = []
    upscale = Upscaler(net(), on_tile=lambda *now: tiles.append(1))
    with pytest.raises(ValueError, match=says):
        upscale(torch.zeros(1, channels, 9, 9), int(says[-1]))
    assert not tiles


@pytest.mark.parametrize("scale", [1, 3, 5])
def test_a_tile_of_another_scale_is_refused(scale: int) -> None:
    with pytest.raises(ValueError, match=f"another scale than {scale}: 9x8 pixels became 18x16"):
        apply_tiled(lambda part: bicubic(part, 2), image(9, 8), 20, 2, scale)


@pytest.mark.parametrize(
    "net", [lambda: VDSR(3, 4, channels=3), lambda: CRNetA(4, 4, 1, channels=3)]
)
@torch.no_grad()
def test_networks_of_three_channels_take_rgb(net) -> None:
    made, x = net(), image(9, 8, 3).float()
    assert Upscaler(made).channels == 3
    close(Upscaler(made)(x, 2), made(bicubic(x, 2)), 1e-5)
    assert upscale_picture(Picture(x), 2, Upscaler(made)).color.shape == (1, 3, 18, 16)
    with pytest.raises(ValueError, match="RGB must be"):
        Upscaler(made)(x[:, :1], 2)


def test_bfloat16_is_near() -> None:
    net, x = small(dtype=torch.float32, n0=16, m0=24), image(30, 30).float()
    exact, fast = Upscaler(net)(x, 2), Upscaler(net, precision="bfloat16")(x, 2)
    assert fast.dtype == torch.float32
    moved = (exact - bicubic(x, 2)).abs().max()
    assert 0 < (fast - exact).abs().max() < 0.05 * moved + 2e-3
    with pytest.raises(ValueError, match="precision must be auto, float32 or bfloat16, got 'half'"):
        Upscaler(net, precision="half")


@pytest.mark.parametrize(
    ("net", "shape"), [(small(), (1, 3, 9, 9)), (small_b(), (1, 1, 9, 9)), (small(), (1, 9, 9))]
)
def test_images_of_other_channels_are_refused(net, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="must be floating point"):
        Upscaler(net)(torch.zeros(shape, dtype=torch.float64), 2)
    x = torch.full((1, Upscaler(net).channels, 9, 9), torch.nan, dtype=torch.float64)
    with pytest.raises(ValueError, match="NaN"):
        Upscaler(net)(x, 2)


def test_what_is_no_image_is_refused() -> None:
    upscale, x = Upscaler(small(dtype=torch.float32)), image(9, 8).float()
    for bad in (x.numpy(), None, x.to_sparse()):
        with pytest.raises(TypeError, match="x must be"):
            upscale(bad, 2)
    for bad in (x[:0], x[:, :, :0]):
        with pytest.raises(ValueError, match="x is empty"):
            upscale(bad, 2)
