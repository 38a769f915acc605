"""Progress on stderr: a bar on a terminal, plain lines elsewhere."""

import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import TracebackType

from tqdm import tqdm

from crnet.cli.messages import printable, tell

EVERY = 5.0
"""Seconds between two lines of a short run; a long one has a line per twentieth of its time."""


@contextmanager
def progress(title: str, unit: str) -> Iterator[Callable[[int, int], None]]:
    """Show the progress of a block, which calls the yielded function with (done, total).

    Parameters
    ----------
    title : str
        What is done.
    unit : str
        What is counted, in the plural.
    """
    if sys.stderr is not None and not sys.stderr.closed and sys.stderr.isatty():
        with tqdm(desc=printable(title), unit=f" {unit}", leave=False) as bar:

            def follow(done: int, total: int) -> None:
                bar.total = total
                bar.update(done - bar.n)

            yield follow
    else:
        with Lines(title, unit) as lines:
            yield lines.follow


class Lines:
    """Progress as lines: the number of steps, an estimate after the first, then every few seconds.

    A thread writes the lines, so that a step of minutes is not silent.  What is over within
    seconds and in one step writes nothing.
    """

    def __init__(
        self, title: str, unit: str, every: float = EVERY, write: Callable[[str], object] = tell
    ) -> None:
        self.title, self.unit, self.every, self.write = title, unit, every, write
        self._started = time.monotonic()
        self._done = self._total = 0
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._beat, daemon=True)

    def __enter__(self) -> "Lines":
        """Start the clock."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop writing."""
        self._over.set()
        self._thread.join()

    def follow(self, done: int, total: int) -> None:
        """Take the steps done and the steps in all; 0 done starts another count."""
        self._done, self._total = done, total
        if done == 0:
            self._started = time.monotonic()
        if total > 1 and done == 0:
            self.write(f"{self.title}: {total} {self.unit}")
        elif done == 1 and self._left() > self.every:
            self.write(self._line())

    def _beat(self) -> None:
        while not self._over.wait(max(self.every, self._spent() / 20)):
            self.write(self._line())

    def _line(self) -> str:
        spent = self._spent()
        if not self._done:
            return f"{self.title}: {duration(spent)} so far"
        left = duration(self._left())
        counted = f"{self._done} of {self._total} {self.unit}"
        return f"{self.title}: {counted}, {duration(spent)}, about {left} left"

    def _spent(self) -> float:
        return time.monotonic() - self._started

    def _left(self) -> float:
        return self._spent() * (self._total - self._done) / max(1, self._done)


def duration(seconds: float) -> str:
    """Return seconds for people.

    Examples
    --------
    >>> duration(7.4), duration(200), duration(10_000)
    ('7 s', '3 min', '2.8 h')
    """
    if seconds < 100:
        return f"{seconds:.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 6000 else f"{seconds / 3600:.1f} h"
