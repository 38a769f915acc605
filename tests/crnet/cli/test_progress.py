"""Progress in lines: the steps before, an estimate after the first, and never a long silence."""

import threading

import pytest

from crnet.cli import progress
from crnet.cli.enlarge import over_passes
from crnet.cli.progress import Lines


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    return now


def test_the_steps_are_told_before_and_an_estimate_after_the_first(clock: list[float]) -> None:
    told: list[str] = []
    with Lines("a.png", "tiles", every=60, write=told.append) as lines:
        lines.follow(0, 4)
        assert told == ["a.png: 4 tiles"]
        clock[0] = 30
        lines.follow(1, 4)
        assert told[1:] == ["a.png: 1 of 4 tiles, 30 s, about 90 s left"]
        lines.follow(2, 4)
    assert len(told) == 2


def test_what_is_over_at_once_writes_nothing() -> None:
    told: list[str] = []
    with Lines("a.png", "tiles", write=told.append) as lines:
        lines.follow(0, 1)
        lines.follow(1, 1)
    assert told == []


def test_a_long_step_is_not_silent() -> None:
    told: list[str] = []
    spoke = threading.Event()

    def write(line: str) -> None:
        told.append(line)
        spoke.set()

    with Lines("a.png", "tiles", every=0.01, write=write):
        assert spoke.wait(60)
    assert told[0] == "a.png: 0 s so far"


def test_an_ensemble_counts_the_tiles_of_all_its_passes(clock: list[float]) -> None:
    told: list[str] = []
    with Lines("a.png", "tiles", every=60, write=told.append) as lines:
        follow = over_passes(lines.follow, 8)
        for _ in range(8):
            for done in range(3):
                follow(done, 2)
    assert told == ["a.png: 16 tiles"]
