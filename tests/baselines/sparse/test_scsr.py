"""ScSR: patches out and back, the fit to LR, what a dictionary can and cannot change, its file."""

from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from baselines import bicubic, imresize
from baselines.sparse.coupled import Coupled, features
from baselines.sparse.lasso import lasso
from baselines.sparse.scsr import ScSR, back_project, load, map_patches
from baselines.weights import WeightsError, bundled, read, write
from crnet.data import find_images, read_y
from crnet.measuring.evaluate import score
from crnet.measuring.protocol import TABLE_2
from tests.laws import close


def image(h: int = 9, w: int = 7, seed: int = 0) -> Tensor:
    g = torch.Generator().manual_seed(seed)
    return torch.rand(1, 1, h, w, generator=g, dtype=torch.float64)


def pair(M: int = 12, p: int = 3, seed: int = 0) -> Coupled:
    g = torch.Generator().manual_seed(seed)
    lr, hr = (torch.randn(M, C, p, p, generator=g, dtype=torch.float64) for C in (4, 1))
    return Coupled(lr / lr.flatten(1).norm(dim=1).view(-1, 1, 1, 1), hr)


@settings(max_examples=10)
@given(
    st.integers(1, 3), st.integers(2, 40), st.integers(2, 80), st.integers(1, 4), st.integers(1, 4)
)
def test_patches_that_stay_give_the_image_back(B: int, H: int, W: int, p: int, stride: int) -> None:
    """Overlap averaging is exact, in whatever bands of rows, at whatever stride."""
    x = torch.cat([image(H, W, seed) for seed in range(B)])
    x = torch.cat([x, x.flip(2)], 1)
    close(map_patches(lambda patches: patches[:, : p * p], x, p, min(stride, p)), x[:, :1], 1e-13)


def test_patches_are_averaged_where_they_overlap() -> None:
    """By hand: each of the two 2×2 patches of a 2×3 image filled with its own number."""
    numbers = torch.tensor([[2.0], [5.0]], dtype=torch.float64)
    out = map_patches(lambda patches: numbers.expand(2, 4), image(2, 3), 2)
    close(out[0, 0], torch.tensor([[2.0, 3.5, 5.0]], dtype=torch.float64).expand(2, 3))
    out = map_patches(lambda patches: numbers.expand(2, 4), image(2, 3), 2, 2)
    close(out[0, 0], torch.tensor([[2.0, 2.0, 5.0]], dtype=torch.float64).expand(2, 3))


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_back_projection_makes_the_image_fit(scale: int) -> None:
    """‖lr − down(x)‖ falls with every step, and an image that fits does not move."""
    lr = image(12, 15)
    start = bicubic(lr, scale) + 0.1 * image(12 * scale, 15 * scale, 1)
    missing = [
        float((lr - imresize(back_project(start, lr, n), size=(12, 15))).norm())
        for n in (0, 1, 2, 4, 8, 20)
    ]
    assert all(b < a for a, b in zip(missing, missing[1:], strict=False))
    assert missing[-1] < missing[0] / 5
    close(back_project(start, imresize(start, size=(12, 15)), 5), start, 1e-12)


def test_a_perfect_dictionary_gives_the_detail_and_bicubic_the_mean() -> None:
    """One patch, one atom that is its own derivatives: h = m + g ‖e‖ d / ‖d‖, by hand."""
    lr, p = image(2, 2), 4
    u = bicubic(lr, 2)  # 4×4, a single patch
    y = features(u)
    d = image(4, 4, 5)
    system = ScSR({2: Coupled(y / y.norm(), d)}, lam=0.1, gain=1.3, steps=0)
    e = u - u.mean()
    close(system(lr, 2), u.mean() + 1.3 * e.norm() * d / d.norm(), 1e-12)
    flipped = ScSR({2: Coupled(-y / y.norm(), d)}, lam=0.1, gain=1.3, steps=0)
    close(flipped(lr, 2), u.mean() - 1.3 * e.norm() * d / d.norm(), 1e-12)
    assert system.dictionaries[2].hr.shape[-1] == p


def test_without_codes_it_is_bicubic() -> None:
    """λ above every correlation: all patches stay, and bicubic is what is left."""
    lr = image()
    close(ScSR({3: pair()}, lam=1.01, steps=0)(lr, 3), bicubic(lr, 3), 1e-12)
    flat = torch.full((1, 1, 5, 6), 0.4, dtype=torch.float64)
    close(ScSR({3: pair()})(flat, 3), torch.full((1, 1, 15, 18), 0.4, dtype=torch.float64), 1e-12)


