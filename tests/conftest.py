import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import settings

from csc.workers import Processes

# The first call into torch is slow, so a deadline would blame the wrong example.  Everyone gets the
# same examples; `pytest -m hypothesis --hypothesis-profile=new` draws others.
settings.register_profile("same", deadline=None, max_examples=20, derandomize=True)
settings.register_profile("new", deadline=None, max_examples=300)
settings.load_profile("same")

# A shell starts background jobs with Ctrl-C ignored; the tests of Ctrl-C would wait for ever.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
def root() -> Path:
    """The folder of real image sets, or a skip that says how to name it."""
    named = os.environ.get("CRNET_DATA")
    if not named:
        pytest.skip("CRNET_DATA names no folder of image sets")
    return Path(named)


@pytest.fixture
def seeded() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="session")
def pool() -> Iterator[Processes]:
    """Two spawned processes for all tests: each takes seconds to start."""
    with Processes(2) as processes:
        yield processes
