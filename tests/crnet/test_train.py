from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from crnet.data import Pair
from crnet.train import Progress, TrainConfig, TrainingFailed, train

TINY = TrainConfig(n0=8, m0=8, recursions=2, scales=(2,), steps=20, batch=4, patch=12, warmup=2)


@pytest.fixture
def pairs() -> list[Pair]:
    """A blurred wave and the wave: something a small network can sharpen."""
    t = torch.arange(40) / 2.0
    wave = 0.5 + 0.3 * torch.sin(t)[:, None] * torch.cos(t)
    mirrored = F.pad(wave[None, None], [1] * 4, mode="reflect")
    blurred = F.avg_pool2d(mirrored, 3, 1)[0, 0]
    return [Pair(blurred, (255 * wave).round().to(torch.uint8))]


class CutOffError(Exception):
    pass


def test_it_learns(pairs: list[Pair], tmp_path: Path) -> None:
    heard: list[Progress] = []
    config = replace(TINY, steps=200, lr=3e-3)
    net, seconds = train(config, pairs, tmp_path / "s.pt", every=20, on_progress=heard.append)
    assert [p.step for p in heard] == list(range(20, 201, 20))
    assert heard[-1].loss < 0.5 * heard[0].loss
    assert 0 < heard[-1].live < 1
    assert seconds > 0
    x, target = pairs[0].x[None, None], pairs[0].target[None, None] / 255
    with torch.no_grad():
        assert (net(x) - target).abs().mean() < 0.5 * (x - target).abs().mean()
    assert not net.training


def test_resuming_is_bit_equal(pairs: list[Pair], tmp_path: Path) -> None:
    whole, _ = train(TINY, pairs, tmp_path / "whole.pt", every=5, save_seconds=0)

    def cut(p: Progress) -> None:
        if p.step == 15:  # the checkpoint of step 10 is the last one
            raise CutOffError

    state = tmp_path / "cut.pt"
    with pytest.raises(CutOffError):
        train(TINY, pairs, state, every=5, save_seconds=0, on_progress=cut)
    assert torch.load(state, weights_only=True)["step"] == 10
    heard: list[Progress] = []
    resumed, _ = train(TINY, pairs, state, every=5, on_progress=heard.append)
    assert [p.step for p in heard] == [15, 20]
    for a, b in zip(whole.parameters(), resumed.parameters(), strict=True):
        assert torch.equal(a, b)
    again, _ = train(TINY, pairs, state)  # a finished run has nothing left to do
    assert all(
        torch.equal(a, b) for a, b in zip(again.parameters(), whole.parameters(), strict=True)
    )


def test_a_different_recipe_is_refused_with_the_differences(
    pairs: list[Pair], tmp_path: Path
) -> None:
    state = tmp_path / "s.pt"
    train(TINY, pairs, state)
    before = state.read_bytes()
    with pytest.raises(ValueError, match=r"different recipe \(steps: 20 there, 30 here\)"):
        train(replace(TINY, steps=30), pairs, state)
    with pytest.raises(ValueError, match=r"different recipe \(other training images\)"):
        train(TINY, [*pairs, *pairs], state)
    assert state.read_bytes() == before


def test_weights_are_averaged_and_gradients_clipped(pairs: list[Pair], tmp_path: Path) -> None:
    """The result is the running mean of the weights, not the last ones; clipping acts."""
    runs = {}
    for name, change in {"as is": {}, "no mean": {"ema": 0.0}, "clip": {"clip_norm": 1e-9}}.items():
        config = replace(TINY, lr=1e-2, warmup=0, **change)
        runs[name] = train(config, pairs, tmp_path / f"{name}.pt")[0].H.weight
        state = torch.load(tmp_path / f"{name}.pt", weights_only=True)
        assert torch.equal(runs[name], state["ema"]["H.weight"])
        assert torch.allclose(runs[name], state["net"]["H.weight"], atol=1e-6) == (
            name == "no mean"
        )
    assert not torch.allclose(runs["as is"], runs["clip"])


def test_nan_stops_the_run(pairs: list[Pair], tmp_path: Path) -> None:
    bad = [Pair(pairs[0].x * torch.nan, pairs[0].target)]
    with pytest.raises(TrainingFailed, match="loss nan"):
        train(TINY, bad, tmp_path / "s.pt", every=5)
    assert not (tmp_path / "s.pt").exists()


def test_dead_codes_stop_the_run(pairs: list[Pair], tmp_path: Path) -> None:
    black = [Pair(torch.zeros_like(pairs[0].x), pairs[0].target)]  # no bias: no code can be on
    with pytest.raises(TrainingFailed, match=r"0\.0% of the codes are non-zero"):
        train(TINY, black, tmp_path / "s.pt", every=5)


def test_rate_warms_up_and_decays_to_zero() -> None:
    config = TrainConfig(steps=1000, warmup=100, lr=1e-3)
    rates = [config.rate(s) for s in range(1000)]
    assert rates[0] == pytest.approx(1e-5, rel=1e-3)
    assert max(rates) == pytest.approx(1e-3, rel=0.03)
    assert rates.index(max(rates)) == 99
    assert rates[-1] < 1e-8
    assert all(b < a for a, b in zip(rates[100:], rates[101:], strict=False))
