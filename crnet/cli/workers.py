"""``--workers``: processes that share the images of a command."""

import argparse
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from crnet.cli.messages import UsageError
from csc.workers import Processes


def add_workers(parser: argparse.ArgumentParser) -> None:
    """Add ``--workers``."""
    parser.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that share the images, each on one thread; 0 is this one, on all threads "
        "(default: 0)",
    )


@contextmanager
def processes(n: int) -> Iterator[Processes | None]:
    """Start n processes with one thread each, or none for n = 0.

    Raises
    ------
    UsageError
        If n < 0.
    """
    if n < 0:
        raise UsageError(f"--workers must be ≥ 0, got {n}")
    if n == 0:
        yield None
        return
    had = torch.get_num_threads()
    torch.set_num_threads(1)  # workers take over this number
    try:
        with Processes(n) as pool:
            yield pool
    finally:
        torch.set_num_threads(had)
