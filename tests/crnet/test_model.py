import copy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from baselines.resample import bicubic, imresize
from crnet import CRNetA, CRNetB, apply_tiled
from crnet.cli.demo import photo
from crnet.data import read_y
from crnet.initial import ENLARGED, whitening_kernel
from csc import CISTA, ista, lam_max, lipschitz, random_dictionary, unfold
from tests.laws import close


def small(seed: int = 0, **options) -> CRNetA:
    options = {"n0": 5, "m0": 7, "recursions": 3, **options}
    return CRNetA(**options, generator=torch.Generator().manual_seed(seed)).double()


def image(seed: int = 0, H: int = 20, W: int = 18, C: int = 1) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(1, C, H, W, generator=g, dtype=torch.float64)


def count(net: CRNetA) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("n0", "m0", "weights"), [(128, 256, 1_329_408), (64, 256, 922_752), (128, 128, 592_128)]
)
def test_weights_of_the_paper(n0: int, m0: int, weights: int) -> None:
    assert count(CRNetA(n0, m0)) == weights


def test_defaults_are_the_papers() -> None:
    net = CRNetA()
    assert count(net) == 1_329_408
    assert net.depth == 30
    shapes = {name: tuple(p.shape) for name, p in net.named_parameters()}
    assert shapes == {
        "F0.weight": (128, 1, 3, 3),
        "F1.weight": (128, 128, 3, 3),
        "cista.W": (256, 128, 3, 3),
        "cista.S": (256, 256, 3, 3),
        "Wh.weight": (128, 256, 3, 3),
        "H.weight": (1, 128, 3, 3),
    }


@pytest.mark.parametrize(("K", "depth"), [(15, 20), (20, 25), (25, 30), (48, 53)])
def test_depth_is_K_plus_5_and_weights_do_not_depend_on_K(K: int, depth: int) -> None:
    net = CRNetA(recursions=K)
    assert net.depth == depth
    assert count(net) == 1_329_408


def test_it_computes_equations_11_to_14() -> None:
    net, x = small(), image()
    conv = lambda x, w: F.conv2d(x, w, padding=1)  # noqa: E731
    y = conv(conv(x, net.F0.weight).relu(), net.F1.weight).relu()
    z = conv(y, net.cista.W).relu()
    for _ in range(3):
        z = (conv(y, net.cista.W) + conv(z, net.cista.S)).relu()
    R = conv(conv(z, net.Wh.weight).relu(), net.H.weight)
    close(net(x), x + R, 1e-12)


@given(st.integers(0, 99), st.integers(1, 3), st.booleans())
@settings(max_examples=10)
def test_without_H_the_output_is_the_input(seed: int, channels: int, threshold: bool) -> None:
    net = small(seed, channels=channels, threshold=threshold)
    net.H.weight.data.zero_()
    x = image(seed, C=channels)
    assert torch.equal(net(x), x)


def test_residual_is_optional() -> None:
    net, x = small(), image()
    plain = small(residual=False)
    close(net(x) - plain(x), x, 1e-12)


@given(st.integers(0, 99), st.floats(0.01, 100))
@settings(max_examples=10)
def test_it_is_positively_homogeneous(seed: int, t: float) -> None:
    """No biases: a brighter exposure gives a brighter result and nothing else."""
    net, x = small(seed), image(seed)
    close(net(t * x), t * net(x), 1e-9)


@given(st.integers(0, 3), st.integers(0, 3))
@settings(max_examples=10)
def test_interior_moves_with_the_image(dy: int, dx: int) -> None:
    """A shift of the image shifts the output, except within the reach of the borders."""
    net, x = small(), image(H=40, W=44)
    moved = net(x.roll((dy, dx), (2, 3)))
    r = net.reach + 3
    inside = (..., slice(r, -r), slice(r, -r))
    close(moved[inside], net(x).roll((dy, dx), (2, 3))[inside], 1e-12)


