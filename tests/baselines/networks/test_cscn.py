"""CSCN: stages and scales, gradients through both stages, and cascades of trained networks."""

import pytest
import torch

from baselines import bicubic, imresize
from baselines.networks.cscn import CSCN
from tests.baselines.networks.test_scn import image, net
from tests.laws import close


def cascade(stages: int = 2) -> CSCN:
    return CSCN.of(*(net(seed=i, trained=True) for i in range(stages)))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_cascade(scale: int) -> None:
    """×2 is one stage, ×4 two with weights of their own, ×3 those reduced by bicubic."""
    one, two, x = net(seed=1), net(seed=2), image()
    once = one(bicubic(x, 2))
    twice = two(bicubic(once, 2))
    expected = {2: once, 3: imresize(twice, size=(33, 27)), 4: twice}[scale]
    assert torch.equal(CSCN.of(one, two)(x, scale), expected)


@pytest.mark.parametrize("stages", [1, 2, 3])
def test_sizes_of_a_cascade_are_exact(stages: int) -> None:
    made = cascade(stages)
    assert made.scales == tuple(range(2, 2**stages + 1))
    for scale in made.scales:
        for h, w in ((1, 1), (3, 2), (5, 7)):
            assert made(image(h, w), scale).shape == (2, 1, scale * h, scale * w)


def test_a_cascade_of_one_stage_is_scn() -> None:
    one, x = net(trained=True), image()
    assert torch.equal(CSCN.of(one)(x, 2), one(bicubic(x, 2)))
    assert torch.equal(cascade()(x, 2), net(seed=0, trained=True)(bicubic(x, 2)))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_gradients_of_a_cascade_are_its_slopes(scale: int) -> None:
    """To the image and to the first stage, through the second and the reduction."""
    made, x = cascade(), image(5, 4)[:1]
    weight = made.stages[0].g.weight
    x.requires_grad_()
    g = torch.Generator().manual_seed(1)
    along = torch.randn(1, 1, 5 * scale, 4 * scale, generator=g, dtype=x.dtype)
    for p in (x, weight):
        (slope,) = torch.autograd.grad((made(x, scale) * along).sum(), p)
        step = 1e-6 * torch.randn(p.shape, generator=g, dtype=x.dtype)
        with torch.no_grad():
            p += step
            up = (made(x, scale) * along).sum()
            p -= 2 * step
            down = (made(x, scale) * along).sum()
            p += step
        close((up - down) / 2, (slope * step).sum(), 1e-10)


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_step_moves_every_stage_that_runs(scale: int) -> None:
    made = CSCN(M=8, generator=torch.Generator().manual_seed(0))
    before = [[p.clone() for p in stage.parameters()] for stage in made.stages]
    x = image(8, 8).float()
    optimizer = torch.optim.SGD(made.parameters(), 0.01, 0.9)
    (made(x, scale) - bicubic(x, scale)).square().mean().backward()
    optimizer.step()
    for stage, old, runs in zip(made.stages, before, (True, scale > 2), strict=True):
        moved = [not torch.equal(p, q) for p, q in zip(stage.parameters(), old, strict=True)]
        assert moved == [runs] * 5


def test_weights_of_two_networks_make_a_cascade() -> None:
    """By the names of their own state_dicts, or by `of`, which keeps them and their mode."""
    one, two, x = net(seed=1).eval(), net(seed=2).eval(), image()
    made = CSCN.of(one, two)
    assert (made.stages[0], made.stages[1], made.training) == (one, two, False)
    assert set(made.state_dict()) == {f"stages.{i}.{k}" for i in (0, 1) for k in one.state_dict()}
    other = CSCN(M=20).double()
    other.stages[0].load_state_dict(one.state_dict())
    other.stages[1].load_state_dict(two.state_dict())
    assert torch.equal(other(x, 3), made(x, 3))
    a, b = CSCN(M=8, generator=torch.Generator().manual_seed(0)).stages
    assert not torch.equal(a.W.weight, b.W.weight)


def test_nan_spreads_in_a_cascade() -> None:
    """As in any network: it is the training's to find."""
    made, x = cascade(), image()
    x[0, 0, 0, 0] = torch.nan
    out = made(x, 3)
    assert out[0].isnan().any()
    assert not out[1].isnan().any()


def test_bad_input_of_a_cascade() -> None:
    for scale in (1, 5):
        with pytest.raises(ValueError, match=f"CSCN upscales by 2, 3 or 4, not by {scale}"):
            CSCN()(image().float(), scale)
    with pytest.raises(ValueError, match="stages must be a whole number ≥ 1, got 0"):
        CSCN.of()
    with pytest.raises(ValueError, match=r"equally many atoms, got 8 and 20"):
        CSCN.of(net(), net(8))
    for x in (image().expand(2, 3, 11, 9), image().byte(), image()[0]):
        with pytest.raises(ValueError, match=r"takes floating-point Y \(B, 1, h, w\) in"):
            CSCN()(x, 2)
