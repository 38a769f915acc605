import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import crnet
from baselines.resample import bicubic
from crnet import CRNetA, CRNetB, Upscaler, plot
from crnet.analysis import attribution, fewest_recursions, recursions
from crnet.measuring.evaluate import score_recursions
from csc import plot as figures
from csc.attribution import shares
from tests.crnet.pictures import photo
from tests.laws import close


def network(kind: type, seed: int, **options: bool) -> CRNetA | CRNetB:
    net = kind(5, 6, 2, **options, generator=torch.Generator().manual_seed(seed)).double()
    g = torch.Generator().manual_seed(seed + 1)
    for name, parameter in net.named_parameters():
        if "bias" in name:  # as training would leave them
            parameter.data = 0.1 * torch.randn(parameter.shape, generator=g, dtype=torch.float64)
    return net


def image(net: CRNetA | CRNetB, seed: int = 0, n: int = 9) -> torch.Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1 if net.enlarged else 3, n, n + 1, generator=g, dtype=torch.float64)


@given(
    st.sampled_from([CRNetA, CRNetB]),
    st.integers(0, 99),
    st.booleans(),
    st.booleans(),
    st.sampled_from([2, 3, 4]),
)
@settings(max_examples=15)
def test_contributions_sum_to_the_output(
    kind: type, seed: int, bias: bool, threshold: bool, scale: int
) -> None:
    net = network(kind, seed, bias=bias, threshold=threshold)
    x = image(net, seed)
    a = attribution(net, x, scale)
    out = Upscaler(net)(x, scale)
    assert a.parts.shape == (2, 6, *out.shape[1:])
    close(a.parts.sum(1) + a.remainder, out, 1e-10)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_contributions_of_a_network_with_a_border_sum_to_the_output(scale: int) -> None:
    net = CRNetB(5, 6, 2, bias=True, border=2, generator=torch.Generator().manual_seed(0)).double()
    x = image(net)
    a = attribution(net, x, scale)
    close(a.parts.sum(1) + a.remainder, net(x, scale), 1e-10)


@pytest.mark.parametrize("name", ["crnet-a", "crnet-b"])
def test_those_of_the_bundled_networks_do_in_float32(name: str) -> None:
    net = crnet.load(name)
    x = torch.rand(1, 1 if net.enlarged else 3, 8, 8, generator=torch.Generator().manual_seed(0))
    a = attribution(net, x, 2)
    close(a.parts.sum(1) + a.remainder, Upscaler(net)(x, 2), 1e-5)
    assert 0 < a.open < 1
    total = shares(a.parts, torch.rand(1, 1, 16, 16) < 0.5).sum(1)
    close(total, torch.ones(1).double(), 1e-9)


def test_a_contribution_by_hand() -> None:
    """1×1-like kernels: R = 5·ReLU(2 z_0 − 3 z_1), atom 0 adds 10 z_0 and atom 1 −15 z_1."""
    net = CRNetA(1, 2, 0).double()
    for parameter in net.parameters():
        parameter.data.zero_()
    net.F0.weight.data[0, 0, 1, 1] = net.F1.weight.data[0, 0, 1, 1] = 1
    net.cista.W.data[:, 0, 1, 1] = torch.tensor([1.0, 0.5])  # z = (y, y/2)
    net.Wh.weight.data[0, :, 1, 1] = torch.tensor([2.0, -3.0])
    net.H.weight.data[0, 0, 1, 1] = 5
    x = image(net)
    y = bicubic(x, 2)
    a = attribution(net, x, 2)
    close(a.parts[:, 0], 10 * y.relu(), 1e-12)
    close(a.parts[:, 1], -7.5 * y.relu(), 1e-12)
    close(a.remainder, y, 1e-12)
    net.Wh.weight.data[0, 1, 1, 1] = -5  # 2y − 2.5y < 0: the gate shuts
    shut = attribution(net, x, 2)
    assert not shut.parts.any()
    assert shut.open == 0


@pytest.mark.parametrize("kind", [CRNetA, CRNetB])
def test_atoms_may_be_chosen(kind: type) -> None:
    net = network(kind, 3)
    x = image(net)
    some, every = attribution(net, x, 2, atoms=[4, 0]), attribution(net, x, 2)
    close(some.parts, every.parts[:, [4, 0]], 1e-12)
    close(some.remainder, every.remainder, 1e-12)


