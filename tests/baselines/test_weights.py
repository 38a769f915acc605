"""Weights files of baselines: what is written comes back, and nothing else is taken."""

import os
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from baselines.weights import WeightsError, read, write

TENSORS = {"D": torch.arange(6.0).view(2, 3), "half": torch.ones(4).half()}
CARD = {"name": "tiny", "lam": 0.2, "scales": [2, 3]}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    write(tmp_path / "tiny.safetensors", TENSORS, CARD)
    return tmp_path / "tiny.safetensors"


def test_what_is_written_comes_back_from_plain_safetensors(path: Path) -> None:
    tensors, card = read(path)
    assert card == CARD
    assert tensors.keys() == TENSORS.keys() == load_file(path).keys()
    for name, tensor in tensors.items():
        assert tensor.dtype == TENSORS[name].dtype
        assert torch.equal(tensor, TENSORS[name])


def test_damage_and_absence_are_found(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-3] ^= 1
    path.write_bytes(data)
    with pytest.raises(WeightsError, match="does not match its checksum"):
        read(path)
    path.write_bytes(data[: len(data) // 2])
    with pytest.raises(WeightsError, match="not a weights file"):
        read(path)
    path.unlink()
    with pytest.raises(WeightsError, match="no weights file"):
        read(path)


def test_a_changed_card_is_damage(path: Path) -> None:
    path.write_bytes(path.read_bytes().replace(b"tiny", b"TINY"))
    with pytest.raises(WeightsError, match="does not match its checksum"):
        read(path)


def test_files_of_others_are_refused(path: Path) -> None:
    save_file(TENSORS, path)
    with pytest.raises(WeightsError, match="not a weights file of csc-crnet: 'card'"):
        read(path)
    save_file(TENSORS, path, metadata={"card": "[1]", "sha256": ""})
    with pytest.raises(WeightsError, match="its card is not a JSON object"):
        read(path)
    path.write_bytes(b"PK and not safetensors at all")
    with pytest.raises(WeightsError, match="not a weights file"):
        read(path)


@pytest.mark.parametrize("bad", [torch.tensor([1.0, torch.nan]), torch.tensor([1, 2])])
def test_only_finite_numbers_are_weights(path: Path, bad: torch.Tensor) -> None:
    write(path, {"D": bad}, CARD)
    with pytest.raises(WeightsError, match="D holds values that are not finite"):
        read(path)


def test_a_card_is_json(path: Path) -> None:
    with pytest.raises(TypeError):
        write(path, TENSORS, {"D": torch.ones(1)})
    with pytest.raises(ValueError, match="JSON compliant"):
        write(path, TENSORS, {"psnr": float("nan")})
    assert read(path)[1] == CARD  # the old file is still there


def test_shared_weights_are_stored_for_every_name(path: Path) -> None:
    shared = torch.arange(3.0)
    write(path, {"a": shared, "b": shared}, CARD)
    assert all(torch.equal(t, shared) for t in read(path)[0].values())


@pytest.mark.parametrize("step", ["write", "replace"])
def test_a_file_is_written_whole_or_not_at_all(path: Path, monkeypatch, step: str) -> None:
    """If the disk is full or the folder is read-only, the old file stays and no other remains."""

    def full(file: Path, data: bytes) -> int:
        with file.open("wb") as half:
            half.write(data[: len(data) // 2])
        raise OSError("no space left on device")

    def refused(*_: object) -> None:
        raise PermissionError("not allowed")

    if step == "write":
        monkeypatch.setattr(Path, "write_bytes", full)
    else:
        monkeypatch.setattr(os, "replace", refused)
    with pytest.raises(WeightsError, match="tiny.safetensors was not written: n"):
        write(path, TENSORS, {**CARD, "name": "new"})
    assert read(path)[1] == CARD
    assert list(path.parent.iterdir()) == [path]


def test_a_folder_that_is_missing_is_told(tmp_path: Path) -> None:
    with pytest.raises(WeightsError, match="was not written: .*No such file"):
        write(tmp_path / "none" / "a.safetensors", TENSORS, CARD)
