"""Write lines to standard output and standard error.

No line raises, whatever the stream: closed, full, or of an encoding that lacks a character.  What a
command did decides its exit code, and a message about it does not.
"""

import logging
import os
import re
import sys
from contextlib import suppress
from typing import TextIO

# Control characters, line and paragraph separators, and bytes of a file name that are not UTF-8.
_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")


class UsageError(Exception):
    """The call cannot be carried out as given."""


def fail(message: str, code: int) -> int:
    """Tell on standard error why the command fails, and return its exit code."""
    tell(f"crnet: {' '.join(message.split())}")
    return code


def say(text: str) -> bool:
    """Write lines on standard output; return whether they arrived there."""
    return _write(sys.stdout, text)


def tell(text: str) -> bool:
    """Write lines on standard error; return whether they arrived there."""
    return _write(sys.stderr, text)


class _Log(logging.Handler):
    """Writes what a library logs on standard error."""

    def emit(self, record: logging.LogRecord) -> None:
        tell(f"crnet: {record.getMessage()}")


_log = _Log(logging.INFO)


def tell_what_is_logged(library: str) -> None:
    """From now on, tell on standard error what a library logs, as csc does before it compiles."""
    logger = logging.getLogger(library)
    logger.setLevel(logging.INFO)
    logger.addHandler(_log)  # once, however often it is called


def printable(text: object) -> str:
    r"""Return text without control characters, which could steer a terminal.

    Examples
    --------
    >>> print(printable("cat\x1b[2J.png"))
    cat\x1b[2J.png
    """
    return _UNPRINTABLE.sub(lambda c: c[0].encode("unicode_escape").decode(), str(text))


def _write(stream: TextIO | None, text: str) -> bool:
    if stream is None:  # Python's stream of a descriptor that was closed from the start
        return False
    lines = "\n".join(printable(line) for line in text.split("\n"))
    encoding = stream.encoding or "utf-8"
    try:
        stream.write(lines.encode(encoding, "backslashreplace").decode(encoding) + "\n")
        stream.flush()
    except (OSError, ValueError):
        _discard_what_is_left(stream)
        return False
    return True


def send(data: memoryview) -> None:
    """Write bytes on standard output.

    Raises
    ------
    OSError, ValueError
        If they do not arrive there.
    """
    try:
        sys.stdout.buffer.write(data)
        sys.stdout.buffer.flush()
    except (OSError, ValueError):
        _discard_what_is_left(sys.stdout)
        raise


def _discard_what_is_left(stream: TextIO) -> None:
    """Point a stream that failed to nowhere, or Python would fail at exit when it flushes it."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def open_missing_streams() -> None:
    """Open the standard descriptors that are closed, so that no file of ours takes their place.

    C libraries write warnings to descriptor 2, whatever file it is.
    """
    for descriptor in (0, 1, 2):
        try:
            os.fstat(descriptor)
        except OSError:
            os.open(os.devnull, os.O_RDWR)  # takes the lowest free number
