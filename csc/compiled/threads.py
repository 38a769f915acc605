"""Threads for the compiled kernels; one thread for PyTorch, and a safe Ctrl-C, while they run."""

import functools
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from types import FrameType
from typing import TypeVar

import torch

Part = TypeVar("Part")
Result = TypeVar("Result")


class _Here(threading.local):
    """How many calls of `one_torch_thread` the current thread is in."""

    depth = 0


_lock = threading.Lock()
_here = _Here()
_inside, _threads = 0, 0  # such calls of all threads, and PyTorch's number before the first


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Keep PyTorch to one thread, and yield how many it had; calls may nest and overlap.

    After a parallel operation PyTorch's idle threads spin for milliseconds, on the cores that the
    kernels need.  PyTorch has a number of threads for each calling thread, and a default for new
    threads.

    Within the block Ctrl-C waits while numba compiles or kernels run.
    """
    global _inside, _threads
    depth = _here.depth
    with _lock:
        if _inside == 0:
            _threads = torch.get_num_threads()
        _inside += 1
        had = _threads
    if depth == 0:
        torch.set_num_threads(1)
    _here.depth = depth + 1
    try:
        with _ctrl_c_after_kernels():
            yield had
    finally:
        _here.depth = depth
        if depth == 0:
            torch.set_num_threads(had)
        with _lock:
            _inside -= 1


class _CtrlC:
    """The handler that Ctrl-C had, and whether one waits for it."""

    handler: Callable[[int, FrameType | None], object] | None = None
    waits = False


@contextmanager
def _ctrl_c_after_kernels() -> Iterator[None]:
    """Let Ctrl-C wait while numba is at work or threads run kernels.

    An exception of a signal handler is lost inside numba, or becomes another one.  A second Ctrl-C
    does not wait.
    """
    before = signal.getsignal(signal.SIGINT)
    if _CtrlC.handler is not None or not callable(before) or not _in_main_thread():
        yield
        return
    _CtrlC.handler, _CtrlC.waits = before, False
    signal.signal(signal.SIGINT, _on_ctrl_c)
    try:
        yield
    except SystemError as error:  # from numba's C code
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        signal.signal(signal.SIGINT, before)
        try:
            _handle_ctrl_c()
        finally:
            _CtrlC.handler = None


def _on_ctrl_c(number: int, frame: FrameType | None) -> None:
    first, _CtrlC.waits = not _CtrlC.waits, True
    while frame is not None and first:
        name = str(frame.f_globals.get("__name__"))
        if name == __name__ or name.split(".")[0] == "numba":
            return
        frame = frame.f_back
    _handle_ctrl_c()


def _handle_ctrl_c() -> None:
    """Call the handler of a Ctrl-C that waits, if one does."""
    if _CtrlC.waits and _CtrlC.handler is not None and _in_main_thread():
        _CtrlC.waits = False
        _CtrlC.handler(signal.SIGINT, sys._getframe())


def _interrupted(error: BaseException | None) -> bool:
    """Tell whether a KeyboardInterrupt led to an error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def _in_main_thread() -> bool:
    return threading.current_thread() is threading.main_thread()


def torch_threads() -> int:
    """Return the number of PyTorch's threads outside of :func:`one_torch_thread`."""
    with _lock:
        return _threads if _inside else torch.get_num_threads()


def together(run: Callable[[Part], Result], parts: list[Part]) -> list[Result]:
    """Return the results of `run` for all parts, which run in parallel, the last on this thread."""
    waiting = [_pool().submit(run, part) for part in parts[:-1]]
    try:
        last = [run(part) for part in parts[-1:]]
    finally:  # no part runs on after this returns or raises
        if waiting:
            wait(waiting)
    _handle_ctrl_c()
    return [*(other.result() for other in waiting), *last]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="csc")


if hasattr(os, "register_at_fork"):  # a child has no threads of its parent's pool
    os.register_at_fork(after_in_child=_pool.cache_clear)
