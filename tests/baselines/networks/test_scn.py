"""SCN: LISTA is ISTA before training, patches overlap, and it is what the paper says."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor, nn
from torch.nn import functional as F

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
