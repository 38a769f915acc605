import json
from pathlib import Path

import pytest
import torch

import crnet
from baselines import bicubic, imresize
from baselines.networks.vdsr import VDSR
from crnet import Protocol, Upscaler, evaluate
from crnet.cli.parser import main
from crnet.data import sha256
from crnet.measuring.evaluate import Row, report, score, score_recursions, table
from crnet.measuring.metrics import psnr
from crnet.measuring.protocol import TABLE_2, TABLE_3
from crnet.measuring.published import cells
from crnet.systems import find
from tests.crnet.pictures import photo, save
from tests.laws import close


@pytest.mark.data
def test_published_bicubic_cells_are_reproduced(root: Path, tmp_path: Path) -> None:
    """All 18 numbers of Table 2 for these sets, to the last digit printed."""
    out = tmp_path / "cells.json"
    sets = ["Set5", "Set14", "B100"]
    arguments = ["evaluate", "--data", str(root), "--sets", *sets, "--model", "bicubic"]
    assert main([*arguments, "--json", str(out)]) == 0
    results = {(r["set"], r["scale"]): r for r in json.loads(out.read_text())["results"]}
    published = [c for c in cells() if c.method == "Bicubic" and c.set in sets]
    assert len(results) == len(published) == 9
    for cell in published:
        found = results[cell.set, cell.scale]
        assert abs(found["psnr"] - cell.psnr) <= 0.005
        assert abs(found["ssim"] - cell.ssim) <= 0.00005


@pytest.mark.data
@pytest.mark.parametrize("name", crnet.bundled())
def test_the_cards_of_the_bundles_are_true_and_crnets_beat_srcnn(root: Path, name: str) -> None:
    stated = crnet.card(name).psnr["Set5"]
    srcnn = {c.scale: c.psnr for c in cells("Set5") if c.method == "SRCNN"}
    for row in evaluate({name: crnet.Upscaler(crnet.load(name))}, root, ["Set5"], [3]):
        assert row.psnr > srcnn[row.scale] or not name.startswith("crnet")
        assert row.psnr == pytest.approx(stated[str(row.scale)], abs=0.005)


@pytest.mark.data
def test_bfloat16_costs_little(root: Path) -> None:
    net = crnet.load("crnet-b")
    systems = {p: crnet.Upscaler(net, precision=p) for p in ("float32", "bfloat16")}
    exact, fast = evaluate(systems, root, ["Set5"], [3])
    assert fast.psnr == pytest.approx(exact.psnr, abs=0.02)


def picture(H: int = 37, W: int = 41) -> torch.Tensor:
    return torch.from_numpy(photo(H, W, 1))[None, None]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_perfect_system_scores_infinity(scale: int) -> None:
    y = picture()
    perfect = lambda lr, s: y[..., : 37 - 37 % s, : 41 - 41 % s] / 255  # noqa: E731
    decibels, similarity, _ = score(y, scale, perfect, Protocol(clip=None))
    assert decibels == float("inf")
    assert similarity == 1