def test_shapes_batches_and_types() -> None:
    system = ScSR({2: pair(), 3: pair(p=5)})
    assert system.scales == (2, 3)
    assert system.parameters == 12 * 5 * (9 + 25)
    x = torch.cat([image(seed=s) for s in range(3)])
    out = system(x, 3)
    assert out.shape == (3, 1, 27, 21)
    close(out[1:2], system(x[1:2], 3), 1e-12)
    assert torch.equal(out, system(x, 3))  # deterministic
    assert system(x.float(), 2).dtype == torch.float32
    assert system(image(1, 1), 3).shape == (1, 1, 3, 3)  # smaller than a patch
    kept = x.clone()
    system(x, 2)
    assert torch.equal(x, kept)


@pytest.mark.parametrize(
    ("x", "scale", "error", "message"),
    [
        (image(), 5, ValueError, "upscales by 2 or 3, not by 5"),
        (image().expand(1, 3, 9, 7), 2, ValueError, r"x must be Y, \(B, 1, h, w\)"),
        (image()[0], 2, ValueError, r"must have shape \(B, C, H, W\)"),
        (image().to(torch.uint8), 2, TypeError, "must be floating point"),
        (image() / 0, 2, ValueError, "NaN or infinite"),
        ([0.0], 2, TypeError, "must be a torch.Tensor, got list"),
    ],
)
def test_bad_input_is_refused(x, scale: int, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        ScSR({2: pair(), 3: pair(p=5)})(x, scale)


def test_the_bundled_file() -> None:
    system = load()
    assert system.scales == (2, 3, 4)
    tensors, card = read(bundled("scsr"))
    assert system.parameters == sum(t.numel() for t in tensors.values())
    assert bundled("scsr").stat().st_size <= 1.5e6
    for name in ("lam", "gain", "steps", "stride"):
        assert getattr(system, name) == card[name]
    for lr, hr in system.dictionaries.values():
        assert lr.dtype == hr.dtype == torch.float32
        close(lr.flatten(1).norm(dim=1), torch.ones(len(lr)), 1e-6)


def test_it_is_sharper_than_bicubic() -> None:
    """A slanted edge, reduced ×3 and enlarged again; no image set is needed."""
    at = torch.arange(72.0)
    edge = torch.sigmoid(2 * (at[:, None] - 0.6 * at - 12))[None, None]
    lr = imresize(edge, 1 / 3)
    ours, theirs = (float((f(lr, 3) - edge).norm()) for f in (load(), bicubic))
    assert ours < 0.75 * theirs


def test_every_band_is_told_and_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("baselines.sparse.scsr.PATCHES", 10)
    system, x, told = load(), torch.rand(1, 1, 12, 12), []
    followed = system.following(lambda done, total: told.append((done, total)))
    assert torch.equal(followed(x, 2), system(x, 2))
    assert len(told) > 4
    assert told == [(done, told[-1][1]) for done in range(len(told))]


def test_kernels_are_compiled_before_the_first_band(monkeypatch: pytest.MonkeyPatch) -> None:
    """Otherwise the estimate after the first band counts their seconds for each band."""
    events: list[str] = []

    def coded(b: Tensor, *args, **options) -> Tensor:
        events.append(f"{len(b) > 0}")
        return lasso(b, *args, **options)

    monkeypatch.setattr("baselines.sparse.scsr.lasso", coded)
    ScSR({2: pair()}).following(lambda done, _: events.append(f"band {done}"))(image(), 2)
    assert events[:3] == ["False", "band 0", "True"]


def test_files_that_are_no_dictionaries(tmp_path: Path) -> None:
    path = tmp_path / "scsr.safetensors"
    tensors, card = read(bundled("scsr"))
    with pytest.raises(WeightsError, match="no weights file"):
        load(path)
    write(path, tensors, {**card, "name": "csc-sr"})
    with pytest.raises(WeightsError, match="no dictionaries of ScSR: it is of 'csc-sr'"):
        load(path)
    write(path, tensors, {k: v for k, v in card.items() if k != "lam"})
    with pytest.raises(WeightsError, match="no dictionaries of ScSR: 'lam'"):
        load(path)
    write(path, {k: v for k, v in tensors.items() if k != "hr.3"}, card)
    with pytest.raises(WeightsError, match=r"no dictionaries of ScSR: 'hr.3'"):
        load(path)
    write(path, {**tensors, "hr.3": tensors["hr.3"][1:]}, card)
    with pytest.raises(WeightsError, match=r"have shapes \(M, 4, p, p\) and \(M, 1, p, p\)"):
        load(path)
    write(path, {**tensors, "hr.3": tensors["hr.3"] * torch.nan}, card)
    with pytest.raises(WeightsError, match="hr.3 holds values that are not finite"):
        load(path)


@pytest.mark.data
def test_psnr_on_set5(root: Path) -> None:
    """Above the published 31.42 dB, and what the card says."""
    found = [score(read_y(p), 3, load(), TABLE_2)[0] for p in find_images(root / "Set5")]
    mean = sum(found) / len(found)
    assert mean > 31.42
    assert abs(mean - read(bundled("scsr"))[1]["psnr"]["Set5"]["3"]) < 0.02
