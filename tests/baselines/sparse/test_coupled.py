"""Coupled dictionaries: their features, their patches, and that learning finds shared codes."""

import numpy as np
import pytest
import torch
from scipy.ndimage import correlate
from torch import Tensor

from baselines import bicubic, imresize
from baselines.sparse.coupled import Coupled, Pairs, features, learn_coupled, sample_pairs, unit_lr
from tests.laws import close


def image(H: int = 24, W: int = 30, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, H, W, generator=g, dtype=torch.float64)


def test_features_are_the_authors_four_filters() -> None:
    """Correlation with [−1 0 1], [1 0 −2 0 1] and their transposes, by SciPy."""
    x, u = features(image()), image()[0, 0].numpy()
    rows = [np.array([[-1.0, 0, 1]]), np.array([[1.0, 0, -2, 0, 1]])]
    kernels = [rows[0], rows[0].T, rows[1], rows[1].T]
    expected = np.stack([correlate(u, kernel, mode="nearest") for kernel in kernels])
    close(x[0], torch.from_numpy(expected), 1e-13)


def test_pairs_are_of_the_same_place(seeded: torch.Generator) -> None:
    """Every drawn pair is found at one place of the image and of the maps of its own LR."""
    y, p = image(18, 15), 5
    pairs = sample_pairs(y, 3, p, 40, generator=seeded)
    maps = features(bicubic(imresize(y, 1 / 3), 3))[0]
    places = [(i, j) for i in range(18 - p + 1) for j in range(15 - p + 1)]
    lr = torch.stack([maps[:, i : i + p, j : j + p].flatten() for i, j in places])
    hr = torch.stack([y[0, 0, i : i + p, j : j + p].flatten() for i, j in places])
    at = torch.cdist(pairs.lr, lr).argmin(1)
    assert len(at.unique()) == len(pairs.lr) == 40
    close(pairs.lr, lr[at], 1e-12)
    close(pairs.hr, (hr - hr.mean(1, keepdim=True))[at], 1e-12)


def test_flat_patches_are_dropped(seeded: torch.Generator) -> None:
    y = torch.full((1, 1, 24, 24), 0.5)
    assert len(sample_pairs(y, 2, 5, 100, generator=seeded).hr) == 0
    y[..., 12:] = 0.5 + 6 / 255  # a variance of at most 9 grey levels squared
    assert len(sample_pairs(y, 2, 5, 400, generator=seeded).hr) == 0
    y[..., 12:] = 0.9
    pairs = sample_pairs(y, 2, 5, 400, generator=seeded)
    assert len(pairs.lr) == len(pairs.hr) == 20 * 4  # those that the edge crosses
    assert bool((pairs.hr.var(1) > 10 / 255**2).all())


def planted(seed: int, N: int = 3000, M: int = 12, p: int = 3) -> tuple[Coupled, Pairs]:
    """Pairs that share codes with two non-zero values each."""
    g = torch.Generator().manual_seed(seed)
    n = p * p
    lr, hr = (torch.randn(M, k, generator=g, dtype=torch.float64) for k in (4 * n, n))
    lr, hr = (D / D.norm(dim=1, keepdim=True) for D in (lr, hr))
    atoms = torch.stack([torch.randperm(M, generator=g)[:2] for _ in range(N)])
    values = torch.randn(N, 2, generator=g, dtype=torch.float64)
    z = torch.zeros(N, M, dtype=torch.float64).scatter_(1, atoms, values)
    truth = Coupled(lr.view(M, 4, p, p), hr.view(M, 1, p, p))
    return truth, Pairs(z @ lr, z @ hr)


def test_learning_finds_the_atoms_that_made_the_patches() -> None:
    """Of planted pairs, both halves of nearly every atom, and as halves of the same atom."""
    truth, pairs = planted(0)
    found = learn_coupled(pairs, 12, lam=0.1, passes=10, generator=torch.Generator().manual_seed(1))
    close(found.lr.flatten(1).norm(dim=1), torch.ones(12, dtype=torch.float64), 1e-9)
    lr = found.lr.flatten(1) @ truth.lr.flatten(1).T  # (12, 12) cosines
    hr = found.hr.flatten(1) @ truth.hr.flatten(1).T / found.hr.flatten(1).norm(dim=1)[:, None]
    match = lr.abs().argmax(1)
    good = (lr.abs().amax(1) > 0.97) & (hr.gather(1, match[:, None])[:, 0].abs() > 0.97)
    assert int(good.sum()) >= 10
    same = lr.gather(1, match[:, None]).sign() == hr.gather(1, match[:, None]).sign()
    assert bool(same[good].all())


def test_learning_is_seeded() -> None:
    _, pairs = planted(2, N=200)
    one, two, other = (
        learn_coupled(pairs, 8, passes=1, generator=torch.Generator().manual_seed(s))
        for s in (3, 3, 4)
    )
    assert all(torch.equal(a, b) for a, b in zip(one, two, strict=True))
    assert not torch.equal(one.lr, other.lr)


def test_halves_are_divided_together() -> None:
    pair = Coupled(2 * torch.ones(1, 4, 2, 2), 3 * torch.ones(1, 1, 2, 2))
    lr, hr = unit_lr(pair)
    close(lr, torch.full_like(lr, 1 / 4))
    close(hr, torch.full_like(hr, 3 / 8))


def test_bad_input_is_refused() -> None:
    with pytest.raises(TypeError, match="y must be a torch.Tensor"):
        sample_pairs([[0.0]], 2, 5, 10)  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"multiples of 3 .* got \(1, 1, 24, 31\)"):
        sample_pairs(image(24, 31), 3, 5, 10)
    _, pairs = planted(0, N=20)
    with pytest.raises(ValueError, match="learning 21 atoms needs at least 21 pairs"):
        learn_coupled(pairs, 21)
    with pytest.raises(ValueError, match="needs at least 5 pairs"):
        learn_coupled(Pairs(pairs.lr[1:], pairs.hr), 5)
    pairs.hr[3] = 0
    with pytest.raises(ValueError, match="a patch is flat"):
        learn_coupled(pairs, 5)
    with pytest.raises(ValueError, match=r"got \(2, 3, 5, 5\) and \(2, 1, 5, 5\)"):
        unit_lr(Coupled(torch.ones(2, 3, 5, 5), torch.ones(2, 1, 5, 5)))
    with pytest.raises(ValueError, match="LR half of an atom is zero"):
        unit_lr(Coupled(torch.zeros(2, 4, 5, 5), torch.ones(2, 1, 5, 5)))
