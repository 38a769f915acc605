from dataclasses import replace
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.data import DataLoader

from baselines import bicubic, imresize
from crnet.data import read_rgb, read_y
from crnet.ensemble import turned
from crnet.errors import DataError
from crnet.training.patches import Batches, Cuts, Photo, Sampler, read_photos
from tests.crnet.pictures import photo, save

A = Cuts((2, 3, 4), 12, enlarged=True, rgb=False)
B = Cuts((2, 3, 4), 6, enlarged=False, rgb=True)


def files(folder: Path, *sizes: tuple[int, int]) -> list[Path]:
    return [save(folder / f"{i}.png", photo(*s, seed=i)) for i, s in enumerate(sizes)]


@pytest.fixture(scope="module")
def paths(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return files(tmp_path_factory.mktemp("photos"), (61, 50), (40, 43), (30, 90))


def numbered(scale: int, side: int, enlarged: bool) -> Photo:
    """A photo whose pixels tell where they are: HR from 0 to 255, LR exactly its mean."""
    n = side // scale
    lr = torch.arange(n * n, dtype=torch.uint8).view(1, n, n)
    hr = lr.repeat_interleave(scale, 1).repeat_interleave(scale, 2)
    return Photo(Path("n"), hr, {scale: lr.float() / 255 if enlarged else lr})


@given(st.integers(0, 2**16), st.integers(0, 2**16), st.sampled_from([A, B]))
@settings(max_examples=10)
def test_batches_depend_on_seed_and_step_alone(paths, seed: int, step: int, cuts: Cuts) -> None:
    photos, _ = read_photos(paths, cuts)
    sampler = Sampler(photos, cuts, 4, seed)
    first = sampler.draw(step)
    sampler.draw(step + 1)
    again = Sampler(photos, cuts, 4, seed).draw(step)
    assert torch.equal(first[0], again[0])
    assert torch.equal(first[1], again[1])
    assert first[2] == again[2]
    for other in (sampler.draw(step + 1)[1], Sampler(photos, cuts, 4, seed + 1).draw(step)[1]):
        assert other.shape != first[1].shape or not torch.equal(first[1], other)


@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_inputs_of_crnet_a_are_those_of_the_enlarged_photo(paths, step: int) -> None:
    """A patch that is enlarged alone has the values of the whole photo, borders included."""
    photos, _ = read_photos(paths, A)
    x, target, scale = Sampler(photos, A, 2, 0).draw(step)
    assert (x.shape, target.shape, scale) == ((2, 1, 12, 12), (2, 1, 12, 12), 0)
    for patch, hr in zip(x, target, strict=True):
        assert any(_is_part(patch, hr, p) for p in paths)


@cache
def _whole(path: Path, s: int) -> torch.Tensor:
    """The enlarged photo and the photo, (2, H, W)."""
    y = read_y(path)
    H, W = y.shape[2] // s * s, y.shape[3] // s * s
    whole = y[..., :H, :W].float() / 255
    return torch.cat([bicubic(imresize(whole, 1 / s), s), whole])[:, 0]


def _is_part(patch: torch.Tensor, hr: torch.Tensor, path: Path) -> bool:
    wanted = torch.cat([patch, hr])
    for s in (2, 3, 4):
        for turn in range(8):
            windows = turned(_whole(path, s), turn).unfold(1, 12, 1).unfold(2, 12, 1)
            corners = windows[..., 0, 0] - wanted[:, :1, :1]
            for row, column in (corners.abs().amax(0) < 1e-6).nonzero().tolist():
                if (windows[:, row, column] - wanted).abs().max() < 1e-6:
                    return True
    return False


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_inputs_of_crnet_b_are_the_lr_of_their_target(scale: int) -> None:
    one = Cuts((scale,), 4, enlarged=False, rgb=True)
    sampler = Sampler([numbered(scale, 15 * scale, False)], one, 16, 0)
    for step in range(5):
        x, target, s = sampler.draw(step)
        assert s == scale
        assert target.shape == (16, 1, 4 * scale, 4 * scale)
        assert torch.equal(target[..., ::scale, ::scale], x)


def test_lr_is_rounded_for_crnet_b_and_not_for_crnet_a(paths) -> None:
    (a,), _ = read_photos(paths[:1], A)
    (b,), _ = read_photos(paths[:1], B)
    assert a.lr[3].dtype == torch.float32
    assert torch.equal(a.lr[3], imresize(read_y(paths[0])[..., :60, :48].float() / 255, 1 / 3)[0])
    assert b.lr[3].dtype == torch.uint8
    assert torch.equal(b.lr[3], imresize(read_rgb(paths[0])[..., :60, :48], 1 / 3)[0])
    assert (a.hr.shape, b.hr.shape) == ((1, 61, 50), (3, 61, 50))


def test_all_scales_all_turns_all_positions() -> None:
    photo_ = Photo(
        Path("n"),
        torch.arange(144, dtype=torch.uint8).view(1, 12, 12),
        {s: torch.zeros(1, 12 // s, 12 // s) for s in (2, 3, 4)},
    )
    cuts = Cuts((2, 3, 4), 11, enlarged=True, rgb=False)
    _, target, _ = Sampler([photo_], cuts, 600, 0).draw(0)
    corners = {tuple((255 * t[0]).round()[[0, 0, -1], [0, -1, 0]].tolist()) for t in target}
    assert len(corners) == 4 * 8  # positions times turns
    b = Cuts((2, 3, 4), 3, enlarged=False, rgb=True)
    sampler = Sampler([photo_], b, 1, 0)
    assert {sampler.draw(step)[2] for step in range(50)} == {2, 3, 4}


def test_patches_are_drawn_by_area_or_by_detail() -> None:
    flat = Photo(
        Path("f"),
        torch.full((1, 32, 64), 9, dtype=torch.uint8),
        {2: torch.full((1, 16, 32), 9 / 255)},
    )  # noqa: E501
    noise = torch.from_numpy(np.random.default_rng(0).integers(20, 255, (1, 32, 32)))
    rough = Photo(Path("r"), noise.to(torch.uint8), {2: torch.full((1, 16, 16), 0.5)})

    def part_of_rough(detail: float) -> float:
        cuts = Cuts((2,), 8, enlarged=True, rgb=False, detail=detail)
        places = Sampler([flat, rough], cuts, 2000, 0).places(0)
        return sum(place.photo for place in places) / 2000

    assert part_of_rough(0.0) == pytest.approx(7 / (7 + 15), abs=0.03)
    assert part_of_rough(1.0) == 1
    with pytest.raises(DataError, match="no detail at all"):
        Sampler([flat], Cuts((2,), 8, enlarged=True, rgb=False, detail=1.0), 2, 0)


@pytest.mark.parametrize("detail", [0.5, 1.0, 2.0])
def test_the_probability_of_a_patch_is_a_power_of_its_detail(paths, detail: float) -> None:
    """Counted over positions of one photo, against mean |HR − bicubic| of each patch there."""
    (one,), _ = read_photos(paths[:1], Cuts((2,), 12, enlarged=True, rgb=False))
    cuts, n = Cuts((2,), 12, enlarged=True, rgb=False, detail=detail), 4000
    places = Sampler([one], cuts, n, 0).places(0)
    error = (one.hr[..., :60, :50] / 255 - bicubic(one.lr[2][None], 2)[0]).abs()[0]
    tops, lefts = range(0, 60 - 12 + 1, 4), range(0, 50 - 12 + 1, 4)
    weights = {
        (top, left): error[top : top + 12, left : left + 12].mean() ** detail
        for top in tops
        for left in lefts
    }
    total = sum(weights.values())
    half = sorted(weights, key=lambda corner: weights[corner])[: len(weights) // 2]
    drawn = sum((p.top // 4 * 4, p.left // 4 * 4) in half for p in places) / n
    expected = float(sum(weights[corner] for corner in half) / total)
    assert drawn == pytest.approx(expected, abs=4 * (0.25 / n) ** 0.5)


@pytest.mark.filterwarnings("ignore:This DataLoader will create")  # on one core
@pytest.mark.parametrize("workers", [0, 1, 2])
def test_the_number_of_workers_does_not_matter(paths, workers: int) -> None:
    photos, _ = read_photos(paths, B)
    sampler = Sampler(photos, B, 2, 0)
    loader = DataLoader(Batches(sampler, first=5), batch_size=None, num_workers=workers)
    for step, (x, target, scale) in zip(range(5, 12), loader, strict=False):
        wanted = sampler.draw(step)
        assert torch.equal(x, wanted[0])
        assert torch.equal(target, wanted[1])
        assert scale == wanted[2]


@pytest.mark.parametrize("cuts", [A, B])
def test_devices_share_one_batch(paths, cuts: Cuts) -> None:
    sampler = Sampler(read_photos(paths, cuts)[0], cuts, 6, 0)
    x, target, scale = sampler.draw(3)
    for rank in (0, 1, 2):
        part = next(iter(Batches(sampler, 3, slice(rank, None, 3))))
        assert torch.equal(part[0], x[rank::3])
        assert torch.equal(part[1], target[rank::3])
        assert part[2] == scale


@pytest.mark.parametrize("cuts", [A, B])
def test_the_first_patches_are_flat_colours(paths, cuts: Cuts) -> None:
    photos, _ = read_photos(paths, cuts)
    plain, some = Sampler(photos, cuts, 6, 0), Sampler(photos, replace(cuts, flat=2), 6, 0)
    colors = []
    for step in range(40):
        x, target, _ = some.draw(step)
        wanted = plain.draw(step)
        assert torch.equal(x[2:], wanted[0][2:])
        assert torch.equal(target[2:], wanted[1][2:])
        for patches in (x[:2], target[:2]):
            assert torch.equal(patches, some.colors(step)[..., None, None].expand_as(patches))
        assert torch.equal(some.draw(step, slice(1, None, 2))[0], x[1::2])
        colors.append(some.colors(step))
    values = torch.cat(colors)
    assert 0.3 < ((values == 0) | (values == 1)).float().mean() < 0.7
    assert values.unique().numel() > 30


def test_small_images_are_counted_and_damaged_ones_named(tmp_path: Path) -> None:
    paths = files(tmp_path, (40, 40), (15, 40))
    heard: list[tuple[int, int]] = []
    photos, small = read_photos(paths, A, lambda done, total: heard.append((done, total)))
    assert ([p.path for p in photos], small) == (paths[:1], paths[1:])
    assert heard == [(1, 2), (2, 2)]
    with pytest.raises(DataError, match="all 1 images are smaller than a patch"):
        read_photos(paths[1:], A)
    paths[0].write_bytes(paths[0].read_bytes()[:300])
    with pytest.raises(DataError, match=r"0\.png"):
        read_photos(paths[::-1], A)
