"""Threads of our own for the compiled kernels, and PyTorch's out of their way."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


_lock = threading.Lock()
_here = threading.local()
_inside, _threads = 0, 0


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Keep PyTorch to one thread, and yield how many it had; calls may nest and overlap.

    After a parallel operation its idle threads spin for milliseconds, on the cores that ours need.
    The number is one of the calling thread, and the default of new threads.

    A Ctrl-C that meets numba while it loads a kernel comes out of it as a SystemError; here it is
    the KeyboardInterrupt again.
    """
    global _inside, _threads
    depth = getattr(_here, "depth", 0)
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
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


def torch_threads() -> int:
    """Return the number of PyTorch's threads, also while it is kept to one."""
    with _lock:
        return _threads if _inside else torch.get_num_threads()


def together(run: Callable[[Part], Any], parts: list[Part]) -> list[Any]:
    """Run the parts at the same time, the last one on this thread; return what they return."""
    if len(parts) < 2:
        return [run(part) for part in parts]
    waiting = [_pool().submit(run, part) for part in parts[:-1]]
    try:
        last = run(parts[-1])
    finally:  # nothing goes on in the background once this returns or raises
        wait(waiting)
    return [*(other.result() for other in waiting), last]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="csc")


if hasattr(os, "register_at_fork"):  # the threads of a pool stay behind in the parent
    os.register_at_fork(after_in_child=_pool.cache_clear)
