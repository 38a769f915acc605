import hashlib
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from baselines import bicubic, imresize
from crnet.data import (
    DataError,
    Pair,
    data_root,
    draw_batch,
    find_images,
    make_pairs,
    read_y,
    sha256,
)
from tests.crnet.pictures import photo, png16, save


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "set").mkdir()
    for i, name in enumerate(("b.png", "a.png", "c.bmp")):
        save(tmp_path / "set" / name, photo(40 + i, 30 + i, seed=i))
    (tmp_path / "set" / "notes.txt").write_text("not an image")
    return tmp_path / "set"


def test_images_are_found_by_suffix_sorted_and_excluded(folder: Path) -> None:
    assert [p.name for p in find_images(folder)] == ["a.png", "b.png", "c.bmp"]
    assert [p.name for p in find_images(folder, exclude=["b.png"])] == ["a.png", "c.bmp"]
    with pytest.raises(DataError, match="holds no image"):
        find_images(folder, exclude=["a.png", "b.png", "c.bmp"])
    with pytest.raises(DataError, match="none is not a folder"):
        find_images(folder / "none")


def test_the_root_is_named_or_missing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CRNET_DATA", raising=False)
    with pytest.raises(DataError, match="give --data ROOT or set CRNET_DATA"):
        data_root()
    assert data_root(folder) == folder
    monkeypatch.setenv("CRNET_DATA", str(folder))
    assert data_root() == folder
    with pytest.raises(DataError, match="is not a folder"):
        data_root(folder / "a.png")


def test_y_is_rounded_bt601_and_grey_is_as_it_is(tmp_path: Path) -> None:
    rgb = photo()
    y = read_y(save(tmp_path / "c.png", rgb))
    r, g, b = (rgb[..., i].astype(np.float64) for i in range(3))
    expected = np.floor(16 + (65.481 * r + 128.553 * g + 24.966 * b) / 255 + 0.5)
    assert np.array_equal(y[0, 0].numpy(), expected.astype(np.uint8))
    grey = photo(channels=1)
    assert np.array_equal(read_y(save(tmp_path / "g.png", grey))[0, 0].numpy(), grey)


def test_unreadable_images_are_named(tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_text("no")
    with pytest.raises(DataError, match=r"bad\.png: cannot be read as an image"):
        read_y(bad)
    with pytest.raises(DataError, match="16 bits or transparency"):
        read_y(png16(tmp_path / "deep.png", 0, 1))
    with pytest.raises(DataError, match=r"bad\.png"):
        make_pairs([bad], (2,), 8)


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_pairs_are_the_degradation_of_the_evaluation(folder: Path) -> None:
    heard = []
    paths = find_images(folder)
    pairs = make_pairs(paths, (2, 3), 16, lambda done, total: heard.append((done, total)))
    assert heard == [(1, 3), (2, 3), (3, 3)]
    assert len(pairs) == 6
    y = read_y(paths[0])[..., :39, :30]
    assert torch.equal(pairs[1].target, y[0, 0])
    expected = bicubic(imresize(y.float() / 255, 1 / 3), 3)[0, 0]
    assert torch.equal(pairs[1].x, expected)


def test_images_below_a_patch_are_skipped(folder: Path) -> None:
    assert len(make_pairs(find_images(folder), (2,), 29)) == 2  # the smallest is 30 wide
    with pytest.raises(DataError, match="none of 3 images is as large as a patch of 64x64"):
        make_pairs(find_images(folder), (2,), 64)


def indexed() -> list[Pair]:
    """Pairs whose input says where a pixel came from and whose target agrees."""
    grid = torch.arange(20 * 25, dtype=torch.float32).view(20, 25)
    return [Pair(grid / 255, (grid % 256).to(torch.uint8)), Pair(grid / 255, grid.to(torch.uint8))]


@given(st.integers(0, 2**16), st.integers(0, 2**16))
def test_batches_depend_on_seed_and_step_alone(seed: int, step: int) -> None:
    a, b = (draw_batch(indexed(), 3, 8, seed, step) for _ in range(2))
    assert torch.equal(a[0], b[0])
    assert torch.equal(a[1], b[1])
    other = draw_batch(indexed(), 3, 8, seed, step + 1)
    assert not torch.equal(a[0], other[0])


@given(st.integers(0, 2**16))
def test_input_and_target_are_the_same_patch_turned_alike(seed: int) -> None:
    x, target = draw_batch(indexed(), 4, 8, seed, 0)
    assert x.shape == target.shape == (4, 1, 8, 8)
    assert torch.equal((255 * x).round() % 256, (255 * target).round())


def test_all_eight_turns_occur() -> None:
    pair = [Pair(torch.arange(64.0).view(8, 8), torch.zeros(8, 8, dtype=torch.uint8))]
    seen = {tuple(draw_batch(pair, 1, 8, 0, s)[0].flatten().tolist()) for s in range(100)}
    assert len(seen) == 8


def test_images_are_drawn_by_area() -> None:
    small, large = (
        Pair(torch.full((n, n), float(n)), torch.zeros(n, n, dtype=torch.uint8)) for n in (8, 24)
    )
    x, _ = draw_batch([small, large], 2000, 8, 0, 0)
    assert (x[:, 0, 0, 0] == 24).float().mean().item() == pytest.approx(0.9, abs=0.03)
