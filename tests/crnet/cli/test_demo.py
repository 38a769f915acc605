import re
from pathlib import Path

import torch
from PIL import Image

import crnet
from crnet import plot
from crnet.cli import demo
from csc import plot as figures
from tests.crnet.test_sparse import SIZES, net_a, net_b


def test_the_demo_shows_a_gain_and_draws_it(tmp_path: Path, monkeypatch) -> None:
    """On a part of the photo: the eye of a parrot."""
    with Image.open(demo.photo()) as image:
        image.crop((430, 110, 574, 230)).save(tmp_path / "eye.png")
    monkeypatch.setattr(demo, "photo", lambda: tmp_path / "eye.png")
    monkeypatch.setattr(demo, "CROPS", ((10, 20, 60), (40, 70, 60)))
    lines = list(demo.report(tmp_path / "made"))
    rows = {line.split()[0]: float(line.split()[1]) for line in lines if re.match(r"  [bC]", line)}
    assert rows["CRNet-B"] > rows["bicubic"] + 1
    recursions = [line.split() for line in lines if re.match(r"  +\d+ +\d", line)]
    assert [int(r[0]) for r in recursions] == list(range(1 + crnet.load().cista.recursions))
    assert all(0 < float(r[1].rstrip("%")) < 100 for r in recursions)
    assert float(recursions[-1][3]) == rows["CRNet-B"]
    for name in ("comparison.png", "codes.png"):
        with Image.open(tmp_path / "made" / name) as image:
            assert min(image.size) > 400
    assert len(list((tmp_path / "made").iterdir())) == 2


def test_certified_networks_print_their_certificate(tmp_path: Path, monkeypatch) -> None:
    with Image.open(demo.photo()) as image:
        image.crop((430, 110, 502, 182)).save(tmp_path / "eye.png")
    monkeypatch.setattr(demo, "photo", lambda: tmp_path / "eye.png")
    monkeypatch.setattr(demo, "CROPS", ((6, 9, 48), (3, 6, 48)))
    for net in (net_a(), net_b()):
        sizes = {**SIZES, "recursions": 2}
        about = crnet.Card("x", type(net).__name__, sizes, (2, 3, 4), {}, {})
        crnet.save(tmp_path / "x.safetensors", net, about)
        lines = list(demo.report(tmp_path / "made", 3, str(tmp_path / "x.safetensors")))
        start = next(i for i, line in enumerate(lines) if line.startswith("  block"))
        rows = [line.split() for line in lines[start + 1 : start + 4]]
        assert [row[0] for row in rows] == ["1", "2", "3"]
        assert all(0 < float(row[2].rstrip("%")) < 10 for row in rows)
        assert {p.stem for p in (tmp_path / "made").iterdir()} == {"codes", "comparison", "drawn"}


def test_figures_draw_what_they_are_given() -> None:
    maps = torch.rand(8, 12, 12)
    maps[3] *= 9
    usage = torch.full((8,), 0.0034)
    figure = plot.codes(torch.rand(8, 1, 5, 5), maps, usage, [0.5, 0.4], [0.3], shown=4)
    assert figure.axes[0].get_title().startswith("atom 3\n")
    assert figure.axes[0].get_title().endswith("on at 0.34%")
    figures.plt.close("all")