def test_reach_is_exact() -> None:
    """The output sees K + 5 pixels to each side, and not one more."""
    net, x = small(recursions=2), image(H=31, W=31)
    x.requires_grad_()
    net(x)[0, 0, 15, 15].backward()
    rows = x.grad[0, 0].abs().sum(1).nonzero().flatten()
    assert (rows.min().item(), rows.max().item()) == (15 - net.reach, 15 + net.reach)


@pytest.mark.parametrize("K", [0, 1, 6])
def test_an_unfolded_block_is_ista_on_the_features(K: int, seeded: torch.Generator) -> None:
    """With (W, S, θ) of `unfold`, the codes are ISTA's on the zero-extended features."""
    net, x = small(), image(1, 12, 11)
    D = random_dictionary(7, 5, 3, generator=seeded, dtype=torch.float64)
    features = F.pad(net.features(x), [1] * 4)
    lam = 0.1 * lam_max(features, D, nonneg=True)
    L = lipschitz(D, (14, 13))
    net.cista = CISTA(unfold(D, lam, L), K, nonneg=True, padding=1)
    codes = list(net.codes(x))
    solved = ista(features, D, lam, nonneg=True, max_iter=K + 1, tol=0.0)
    assert solved.codes.any()
    close(codes[-1], solved.codes, 1e-9)
    close(net(x), net.reconstruct(x, solved.codes), 1e-9)


def test_codes_are_those_of_the_output() -> None:
    net, x = small(), image()
    zs = list(net.codes(x))
    assert len(zs) == 4
    assert all((z >= 0).all() for z in zs)
    assert torch.equal(net.reconstruct(x, zs[-1]), net(x))


@given(st.floats(0, 10), st.integers(0, 6))
@settings(max_examples=10)
def test_atoms_are_what_isolated_codes_add(t: float, m: int) -> None:
    net = small()
    z = torch.zeros(1, 7, 15, 13, dtype=torch.float64)
    z[0, m, 7, 6] = t
    added = net.reconstruct(torch.zeros(1, 1, 15, 13, dtype=torch.float64), z)
    close(added[0, :, 5:10, 4:9], t * net.atoms()[m], 1e-12)
    close(added.abs().sum(), t * net.atoms()[m].abs().sum(), 1e-12)  # and nothing elsewhere


def test_threshold_starts_at_the_papers_network() -> None:
    a, b = small(threshold=False), small(threshold=True)
    x = image()
    assert torch.equal(a(x), b(x))
    assert count(b) == count(a) + 7


def test_bias_is_optional() -> None:
    net = small(bias=True)
    assert {n for n, _ in net.named_parameters() if n.endswith("bias")} == {
        "F0.bias", "F1.bias", "Wh.bias", "H.bias"
    }  # fmt: skip
    assert torch.equal(net(image()), small()(image()))


def test_generator_decides_the_weights() -> None:
    x = image()
    assert torch.equal(small(3)(x), small(3)(x))
    assert not torch.equal(small(3)(x), small(4)(x))


def test_copies_are_independent() -> None:
    net, x = small(), image()
    before, twin, other = net(x), copy.deepcopy(net), small(9)
    other.load_state_dict(net.state_dict())
    for p in net.parameters():
        p.data.add_(1)
    assert torch.equal(twin(x), before)
    assert torch.equal(other(x), before)


def test_gradients_reach_every_weight() -> None:
    net, x = small(), image()
    (net(x) - 2 * x).square().sum().backward()
    for name, p in net.named_parameters():
        assert p.grad is not None
        assert p.grad.abs().sum() > 0, name


def test_bad_sizes_are_refused() -> None:
    with pytest.raises(ValueError, match="n0, m0, channels must be ≥ 1"):
        CRNetA(n0=0)
    with pytest.raises(ValueError, match="recursions ≥ 0"):
        CRNetA(recursions=-1)


def small_b(**options) -> CRNetB:
    options = {"n0": 6, "m0": 7, "recursions": 3, **options}
    return CRNetB(**options, generator=torch.Generator().manual_seed(0)).double()


