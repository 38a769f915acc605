"""Kernels on disk, in functions that compile in a moment."""

import logging
import threading
from pathlib import Path

import numba
import pytest
import torch
from numba import types

from csc.compiled import cache
from csc.compiled.cache import kernel
from csc.compiled.image import Image
from csc.problem import pose

fcntl = pytest.importorskip("fcntl", reason="needs locks on files")
SIGNATURE = (types.float64,)


def double(x: float) -> float:
    return 2 * x


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(numba.config, "CACHE_DIR", str(tmp_path))
    return tmp_path


def load(compiled) -> object:  # noqa: ANN001
    return compiled._cache.load_overload(SIGNATURE, compiled.targetctx)


def test_a_kernel_is_found_on_disk(folder: Path) -> None:
    first = kernel()(double)
    assert first(2.0) == 4
    assert list(folder.rglob("*.nbc"))
    again = kernel()(double)
    assert again(2.0) == 4
    assert (sum(first.stats.cache_misses.values()), sum(first.stats.cache_hits.values())) == (1, 0)
    assert (sum(again.stats.cache_misses.values()), sum(again.stats.cache_hits.values())) == (0, 1)


def test_another_processor_compiles_its_own(folder: Path, monkeypatch) -> None:
    compiled = kernel()(double)
    compiled(2.0)
    assert load(compiled) is not None
    codegen = compiled.targetctx.codegen()
    monkeypatch.setattr(type(codegen), "magic_tuple", lambda _: ("x86_64", "other", "+avx"))
    assert load(compiled) is None


@pytest.mark.parametrize("suffix", ["nbi", "nbc"])
def test_damaged_files_are_compiled_again(folder: Path, suffix: str) -> None:
    kernel()(double)(2.0)
    (file,) = folder.rglob(f"*.{suffix}")
    file.write_bytes(b"")
    again = kernel()(double)
    assert again(2.0) == 4
    assert load(again) is not None


def test_without_a_folder_to_write_each_process_compiles(tmp_path: Path, monkeypatch) -> None:
    """Read-only installation and no home: numba tries each folder with a temporary file."""

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError

    monkeypatch.setattr("numba.core.caching.tempfile.TemporaryFile", refuse)
    assert kernel()(double)(2.0) == 4


def test_a_full_disk_costs_only_the_cache(folder: Path, monkeypatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("numba.core.caching.IndexDataCacheFile._save_data", full)
    assert kernel()(double)(2.0) == 4
    assert not list(folder.rglob("*.nbc"))


def test_one_process_writes_at_a_time(folder: Path) -> None:
    compiled, done = kernel()(double), threading.Event()
    compiled(2.0)
    (file,) = folder.rglob("*.nbc")
    file.unlink()

    def save() -> None:
        compiled._cache.save_overload(SIGNATURE, compiled.overloads[SIGNATURE])
        done.set()

    with (file.parent / "csc.lock").open("wb") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # as another process would
        thread = threading.Thread(target=save)
        thread.start()
        assert not done.wait(0.5)
        assert not file.exists()
    thread.join()
    assert file.exists()


def test_it_is_told_once_that_kernels_compile(folder: Path, caplog) -> None:
    cache._tell.cache_clear()
    x, D = torch.zeros(1, 1, 9, 9), torch.ones(2, 1, 7, 7)
    compiled = kernel()(double)
    with caplog.at_level(logging.INFO, "csc"):
        for _ in range(2):
            of_atoms = (numba.typeof(Image(pose(x, D, 0.1), threads=1).atoms),)
            assert compiled._cache.load_overload(of_atoms, compiled.targetctx) is None
    assert caplog.messages == ["compiling for 7×7 atoms, once; this takes some seconds"]
