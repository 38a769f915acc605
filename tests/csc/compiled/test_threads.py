import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from csc import coordinate_descent, fista, lam_max
from csc.compiled.threads import one_torch_thread, together, torch_threads
from tests.csc.solvers.test_cd import atoms, photo_like


@pytest.fixture
def three_threads() -> Iterator[int]:
    """Give torch three threads: where it has one already, all tests of its number pass."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield 3
    torch.set_num_threads(before)


def test_together_returns_in_order() -> None:
    assert together(lambda n: n * n, [1, 2, 3, 4]) == [1, 4, 9, 16]
    assert together(lambda n: n * n, []) == []


@pytest.mark.parametrize("bad", [0, 1, 2])
def test_a_part_that_fails_is_heard_and_leaves_nothing_running(bad: int) -> None:
    finished = []

    def run(n: int) -> None:
        if n == bad:
            raise RuntimeError("bad part")
        time.sleep(0.05)
        finished.append(n)

    with pytest.raises(RuntimeError, match="bad part"):
        together(run, [0, 1, 2])
    assert sorted(finished) == sorted({0, 1, 2} - {bad})


def test_torch_gets_its_threads_back(three_threads: int) -> None:
    before = three_threads
    with one_torch_thread() as had:
        assert had == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    with pytest.raises(KeyError), one_torch_thread():
        raise KeyError
    assert torch.get_num_threads() == before


def test_threads_that_overlap_get_their_number_back(three_threads: int) -> None:
    before, entered, leave = three_threads, threading.Event(), threading.Event()
    said: list[tuple[int, int, int]] = []

    def other() -> None:
        with one_torch_thread() as had:
            entered.set()
            leave.wait(120)
            said.append((had, had, torch_threads()))
        said.append((had, torch.get_num_threads(), torch_threads()))

    thread = threading.Thread(target=other)
    with one_torch_thread():
        thread.start()
        assert entered.wait(120)
        with one_torch_thread() as had:
            assert had == torch_threads() == before
        assert torch.get_num_threads() == 1
    assert torch.get_num_threads() == before
    leave.set()
    thread.join()
    assert said == [(before,) * 3] * 2
    assert torch.get_num_threads() == before


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")
@pytest.mark.filterwarnings("ignore:.*fork")
def test_a_forked_process_has_threads_of_its_own() -> None:
    """As in the workers of a data loader, after the parent has used its threads."""
    assert together(abs, [-1, 2]) == [1, 2]
    child = os.fork()
    if child == 0:
        os._exit(together(abs, [-3, 4]) != [3, 4])
    for _ in range(1200):
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            break
        time.sleep(0.1)
    else:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)
        pytest.fail("the child hangs")
    assert status == 0


@pytest.mark.parametrize("solve", [coordinate_descent, fista])
def test_an_interrupted_callback_leaves_all_in_order(solve, three_threads: int) -> None:
    x, D = photo_like(120, 128), atoms()
    lam, before = 0.2 * lam_max(x, D), three_threads

    def interrupt(k: int, z: torch.Tensor) -> None:
        if k > 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        solve(x, D, lam, on_step=interrupt)
    assert torch.get_num_threads() == before
    first, again = (solve(x, D, lam, tol=1e-2).codes for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("module", ["numba.core.dispatcher", "csc.compiled.threads"])
def test_ctrl_c_waits_for_numba_and_for_threads_of_kernels(module: str) -> None:
    """An exception there would be lost, as it is here; a second Ctrl-C does not wait."""
    code = """
def work(times):
    try:
        for _ in range(times):
            os.kill(os.getpid(), signal.SIGINT)
            time.sleep(0.01)
        done.append("kernel")
    except KeyboardInterrupt:
        done.append("lost")
"""
    done: list[str] = []
    scope = {"__name__": module, "os": os, "signal": signal, "time": time, "done": done}
    exec(code, scope)  # noqa: S102
    with pytest.raises(KeyboardInterrupt), one_torch_thread():  # noqa: PT012
        together(scope["work"], [1])
        done.append("after it")
    assert done == ["kernel"]
    with pytest.raises(KeyboardInterrupt), one_torch_thread():  # noqa: PT012
        scope["work"](1)
        done.append("after it")
    assert done == ["kernel", "kernel", "after it"]
    with one_torch_thread():
        scope["work"](2)
    assert done[-1] == "lost"
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_ctrl_c_inside_numba_is_a_keyboard_interrupt(monkeypatch: pytest.MonkeyPatch) -> None:
    """numba wraps what interrupts its loading of a kernel in SystemErrors."""
    from csc.compiled import kernels

    def interrupted(*_: object) -> None:
        try:
            try:
                raise KeyboardInterrupt
            except KeyboardInterrupt as error:
                raise SystemError("a result with an exception set") from error
        except SystemError as error:
            raise SystemError("a result with an exception set") from error

    def broken(*_: object) -> None:
        raise SystemError("of its own")

    x, D = photo_like(60, 60), atoms()
    monkeypatch.setattr(kernels, "relist", interrupted)
    with pytest.raises(KeyboardInterrupt):
        coordinate_descent(x, D, 0.1 * lam_max(x, D))
    monkeypatch.setattr(kernels, "relist", broken)
    with pytest.raises(SystemError, match="of its own"):
        coordinate_descent(x, D, 0.1 * lam_max(x, D))


def test_ctrl_c_leaves_the_interpreter_healthy() -> None:
    code = """
import sys, torch
from csc import coordinate_descent, lam_max
from tests.csc.solvers.test_cd import atoms, photo_like
x, D = photo_like(200, 200), atoms()
coordinate_descent(x, D, 0.5 * lam_max(x, D), tol=1e-2)
print("ready", flush=True)
try:
    coordinate_descent(x, D, 1e-4, tol=0.0, max_iter=10**9)
except KeyboardInterrupt:
    s = coordinate_descent(x, D, 0.5 * lam_max(x, D), tol=1e-4)
    print("healthy", s.converged, flush=True)
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout
    assert process.stdout.readline() == "ready\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGINT)
    said, _ = process.communicate(timeout=600)
    assert said == "healthy True\n"
    assert process.returncode == 0
