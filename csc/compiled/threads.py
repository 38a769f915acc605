"""Threads for the compiled kernels, and one thread for PyTorch while they run."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
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

    A Ctrl-C while numba loads a kernel comes out of numba as a SystemError.  This turns it back
    into a KeyboardInterrupt.
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
        yield had
    except SystemError as error:
        if _interrupted(error):
            raise KeyboardInterrupt from error
        raise
    finally:
        _here.depth = depth
        if depth == 0:
            torch.set_num_threads(had)
        with _lock:
            _inside -= 1


def _interrupted(error: BaseException | None) -> bool:
    """Tell whether a KeyboardInterrupt led to an error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def torch_threads() -> int:
    """Return the number of PyTorch's threads outside of :func:`one_torch_thread`."""
    with _lock:
        return _threads if _inside else torch.get_num_threads()


def together(run: Callable[[Part], Result], parts: list[Part]) -> list[Result]:
    """Return the results of `run` for all parts, which run in parallel, the last on this thread."""
    if len(parts) < 2:
        return [run(part) for part in parts]
    waiting = [_pool().submit(run, part) for part in parts[:-1]]
    try:
        last = run(parts[-1])
    finally:  # no part runs on after this returns or raises
        wait(waiting)
    return [*(other.result() for other in waiting), last]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="csc")


if hasattr(os, "register_at_fork"):  # a child has no threads of its parent's pool
    os.register_at_fork(after_in_child=_pool.cache_clear)
