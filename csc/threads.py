"""Threads of our own for the compiled kernels, and PyTorch's out of their way."""

import functools
import os
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, TypeVar

import torch

Part = TypeVar("Part")


@contextmanager
def one_torch_thread() -> Iterator[int]:
    """Keep PyTorch to one thread, and yield how many it had.

    After a parallel operation its idle threads spin for milliseconds, on the cores that ours need.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield threads
    finally:
        torch.set_num_threads(threads)


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
