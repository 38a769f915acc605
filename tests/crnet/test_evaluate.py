import csv
import json
from pathlib import Path

import pytest
import torch

import crnet
from baselines import bicubic
from crnet import Protocol, evaluate
from crnet.cli import main
from crnet.data import sha256
from crnet.evaluate import TABLE_2, report, score
from tests.crnet.pictures import photo, save

# Zhang, Liu, Yu, CRNet, arXiv 1908.01166, Table 2, column Bicubic.
PUBLISHED = """set,scale,psnr,ssim
Set5,2,33.66,0.9299
Set5,3,30.39,0.8682
Set5,4,28.42,0.8104
Set14,2,30.24,0.8688
Set14,3,27.55,0.7742
Set14,4,26.00,0.7027
B100,2,29.56,0.8431
B100,3,27.21,0.7385
B100,4,25.96,0.6675
"""
# The same table, column SRCNN.
SRCNN = {2: 36.66, 3: 32.75, 4: 30.48}


@pytest.mark.data
def test_published_bicubic_cells_are_reproduced(root: Path, tmp_path: Path) -> None:
    out = tmp_path / "cells.json"
    sets = ["Set5", "Set14", "B100"]
    arguments = ["evaluate", "--data", str(root), "--sets", *sets, "--model", "bicubic"]
    assert main([*arguments, "--json", str(out)]) == 0
    results = {(r["set"], r["scale"]): r for r in json.loads(out.read_text())["results"]}
    published = list(csv.DictReader(PUBLISHED.splitlines()))
    assert len(results) == len(published) == 9
    for cell in published:
        found = results[cell["set"], int(cell["scale"])]
        assert found["psnr"] == pytest.approx(float(cell["psnr"]), abs=0.01)
        assert found["ssim"] == pytest.approx(float(cell["ssim"]), abs=1e-4)


@pytest.mark.data
def test_the_bundle_beats_srcnn_and_its_card_is_true(root: Path) -> None:
    net = crnet.load("crnet-a")
    rows = evaluate({"crnet-a": crnet.Upscaler(net)}, root, ["Set5"], [2, 3, 4])
    stated = crnet.card("crnet-a").psnr["Set5"]
    for row in rows:
        assert row.psnr > SRCNN[row.scale]
        assert row.psnr == pytest.approx(stated[str(row.scale)], abs=0.005)


def picture(H: int = 37, W: int = 41) -> torch.Tensor:
    return torch.from_numpy(photo(H, W, 1))[None, None]


@pytest.mark.parametrize("scale", [2, 3, 4])
def test_a_perfect_system_scores_infinity(scale: int) -> None:
    y = picture()
    perfect = lambda lr, s: y[..., : 37 - 37 % s, : 41 - 41 % s] / 255  # noqa: E731
    decibels, similarity, seconds = score(y, scale, perfect, Protocol(clip=None))
    assert decibels == float("inf")
    assert similarity == 1
    assert seconds >= 0


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
    told = json.loads(json.dumps(report(rows, tmp_path, ["mine"], TABLE_2)))
    assert told["protocol"] == {"name": "crnet-table-2", "clip": [16, 235], "shave": 1}
    assert told["data"] == {"mine": {"a.png": sha256(path)}}
    assert told["results"][0].keys() == {"model", "set", "scale", "psnr", "ssim", "seconds"}
    assert told["versions"]["torch"] == torch.__version__
