"""Laws of names and of the systems that they open."""

from dataclasses import asdict
from pathlib import Path

import pytest
import torch
from torch import Tensor

import baselines.weights
from baselines import bicubic
from crnet import Card, CRNetA, Ensemble, Upscaler, WeightsError, save
from crnet.contracts import OnY, System, as_system, following, parameters
from crnet.systems import BASELINES, find
from crnet.training.recipe import Recipe

ARGUMENTS = {"n0": 4, "m0": 6, "recursions": 2}


@pytest.fixture
def weights_file(tmp_path: Path) -> Path:
    path = tmp_path / "file.safetensors"
    save(path, CRNetA(**ARGUMENTS), Card("tiny", "CRNetA", ARGUMENTS, (2, 3), {}, {}))
    return path


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "run" / "last.ckpt"
    path.parent.mkdir()
    state = {f"net.{k}": v for k, v in CRNetA(**ARGUMENTS).state_dict().items()}
    recipe = {k: v for k, v in asdict(Recipe(**ARGUMENTS)).items() if k != "sizes"}
    torch.save(
        {"recipe": recipe, "data": "", "history": [[1.0, 30.0]], "seconds": 1.0,
         "state_dict": state, "global_step": 1}, path,
    )  # fmt: skip
    return path


def counted(monkeypatch: pytest.MonkeyPatch, where: object, name: str) -> list[str]:
    calls, function = [], getattr(where, name)

    def call(path: Path, *arguments: object, **options: object) -> object:
        calls.append(str(path))
        return function(path, *arguments, **options)

    monkeypatch.setattr(where, name, call)
    return calls


def test_a_header_is_read_once(weights_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, baselines.weights, "safe_open")
    found = find(str(weights_file))
    assert (found.title, found.scales, found.path) == ("tiny", (2, 3), weights_file)
    assert found.card.architecture == "CRNetA"
    assert len(calls) == 1


def test_a_checkpoint_is_read_once(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = counted(monkeypatch, torch, "load")
    found = find(str(checkpoint))
    assert (found.title, found.scales) == ("run", (2, 3, 4))
    assert found.open()(torch.rand(1, 1, 5, 6), 2).shape == (1, 1, 10, 12)
    assert len(calls) == 1


def test_every_name_opens_a_system(weights_file: Path, checkpoint: Path) -> None:
    for name in (*BASELINES, "crnet-a", str(weights_file), str(checkpoint)):
        for ensemble in (False, True):
            one = find(name).open(ensemble=ensemble)
            assert isinstance(one, System)
            assert one.channels == 1
            assert (parameters(one, 2) > 0) == (name != "bicubic")
    assert find("crnet-b").open().channels == 3


def test_options_reach_the_network(weights_file: Path) -> None:
    one = find(str(weights_file)).open(precision="bfloat16", memory_mib=5)
    assert isinstance(one, Upscaler)
    assert (one.precision, one.memory_mib) == ("bfloat16", 5)


def test_a_file_that_is_neither_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "a.safetensors"
    baselines.weights.write(path, {"D": torch.ones(2)}, {"name": "pca"})
    with pytest.raises(WeightsError, match="neither a network nor scsr or csc-sr.*'pca'"):
        find(str(path))
    baselines.weights.write(path, {"D": torch.ones(2)}, {"name": "scsr", "scales": "x"})
    with pytest.raises(WeightsError, match="does not say its scales"):
        find(str(path))
    with pytest.raises(WeightsError, match="no model and no file b; .*; baselines: bicubic, scsr"):
        find("b")


class OnRgb:
    """A minimal system on RGB."""

    channels = 3

    def __call__(self, x: Tensor, scale: int) -> Tensor:
        return bicubic(x, scale)


def test_a_function_is_a_system_on_y_and_a_system_stays_itself() -> None:
    rgb = OnRgb()
    assert as_system(rgb) is rgb
    assert as_system(bicubic) == OnY(bicubic)
    assert as_system(bicubic).channels == 1
    assert parameters(rgb, 2) == parameters(bicubic, 2) == 0
    assert Ensemble(rgb).channels == 3
    assert following(rgb, lambda *_: None) is rgb


def test_tiles_are_told_through_an_ensemble(weights_file: Path) -> None:
    told: list[tuple[int, int]] = []
    one = find(str(weights_file)).open(ensemble=True)
    shown = following(one, lambda done, total: told.append((done, total)))
    shown(torch.rand(1, 1, 6, 6), 2)
    assert [step for step in told if step[0]] == 8 * [(1, 1)]
