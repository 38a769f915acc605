"""``-`` is standard input and standard output: an image there, and not one byte more."""

import io
import os
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from crnet.cli.parser import main
from tests.crnet.pictures import opened, photo, save


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    save(tmp_path / "a.png", photo(9, 8))
    return tmp_path


def send(monkeypatch: pytest.MonkeyPatch, data: bytes) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(data)))


BICUBIC = ["--model", "bicubic"]


def test_an_image_goes_through(here: Path, monkeypatch, capfdbinary) -> None:
    assert main(["upscale", "a.png", "-o", "b.png", *BICUBIC]) == 0
    capfdbinary.readouterr()
    for inputs in (["-"], ["-", "-o", "-"], ["a.png", "-o", "-"]):
        send(monkeypatch, (here / "a.png").read_bytes())
        assert main(["upscale", *inputs, *BICUBIC]) == 0
        told = capfdbinary.readouterr()
        assert told.out == (here / "b.png").read_bytes()
        assert told.err == b""
    send(monkeypatch, (here / "a.png").read_bytes())
    assert main(["upscale", "-", "-o", "c.png", *BICUBIC]) == 0
    assert np.array_equal(opened("b.png"), opened("c.png"))
    assert sorted(os.listdir()) == ["a.png", "b.png", "c.png"]


def test_messages_go_to_standard_error(here: Path, monkeypatch, capfdbinary) -> None:
    save(here / "a.jpg", photo(9, 8), icc_profile=bytes(16) + b"RGB " + bytes(99))
    send(monkeypatch, (here / "a.jpg").read_bytes())
    assert main(["upscale", "-", "--format", "bmp", "--scale", "2.5", "--model", "crnet-a"]) == 0
    told = capfdbinary.readouterr()
    with Image.open(io.BytesIO(told.out)) as image:
        assert (image.format, image.size) == ("BMP", (20, 23))
    assert told.err.decode().splitlines() == [
        "crnet: standard input, 8x9 to 20x23 pixels: x3, then bicubic to 20x23",
        "crnet: standard output: does not keep the colour profile of standard input",
    ]


@pytest.mark.parametrize(
    ("arguments", "code", "says"),
    [
        (["-", "a.png"], 2, "- is standard input, and must be the only input"),
        (["a.png", "a.png", "-o", "-"], 2, "is standard output"),
        (["-", "-o", "."], 2, "standard input has no name"),
        (["a.png", "--format", "jpg"], 2, "--format is for standard output"),
        (["-", "--format", "jpg"], 1, "standard output.jpg: JPEG keeps no transparency"),
        (["-", "--width", "8"], 1, "standard input: is 8x9, so --width 8 is a factor of 1;"),
    ],
)
def test_what_cannot_be_done(here: Path, monkeypatch, capfdbinary, arguments, code, says) -> None:
    save(here / "alpha.png", photo(9, 8, 4))
    send(monkeypatch, (here / "alpha.png").read_bytes())
    assert main(["upscale", *arguments, *BICUBIC]) == code
    told = capfdbinary.readouterr()
    assert told.out == b""
    assert says in told.err.decode()
    assert told.err.count(b"\n") == 1


def test_damaged_and_missing_streams(here: Path, monkeypatch, capfdbinary) -> None:
    for data, says in ((b"", "the file is empty"), (b"no", "it is damaged")):
        send(monkeypatch, data)
        assert main(["upscale", "-", *BICUBIC]) == 1
        told = capfdbinary.readouterr()
        assert (told.out, says in told.err.decode()) == (b"", True)
        assert told.err.startswith(b"crnet: standard input: ")
    monkeypatch.setattr(sys, "stdin", None)
    assert main(["upscale", "-", *BICUBIC]) == 1
    monkeypatch.setattr(sys, "stdout", None)
    assert main(["upscale", "a.png", "-o", "-", *BICUBIC]) == 1
    assert capfdbinary.readouterr().err.decode().count("is a terminal") == 2
    with open("/dev/full", "w", encoding="utf-8") as full:
        monkeypatch.setattr(sys, "stdout", full)
        assert main(["upscale", "a.png", "-o", "-", *BICUBIC]) == 1
        monkeypatch.undo()
    assert "standard output: cannot be written" in capfdbinary.readouterr().err.decode()
