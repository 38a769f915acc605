"""Networks that ncnn runs; skipped where ncnn or its converter is missing."""

import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from crnet import Ensemble, Upscaler
from crnet.cli import main
from crnet.contracts import Tiled
from crnet.files import levels, read_picture
from crnet.ncnn import Ncnn
from tests.crnet.test_onnx import NETS, image

CLOSE = {"rtol": 0.0, "atol": 1e-4}


@pytest.fixture
def engine() -> None:
    for package in ("ncnn", "pnnx"):
        pytest.importorskip(package, reason="needs the extra `ncnn`")


@pytest.mark.usefixtures("engine")
@pytest.mark.parametrize(("name", "scale"), [("a", 2), ("b", 3), ("sparse a", 2)])
def test_it_gives_our_image(name: str, scale: int) -> None:
    net = NETS[name](torch.Generator().manual_seed(0)).eval()
    upscale = Ncnn(net, memory_mib=0.01)
    for size in ((40, 70), (5, 4), (1, 3)):  # in tiles, whole, and replicated
        x = image(upscale.channels, *size)
        torch.testing.assert_close(upscale(x, scale), Upscaler(net)(x, scale), **CLOSE)
    two = torch.cat([x, 1 - x])
    torch.testing.assert_close(upscale(two, scale)[1:], upscale(1 - x, scale), **CLOSE)
    with pytest.raises(ValueError, match="floating point"):
        upscale(x[0], scale)


@pytest.mark.usefixtures("engine")
def test_it_converts_once_and_tells_its_tiles() -> None:
    net = NETS["a"](torch.Generator().manual_seed(0)).eval()
    upscale, seen = Ncnn(net), list[tuple[int, int]]()
    assert isinstance(upscale, Tiled)
    x = image(1, 40, 70)
    whole = upscale(x, 2)
    told = upscale.following(lambda done, total: seen.append((done, total)), 0.01)
    torch.testing.assert_close(told(x, 2), whole, **CLOSE)
    assert len(seen) > 2
    assert told._converted is upscale._converted
    torch.testing.assert_close(Ensemble(upscale)(x, 2), Ensemble(Upscaler(net))(x, 2), **CLOSE)


@pytest.mark.usefixtures("engine")
def test_the_command_line_takes_it(tmp_path: Path) -> None:
    photo = tmp_path / "x.png"
    Image.effect_mandelbrot((30, 24), (-2, -1, 1, 1), 50).convert("RGB").save(photo)
    made = []
    for name in ("torch", "ncnn"):
        out = tmp_path / f"{name}.png"
        command = ["upscale", str(photo), "--model", "crnet-b-fast", "-o", str(out)]
        assert main([*command, "--precision", "float32", "--engine", name]) == 0
        made.append(levels(read_picture(out)).astype(int))
    assert abs(made[0] - made[1]).max() <= 1


def test_what_it_cannot_run_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    photo = tmp_path / "x.png"
    Image.new("RGB", (8, 8)).save(photo)
    command = ["upscale", str(photo), "--engine", "ncnn"]
    assert main([*command, "--model", "bicubic"]) == 2
    assert "is for networks; bicubic is not one" in capsys.readouterr().err
    monkeypatch.setitem(sys.modules, "ncnn", None)
    assert main(command) == 2
    assert "pip install 'csc-crnet[ncnn]'" in capsys.readouterr().err
