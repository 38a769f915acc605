"""Laws of the comparison: every system on the same photo and region, with its own numbers."""

from pathlib import Path

import pytest
import torch

from baselines.resample import bicubic, imresize, modcrop
from crnet import plot
from crnet.cli.parser import main
from crnet.contracts import parameters
from crnet.data import read_rgb, read_y
from crnet.files import Picture
from crnet.measuring.compare import busiest, compare_on
from crnet.measuring.evaluate import score
from crnet.systems import BASELINES, find
from crnet.upscale import upscale_picture
from tests.crnet.pictures import opened, photo, save


def brighter(x: torch.Tensor, scale: int) -> torch.Tensor:
    return bicubic(x, scale) + 0.1


MODELS = {"bicubic": bicubic, "brighter": brighter}


def test_images_are_what_the_systems_make_of_the_reduced_photo(tmp_path: Path) -> None:
    path = save(tmp_path / "a.png", photo(41, 38))
    look = compare_on(path, 3, MODELS)
    assert look.title == "a.png, ×3"
    original = modcrop(read_rgb(path), 3)
    labels = iter(look.images)
    assert torch.equal(look.images[next(labels)], original[0].float() / 255)
    lr = Picture(imresize(original, 1 / 3).float() / 255)
    for (name, model), label in zip(MODELS.items(), labels, strict=True):
        decibels, similarity, _ = score(read_y(path), 3, model)
        assert label == f"{name}\n{decibels:.2f} / {similarity:.4f}"
        assert torch.equal(look.images[label], upscale_picture(lr, 3, model).color[0])


def test_the_region_is_where_bicubic_misses_most(tmp_path: Path) -> None:
    flat = photo(150, 170) // 255 * 255
    flat[:] = 100
    rng = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (20, 20, 3), generator=rng, dtype=torch.uint8).numpy()
    flat[100:120, 90:110] = noise
    path = save(tmp_path / "a.png", flat)
    top, left, side = compare_on(path, 2, MODELS).crop
    assert side == 64
    assert top <= 100 < 120 <= top + side
    assert left <= 90 < 110 <= left + side
    assert compare_on(path, 2, MODELS, (1, 2, 30)).crop == (1, 2, 30)
    for crop in ((-1, 0, 9), (0, 0, 0), (140, 0, 20)):
        with pytest.raises(ValueError, match=r"leaves a\.png of 150x170"):
            compare_on(path, 2, MODELS, crop)


def test_the_busiest_square_by_brute_force() -> None:
    weight = torch.rand(11, 13, generator=torch.Generator().manual_seed(2))
    sums = {(i, j): float(weight[i : i + 4, j : j + 4].sum()) for i in range(8) for j in range(10)}
    assert busiest(weight, 4)[:2] == max(sums, key=sums.__getitem__)
    with pytest.raises(ValueError, match="does not fit"):
        busiest(weight, 12)


def test_the_sheet_shows_every_region_with_its_label(tmp_path: Path) -> None:
    paths = [save(tmp_path / f"{n}.png", photo(80, 70, seed=n)) for n in range(2)]
    looks = [compare_on(path, 2, MODELS, (3, 4, 20)) for path in paths]
    figure = plot.sheet(looks)
    axes = [a for a in figure.axes if a.images]
    assert len(axes) == 2 * (1 + 3)
    titles = [a.get_title() for a in axes]
    assert titles[:4] == ["0.png, ×2", *looks[0].images]
    whole, original = axes[0].images[0].get_array(), axes[1].images[0].get_array()
    assert (whole[3:23, 4:24] == original).all()
    frame = axes[0].patches[0]
    assert (frame.get_x(), frame.get_y(), frame.get_width()) == (4, 3, 20)
    with pytest.raises(ValueError, match="no comparison"):
        plot.sheet([])


def test_the_command_prints_the_table_and_writes_the_sheet(tmp_path: Path, capsys) -> None:
    (tmp_path / "mine").mkdir()
    for n in range(2):
        save(tmp_path / "mine" / f"{n}.png", photo(60, 64, seed=n))
    call = ["compare", "--data", str(tmp_path), "--sets", "mine", "--scales", "2", "--model",
            "bicubic", "crnet-a", "--image", "1", "--crop", "0", "0", "30", "--out",
            str(tmp_path / "sheet.png")]  # fmt: skip
    assert main(call) == 0
    told = capsys.readouterr().out
    assert "parameters" in told
    assert f"{parameters(find('crnet-a').open(), 2):,}" in told
    assert opened(tmp_path / "sheet.png").size[0] > 400
    assert main(call) == 1  # it is there
    assert "exists" in capsys.readouterr().err
    (tmp_path / "tiny").mkdir()
    save(tmp_path / "tiny" / "1.png", photo(10, 9))
    save(tmp_path / "tiny" / "one.png", photo(1, 1))
    tiny = ["--sets", "tiny", "--overwrite", "--crop", "0", "0", "1"]
    for change, says in (
        (["--image", "7"], "no image 7 in mine"), (["--out", "a.jpg"], "must end in .png"),
        (["--scales", "5"], "upscales by"), (["--model", "nobody"], "no model and no file nobody"),
        (["--crop", "50", "0", "30", "--overwrite"], "the crop 50 0 30 leaves 1.png"),
        (tiny, "tiny/1.png, x2, bicubic: SSIM needs images of at least 11x11"),
        ([*tiny, "--image", "one"], "tiny/one.png, x2: cannot crop"),
    ):  # fmt: skip
        assert main([*call, *change]) == 2
        assert says in capsys.readouterr().err


def test_baselines_by_name() -> None:
    x = torch.rand(1, 1, 8, 9, generator=torch.Generator().manual_seed(0))
    for name in BASELINES:
        found = find(name)
        assert set(found.scales or (2, 3, 4)) == {2, 3, 4}
        assert found.open()(x, 3).shape == (1, 1, 24, 27)
        assert (parameters(found.open(ensemble=True), 3) > 0) == (name != "bicubic")
