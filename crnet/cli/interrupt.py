"""Ctrl-C, also where a library makes it an error of its own, as numba does while it compiles."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType

_came = threading.Event()


@contextmanager
def interrupts() -> Iterator[None]:
    """Note every Ctrl-C within the block, which raises `KeyboardInterrupt` as always."""

    def note(_number: int, _frame: FrameType | None) -> None:
        _came.set()
        raise KeyboardInterrupt

    _came.clear()
    if threading.current_thread() is not threading.main_thread():  # signals reach the main one
        yield
        return
    before = signal.signal(signal.SIGINT, note)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


def check_interrupt() -> None:
    """Raise `KeyboardInterrupt` if one came and was swallowed on its way."""
    if _came.is_set():
        raise KeyboardInterrupt
