"""Laws of exported networks: onnxruntime gives our images, for images of other sizes too."""

from pathlib import Path

import pytest
import torch
from torch import Tensor

from baselines.resample import _enlarge_in_phases, bicubic
from crnet import CRNetA, CRNetB, SparseCRNetA, SparseCRNetB, Upscaler
from crnet.cli import main
from crnet.onnx import onnx_file

TINY = {"n0": 4, "m0": 6, "recursions": 1}
NETS = {
    "a": lambda g: CRNetA(**TINY, generator=g),
    "b": lambda g: CRNetB(**TINY, border=2, generator=g),
    "sparse a": lambda g: SparseCRNetA(**TINY, blocks=2, rank=2, generator=g),
    "sparse b": lambda g: SparseCRNetB(**TINY, blocks=2, rank=2, generator=g),
}


def image(channels: int, *size: int) -> Tensor:
    return torch.rand(1, channels, *size, generator=torch.Generator().manual_seed(3))


@pytest.mark.parametrize("scale", [2, 3, 4])
@pytest.mark.parametrize("size", [(2, 2), (2, 7), (9, 5)])
def test_the_exported_enlargement_is_bicubic(scale: int, size: tuple[int, int]) -> None:
    x = image(3, *size).double()
    torch.testing.assert_close(_enlarge_in_phases(x, scale), bicubic(x, scale), rtol=0, atol=1e-12)


@pytest.mark.parametrize(("name", "scale"), [("a", 3), ("b", 4), ("sparse a", 2), ("sparse b", 3)])
def test_onnxruntime_gives_our_image(name: str, scale: int) -> None:
    runtime = pytest.importorskip("onnxruntime", reason="needs the extra `onnx`")
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    net = NETS[name](torch.Generator().manual_seed(0)).eval()
    session = runtime.InferenceSession(onnx_file(net, scale), providers=["CPUExecutionProvider"])
    upscale = Upscaler(net)
    for size in ((9, 14), (12, 10), (5, 4)):
        x = image(upscale.channels, *size)
        (made,) = session.run(None, {"lr": x.numpy()})
        torch.testing.assert_close(torch.from_numpy(made), upscale(x, scale), rtol=0, atol=1e-5)
    assert session.get_modelmeta().custom_metadata_map["scale"] == str(scale)


def test_a_scale_that_the_network_lacks_is_refused() -> None:
    with pytest.raises(ValueError, match="this CRNetB does not upscale by 3"):
        onnx_file(CRNetB(**TINY, scales=(2,)), 3)


def test_export_writes_a_file_per_scale(tmp_path: Path, capsys) -> None:
    pytest.importorskip("onnxscript", reason="needs the extra `onnx`")
    out = tmp_path / "net.onnx"
    assert main(["export", "srcnn-compact", str(out), "--scales", "2"]) == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["net_x2.onnx"]
    assert capsys.readouterr().out.split() == [str(tmp_path / "net_x2.onnx")]
    assert main(["export", "srcnn-compact", str(out), "--scales", "2"]) == 1
    assert "net_x2.onnx" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "told"), [(["--half"], "--half"), (["--scales", "5"], "upscales by 2, 3 or 4")]
)
def test_calls_that_onnx_cannot_carry_out(options: list[str], told: str, tmp_path, capsys) -> None:
    call = ["export", "srcnn-compact", str(tmp_path / "net.onnx"), *options]
    assert main(call) == 2
    assert told in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
