"""A message never decides the outcome: whatever the streams, an image that is written counts."""

import io
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

import crnet.cli
from crnet.cli.messages import fail, printable, say, tell
from crnet.cli.parser import main
from tests.crnet.pictures import opened, photo, save


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def encoded(encoding: str) -> io.TextIOWrapper:
    return io.TextIOWrapper(io.BytesIO(), encoding=encoding, errors="strict")


def closed() -> io.TextIOWrapper:
    stream = encoded("utf-8")
    stream.close()
    return stream


def full() -> io.TextIOWrapper:
    return open("/dev/full", "w", encoding="utf-8")  # noqa: SIM115


STREAMS = [lambda: None, closed, full, lambda: encoded("ascii"), lambda: encoded("cp1252")]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("stream", STREAMS, ids=["none", "closed", "full", "ascii", "cp1252"])
@pytest.mark.parametrize("which", ["stdout", "stderr"])
def test_no_message_makes_a_written_image_fail(here: Path, monkeypatch, stream, which: str) -> None:
    save(here / "猫ž.png", photo(8, 8))
    monkeypatch.setattr(sys, which, stream())
    for write in (say, tell):
        write("猫\udcff")
    assert main(["upscale", "猫ž.png", "--model", "bicubic"]) == 0
    assert main(["upscale", "none.png", "--model", "bicubic"]) == 1
    assert opened("猫ž_bicubic_x2.png").size == (16, 16)


def test_what_an_encoding_lacks_is_escaped(monkeypatch) -> None:
    stream = encoded("ascii")
    monkeypatch.setattr(sys, "stdout", stream)
    assert say("≥ 1\nž")
    stream.seek(0)
    assert stream.read() == "\\u2265 1\n\\u017e\n"


@pytest.mark.parametrize("make", [lambda: None, closed, full], ids=["none", "closed", "full"])
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_text_that_is_lost_is_a_failure_where_it_was_the_task(monkeypatch, make) -> None:
    monkeypatch.setattr(sys, "stdout", make())
    assert main(["models"]) == 1


def test_control_bytes_of_file_names_are_escaped(here: Path, capsys) -> None:
    names = [os.fsdecode(b"a\x1b[31m\xff.png"), "b\r\n.png"]
    for name in names:
        save(here / name, photo(8, 8))
    (here / "c\x07.png").write_text("no")
    assert main(["upscale", *names, "c\x07.png", "--model", "bicubic"]) == 1
    told = capsys.readouterr()
    assert told.out.splitlines() == [
        r"a\x1b[31m\udcff_bicubic_x2.png", r"b\r\n_bicubic_x2.png"
    ]  # fmt: skip
    assert told.err.startswith("crnet: c\\x07.png: ")
    assert printable("a\u2028b\x9b") == r"a\u2028b\x9b"
    assert fail("two\nlines\t", 7) == 7


def test_closed_descriptors_hold_no_picture(here: Path) -> None:
    """A file that is opened as descriptor 2 would take the warnings of C libraries."""
    save(here / "a.png", photo(8, 8))
    code = "import sys; from crnet.cli import main; sys.exit(main())"
    command = f'exec "{sys.executable}" -c "{code}" upscale a.png --model bicubic >&- 2>&- <&-'
    environment = {**os.environ, "PYTHONPATH": str(Path(crnet.__file__).parents[1])}
    assert subprocess.run(["sh", "-c", command], check=False, env=environment).returncode == 0
    assert opened("a_bicubic_x2.png").size == (16, 16)
    code = "import os; from crnet.cli.messages import open_missing_streams as o; o(); os.fstat(2)"
    command = f'exec "{sys.executable}" -c "{code}" 2>&-'
    assert subprocess.run(["sh", "-c", command], check=False, env=environment).returncode == 0