def test_seconds_are_those_of_the_system(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = [0.0]
    monkeypatch.setattr("crnet.measuring.evaluate.time.perf_counter", lambda: clock[0])

    def slow(lr: torch.Tensor, scale: int) -> torch.Tensor:
        clock[0] += 3
        return bicubic(lr, scale)

    assert score(picture(), 2, slow)[2] == 3


def test_the_result_is_clipped_and_the_original_is_not() -> None:
    y = torch.full((1, 1, 24, 24), 250, dtype=torch.uint8)
    constant = lambda lr, s: torch.full((1, 1, 24, 24), 250 / 255)  # noqa: E731
    assert score(y, 2, constant, Protocol(clip=None))[0] == float("inf")
    decibels = score(y, 2, constant, TABLE_2)[0]
    assert decibels == pytest.approx(10 * torch.log10(torch.tensor(255**2 / 15**2)).item())


@pytest.mark.parametrize("scale", [2, 3])
def test_as_many_pixels_as_the_scale_are_shaved(scale: int) -> None:
    y = picture(36, 36)

    def wrong_at(inset: int) -> float:
        def system(lr: torch.Tensor, s: int) -> torch.Tensor:
            out = y.clone()
            out[..., inset, 18] = 255 - out[..., inset, 18]
            return out / 255

        return score(y, scale, system, Protocol(clip=None))[0]

    assert wrong_at(scale - 1) == float("inf")
    assert wrong_at(scale) < 60


def test_lr_is_not_rounded() -> None:
    seen = []

    def spy(lr: torch.Tensor, scale: int) -> torch.Tensor:
        seen.append(lr)
        return bicubic(lr, scale)

    score(picture(), 2, spy)
    levels = 255 * seen[0]
    assert (levels - levels.round()).abs().max() > 0.1


def test_a_system_of_the_wrong_size_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the system returned \(1, 1, 18, 20\)"):
        score(picture(), 2, lambda lr, s: lr)


def test_rows_and_report(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    path = save(tmp_path / "mine" / "a.png", photo(40, 40))
    heard: list[tuple[int, int]] = []
    systems = {"bicubic": bicubic, "again": bicubic}
    rows = evaluate(
        systems,
        tmp_path,
        ["mine"],
        [2, 3],
        on_image=lambda done, total: heard.append((done, total)),
    )
    assert heard == [(i, 4) for i in range(1, 5)]
    assert [(r.set, r.scale, r.model) for r in rows] == [
        ("mine", s, m) for s in (2, 3) for m in ("bicubic", "again")
    ]
    assert rows[0].psnr == rows[1].psnr > 20
    told = json.loads(json.dumps(report(rows, tmp_path, ["mine"], [TABLE_2])))
    assert told["protocols"] == [
        {"name": "crnet-table-2", "rgb": False, "clip": [16, 235], "shave": 1, "edges": "symmetric"}
    ]
    assert told["data"] == {"mine": {"a.png": sha256(path)}}
    assert told["results"][0].keys() == {
        "model", "set", "scale", "psnr", "ssim", "seconds", "protocol", "parameters"
    }  # fmt: skip
    assert told["versions"]["torch"] == torch.__version__


class Rgb:
    """A system on RGB: bicubic, or any function."""

    channels = 3

    def __init__(self, run=bicubic) -> None:
        self.run = run

    def __call__(self, lr: torch.Tensor, scale: int) -> torch.Tensor:
        return self.run(lr, scale)


def test_systems_on_rgb_are_measured_as_table_3_says() -> None:
    """8-bit LR in; rounded in RGB, compared on Y in floating point, `scale` pixels shaved."""
    rgb = torch.from_numpy(photo(40, 40)).permute(2, 0, 1)[None].contiguous()
    seen = []

    def spy(lr: torch.Tensor, scale: int) -> torch.Tensor:
        seen.append(255 * lr)
        return bicubic(lr, scale)

    decibels = score(rgb, 2, Rgb(spy))[0]
    lr = imresize(rgb, 0.5, edges="replicate")
    close(seen[0], lr.float(), 1e-6)
    sr = (255 * bicubic(lr.float() / 255, 2)).add(0.5).floor().clamp(0, 255).double()
    weights = torch.tensor([65.481, 128.553, 24.966], dtype=torch.float64).view(3, 1, 1) / 255
    a, b = ((x.double() * weights).sum(1, keepdim=True)[..., 2:-2, 2:-2] for x in (sr, rgb))
    assert decibels == pytest.approx(float(psnr(a, b)), abs=1e-4)
    with pytest.raises(ValueError, match=r"uint8 \(1, 3, H, W\)"):
        score(picture(), 2, Rgb())


def test_each_system_is_measured_as_its_table_says(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", photo(40, 40))
    y, rgb = evaluate({"y": bicubic, "rgb": Rgb()}, tmp_path, ["mine"], [2])
    assert (y.protocol, rgb.protocol) == (TABLE_2.name, TABLE_3.name)
    assert y.psnr != rgb.psnr
    assert y.psnr == pytest.approx(rgb.psnr, abs=1)


def test_every_recursion_is_measured_in_one_pass(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", photo(40, 40))
    net = crnet.CRNetA(4, 6, 2, generator=torch.Generator().manual_seed(0))
    upscale = crnet.Upscaler(net)
    rows = evaluate({"n": upscale, "b": bicubic}, tmp_path, ["mine"], [2], recursions=True)
    assert [r.model for r in rows] == ["n k=0", "n k=1", "n k=2", "b"]
    y = picture(40, 40)
    per_recursion = score_recursions(y, 2, upscale)
    for k in range(3):
        net.cista.recursions = k
        assert score(y, 2, upscale)[:2] == pytest.approx(per_recursion[k][:2], abs=1e-6)


def test_a_network_without_codes_is_measured_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    save(tmp_path / "mine" / "a.png", photo(40, 41))
    models = {"vdsr": Upscaler(VDSR(2, 4)), "bicubic": bicubic}
    rows = evaluate(models, tmp_path, ["mine"], [2], recursions=True)
    assert [row.model for row in rows] == ["vdsr", "bicubic"]


def test_the_published_tables_are_whole() -> None:
    """The counts of cells, and a few cells of arXiv 1908.01166 read by hand."""
    found = {(c.method, c.set, c.scale): (c.psnr, c.ssim) for c in cells()}
    assert len(found) == len(cells())
    assert found["CRNet-A", "Set5", 2] == (37.79, 0.9600)
    assert found["CRNet-A", "Set14", 4] == (28.29, 0.7741)
    assert found["CRNet-B+", "Set5", 4] == (32.71, 0.9008)
    assert found["CSC-SR", "Set5", 3] == (32.65, None)
    assert found["SRDenseNet", "Urban100", 4] == (26.05, 0.7819)
    assert ("SRDenseNet", "Set5", 2) not in found


def test_the_paper_stands_beside_our_rows() -> None:
    rows = [Row("mine", "Set5", 2, 33.0, 0.9, 1.0), Row("mine", "cats", 2, 30.0, 0.8, 1.0)]
    lines = table(rows, paper=True).splitlines()
    assert [line.split()[2] for line in lines[1:]][:3] == ["mine", "[CSC-SR]", "[Bicubic]"]
    assert lines[-1].split() == ["cats", "x2", "mine", "30.000", "0.8000", "1.000"]
    assert len(table(rows).splitlines()) == 3


def test_systems_by_name() -> None:
    assert find("bicubic").open().function is bicubic
    plus = find("crnet-a").open(ensemble=True)
    assert isinstance(plus, crnet.Ensemble)
    with pytest.raises(crnet.WeightsError, match="no model and no file none"):
        find("none")
