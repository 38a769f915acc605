"""The command line."""

from collections.abc import Sequence

from crnet.cli.interrupt import interrupts
from crnet.cli.messages import fail, open_missing_streams

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Ctrl-C ends it with one line and code 130, also during the import of torch, which takes seconds.
    """
    try:
        with interrupts():
            open_missing_streams()
            from crnet.cli import parser

            return parser.main(argv)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