def test_the_remainder_is_what_no_code_adds() -> None:
    """It equals the output with H = 0; for CRNet-A this is the bicubic image."""
    for kind in (CRNetA, CRNetB):
        net = network(kind, 7)
        x = image(net)
        remainder = attribution(net, x, 3).remainder
        (net if isinstance(net, CRNetA) else net.body).H.weight.data.zero_()
        close(remainder, Upscaler(net)(x, 3), 1e-10)
        if kind is CRNetA:
            close(remainder, bicubic(x, 3), 1e-12)


def test_without_residual_nothing_remains() -> None:
    net = network(CRNetA, 2, residual=False)
    assert not attribution(net, image(net), 2).remainder.any()


def original(channels: int) -> torch.Tensor:
    x = torch.from_numpy(photo(37, 41, 3)).permute(2, 0, 1)[None]
    return x[:, :channels].contiguous()


@pytest.mark.parametrize("kind", [CRNetA, CRNetB])
def test_measures_are_those_of_evaluate_and_of_the_codes(kind: type) -> None:
    net = kind(5, 6, 3, generator=torch.Generator().manual_seed(0))
    x = original(1 if kind is CRNetA else 3)
    found = recursions(net, x, 3)
    scores = score_recursions(x, 3, Upscaler(net))
    assert len(found) == 4
    for r, (psnr, ssim, _) in zip(found, scores, strict=True):
        assert (r.psnr, r.ssim) == pytest.approx((psnr, ssim), abs=1e-6)
        assert r.image.shape == (1, x.shape[1], 36, 39)
        assert 0 <= r.nonzero <= 1
    assert found[0].change is None
    assert all(r.change > 0 for r in found[1:])


def test_sparsity_and_change_by_hand() -> None:
    """z_0 = y and z_1 = (1 + s) y of a 1×1-like network: change s/(1 + s)."""
    net = CRNetA(1, 1, 1)
    for parameter in net.parameters():
        parameter.data.zero_()
        parameter.data[0, 0, 1, 1] = 1
    net.cista.S.data *= 0.25
    found = recursions(net, original(1), 2)
    assert found[1].change == pytest.approx(0.25 / 1.25, rel=1e-5)
    assert found[1].nonzero == found[0].nonzero == 1


def test_fewest_recursions_by_hand() -> None:
    psnr = [30.0, 31.0, 31.75, 31.5]
    assert [fewest_recursions(psnr, loss) for loss in (0, 0.25, 0.5, 1.5)] == [2, 2, 1, 0]
    assert [fewest_recursions(psnr, loss, of_best=True) for loss in (0, 0.5, 1)] == [2, 2, 1]


def test_psnr_is_drawn_against_k() -> None:
    axes = plot.recursions(
        {"A": [30.0, 31.0, 31.5], "B": [29.0, 29.5]}, levels={"bicubic": 28.5}, loss=0.5
    )
    a, circle, b, *_ = axes.lines
    assert list(a.get_xdata()) == [0, 1, 2]
    assert list(a.get_ydata()) == [30, 31, 31.5]
    assert (list(circle.get_xdata()), list(circle.get_ydata())) == ([1], [31])
    assert list(b.get_ydata()) == [29, 29.5]
    assert list(axes.lines[-1].get_ydata()) == [28.5, 28.5]
    assert (axes.get_xlabel(), axes.get_ylabel()) == ("recursion k", "PSNR (dB)")
    assert [t.get_text() for t in axes.get_legend().get_texts()] == ["A", "B", "bicubic"]
    assert [t.get_text() for t in axes.texts] == ["k = 1", "k = 0"]
    assert plot.recursions({"A": [1.0]}, ax=axes) is axes
    figures.plt.close("all")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: attribution(CRNetA(2, 2, 1), torch.rand(1, 3, 8, 8), 2), r"\(B, 1, H, W\)"),
        (lambda: attribution(CRNetB(3, 2, 1), torch.rand(1, 3, 8, 8), 5), "not by 5"),
        (lambda: attribution(CRNetA(2, 2, 1), torch.rand(1, 1, 8, 8), 2, atoms=[2]), "from 0 to 1"),
        (lambda: recursions(CRNetA(2, 2, 1), torch.rand(1, 1, 48, 48), 2), "must be uint8"),
        (lambda: recursions(CRNetB(3, 2, 1), original(1), 2), r"\(1, 3, H, W\)"),
        (lambda: fewest_recursions([], 0.1), "no PSNR"),
        (lambda: fewest_recursions([1.0], -0.1), "loss must be ≥ 0 dB"),
        (lambda: plot.recursions({}), "no PSNR to draw"),
        (lambda: plot.recursions({"a": []}), "no PSNR to draw"),
    ],
)
def test_bad_input_is_named(call, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        call()
