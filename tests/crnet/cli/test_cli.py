"""The command line as a stranger would call it: exit codes, one line on stderr, no half files."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from scipy.io import savemat

import crnet
from baselines import load_matlab, weights
from baselines.resample import bicubic
from baselines.sparse import csc_sr, scsr
from crnet.cli import models
from crnet.cli.options import label
from crnet.cli.parser import main
from crnet.cli.progress import progress
from crnet.contracts import following, parameters
from crnet.data import read_y, sha256
from crnet.measuring.evaluate import score
from crnet.systems import find
from crnet.training.recipe import Recipe
from tests.baselines.test_matlab import scn, srcnn, vdsr
from tests.baselines.test_torch_files import EDSR as torch_edsr
from tests.baselines.test_torch_files import VDSR as torch_vdsr
from tests.crnet.pictures import opened, photo, png16, save


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("CRNET_DATA", raising=False)
    return tmp_path


def call(*arguments: object) -> int:
    try:
        return main([str(a) for a in arguments])
    except SystemExit as stop:  # argparse
        return int(stop.code or 0)


def one_line(capsys: pytest.CaptureFixture[str]) -> str:
    err = capsys.readouterr().err
    assert err.count("\n") == 1, err
    assert "Traceback" not in err
    return err


def test_upscale_writes_beside_the_photo(here: Path, capsys) -> None:
    save(here / "cat.png", photo(20, 17))
    assert call("upscale", "cat.png", "--scale", 3) == 0
    assert capsys.readouterr().out == "cat_crnet-b_x3.png\n"
    assert sorted(os.listdir()) == ["cat.png", "cat_crnet-b_x3.png"]
    image = opened("cat_crnet-b_x3.png")
    assert (image.size, image.mode) == ((51, 60), "RGB")
    bicubic = opened("cat.png").resize((51, 60), Image.Resampling.BICUBIC)
    assert np.abs(np.asarray(image, float) - np.asarray(bicubic, float)).mean() < 8


@pytest.mark.parametrize(
    ("mode", "name"), [("L", "a.png"), ("RGB", "a.jpg"), ("RGBA", "a.png"), ("LA", "a.png")]
)
def test_modes_are_kept(here: Path, mode: str, name: str) -> None:
    Image.fromarray(photo(12, 12)).convert(mode).save(name)
    assert call("upscale", name, "-o", "out.png") == 0
    assert opened("out.png").mode == mode
    assert opened("out.png").size == (24, 24)


def test_one_pixel(here: Path) -> None:
    Image.new("RGB", (1, 1), (200, 30, 40)).save("dot.png")
    assert call("upscale", "dot.png", "--scale", 4) == 0
    assert opened("dot_crnet-b_x4.png").size == (4, 4)


def test_memory_budget_changes_no_pixel(here: Path) -> None:
    save(here / "a.png", photo(40, 45))
    assert call("upscale", "a.png", "-o", "whole.png") == 0
    assert call("upscale", "a.png", "-o", "tiles.png", "--memory", 0.1) == 0
    a, b = (np.asarray(opened(n), int) for n in ("whole.png", "tiles.png"))
    assert np.abs(a - b).max() <= 1  # a level may round the other way
    assert (a != b).mean() < 1e-3


def test_folders_and_several_files(here: Path, capsys) -> None:
    (here / "in").mkdir()
    (here / "out").mkdir()
    for i in range(2):
        save(here / "in" / f"{i}.png", photo(8, 8, seed=i))
    (here / "in" / "notes.txt").write_text("")
    assert call("upscale", "in", "-o", "out") == 0
    assert sorted(os.listdir("out")) == ["0_crnet-b_x2.png", "1_crnet-b_x2.png"]
    assert call("upscale", "in/0.png", "in/1.png", "-o", "new") == 2
    assert "need -o to be an existing folder" in capsys.readouterr().err


def test_a_failed_file_does_not_stop_the_others(here: Path, capsys) -> None:
    (here / "bad.png").write_text("no")
    save(here / "good.png", photo(8, 8))
    assert call("upscale", "bad.png", "good.png") == 1
    told = capsys.readouterr()
    assert told.out == "good_crnet-b_x2.png\n"
    assert told.err.startswith("crnet: bad.png: cannot be read as an image")
    assert sorted(os.listdir()) == ["bad.png", "good.png", "good_crnet-b_x2.png"]


def test_existing_output_is_refused_without_overwrite(here: Path, capsys) -> None:
    save(here / "a.png", photo(8, 8))
    (here / "b.png").write_text("precious")
    assert call("upscale", "a.png", "-o", "b.png") == 1
    assert "b.png: exists; pass --overwrite" in one_line(capsys)
    assert (here / "b.png").read_text() == "precious"
    assert call("upscale", "a.png", "-o", "b.png", "--overwrite") == 0
    assert opened("b.png").size == (16, 16)


@pytest.mark.parametrize(
    ("name", "make", "says"),
    [
        ("none.png", lambda p: None, "no such file"),
        ("a.png", lambda p: p.write_bytes(b""), "the file is empty"),
        ("a.png", lambda p: p.write_bytes(b"\x89PNG\r\n\x1a\n"), "cannot be read as an image"),
        ("a.png", lambda p: png16(p, 2, 3), "16-bit colour"),
    ],
)
def test_bad_photos(here: Path, capsys, name: str, make, says: str) -> None:
    make(here / name)
    assert call("upscale", name) == 1
    assert says in one_line(capsys)
    assert not list(here.glob("*crnet*"))


@pytest.mark.parametrize("out", ["none/b.png", "b.xyz", "b.jpg"])
def test_bad_outputs_are_found_before_computing(here: Path, capsys, monkeypatch, out: str) -> None:
    save(here / "a.png", photo(8, 8, 4))  # alpha, which JPEG cannot keep

    def never(*_: object, **__: object) -> None:
        pytest.fail("the network ran")

    monkeypatch.setattr("crnet.cli.enlarge.upscale_picture", never)
    assert call("upscale", "a.png", "-o", out) == 1
    one_line(capsys)
    assert os.listdir() == ["a.png"]


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["upscale"], "required"),
        (["upscale", "a.png", "--scale", "17"], "a number > 1 and at most 16, got '17'"),
        (["upscale", "a.png", "--scale", "two"], "a number > 1 and at most 16, got 'two'"),
        (["upscale", "a.png", "--scale", "2", "--width", "9"], "not allowed with argument"),
        (["upscale", "a.png", "--model", "none"], "no model and no file none"),
        (["upscale", "a.png", "--memory", "-1"], "--memory must be > 0"),
        (["upscale", "a.png", "--device", "abacus"], "device abacus is not available"),
        (["upscale", "."], "holds no image"),
        (["evaluate"], "no data root"),
        (["evaluate", "--data", "none"], "not a folder"),
        (["evaluate", "--data", ".", "--sets", "none"], "not a folder"),
        (["evaluate", "--data", ".", "--scales", "1"], "scales must be ≥ 2"),
        (["evaluate", "--data", ".", "--model", "none"], "no model and no file none"),
        (["export", "a.ckpt", "a.pt"], "must end in .safetensors"),
        (["export", "a.ckpt", "a.safetensors"], "no model and no file a.ckpt"),
        (["export", "a.mat", "a.safetensors", "--scales", "2"], "no file a.mat"),
        (["export", "crnet-a", "a.safetensors", "--scales", "2"], "crnet-a says its own"),
        (["evaluate", "--data", ".", "--model", "vdsr"], "vdsr, but crnet train vdsr makes one;"),
        (["evaluate", "--data", ".", "--model", "none"], "baselines: bicubic, scsr, csc-sr"),
        (["train", "crnet-a-compact", "--data", "."], "not a folder"),
        (["train", "nothing"], "no recipe and no file nothing"),
        (["paint"], "invalid choice"),
        ([], "required"),
    ],
)
def test_calls_that_cannot_be_carried_out(here: Path, capsys, arguments: list, says: str) -> None:
    assert call(*arguments) == 2
    assert says in one_line(capsys)
    assert os.listdir() == []


def test_evaluate_prints_the_table_and_writes_json(here: Path, capsys) -> None:
    (here / "mine").mkdir()
    save(here / "mine" / "a.png", photo(48, 48))
    arguments = ["evaluate", "--data", ".", "--sets", "mine", "--scales", 2]
    assert call(*arguments, "--json", "r.json") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["set", "scale", "model", "PSNR", "dB", "SSIM", "seconds"]
    assert [line.split()[:3] for line in lines[1:3]] == [
        ["mine", "x2", "bicubic"],
        ["mine", "x2", "crnet-b"],
    ]
    told = json.loads((here / "r.json").read_text())
    assert told.keys() == {"protocols", "versions", "data", "results", "precision"}
    assert told["precision"] == "float32"
    assert f"{told['results'][1]['psnr']:.3f}" == lines[2].split()[3]
    assert call(*arguments, "--json", "r.json") == 1
    assert "exists" in one_line(capsys)


def test_models_prints_a_line_a_model_and_the_best_first(capsys) -> None:
    assert call("models") == 0
    lines = [line.split() for line in capsys.readouterr().out.splitlines()]
    table = lines[2 : lines.index([])]
    names = [row[0] for row in table]
    assert set(names) == {"bicubic", "scsr", "csc-sr", *crnet.bundled()}
    assert (names[0], names[-1]) == ("crnet-b", "bicubic")
    psnr = [sum(map(float, row[-3:])) for row in table]
    assert psnr == sorted(psnr, reverse=True)
    by_name = {row[0]: row[1:] for row in table}
    assert " ".join(by_name["crnet-a"]) == (
        "CRNetA 2 3 4 332,928 1.33 1.365 1.365 1.365 37.30 33.42 31.10"
    )
    assert by_name["scsr"][4] == "125,440-207,360"  # 512 (4 + 1) p²
    assert by_name["scsr"][-3:] == ["36.03", "32.20", "29.97"]
    assert by_name["csc-sr"][4].startswith("40,032-")  # 96·25 + 192·96 + 192·100
    assert " ".join(by_name["bicubic"]) == "bicubic any 0 - - - - 33.66 30.39 28.42"


def test_models_are_timed_if_asked(capsys, monkeypatch) -> None:
    assert 0 < models.seconds_per_megapixel("bicubic") < models.seconds_per_megapixel("crnet-a")
    times = {name: 0.5 + i for i, name in enumerate(crnet.bundled())}
    monkeypatch.setattr(models, "seconds_per_megapixel", lambda name, _: times.get(name, 0.25))
    assert call("models", "--time") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1].split()[-1] == "s/MP"
    shown = {line.split()[0]: float(line.split()[-1]) for line in lines[2 : lines.index("")]}
    assert shown == {**times, "bicubic": 0.25, "scsr": 0.25, "csc-sr": 0.25}


def test_a_card_shows_all_that_is_known_and_no_field_of_other_networks(here: Path, capsys) -> None:
    assert call("models", "crnet-a", "srcnn-compact", "scsr", "csc-sr", "bicubic") == 0
    out = capsys.readouterr().out
    cards = dict(zip(re.findall(r"(?m)^\S+$", out), re.split(r"(?m)^\S+$", out)[1:], strict=True))
    assert "parameters: 332,928\n" in cards["crnet-a"]
    assert "x2 1.365, x3 1.365, x4 1.365" in cards["crnet-a"]
    assert "    recursions = 8\n" in cards["crnet-a"]
    assert "PSNR in dB, Set14: x2 32.88, x3 29.67, x4 27.86\n" in cards["crnet-a"]
    assert "    steps = 3000\n" in cards["srcnn-compact"]
    for field in ("n0", "m0", "recursions", "residual"):
        assert field not in cards["srcnn-compact"]
    assert "parameters: x2 125,440, x3 207,360, x4 207,360\n" in cards["scsr"]
    assert "data: T91\n" in cards["scsr"]
    assert "data: T91 without 302003.jpg" in cards["csc-sr"]
    assert "PSNR in dB, Set14: x2 32.19, x3 28.98, x4 27.18" in cards["csc-sr"]
    assert "scales: any" in cards["bicubic"]
    assert call("models", "crnet-c") == 2
    assert "no model and no file crnet-c" in one_line(capsys)


TINY = [
    "--n0", 4, "--m0", 6, "--recursions", 2, "--steps", 20, "--warmup", 5, "--patch", 12,
    "--batch", 2,
    "--sets", "photos", "--validation", "--data", ".", "--device", "cpu", "--teacher", "",
]  # fmt: skip


def photos(here: Path) -> None:
    (here / "photos").mkdir()
    save(here / "photos" / "a.png", photo(60, 60))


def test_a_recipe_becomes_a_model_that_can_be_used(here: Path, capsys, monkeypatch) -> None:
    pytest.importorskip("lightning")
    monkeypatch.setattr("crnet.training.callbacks.LONGEST", 0.0)
    photos(here)
    assert call("train", "crnet-a-compact", *TINY) == 0
    run = here / "runs" / "crnet-a-compact"
    assert {"recipe.toml", "last.ckpt", "logs"} <= {p.name for p in run.iterdir()}
    told = capsys.readouterr().err
    assert "step 7/20" in told  # after ten seconds, which are zero here
    assert "step 20/20" in told
    assert call("train", "crnet-a-compact", *TINY) == 2
    assert "holds a run; pass --resume" in one_line(capsys)
    assert call("train", "crnet-a-compact", *TINY, "--resume") == 0
    assert call("train", run / "recipe.toml", "--data", ".", "--device", "cpu", "--resume") == 0
    capsys.readouterr()
    assert call("train", "crnet-a-compact", *TINY, "--resume", "--lr", 0.5) == 2
    assert "different recipe (field: here, there): lr: 0.5, 0.001" in one_line(capsys)
    last = run / "last.ckpt"
    options = ["--data", ".", "--sets", "photos"]
    assert call("export", last, "my.safetensors", *options) == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()]
    card = crnet.card("my.safetensors")
    assert card.arguments["n0"] == 4
    assert card.psnr["photos"]["3"] == pytest.approx(float(rows[2][3]), abs=1e-3)
    assert '"lr": 0.001' in card.training["recipe"]
    assert card.training["steps"] == 20
    assert call("export", last, "half.safetensors", *options, "--half") == 0
    sizes = [(here / f"{name}.safetensors").stat().st_size for name in ("my", "half")]
    assert sizes[1] < sizes[0]
    capsys.readouterr()
    sets = ["--data", ".", "--sets", "photos", "--scales", 2]
    assert call("evaluate", *sets, "--model", "my.safetensors", last, "bicubic") == 0
    table = [line.split() for line in capsys.readouterr().out.splitlines()]
    assert [row[2] for row in table[1:4]] == ["my", "crnet-a-compact/last", "bicubic"]
    assert table[1][3:5] == table[2][3:5]
    assert call("upscale", "photos/a.png", "--model", "my.safetensors", "-o", "b.png") == 0
    assert call("export", last, "my.safetensors", *options) == 1


def test_crnet_b_from_recipe_to_picture(here: Path, capsys) -> None:
    pytest.importorskip("lightning")
    photos(here)
    arguments = ["crnet-b-compact", *TINY, "--out", "run", "--patch", 8]
    assert call("train", *arguments) == 0
    assert call("export", "run/best.ckpt", "b.safetensors", "--sets") == 2  # nothing validated
    assert call("export", "run/last.ckpt", "b.safetensors", "--sets", "photos", "--data", ".") == 0
    for options in ([], ["--ensemble"], ["--precision", "bfloat16"]):
        command = ["upscale", "photos/a.png", "--model", "b.safetensors", "-o", "c.png"]
        assert call(*command, "--overwrite", "--scale", 3, *options) == 0
        assert opened("c.png").size == (180, 180)


def test_resume_needs_a_run(here: Path, capsys) -> None:
    pytest.importorskip("lightning")
    photos(here)
    assert call("train", "crnet-a-compact", *TINY, "--resume") == 2
    assert "runs/crnet-a-compact holds no run to resume" in one_line(capsys)
    assert os.listdir() == ["photos"]


def test_a_warmup_longer_than_the_steps_is_shortened_or_refused(
    here: Path, capsys, monkeypatch
) -> None:
    train = pytest.importorskip("crnet.training.train")
    trained: list[Recipe] = []
    monkeypatch.setattr(train, "train", lambda recipe, *_, **__: trained.append(recipe))
    assert call("train", "crnet-a-compact", "--steps", 60) == 0
    assert "warm-up of 300 steps is shortened to 6" in one_line(capsys)
    assert (trained[0].steps, trained[0].warmup) == (60, 6)
    assert call("train", "crnet-a-compact", "--steps", 600) == 0
    assert capsys.readouterr().err == ""
    assert trained[1].warmup == 300
    assert call("train", "crnet-a-compact", "--steps", 60, "--warmup", 60) == 2
    assert "--warmup must be less than --steps, got 60 and 60" in one_line(capsys)


def test_a_folder_of_photos_is_trained_on_as_it_is(here: Path, capsys, monkeypatch) -> None:
    train = pytest.importorskip("crnet.training.train")
    trained: list[Recipe] = []
    monkeypatch.setattr(train, "train", lambda recipe, *_, **__: trained.append(recipe))
    (here / "mine").mkdir()
    for i in range(12):
        save(here / "mine" / f"{i:02}.png", photo(200, 200, seed=i))
    assert call("train", "crnet-a-compact", "--data", "mine") == 0
    told = one_line(capsys)
    assert told == "training on the photos in mine; held out for validation: 00.png\n"
    assert (trained[0].sets, trained[0].validation) == ((".",), ("00.png",))
    assert call("train", "crnet-a-compact", "--data", "mine", "--validation") == 0
    assert "held out for validation: none" in one_line(capsys)
    assert call("train", "crnet-a-compact", "--data", "mine", "--sets", "other") == 0
    assert trained[2].sets == ("other",)
    capsys.readouterr()
    for i in range(12):
        save(here / "mine" / f"{i:02}.png", photo(180, 200, seed=i))
    assert call("train", "crnet-a-compact", "--data", "mine") == 0
    assert "validation: none; it takes two photos, one with sides of 192 pixels" in one_line(capsys)


def test_errors_about_sets_name_those_that_are_there(here: Path, capsys) -> None:
    photos(here)
    assert call("evaluate", "--data", ".", "--sets", "Set6") == 2
    told = one_line(capsys)
    assert ". holds photos; --sets (in training also --validation) names them" in told
    assert call("data", "check", "--data", ".", "--sets", "Set6") == 2
    assert ". holds photos" in one_line(capsys)


def test_an_unknown_field_of_a_recipe_names_the_nearest(here: Path, capsys) -> None:
    (here / "my.toml").write_text("stepz = 3")
    assert call("train", "my.toml") == 2
    assert "unknown recipe field 'stepz'; did you mean steps?" in one_line(capsys)
    assert call("train", "crnet-a-compac") == 2
    assert "did you mean crnet-a-compact?" in one_line(capsys)
    assert os.listdir() == ["my.toml"]


def test_a_corrupt_image_in_the_middle_of_a_set_is_named(here: Path, capsys) -> None:
    pytest.importorskip("lightning")
    photos(here)
    save(here / "photos" / "c.png", photo(60, 60))
    whole = (here / "photos" / "a.png").read_bytes()
    (here / "photos" / "b.png").write_bytes(whole[: len(whole) // 2])
    assert call("train", "crnet-a-compact", *TINY) == 2
    assert "b.png" in one_line(capsys)
    assert os.listdir() == ["photos"]


def test_a_data_root_without_images_is_refused(here: Path, capsys) -> None:
    (here / "photos").mkdir()
    assert call("train", "crnet-a-compact", *TINY) == 2
    assert "photos holds no image" in one_line(capsys)
    assert call("data", "check", "--data", ".") == 2
    assert "holds no folder of images" in one_line(capsys)


def test_a_model_needs_a_name_that_can_be_loaded(here: Path, capsys) -> None:
    assert call("export", "a.ckpt", "my model.safetensors") == 2
    assert "a model is named by letters" in one_line(capsys)


def test_data_check_reports(here: Path, capsys) -> None:
    photos(here)
    (here / "Set5").mkdir()
    save(here / "Set5" / "x.png", photo(60, 60))
    save(here / "photos" / "other.png", photo(50, 60, seed=3))
    assert call("data", "check", "--data", ".") == 0
    out = capsys.readouterr().out
    assert "Set5         1 images  (test set)" in out
    assert "photos       2 images" in out
    assert "the same pixels: Set5/x.png and photos/a.png" in out
    (here / "photos" / "bad.png").write_bytes(b"no")
    assert call("data", "check", "--data", ".") == 1
    assert "damaged: photos/bad.png: cannot be read" in capsys.readouterr().out


def test_data_check_reads_the_sets_that_are_named(here: Path, capsys) -> None:
    photos(here)
    (here / "other").mkdir()
    (here / "other" / "bad.png").write_bytes(b"no")
    assert call("data", "check", "--data", ".", "--sets", "photos", "--test", "photos") == 0
    out = capsys.readouterr().out
    assert re.match(r"photos +1 images  \(test set\)\n", out)
    assert "other" not in out


def test_ensemble_and_recursions_are_measured(here: Path, capsys) -> None:
    (here / "mine").mkdir()
    save(here / "mine" / "a.png", photo(48, 48))
    options = ["evaluate", "--data", ".", "--sets", "mine", "--scales", 2, "--model", "crnet-a"]
    assert call(*options, "--ensemble", "--json", "r.json") == 0
    assert json.loads((here / "r.json").read_text())["results"][0]["model"] == "crnet-a+"
    capsys.readouterr()
    assert call(*options, "--recursions") == 0
    names = [line.split()[2:4] for line in capsys.readouterr().out.splitlines()[1:]]
    K = crnet.load("crnet-a").cista.recursions
    assert names[: K + 1] == [["crnet-a", f"k={k}"] for k in range(K + 1)]
    assert call(*options, "--recursions", "--ensemble") == 2


def test_training_without_its_extra_says_what_to_install(here: Path, capsys, monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "lightning", None)
    monkeypatch.delitem(sys.modules, "crnet.training.train", raising=False)
    monkeypatch.delattr(sys.modules["crnet.training"], "train", raising=False)
    assert call("train", "crnet-a-compact", "--data", ".") == 2
    assert "pip install 'csc-crnet[train]'" in one_line(capsys)


def test_version(capsys) -> None:
    assert call("--version") == 0
    assert capsys.readouterr().out == f"crnet {crnet.__version__}\n"


def test_an_interrupt_leaves_one_line_and_no_file(here: Path, capsys, monkeypatch) -> None:
    save(here / "a.png", photo(8, 8))

    def interrupt(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("crnet.cli.enlarge.upscale_picture", interrupt)
    assert call("upscale", "a.png") == 130
    assert one_line(capsys) == "crnet: interrupted\n"
    assert os.listdir() == ["a.png"]


def test_a_second_run_on_a_folder_leaves_its_outputs_alone(here: Path, capsys) -> None:
    save(here / "a.png", photo(8, 8))
    save(here / "trip_photo_x2.png", photo(8, 8))  # a name like ours that is not ours
    made = ["a_crnet-b_x2.png", "trip_photo_x2_crnet-b_x2.png"]
    for options in ([], ["--overwrite"]):
        assert call("upscale", ".", *options) == 0
        assert sorted(os.listdir()) == sorted(["a.png", "trip_photo_x2.png", *made])
    assert call("upscale", "a.png", "-o", "a.png", "--overwrite") == 2
    assert "is the input" in one_line_of(capsys)


def one_line_of(capsys: pytest.CaptureFixture[str]) -> str:
    return capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("option", "value"),
    [("--n0", 0), ("--steps", 0), ("--batch", 0), ("--lr", "nan"), ("--seed", -1)],
)
def test_recipes_that_cannot_be_trained(here: Path, capsys, option: str, value: object) -> None:
    (here / "photos").mkdir()
    save(here / "photos" / "a.png", photo(60, 60))
    assert call("train", "crnet-a-compact", *TINY, option, value) == 2
    assert "must be" in one_line(capsys)
    assert os.listdir() == ["photos"]


def test_all_images_are_read_before_any_is_measured(here: Path, capsys, monkeypatch) -> None:
    for name in ("first", "last"):
        (here / name).mkdir()
        save(here / name / "a.png", photo(48, 48))
    (here / "last" / "a.png").write_bytes(b"no")
    monkeypatch.setattr("crnet.measuring.evaluate.score", lambda *_: pytest.fail("measured"))
    assert call("evaluate", "--data", ".", "--sets", "first", "last", "--model", "bicubic") == 2
    assert "last/a.png" in one_line(capsys)


def test_evaluate_refuses_what_it_would_misread(here: Path, capsys) -> None:
    (here / "deep").mkdir()
    png16(here / "deep" / "a.png", 2, 3)
    (here / "small").mkdir()
    save(here / "small" / "a.png", photo(8, 8))
    options = ["--data", ".", "--model", "bicubic", "--scales", 2]
    assert call("evaluate", *options, "--sets", "deep") == 2
    assert "16-bit colour" in one_line(capsys)
    assert call("evaluate", *options, "--sets", "small") == 2
    assert "SSIM needs 11x11 pixels inside the border" in one_line(capsys)
    assert call("evaluate", "--data", ".", "--sets", "small", "--scales", 5) == 2
    assert "not by 5" in one_line(capsys)


def test_a_closed_pipe_is_quiet(here: Path) -> None:
    code = "import sys; from crnet.cli.parser import main; sys.exit(main(['models']))"
    run = subprocess.Popen(
        [sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert run.stdout is not None
    run.stdout.close()
    _, err = run.communicate()
    assert err == b""
    assert run.returncode == 1


@pytest.mark.parametrize("model", ["bicubic", "scsr", "csc-sr"])
def test_baselines_upscale_photos_too(here: Path, model: str) -> None:
    save(here / "cat.png", photo(20, 17))
    assert call("upscale", "cat.png", "--scale", 3, "--model", model) == 0
    image = opened(f"cat_{model}_x3.png")
    assert (image.size, image.mode) == ((51, 60), "RGB")


def test_progress_names_the_precision_that_computes(here: Path, monkeypatch) -> None:
    titles: list[str] = []
    save(here / "photo.png", photo(9, 8))

    def follow(title: str, unit: str):
        titles.append(title)
        return progress(title, unit)

    monkeypatch.setattr("crnet.cli.enlarge.progress", follow)
    monkeypatch.setattr("crnet.cli.upscale.resolve", lambda *_: "bfloat16")
    for model in ("scsr", "crnet-a"):
        assert call("upscale", "photo.png", "--model", model) == 0
    assert [title.split(", ")[-1] for title in titles] == ["float32", "bfloat16"]


def test_files_of_sparse_coding_are_measured_and_upscale(here: Path, capsys) -> None:
    """By what their cards say, and not by their names."""
    (here / "mine").mkdir()
    save(here / "mine" / "a.png", photo(32, 30))
    f = csc_sr.load().at(2)
    csc_sr.write("one.safetensors", [f], {}, {})
    tensors, card = weights.read(weights.bundled("scsr"))
    weights.write("two.safetensors", {k: tensors[k] for k in ("lr.2", "hr.2")},
                 {**card, "scales": [2]})  # fmt: skip
    options = ["--data", ".", "--sets", "mine", "--scales"]
    files = ["one.safetensors", "two.safetensors"]
    assert call("evaluate", *options, 2, "--no-paper", "--model", *files, "csc-sr", "scsr") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:]]
    assert [row[2] for row in rows] == ["one", "two", "csc-sr", "scsr"]
    assert [row[3:5] for row in rows[:2]] == [row[3:5] for row in rows[2:]]
    assert rows[0][3] != rows[1][3]
    assert call("compare", *options, 2, "--model", *files, "-o", "sheet.png") == 0
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:3]]
    assert [row[-1] for row in rows] == ["40,032", "125,440"]
    assert call("evaluate", *options, 3, "--model", files[0]) == 2
    assert "one upscales by 2, not by 3" in one_line(capsys)
    assert call("upscale", "mine/a.png", "--model", files[0], "-o", ".") == 0
    assert opened("a_one_x2.png").size == (60, 64)
    weights.write("other.safetensors", {"a": torch.ones(1)}, {"name": "pca"})
    for command in (["evaluate", *options, 2], ["upscale", "mine/a.png"]):
        capsys.readouterr()
        assert call(*command, "--model", "other.safetensors") == 2
        assert "holds neither a network nor scsr or csc-sr; its card says 'pca'" in one_line(capsys)
    assert call("export", files[0], "b.safetensors") == 2
    assert "it holds csc-sr, not a network" in one_line(capsys)


def test_parameters_are_of_the_model_that_runs() -> None:
    pair, filters = scsr.load().dictionaries[3], csc_sr.load().at(3)
    at = {
        name: parameters(find(name).open(), 3) for name in ("bicubic", "scsr", "csc-sr", "crnet-b")
    }
    assert at == {
        "bicubic": 0,
        "scsr": sum(D.numel() for D in pair),
        "csc-sr": sum(getattr(filters, name).numel() for name in "DWF"),
        "crnet-b": 1_404_288,  # with what serves x2 and x4
    }


def test_a_checkpoint_is_shown_with_its_run() -> None:
    named = {"runs/a/best.ckpt": "a/best", "my_vdsr.ckpt": "my_vdsr", "a/b.safetensors": "b"}
    assert {given: label(given) for given in named} == named


@pytest.mark.parametrize(
    ("variables", "scales", "says"),
    [
        (srcnn(5), [3], "SRCNN(middle 5)"),
        (srcnn(1), [2], "SRCNN(middle 1)"),
        (vdsr(3, 4), [2, 3], "VDSR(depth 3, maps 4)"),
        (scn(16), [], "SCN(M 16)"),
    ],
)
def test_published_weights_become_a_model(
    here: Path, capsys, variables: dict, scales: list[int], says: str
) -> None:
    (here / "mine").mkdir()
    save(here / "mine" / "a.png", photo(48, 42))
    savemat("theirs.mat", variables)
    chosen = ["--scales", *scales] if scales else []
    measured = ["--data", ".", "--sets", "mine"]
    assert call("export", "theirs.mat", "net.safetensors", *chosen, *measured) == 0
    made = scales or [2]
    rows = [line.split() for line in capsys.readouterr().out.splitlines()[1:-1]]
    card = crnet.card("net.safetensors")
    assert (
        f"{card.architecture}({', '.join(f'{k} {v}' for k, v in card.arguments.items())})" == says
    )
    assert (card.name, card.scales) == ("net", tuple(made))
    assert card.training == {"weights": f"theirs.mat, SHA-256 {sha256(here / 'theirs.mat')}"}
    theirs = crnet.Upscaler(load_matlab("theirs.mat"))
    y = read_y(here / "mine" / "a.png")
    for scale, row in zip(made, rows, strict=True):
        lr = torch.rand(1, 1, 9, 8)
        assert torch.equal(find("net.safetensors").open()(lr, scale), theirs(lr, scale))
        expected = f"{score(y, scale, theirs)[0]:.3f}"
        assert row[3] == expected
        assert card.psnr["mine"][str(scale)] == pytest.approx(float(expected), abs=1e-3)
        options = ["--data", ".", "--sets", "mine", "--scales", scale, "--no-paper"]
        assert call("evaluate", *options, "--model", "net.safetensors") == 0
        assert capsys.readouterr().out.splitlines()[1].split()[2:4] == ["net", expected]


def test_published_pytorch_files_are_models(here: Path, capsys) -> None:
    save(here / "a.png", photo(9, 8))
    torch.save({"params": torch_edsr(2).state_dict()}, "theirs.pth")
    assert call("upscale", "a.png", "--scale", "2", "--model", "theirs.pth", "-o", "b.png") == 0
    assert call("export", "theirs.pth", "net.safetensors", "--sets") == 0
    assert crnet.card("net.safetensors").scales == (2,)
    lr = torch.rand(1, 3, 9, 8)
    assert torch.equal(find("net.safetensors").open()(lr, 2), find("theirs.pth").open()(lr, 2))
    capsys.readouterr()
    assert call("export", "theirs.pth", "other.safetensors", "--sets", "--scales", "3") == 2
    assert "--scales must be 2 for the EDSR of theirs.pth; got 3" in one_line(capsys)
    torch.save(torch_vdsr().state_dict(), "vdsr.pth")
    assert call("export", "vdsr.pth", "vdsr.safetensors", "--sets") == 2
    assert "--scales must say the scales that the VDSR of vdsr.pth" in one_line(capsys)
    assert call("export", "vdsr.pth", "vdsr.safetensors", "--sets", "--scales", "2", "3") == 0
    assert crnet.card("vdsr.safetensors").scales == (2, 3)


@pytest.mark.parametrize(
    ("variables", "scales", "says"),
    [
        (srcnn(1), [], "--scales must be the scale, ≥ 2, that the SRCNN of theirs.mat was trained"),
        (srcnn(1), [2, 3], "got 2 and 3"),
        (vdsr(3, 4), [], "--scales must be the scales, ≥ 2, that the VDSR"),
        (vdsr(3, 4), [1, 2], "got 1 and 2"),
        (scn(16), [3], "--scales must be 2 for theirs.mat, a stage of SCN; got 3 "),
        ({"a": 1}, [2], "holds no known network"),
    ],
)
def test_published_weights_need_their_scales(
    here: Path, capsys, variables: dict, scales: list[int], says: str
) -> None:
    savemat("theirs.mat", variables)
    chosen = ["--scales", *scales] if scales else []
    assert call("export", "theirs.mat", "net.safetensors", *chosen, "--sets") == 2
    assert says in one_line(capsys)
    assert call("evaluate", "--data", ".", "--model", "theirs.mat") == 2
    assert "crnet export theirs.mat NAME.safetensors" in one_line(capsys)
    assert os.listdir() == ["theirs.mat"]


def test_tiles_are_told_of_a_network_and_its_ensemble(here: Path) -> None:
    told: list[tuple[int, int]] = []
    y = torch.rand(1, 1, 9, 8)
    for ensemble, runs in ((False, 1), (True, 8)):
        one = following(find("crnet-a").open(ensemble=ensemble), lambda *t: told.append(t))
        one(y, 2)
        assert told == runs * [(0, 1), (1, 1)]
        told.clear()
    assert following(bicubic, lambda *_: None) is bicubic
