"""Image files become tensors exactly and upright, or are refused; see also crnet's test_files."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import csc
from tests.crnet.pictures import photo, png16, save


@pytest.mark.parametrize(("channels", "kept"), [(1, 1), (3, 3), (4, 3)])
def test_pixels_are_exact_and_alpha_is_left_out(tmp_path: Path, channels: int, kept: int) -> None:
    array = photo(channels=channels)
    x = csc.read_images(save(tmp_path / "a.png", array))
    assert (x.shape, x.dtype) == ((1, kept, *array.shape[:2]), torch.float32)
    levels = (255 * x[0]).round().permute(1, 2, 0).numpy().astype(np.uint8)
    assert np.array_equal(levels, array.reshape(*array.shape[:2], channels)[..., :kept])


def test_sixteen_bits_count(tmp_path: Path) -> None:
    array = np.array([[0, 1, 40_000, 65_535]], np.uint16)
    x = csc.read_images(str(save(tmp_path / "a.png", array)))
    torch.testing.assert_close(x.flatten(), torch.tensor([0, 1, 40_000, 65_535]) / 65_535)


def test_pixels_are_upright(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # turn by 90 degrees
    path = save(tmp_path / "a.png", photo(13, 11), exif=exif)
    upright = np.rot90(photo(13, 11), -1).copy()
    assert torch.equal(csc.read_images(path), csc.read_images(save(tmp_path / "b.png", upright)))
    assert csc.read_images(path).shape == (1, 3, 11, 13)


def test_several_files_give_a_list(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{i}.png", photo(8 + i, 9, seed=i)) for i in range(3)]
    images = csc.read_images(paths)
    assert [x.shape[2] for x in images] == [8, 9, 10]
    assert all(torch.equal(x, csc.read_images(p)) for x, p in zip(images, paths, strict=True))
    assert csc.read_images([]) == []


def test_what_cannot_be_read_exactly_is_refused(tmp_path: Path) -> None:
    (tmp_path / "no.png").write_text("no")
    png16(tmp_path / "deep.png", 2, 3)
    refused = {
        "none.png": "no such file",
        ".": "is a folder",
        "no.png": "cannot be read as an image",
        "deep.png": "16-bit colour",
    }
    for name, says in refused.items():
        with pytest.raises(ValueError, match=says):
            csc.read_images(tmp_path / name)


def test_reading_images_needs_no_crnet(tmp_path: Path) -> None:
    save(tmp_path / "a.png", photo())
    code = f"import sys, csc; csc.read_images({str(tmp_path / 'a.png')!r}); print(*sys.modules)"
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert not {"crnet", "baselines"} & set(told.stdout.split())
