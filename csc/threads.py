"""Threads of our own for the compiled kernels, and PyTorch's out of their way."""

import functools
import os
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


_lock = threading.Lock()
_inside, _threads = 0, 0


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Keep PyTorch to one thread, and yield how many it had; calls may overlap.

    After a parallel operation its idle threads spin for milliseconds, on the cores that ours need.
    """
    global _inside, _threads
    with _lock:
        if _inside == 0:
            _threads = torch.get_num_threads()
            torch.set_num_threads(1)
        _inside += 1
        had = _threads
    try:
        yield had
    finally:
        with _lock:
            _inside -= 1
            if _inside == 0:
                torch.set_num_threads(_threads)


def together(run: Callable[[Part], Any], parts: list[Part]) -> list[Any]:
    """Run the parts at the same time, the last one on this thread; return what they return."""
    if len(parts) < 2:
        return [run(part) for part in parts]
    waiting = [_pool().submit(run, part) for part in parts[:-1]]
    try:
        last = run(parts[-1])
    finally:  # nothing goes on in the background once this returns or raises
        others = [other.result() for other in waiting]
    return [*others, last]


@functools.cache
def _pool() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(os.cpu_count(), thread_name_prefix="csc")


if hasattr(os, "register_at_fork"):  # the threads of a pool stay behind in the parent
    os.register_at_fork(after_in_child=_pool.cache_clear)
