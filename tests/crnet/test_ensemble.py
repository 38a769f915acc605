import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from baselines import bicubic
from crnet import CRNetA, CRNetB, Upscaler
from crnet.ensemble import Ensemble, turned, unturned
from tests.laws import close


def systems() -> list[Upscaler]:
    g = torch.Generator().manual_seed(0)
    a, b = CRNetA(4, 6, 2, generator=g), CRNetB(8, 8, 1, generator=g)
    return [Upscaler(a.double()), Upscaler(b.double())]


@given(st.integers(0, 7), st.integers(1, 6), st.integers(1, 6))
def test_eight_different_turns_that_can_be_undone(turn: int, H: int, W: int) -> None:
    x = torch.arange(H * W).view(1, 1, H, W)
    assert torch.equal(unturned(turned(x, turn), turn), x)
    square = torch.arange(9).view(3, 3)
    assert len({tuple(turned(square, t).flatten().tolist()) for t in range(8)}) == 8


@pytest.mark.parametrize("kind", [0, 1])
@pytest.mark.parametrize("turn", range(8))
@settings(max_examples=5)
@given(st.sampled_from([2, 3, 4]))
def test_it_commutes_with_every_turn(kind: int, turn: int, scale: int) -> None:
    """ensemble(T x) = T ensemble(x), which the network alone does not satisfy."""
    system = systems()[kind]
    g = torch.Generator().manual_seed(1)
    x = torch.rand(1, system.channels, 5, 7, generator=g, dtype=torch.float64)
    ensemble = Ensemble(system)
    assert ensemble.channels == system.channels
    close(ensemble(turned(x, turn), scale), turned(ensemble(x, scale), turn), 1e-12)
    if turn:
        alone = system(turned(x, turn), scale) - turned(system(x, scale), turn)
        assert alone.abs().max() > 1e-6


def test_of_a_symmetric_system_it_is_the_system() -> None:
    x = torch.rand(1, 1, 6, 5, dtype=torch.float64)
    close(Ensemble(bicubic)(x, 3), bicubic(x, 3), 1e-12)
