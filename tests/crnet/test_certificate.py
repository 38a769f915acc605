"""Laws of the networks with certified codes: a small one, and every bundled one."""

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

import crnet
from baselines import bicubic
from crnet.analysis import attribution
from crnet.cli.demo import photo
from crnet.data import read_rgb, read_y
from crnet.measuring.protocol import pair, protocol_of, psnr_and_ssim
from crnet.sparse import SparseCRNetA, SparseCRNetB
from crnet.upscale import Upscaler
from csc import fista, recur
from tests.crnet.test_sparse import net_a, net_b
from tests.laws import close

Sparse = SparseCRNetA | SparseCRNetB
BUNDLED = [n for n in crnet.bundled() if crnet.card(n).architecture.startswith("SparseCRNet")]
SMALL = {"small a": net_a, "small b": net_b}
SCALE = 3


def network(name: str) -> Sparse:
    net = SMALL[name]() if name in SMALL else crnet.load(name)
    assert isinstance(net, SparseCRNetA | SparseCRNetB)
    return net


def original(net: Sparse, side: int = 48, top: int = 216, left: int = 144) -> Tensor:
    """The eye of a parrot, or another part of the photo."""
    image = read_rgb(photo()) if net.rgb else read_y(photo())
    return image[..., top : top + side, left : left + side]


def lr_image(net: Sparse, side: int = 48) -> Tensor:
    return pair(original(net, side), SCALE, protocol_of(Upscaler(net)))[1]


def own_input(net: Sparse, side: int = 12) -> Tensor:
    x = lr_image(net)
    return (bicubic(x, SCALE) if net.enlarged else x)[..., :side, :side]


def distance(a: Tensor, b: Tensor) -> Tensor:
    return (a.double() - b.double()).flatten(1).norm(dim=1)


@pytest.fixture(params=[*SMALL, *BUNDLED])
def net(request: pytest.FixtureRequest) -> Sparse:
    return network(request.param)


@torch.no_grad()
def test_fista_reaches_the_same_optimum(net: Sparse) -> None:
    """The codes are as near to FISTA's as the certificate says, and E − E* is below the gap."""
    net.double()
    x = own_input(net, 8).double()
    y, found = net.coder.features(x), crnet.certify_codes(net, x)
    for b, (block, z) in enumerate(
        zip(net.coder.stack.blocks, net.coder.stack.all_codes(y), strict=True)
    ):
        best = fista(*block.as_problem(y), nonneg=True, tol=1e-12, max_iter=60)
        assert bool((block.certify(y, best.codes).relative < 1e-5).all())
        energy = found.objective[b] + 0.5 * F.conv2d(y, block.W, padding=1).square().sum()
        above = energy - best.objective
        assert bool((above >= -1e-9 * best.objective).all())
        assert bool((above <= found.gap[b] + 1e-9 * best.objective).all())
        assert bool((distance(z, best.codes) <= found.distance[b] + 1e-4).all())
        if b < len(net.coder.stack.back):
            y = y + F.conv2d(z, net.coder.stack.back[b], padding=1)


@torch.no_grad()
def test_the_whole_network_is_certified_near_the_exact_one(net: Sparse) -> None:
    """The bound by a second run holds, and is as tight as the true distance times two."""
    x = own_input(net)
    y, codes = net.coder.features(x), net.coder.stack.all_codes(net.coder.features(x))
    loose, found = crnet.certify_codes(net, x), crnet.certify_codes(net, x, recursions=25)
    net.double().coder.recursions = 40
    for b, (z, exact) in enumerate(zip(codes, net.coder.stack.all_codes(y.double()), strict=True)):
        true = distance(z, exact)
        assert bool((true <= found.total[b] + 1e-9).all())
        assert bool((found.total[b] <= loose.total[b]).all())
        assert bool((found.total[b] <= 2 * true + 1e-4).all())
        norm = exact.flatten(1).norm(dim=1)
        assert bool((true <= found.total_relative[b] * norm + 1e-9).all())
        assert float(found.nonzero[b]) == float((z != 0).double().mean())


@torch.no_grad()
def test_the_recursion_is_that_of_its_kernels(net: Sparse) -> None:
    """Unfolding holds to rounding, also after training."""
    net.double()
    y = net.coder.features(own_input(net).double())
    for block in net.coder.stack.blocks:
        W, S, theta = block.unfolded()
        u = F.conv2d(y, W, padding=1)
        close(recur(u, S, theta, block.recursions, nonneg=True), block(y), 1e-10)


@torch.no_grad()
def test_bfloat16_stays_within_both_certificates(net: Sparse) -> None:
    """Codes of the same features, in both precisions; the stack's rounding is in `total`."""
    stack, y = net.coder.stack, net.coder.features(own_input(net))
    fine, bound = stack.all_codes(y), stack.certify(y, recursions=25).total
    with torch.autocast("cpu", torch.bfloat16):
        coarse, coarse_bound = stack.all_codes(y), stack.certify(y, recursions=25).total
    for b, (a, c) in enumerate(zip(fine, coarse, strict=True)):
        assert c.dtype is torch.bfloat16
        assert bool((distance(a, c) <= bound[b] + coarse_bound[b]).all())
        assert bool((distance(a, c) <= 0.03 * a.flatten(1).norm(dim=1)).all())


@torch.no_grad()
def test_the_parts_of_the_atoms_sum_to_the_image(net: Sparse) -> None:
    x = lr_image(net)
    found = attribution(net, x, SCALE)
    close(found.remainder, bicubic(x, SCALE), 1e-6)
    close(found.parts.sum(1) + found.remainder, Upscaler(net)(x, SCALE), 1e-5)
    assert found.open == 1.0


@torch.no_grad()
@pytest.mark.parametrize("name", BUNDLED)
@pytest.mark.parametrize("corner", [(180, 120), (60, 420)])
def test_shipped_codes_are_near_their_minimisers_and_stay(
    name: str, corner: tuple[int, int]
) -> None:
    """Each block within 1 %; ten times K recursions settle, and PSNR stays within 0.03 dB."""
    net = network(name)
    protocol = protocol_of(Upscaler(net))
    side = 48 if net.enlarged else 144  # as many codes for both
    target, lr = pair(original(net, side, *corner), SCALE, protocol)
    x = bicubic(lr, SCALE) if net.enlarged else lr
    found = crnet.certify_codes(net, x)
    assert float(found.relative.max()) < 0.01
    assert float(found.nonzero[-1]) < 0.15
    before = psnr_and_ssim(net.reconstruct(x, net.codes(x), SCALE), target, SCALE, protocol)[0]
    net.coder.recursions *= 10
    *_, last, z = net.coder.last_codes(x)
    assert float(distance(z, last) / z.norm()) < 1e-5
    after = psnr_and_ssim(net.reconstruct(x, z, SCALE), target, SCALE, protocol)[0]
    assert abs(after - before) < 0.03


def test_networks_without_certificate_are_refused() -> None:
    with pytest.raises(TypeError, match="CRNetA have no certificate"):
        crnet.certify_codes(crnet.load("crnet-a"), torch.zeros(1, 1, 8, 8))
    with pytest.raises(TypeError, match="CRNetB have no certificate"):
        crnet.certify_codes(Upscaler(crnet.load("crnet-b")), torch.zeros(1, 3, 8, 8))
    with pytest.raises(ValueError, match="finite"):
        crnet.certify_codes(Upscaler(net_a()), torch.full((1, 1, 8, 8), torch.nan))
