"""Large TIFF files in strips: the rows of the whole image, whatever the layout of the file."""

import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from baselines import bicubic
from crnet import CRNetA, CRNetB, Ensemble, Upscaler
from crnet.cli import main
from crnet.contracts import System, as_system
from crnet.errors import ImageFileError
from crnet.files import levels, read_picture
from crnet.resize import plan
from crnet.strips import Rows, context, upscale_rows
from crnet.upscale import upscale_picture

tifffile = pytest.importorskip("tifffile")

LAYOUTS: dict[str, dict[str, Any]] = {
    "one strip": {},
    "strips": {"rowsperstrip": 7},
    "deflated": {"rowsperstrip": 7, "compression": "zlib", "predictor": True},
    "tiles": {"tile": (32, 16)},
}


def pixels(height: int = 150, width: int = 90) -> NDArray[np.uint8]:
    return np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)


def system(network: str) -> System:
    g = torch.Generator().manual_seed(0)
    if network == "A":
        return Upscaler(CRNetA(4, 4, 2, generator=g))
    one = Upscaler(CRNetB(4, 4, 2, scales=(2, 3), generator=g))
    return Ensemble(one) if network == "B+" else one


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", ["rgb", "grey", "sixteen"])
def test_rows_are_those_of_the_whole_file(layout: str, kind: str, tmp_path: Path) -> None:
    image = pixels() if kind == "rgb" else pixels()[..., 0]
    image = image.astype(np.uint16) * 257 if kind == "sixteen" else image
    photometric = "rgb" if kind == "rgb" else "minisblack"
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, image, photometric=photometric, metadata=None, **LAYOUTS[layout])
    whole = read_picture(path)
    with closing(Rows(path)) as rows:
        assert rows.shape == tuple(whole.color.shape)
        for top, bottom in ((0, 150), (0, 1), (31, 33), (100, 150)):
            part = rows.picture(top, bottom)
            assert torch.equal(part.color, whole.color[..., top:bottom, :])
            assert part.bits == whole.bits


@pytest.mark.parametrize(("network", "scale"), [("A", 3), ("B", 2), ("B", 3), ("B+", 2)])
def test_strips_are_the_whole_image(network: str, scale: int, tmp_path: Path) -> None:
    """Equal to one level: the rounding of float32 differs with the shape of a tile."""
    source, out = tmp_path / "x.tif", tmp_path / "y.tif"
    profile = b"0" * 128
    tifffile.imwrite(
        source, pixels(), photometric="rgb", metadata=None, iccprofile=profile,
        resolution=(100, 50), resolutionunit=3,
    )  # fmt: skip
    upscale, seen = system(network), list[tuple[int, int]]()
    with closing(Rows(source)) as rows:
        chosen = plan((150, 90), scale, scales=(2, 3))
        upscale_rows(
            rows, out, upscale, chosen, memory_mib=0.5, passes=8 if network == "B+" else 1,
            on_strip=lambda done, total: seen.append((done, total)),
        )  # fmt: skip
    total = seen[0][1]
    assert total > 2
    assert seen == [(done, total) for done in range(total + 1)]
    found = tifffile.imread(out).astype(int)
    wanted = levels(upscale_picture(read_picture(source), scale, upscale)).astype(int)
    assert found.shape == wanted.shape
    assert np.abs(found - wanted).max() <= 1
    assert np.mean(found != wanted) < 1e-3
    written = read_picture(out)
    assert written.metadata.dpi == pytest.approx((254 * scale, 127 * scale))
    with tifffile.TiffFile(out) as file:
        assert file.pages[0].iccprofile == profile


def test_what_strips_would_lose_is_refused(tmp_path: Path) -> None:
    path, image = tmp_path / "x.tif", pixels(20, 20)

    def problem(data: Any, **how: Any) -> str:
        tifffile.imwrite(path, data, **how)
        with pytest.raises(ImageFileError, match="cannot be read in strips") as error:
            Rows(path)
        return str(error.value)

    rgba = np.concatenate([image, image[..., :1]], 2)
    assert "alpha" in problem(rgba, photometric="rgb", extrasamples=["unassalpha"])
    assert "pages" in problem(np.stack([image, image]), photometric="rgb")
    assert "upright" in problem(image, photometric="rgb", extratags=[(274, "H", 1, 6, True)])
    assert "bits" in problem(image.astype(np.uint16), photometric="rgb")
    assert "CONTIG" not in problem(image.transpose(2, 0, 1), photometric="rgb", planarconfig=2)
    assert "colours" in problem(image[..., 0], photometric="miniswhite")
    path.write_bytes(b"II*\0no")
    with pytest.raises(ImageFileError, match=r"TIFF|decoded"):
        Rows(path)


def test_a_truncated_file_is_told(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, pixels(), photometric="rgb", metadata=None, rowsperstrip=8)
    path.write_bytes(path.read_bytes()[:-200])
    with closing(Rows(path)) as rows, pytest.raises(ImageFileError, match="cannot be decoded"):
        rows.picture(140, 150)


def test_systems_of_unknown_reach_have_no_strips(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    tifffile.imwrite(path, pixels(20, 20), photometric="rgb", metadata=None)
    assert context(as_system(bicubic), 2) is None
    with closing(Rows(path)) as rows, pytest.raises(ValueError, match="strips need one pass"):
        upscale_rows(rows, tmp_path / "y.tif", as_system(bicubic), plan((20, 20), 2))


@pytest.mark.parametrize("there", [True, False])
def test_the_command_takes_strips_where_it_can(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The image needs some 5 MiB, and the network's tile less."""
    source, out = tmp_path / "x.tif", tmp_path / "y.tif"
    tifffile.imwrite(source, pixels(200, 300), photometric="rgb", metadata=None)
    if not there:
        monkeypatch.setitem(sys.modules, "tifffile", None)
    command = ["upscale", str(source), "--model", "srcnn-compact", "-o", str(out), "--memory", "4"]
    assert main(command) == 0
    told = capsys.readouterr().err
    assert ("strips" in told) == there
    assert ("more than --memory 4" in told) == (not there)
    assert read_picture(out).color.shape == (1, 3, 400, 600)
