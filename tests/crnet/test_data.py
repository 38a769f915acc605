import hashlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnet.data import check, data_root, find_images, luma, read_rgb, read_y, sha256
from crnet.errors import DataError
from tests.crnet.pictures import opened, photo, png16, save


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


def test_hidden_files_are_no_images(folder: Path) -> None:
    for name in ("._a.png", ".hidden.jpg"):
        (folder / name).write_bytes(b"not an image")
    assert [p.name for p in find_images(folder)] == ["a.png", "b.png", "c.bmp"]
    assert not check(folder.parent, []).damaged


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
        read_rgb(bad)


def test_hash(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    assert sha256(tmp_path / "a") == hashlib.sha256(b"abc").hexdigest()


def test_rgb_is_what_the_file_holds_and_grey_is_three_times_itself(tmp_path: Path) -> None:
    rgb = read_rgb(save(tmp_path / "c.png", photo()))
    assert np.array_equal(rgb[0].permute(1, 2, 0).numpy(), photo())
    grey = read_rgb(save(tmp_path / "g.png", photo(channels=1)))
    assert all(np.array_equal(grey[0, c].numpy(), photo(channels=1)) for c in range(3))
    assert np.array_equal(luma(rgb).numpy(), read_y(tmp_path / "c.png").numpy())


def natural(H: int, W: int, seed: int) -> np.ndarray:
    """A picture that resembles no other: coarse noise, enlarged."""
    coarse = np.random.default_rng(seed).integers(0, 255, (9, 9), dtype=np.uint8)
    return np.asarray(Image.fromarray(coarse).resize((W, H), Image.Resampling.BICUBIC))


def test_check_finds_damage_copies_and_overlap(tmp_path: Path) -> None:
    for name, count in (("train", 3), ("Set5", 2)):
        (tmp_path / name).mkdir()
        for i in range(count):
            save(tmp_path / name / f"{i}.png", natural(40, 50, 10 * len(name) + i))
    save(tmp_path / "train" / "copy.bmp", natural(40, 50, 10 * len("train")))
    shown = opened(tmp_path / "Set5" / "1.png").resize((93, 74), Image.Resampling.LANCZOS)
    shown.save(tmp_path / "train" / "large.jpg", quality=80)
    (tmp_path / "train" / "bad.png").write_bytes(b"no")
    heard: list[tuple[int, int]] = []
    found = check(tmp_path, ["Set5"], lambda done, total: heard.append((done, total)))
    assert found.images == {"Set5": 2, "train": 5}
    assert [m.split(":")[0] for m in found.damaged] == [str(tmp_path / "train" / "bad.png")]
    assert found.copies == [("train/0.png", "train/copy.bmp")]
    assert found.alike == [("Set5/1.png", "train/large.jpg")]
    assert heard[-1] == (8, 8)
    assert check(tmp_path, ["train"]).alike == [("train/large.jpg", "Set5/1.png")]
    with pytest.raises(DataError, match="holds no folder of images"):
        check(tmp_path / "train", [])


@pytest.mark.data
def test_the_overlap_of_the_classic_291_is_found(root: Path, tmp_path: Path) -> None:
    """Set5's woman is BSDS200's 302003.jpg made smaller; T91 has one image twice."""
    for name in ("Set5", "BSDS200-train", "T91"):
        (tmp_path / name).symlink_to(root / name)
    found = check(tmp_path, ["Set5"])
    assert found.alike == [("Set5/woman.png", "BSDS200-train/302003.jpg")]
    assert ("T91/t36.png", "T91/t65.png") in found.copies
    assert not found.damaged
