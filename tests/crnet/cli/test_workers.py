"""``--workers``: the outputs are those of one process, bit for bit; a lost worker fails a file."""

import re
from collections.abc import Iterator
from concurrent.futures import Executor
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from crnet.cli.parser import main
from csc.workers import Processes
from tests.crnet.pictures import photo, save
from tests.csc.on_workers import Loses


class Lent:
    """An executor that a command uses and does not end."""

    def __init__(self, executor: Executor) -> None:
        self.executor = executor
        self.threads: list[int] = []

    def __call__(self, n: int) -> "Lent":
        self.threads.append(torch.get_num_threads())
        return self

    def __enter__(self) -> Executor:
        return self.executor

    def __exit__(self, *_: object) -> None:
        pass


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = tmp_path / "mine"
    folder.mkdir()
    for i in range(3):
        save(folder / f"{i}.png", photo(24 + i, 30, seed=i))
    (folder / "2.png").write_bytes(b"no image")
    (tmp_path / "out").mkdir()
    return folder


@contextmanager
def one_thread() -> Iterator[None]:
    """As in a worker: with another number of threads sums may be rounded otherwise."""
    had = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(had)


def upscale(folder: Path, *options: str) -> tuple[int, dict[str, bytes]]:
    out = folder.parent / "out"
    for old in out.iterdir():
        old.unlink()
    code = main(["upscale", str(folder), "--model", "srcnn-compact", "-o", str(out), *options])
    return code, {p.name: p.read_bytes() for p in sorted(out.iterdir())}


def test_a_folder_on_workers_has_the_bytes_of_one_process(
    folder: Path,
    pool: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Lines and errors, too, in the order of the files; each worker has one thread."""
    had = torch.get_num_threads()
    with one_thread():
        here, told = upscale(folder), capsys.readouterr()
    lent = Lent(pool)
    monkeypatch.setattr("crnet.cli.workers.Processes", lent)
    assert upscale(folder, "--workers", "2") == here
    assert capsys.readouterr() == told
    assert here[0] == 1
    assert len(here[1]) == 2
    assert "1 of 3 files failed" in told.err
    assert lent.threads == [1]
    assert torch.get_num_threads() == had


def test_a_lost_worker_fails_its_file_and_the_rest_goes_on(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("crnet.cli.workers.Processes", Lent(Loses(0)))
    code, files = upscale(folder, "--workers", "2")
    told = capsys.readouterr().err
    assert code == 1
    assert len(files) == 1
    assert f"{folder / '0.png'}: its worker was lost: gone" in told
    assert "2 of 3 files failed" in told


def test_evaluate_on_workers_prints_the_same_numbers(
    folder: Path,
    pool: Processes,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """And without the row of an image whose worker is lost, which is told."""
    (folder / "2.png").unlink()
    call = ["evaluate", "--data", str(folder.parent), "--sets", "mine", "--scales", "2",
            "--model", "bicubic", "srcnn-compact"]  # fmt: skip

    def rows(*options: str) -> tuple[int, list[list[str]], str]:
        code = main([*call, *options])
        told = capsys.readouterr()
        return code, [line.split()[:-1] for line in told.out.splitlines()], told.err

    with one_thread():
        here = rows()
    monkeypatch.setattr("crnet.cli.workers.Processes", Lent(pool))
    assert rows("--workers", "2")[:2] == here[:2]
    monkeypatch.setattr("crnet.cli.workers.Processes", Lent(Loses(1)))
    code, left, err = rows("--workers", "2")
    assert code == 1
    assert left == [row for row in here[1] if "bicubic" not in row]
    assert re.search(r"1\.png, x2, bicubic: its worker was lost: gone; its row is left out", err)


def test_a_negative_number_of_workers_is_refused(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert upscale(folder, "--workers", "-1") == (2, {})
    assert "--workers must be ≥ 0, got -1" in capsys.readouterr().err
