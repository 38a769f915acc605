"""Independent items on the workers of an executor: processes here, Dask or MPI elsewhere.

:func:`each` maps a function over items, in this process or on any
:class:`concurrent.futures.Executor`.  The results are the same, bit for bit, whatever the number of
workers and whichever finishes first: an item is computed alone, on as many PyTorch threads as the
caller has, and results come in the order of the items.

:class:`Processes` is such an executor on this machine.  It spawns its processes, because a child
that is forked after PyTorch has convolved can hang.
"""

import multiprocessing
import pickle
import signal
import threading
import traceback
import warnings
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import (
    BrokenExecutor,
    Executor,
    Future,
    ProcessPoolExecutor,
    ThreadPoolExecutor,
)
from contextlib import ExitStack
from functools import lru_cache
from typing import Any, ParamSpec, TypeVar

import torch

from csc.checks import check_integer

Item = TypeVar("Item")
Result = TypeVar("Result")
P = ParamSpec("P")


def tell_lost(index: int, reason: str) -> None:
    """Warn that an item has no result."""
    warnings.warn(
        f"item {index} is left out, because its worker was lost: {reason}",
        RuntimeWarning,
        stacklevel=4,
    )


def each(
    function: Callable[[Item], Result],
    items: Iterable[Item],
    executor: Executor | None = None,
    *,
    on_lost: Callable[[int, str], None] = tell_lost,
) -> Iterator[tuple[int, Result]]:
    """Yield (index, function(item)) for every item, in the order of the items.

    Parameters
    ----------
    function : callable
        With an executor it must be picklable, such as a function of a module.
    items : iterable
        With an executor they must be picklable; all are submitted at once.
    executor : concurrent.futures.Executor, optional
        By default the items are computed here, one after the other.
    on_lost : callable, optional
        Called with the index of an item whose worker was lost, and the reason.  Such an item yields
        nothing, and the others go on.  By default it warns.

    Raises
    ------
    Exception
        What `function` raises.

    Notes
    -----
    If a worker of a :class:`~concurrent.futures.ProcessPoolExecutor` is lost, the whole pool is.
    The items that it has not computed are then computed in one new process.

    Examples
    --------
    >>> from concurrent.futures import ThreadPoolExecutor
    >>> with ThreadPoolExecutor(2) as pool:
    ...     list(each(abs, [-1, -2], pool))
    [(0, 1), (1, 2)]
    """
    if executor is None:
        for index, item in enumerate(items):
            yield index, function(item)
        return
    work, threads = pickle.dumps(function), torch.get_num_threads()
    tasks = [pickle.dumps(item) for item in items]
    futures = [executor.submit(_run, work, task, threads) for task in tasks]
    with ExitStack() as stack:
        stack.callback(_cancel, futures)
        spare: Processes | None = None
        for index, future in enumerate(futures):
            try:
                try:
                    answer = future.result()
                except BrokenExecutor:  # it does not say which item broke it
                    spare = spare or stack.enter_context(Processes(1))
                    answer = spare.submit(_run, work, tasks[index], threads).result()
            except Exception as error:  # not of `function`, whose errors are in the answer
                on_lost(index, str(error) or type(error).__name__)
                continue
            result, raised = pickle.loads(answer)  # noqa: S301  # from our own worker
            if raised is not None:
                raise raised
            yield index, result


def _cancel(futures: list[Future[bytes]]) -> None:
    for future in futures:
        future.cancel()


def _run(work: bytes, task: bytes, threads: int) -> bytes:
    """Compute an item in a worker; return the pickle of (result, error)."""
    had = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return pickle.dumps((_function(work)(pickle.loads(task)), None))  # noqa: S301
    except Exception as error:
        error.add_note(f"In a worker:\n{traceback.format_exc()}")
        return pickle.dumps((None, error))
    finally:
        torch.set_num_threads(had)


@lru_cache(maxsize=1)
def _function(work: bytes) -> Callable[[Any], Any]:
    """Unpickle a function once for all items of a worker: it may hold a network."""
    return pickle.loads(work)  # type: ignore[no-any-return]  # noqa: S301


class LostWorkerError(RuntimeError):
    """A process ended before it answered."""


class _Mine(threading.local):
    """The process that the current thread waits for."""

    pool: ProcessPoolExecutor | None = None


class Processes(Executor):
    """Spawned processes, each of which can be lost without the others.

    A process that is lost, for example for want of memory, fails its own item.  A new one takes its
    place.

    Parameters
    ----------
    n : int
        Number of processes ≥ 1.

    Notes
    -----
    As with all spawned processes, a script that uses it needs ``if __name__ == "__main__":``.

    Examples
    --------
    >>> with Processes(2) as pool:  # doctest: +SKIP
    ...     list(pool.map(abs, [-1, -2]))
    [1, 2]
    """

    def __init__(self, n: int) -> None:
        check_integer(n, "the number of processes", least=1)
        self._threads = ThreadPoolExecutor(n)  # a thread waits for its process
        self._mine = _Mine()
        self._pools: set[ProcessPoolExecutor] = set()

    def submit(
        self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs
    ) -> Future[Result]:
        """Compute fn(*args, **kwargs) in a process."""
        return self._threads.submit(self._in_process, fn, *args, **kwargs)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """End the processes, after the calls that are running."""
        self._threads.shutdown(wait, cancel_futures=cancel_futures)
        for pool in tuple(self._pools):
            pool.shutdown(wait)

    def _in_process(self, fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
        pool = self._mine.pool
        if pool is None:
            spawn = multiprocessing.get_context("spawn")
            pool = self._mine.pool = ProcessPoolExecutor(1, spawn, _ignore_interrupts)
            self._pools.add(pool)
        try:
            return pool.submit(_interruptible, fn, *args, **kwargs).result()
        except BrokenExecutor as error:
            self._mine.pool = None
            self._pools.discard(pool)
            raise LostWorkerError("the process ended, perhaps for want of memory") from error


def _ignore_interrupts() -> None:
    """Let an idle process leave Ctrl-C to its parent."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _interruptible(fn: Callable[P, Result], /, *args: P.args, **kwargs: P.kwargs) -> Result:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        return fn(*args, **kwargs)
    finally:
        _ignore_interrupts()