@pytest.mark.parametrize("error", [KeyError("tag"), subprocess.CalledProcessError(1, "gs")])
def test_whatever_one_file_raises_the_others_go_on(
    here: Path, capsys, monkeypatch, error: Exception
) -> None:
    for name in "abc":
        save(here / f"{name}.png", photo(8, 8, seed=ord(name)))
    real, seen = crnet.upscale_picture, []

    def second_fails(*arguments: object, **options: object) -> object:
        seen.append(1)
        if len(seen) == 2:
            raise error
        return real(*arguments, **options)

    monkeypatch.setattr("crnet.cli.enlarge.upscale_picture", second_fails)
    assert main(["upscale", ".", "--model", "bicubic"]) == 1
    told = capsys.readouterr()
    assert told.out.split() == ["a_bicubic_x2.png", "c_bicubic_x2.png"]
    assert told.err.splitlines()[0].startswith("crnet: b.png: ")
    assert told.err.splitlines()[1:] == ["crnet: 1 of 3 files failed"]


def test_what_is_not_kept_is_told_in_one_line(here: Path, capsys) -> None:
    save(here / "a.jpg", photo(8, 8), icc_profile=bytes(16) + b"RGB " + bytes(99), dpi=(72, 72))
    assert main(["upscale", "a.jpg", "--model", "bicubic", "-o", "b.ppm"]) == 0
    told = capsys.readouterr()
    assert told.out == "b.ppm\n"
    assert told.err == ("crnet: b.ppm: does not keep resolution and the colour profile of a.jpg\n")
    assert main(["upscale", "a.jpg", "--model", "bicubic", "-o", "b.png"]) == 0
    assert capsys.readouterr().err == ""


def test_ctrl_c_during_imports_is_one_line(here: Path) -> None:
    code = """
import sys
class Interrupt:
    def find_spec(self, name, path=None, target=None):
        if name == "torch":
            raise KeyboardInterrupt
sys.meta_path.insert(0, Interrupt())
from crnet.cli import main
sys.exit(main(["models"]))
"""
    environment = {**os.environ, "PYTHONPATH": str(Path(crnet.__file__).parents[1])}
    command = [sys.executable, "-c", code]
    run = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert (run.returncode, run.stdout, run.stderr) == (130, "", "crnet: interrupted\n")


COMPILING = """
import os, signal, sys
from numba.core import event
from crnet.cli import main

class Once(event.Listener):
    came = False
    def on_start(self, started):
        if not Once.came:
            Once.came = True
            os.kill(os.getpid(), signal.SIGINT)
    def on_end(self, ended):
        pass

event.register("numba:compile", Once())
code = main(["upscale", "a.png", "--model", "csc-sr"])
sys.exit(code if Once.came else "nothing was compiled")
"""


def test_ctrl_c_during_the_first_compilation_is_one_line(here: Path) -> None:
    """numba would lose it; and what is compiled, and for how long, is told before."""
    save(here / "a.png", photo(8, 8))
    environment = {
        **os.environ,
        "PYTHONPATH": str(Path(crnet.__file__).parents[1]),
        "NUMBA_CACHE_DIR": str(here / "cache"),
    }
    command = [sys.executable, "-c", COMPILING]
    run = subprocess.run(
        command, capture_output=True, text=True, env=environment, check=False, timeout=600
    )
    assert (run.returncode, run.stdout) == (130, "")
    lines = [line for line in run.stderr.splitlines() if "so far" not in line]  # progress
    assert lines == [
        "crnet: compiling for 5×5 atoms, once; this takes some seconds", "crnet: interrupted"
    ]  # fmt: skip
    assert sorted(os.listdir()) == ["a.png", "cache"]


@pytest.mark.parametrize("lost", [False, True])
def test_ctrl_c_that_a_library_swallows_ends_the_command(
    lost: bool, here: Path, capsys, monkeypatch
) -> None:
    for name in "ab":
        save(here / f"{name}.png", photo(8, 8, seed=ord(name)))
    upscale = crnet.upscale_picture

    def compiles(*given: object, **options: object) -> object:
        try:
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(1)
        except KeyboardInterrupt:
            if lost:
                return upscale(*given, **options)
            raise RuntimeError("no compiled object yet") from None

    monkeypatch.setattr("crnet.cli.enlarge.upscale_picture", compiles)
    assert crnet.cli.main(["upscale", ".", "--model", "bicubic"]) == 130
    told = capsys.readouterr()
    written = ["a_bicubic_x2.png"] if lost else []
    assert (told.out.split(), told.err) == (written, "crnet: interrupted\n")
    assert sorted(os.listdir()) == sorted(["a.png", "b.png", *written])
    assert crnet.cli.main(["upscale", "none.png", "--model", "bicubic"]) == 1