@pytest.mark.parametrize(
    ("m0", "weights"), [(256, 1_994_112), (512, 4_058_496), (1024, 11_726_208)]
)
def test_weights_of_crnet_b(m0: int, weights: int) -> None:
    """The paper's 2.0M at m0 = 256, and 36 layers at K = 25."""
    net = CRNetB(64, m0)
    assert count(net) == weights
    assert net.depth == 36
    assert net.cista.recursions == 25
    assert isinstance(net.body, CRNetA)  # the same code


def test_biases_of_crnet_b() -> None:
    """One per map of every layer but W and S."""
    maps = [64] * 2 * 3 + [64, 64, 64, 64] + [256, 576, 256, 256] + [64, 3]
    assert count(CRNetB(64, 256, bias=True)) - count(CRNetB(64, 256)) == sum(maps)


def test_crnet_b_computes_its_layers() -> None:
    net, x = small_b(), image(C=3, H=7, W=6)
    conv = lambda x, w: F.conv2d(x, w, padding=1)  # noqa: E731
    w = dict(net.named_parameters())
    mean = torch.tensor([0.4488, 0.4371, 0.4040]).double().view(1, 3, 1, 1)
    for scale, factors in ((2, [2]), (3, [3]), (4, [2, 2])):
        y = conv(x - mean, w["head.weight"])
        unit = f"units.{scale}"
        y = y + conv(conv(y, w[f"{unit}.0.weight"]).relu(), w[f"{unit}.2.weight"])
        f = conv(conv(y, w["body.F0.weight"]).relu(), w["body.F1.weight"]).relu()
        u = conv(f, w["body.cista.W"])
        z = u.relu()
        for _ in range(3):
            z = (u + conv(z, w["body.cista.S"])).relu()
        y = y + conv(conv(z, w["body.Wh.weight"]).relu(), w["body.H.weight"])
        for i, factor in enumerate(factors):
            y = F.pixel_shuffle(conv(y, w[f"upsamplers.{scale}.{2 * i}.weight"]), factor)
        close(net(x, scale), conv(y, w["tail.weight"]) + mean, 1e-6)
        assert net(x, scale).shape == (1, 3, 7 * scale, 6 * scale)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_crnet_b_starts_near_the_bilinear_image(scale: int) -> None:
    net = small_b(n0=64)
    x = F.avg_pool2d(image(C=3, H=20, W=20), 5, 1)  # smooth, 16×16
    factors = [2, 2] if scale == 4 else [scale]
    y = x
    for f in factors:
        y = F.interpolate(y, scale_factor=f, mode="bilinear")
    inside = (..., slice(3 * scale, -3 * scale), slice(3 * scale, -3 * scale))
    for layer in net.tail.weight.data[:, 3:], net.units[str(scale)][2].weight.data:
        layer.zero_()
    net.body.H.weight.data.zero_()
    close(net(x, scale)[inside], y[inside], 1e-6)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_only_the_path_of_the_scale_runs(scale: int) -> None:
    net = small_b()
    net(image(C=3, H=5, W=5), scale).sum().backward()
    for name, p in net.named_parameters():
        own = name.split(".")[1] if name.startswith(("units", "upsamplers")) else str(scale)
        assert (p.grad is not None) == (own == str(scale)), name


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_reach_of_crnet_b_is_a_bound(scale: int) -> None:
    net, n = small_b(recursions=1), 41
    x = image(C=3, H=n, W=n).requires_grad_()
    net(x, scale)[0, 0, scale * (n // 2), scale * (n // 2)].backward()
    rows = x.grad[0].abs().sum((0, 2)).nonzero().flatten()
    seen = max(n // 2 - rows.min().item(), rows.max().item() - n // 2)
    assert net.reach - 3 <= seen <= net.reach


def test_codes_of_crnet_b() -> None:
    net, x = small_b(), image(C=3, H=5, W=6)
    zs = list(net.codes(x, 3))
    assert len(zs) == 4
    assert torch.equal(net.reconstruct(net.prepare(x, 3), zs[-1], 3), net(x, 3))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_border_replicates_the_image_and_crops_the_result(scale: int) -> None:
    """It equals a network without border on an image extended by hand."""
    plain, net, x = small_b(), small_b(border=3), image(C=3, H=7, W=6)
    assert plain.border == 0
    assert plain.state_dict().keys() == net.state_dict().keys()
    b = 3 * scale
    extended = plain(F.pad(x, [3] * 4, mode="replicate"), scale)
    assert torch.equal(net(x, scale), extended[..., b:-b, b:-b])
    assert [z.shape for z in net.codes(x, scale)] == 4 * [(1, 7, 13, 12)]


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(9, 8), (1, 7), (1, 1)])
def test_a_border_of_the_receptive_field_keeps_flat_images_flat(
    scale: int, size: tuple[int, int]
) -> None:
    bare = small_b(recursions=1, bias=True)
    net = small_b(recursions=1, bias=True, border=bare.reach)
    x = torch.tensor([0.0, 1.0, 0.2]).double().view(1, 3, 1, 1).expand(1, 3, *size)
    out = net(x, scale)
    assert out.shape == (1, 3, scale * size[0], scale * size[1])
    means = F.pixel_unshuffle(out, scale).mean((2, 3))  # upsamplers may leave a grid
    close(F.pixel_unshuffle(out, scale), means[..., None, None].expand(1, -1, *size), 1e-12)
    varied = F.pixel_unshuffle(bare(x, scale), scale)
    assert (varied - varied.mean((2, 3), keepdim=True)).abs().max() > 1e-3 or size == (1, 1)


@pytest.mark.parametrize("border", [1, 4])
def test_tiles_of_a_network_with_a_border_give_the_whole(border: int) -> None:
    net = small_b(recursions=0, border=border)
    x = image(C=3, H=43, W=40)
    tiled = apply_tiled(lambda part: net(part, 3), x, 2 * net.reach + 9, net.reach, 3)
    close(tiled, net(x, 3), 1e-12)


def test_crnet_b_refuses() -> None:
    with pytest.raises(ValueError, match="scales must be some of 2, 3 and 4"):
        CRNetB(scales=[5])
    for border in (-1, 1.5):
        with pytest.raises(ValueError, match="border must be a whole number ≥ 0"):
            CRNetB(4, 4, 1, border=border)
    net = small_b(scales=[2])
    with pytest.raises(ValueError, match="this CRNet-B upscales by 2, not by 3"):
        net(image(C=3), 3)
    with pytest.raises(ValueError, match="takes floating-point RGB"):
        net(image(C=1), 2)


@pytest.mark.parametrize("K", [0, 1, 5, 7])
@pytest.mark.parametrize("B", [1, 3])
@pytest.mark.parametrize("threshold", [False, True])
def test_recomputing_changes_no_number(K: int, B: int, threshold: bool) -> None:
    net = small(recursions=K, threshold=threshold)
    x = torch.cat([image(i) for i in range(B)])
    values = []
    for recompute in (False, True):
        net.cista.recompute = recompute
        net.zero_grad()
        out = net(x)
        out.square().sum().backward()
        values.append([out.detach(), *(p.grad for p in net.parameters())])
    for a, b in zip(*values, strict=True):
        close(a, b, 1e-10)


@pytest.mark.parametrize("kind", [CRNetA, CRNetB])
def test_weights_start_with_the_spread_that_keeps_their_size(kind: type) -> None:
    """√(2/fan-in) before a ReLU, otherwise √(1/fan-in); less for S and residual branches."""
    net = kind(48, 56, 1, generator=torch.Generator().manual_seed(0))
    spread = {name: float(w.detach().std()) for name, w in net.named_parameters()}
    body = "body." * (kind is CRNetB)
    gains = {f"{body}F1.weight": (1, 48), f"{body}cista.W": (1, 48), f"{body}cista.S": (0.3, 56),
             f"{body}Wh.weight": (1, 56), f"{body}H.weight": (0.1, 48)}  # fmt: skip
    if kind is CRNetB:
        gains |= {"units.2.0.weight": (1, 48), "units.2.2.weight": (0.1, 48)}
        free = {"head.weight": (0.5**0.5, 3), "tail.weight": (0.1, 48)}
        for name, (gain, fan_in) in free.items():  # three maps carry R, G and B
            w = net.get_parameter(name).detach()
            rest = w[3:] if name == "head.weight" else w[:, 3:]
            assert float(rest.std()) == pytest.approx(gain * (2 / (9 * fan_in)) ** 0.5, rel=0.1)
    for name, (gain, fan_in) in gains.items():
        # H of CRNet-A has 432 weights, whose spread is known to 4 percent.
        assert spread[name] == pytest.approx(gain * (2 / (9 * fan_in)) ** 0.5, rel=0.1), name


def test_features_whiten_each_cosine_by_its_own_spread() -> None:
    """Rows and columns are not the same, since photos are not."""
    g = torch.Generator().manual_seed(0)
    kernels = whitening_kernel(20_000, 1, ENLARGED, g)[:, 0].double()
    n = torch.arange(3.0, dtype=torch.float64)
    cosines = torch.stack([torch.cos(torch.pi * (n + 0.5) * k / 3) for k in range(3)])
    cosines /= cosines.norm(dim=1, keepdim=True)
    coefficients = cosines @ kernels @ cosines.T  # (20000, rows, columns)
    found = coefficients.square().mean(0).sqrt() * torch.tensor(ENLARGED).double()
    expected = torch.full((3, 3), 0.03).double()
    expected[0, 0] = 0
    torch.testing.assert_close(found, expected, rtol=0.02, atol=1e-5)


def test_the_tail_of_crnet_b_runs_in_the_precision_of_its_weights() -> None:
    """Under autocast, its image is finer than bfloat16."""
    net = CRNetB(8, 8, 1, generator=torch.Generator().manual_seed(0))
    with torch.autocast("cpu", torch.bfloat16):
        image_of_net = net(image(C=3).float(), 2)
    assert image_of_net.dtype == torch.float32
    tail = (image_of_net - net.mean.view(3, 1, 1)).detach()
    coarse = (tail - tail.bfloat16().float()).abs() < 1e-6
    assert float(coarse.double().mean()) < 0.1


def test_features_start_as_a_whitening_of_enlarged_photos() -> None:
    """The kernels of F0 ignore the mean, and pass details on as strongly as slopes."""
    net = CRNetA(64, 8, 1, generator=torch.Generator().manual_seed(0))
    kernels = net.F0.weight.detach()
    close(kernels.sum((1, 2, 3)) / kernels.abs().sum((1, 2, 3)), torch.zeros(64), 1e-6)
    y = read_y(photo())[..., :240, :240].float() / 255
    enlarged = bicubic(imresize(y, 1 / 3), 3)
    patches = F.unfold(enlarged, 3)[0]  # (9, pixels)
    patches = patches - patches.mean(0)
    spread = torch.linalg.svdvals(patches @ patches.T)[:8]
    response = torch.linalg.svdvals(
        (kernels.flatten(1) @ patches) @ patches.T @ kernels.flatten(1).T
    )
    assert spread[0] / spread[7] > 3000  # variances of the pixels, in their own directions
    assert response[0] / response[7] < 300
    features = kernels.flatten(1) @ patches
    assert 0.02 < float(features.square().mean().sqrt()) < 0.3


def test_differences_between_pixels_survive_bfloat16() -> None:
    """F0 runs in the precision of its weights, also under autocast."""
    net = CRNetA(16, 8, 1, generator=torch.Generator().manual_seed(0))
    x = 0.5 + 1e-3 * torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    with torch.autocast("cpu", torch.bfloat16):
        low = net(x) - x
    high = net(x) - x
    assert (low - high).norm() < 0.05 * high.norm()
