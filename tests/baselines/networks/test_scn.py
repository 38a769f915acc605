"""SCN and its cascade: LISTA is ISTA before training, patches overlap, stages and scales."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor, nn
from torch.nn import functional as F

from baselines import bicubic, imresize
from baselines.networks.cscn import CSCN
from baselines.networks.scn import SCN
from baselines.sparse.coupled import features
from csc import ista
from tests.laws import close


def image(h: int = 11, w: int = 9, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(2, 1, h, w, generator=g, dtype=torch.float64)


def net(M: int = 20, seed: int = 0, *, trained: bool = False) -> SCN:
    g = torch.Generator().manual_seed(seed)
    made = SCN(M, generator=g).double()
    if trained:  # anything but its start
        for p in made.parameters():
            p.data += 0.3 * p.data.std() * torch.randn(p.shape, generator=g, dtype=torch.float64)
    return made


def test_published_count_part_by_part() -> None:
    parts = {name: p.numel() for name, p in SCN().named_parameters()}
    assert parts == {
        "H.weight": 100 * 81,
        "W.weight": 100 * 128,
        "S.weight": 128 * 128,
        "D.weight": 128 * 25,
        "g.weight": 25,
    }
    assert sum(parts.values()) == 40_509
    assert sum(p.numel() for p in CSCN().parameters()) == 2 * 40_509


def test_before_training_the_codes_are_two_steps_of_ista() -> None:
    scn, u, lam = net(), image(11, 12), 0.2
    D = lam * scn.W.weight.detach()[:, :, 0, 0]  # (M, 100), unit atoms
    close(D.norm(dim=1), torch.ones(len(D), dtype=torch.float64), 1e-6)
    y = F.normalize(F.conv2d(u, scn.H.weight), dim=1)
    expected = ista(y, D[..., None, None], lam, max_iter=2, tol=0.0).codes
    theta = lam / torch.linalg.matrix_norm(D @ D.T, 2)
    close(theta * scn.codes(u), expected, 1e-5)  # W is stored in float32
    assert 0 < float((scn.codes(u) != 0).double().mean()) < 0.9


def test_before_training_it_sees_the_features_of_scsr() -> None:
    """100 numbers at a pixel: the four derivatives at the 25 pixels of its patch."""
    x = image(20, 18)
    seen = net().H(x)  # (2, 100, 12, 10), valid
    maps = features(x)[..., 2:-2, 2:-2]  # where no pixel beyond the border counts
    close(seen, F.unfold(maps, 5).view(2, 100, 12, 10), 1e-12)


def by_hand(scn: SCN, x: np.ndarray) -> np.ndarray:
    """Pixel by pixel, in NumPy and SciPy, from the published description."""
    u = np.pad(x, 6, mode="symmetric")
    H, W, S, D, g = (p.detach().numpy().squeeze() for p in scn.parameters())

    def shrink(a: np.ndarray) -> np.ndarray:
        return np.sign(a) * np.maximum(np.abs(a) - 1, 0)

    maps = np.stack([correlate(u, h, mode="constant") for h in H])
    means = correlate(u, np.ones((5, 5)) / 25, mode="constant")
    sums = np.zeros_like(u)
    for i in range(4, len(u) - 4):
        for j in range(4, u.shape[1] - 4):
            y = maps[:, i, j] / np.linalg.norm(maps[:, i, j])
            w = W @ y
            e = D @ shrink(S @ shrink(w) + w)
            patch = u[i - 2 : i + 3, j - 2 : j + 3]
            if e.any():
                e *= 1.1 * np.linalg.norm(patch - patch.mean()) / np.linalg.norm(e)
            sums[i - 2 : i + 3, j - 2 : j + 3] += (g * e).reshape(5, 5)
            sums[i - 2 : i + 3, j - 2 : j + 3] += means[i, j] / 25
    return sums[6:-6, 6:-6]


def test_it_is_what_the_paper_says() -> None:
    scn, x = net(trained=True), image(9, 7)[:1]
    close(scn(x)[0, 0], torch.from_numpy(by_hand(scn, x[0, 0].numpy())), 1e-6)


def test_units_of_y_do_not_matter() -> None:
    scn, x = net(trained=True), image()
    close(scn(255 * x), 255 * scn(x), 1e-11)


def test_flat_images_stay_and_have_gradients() -> None:
    """The authors' code divides by zero there."""
    scn, flat = net(trained=True), torch.full((1, 1, 8, 8), 0.4, dtype=torch.float64)
    out = scn(flat)
    close(out, flat, 1e-6)  # the smoothing is stored in float32
    out.sum().backward()
    assert all(bool(torch.isfinite(p.grad).all()) for p in scn.parameters())


def test_patches_of_zero_leave_the_smoothed_image() -> None:
    scn, x = net(), image()
    nn.init.zeros_(scn.g.weight)
    box = np.ones((5, 5)) / 25
    kernel = correlate(np.pad(box, 4), box, mode="constant")
    expected = np.stack([correlate(one[0], kernel, mode="reflect") for one in x.numpy()])
    close(scn(x)[:, 0], torch.from_numpy(expected), 1e-6)


@pytest.mark.parametrize("size", [(1, 1), (2, 3), (5, 13)])
def test_small_images(size: tuple[int, int]) -> None:
    assert net()(image(*size)).shape == (2, 1, *size)


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
        with pytest.raises(ValueError, match=f"CSCN upscales by 2, 3, 4, not by {scale}"):
            CSCN()(image().float(), scale)
    with pytest.raises(ValueError, match="stages must be a whole number ≥ 1, got 0"):
        CSCN.of()
    with pytest.raises(ValueError, match=r"equally many atoms, got \[8, 20\]"):
        CSCN.of(net(), net(8))
    for x in (image().expand(2, 3, 11, 9), image().byte(), image()[0]):
        with pytest.raises(ValueError, match=r"takes floating-point Y \(B, 1, h, w\) in"):
            CSCN()(x, 2)
