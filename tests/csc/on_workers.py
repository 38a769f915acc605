"""Functions for workers, and executors that fail.  A spawned process imports nothing more."""

import os
import signal
import time
from concurrent.futures import Executor, Future

import torch

from csc.workers import LostWorkerError


def slow_first(n: int) -> tuple[int, int, int]:
    """The first item ends last."""
    time.sleep(0.3 * (n == 0))
    return n * n, torch.get_num_threads(), os.getpid()


def die(n: int) -> int:
    """Item 1 takes its process down, as one that is out of memory."""
    if n == 1:
        os.kill(os.getpid(), signal.SIGKILL)
    return -n


def refuse(n: int) -> int:
    if n == 2:
        raise ValueError("two is too many")
    return n


class Loses(Executor):
    """An executor without workers that loses `many` items, from the one with the given index."""

    def __init__(self, index: int, error: Exception | None = None, many: int = 1) -> None:
        self.lost = range(index, index + many)
        self.error = error or LostWorkerError("gone")
        self.submitted = 0

    def submit(self, fn, /, *args, **kwargs):  # type: ignore[no-untyped-def]
        future: Future[object] = Future()
        if self.submitted in self.lost:
            future.set_exception(self.error)
        else:
            future.set_result(fn(*args, **kwargs))
        self.submitted += 1
        return future
