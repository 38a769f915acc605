"""Laws of the choice of a precision: measured once, float32 unless bfloat16 is clearly faster."""

import pytest
import torch

import crnet
from crnet import CRNetA, precision
from crnet.precision import fastest, for_training, resolve


@pytest.fixture(autouse=True)
def forget():
    """Each test measures anew; what it pretends to have measured is forgotten."""
    fastest.cache_clear()
    yield
    fastest.cache_clear()


@pytest.mark.parametrize(
    ("seconds", "chosen", "lightning"),
    [
        ((1.0, 0.3), "bfloat16", "bf16-mixed"),
        ((1.0, 0.9), "float32", "32-true"),
        ((1.0, 20.0), "float32", "32-true"),
    ],
)
def test_auto_is_bfloat16_only_where_it_is_clearly_faster(
    monkeypatch, seconds: tuple[float, float], chosen: str, lightning: str
) -> None:
    monkeypatch.setattr(precision, "seconds", lambda device: seconds)
    assert resolve("auto", "cpu") == chosen
    assert for_training("auto", "cpu") == lightning


def test_a_device_is_measured_once(monkeypatch) -> None:
    measured: list[str] = []
    monkeypatch.setattr(precision, "seconds", lambda device: measured.append(device) or (1.0, 0.1))
    assert [resolve("auto", d) for d in ("cpu", "cpu", "xpu")] == ["bfloat16"] * 3
    assert measured == ["cpu", "xpu"]
    assert [resolve(p, "cuda") for p in ("float32", "bfloat16")] == ["float32", "bfloat16"]
    assert for_training("bf16-mixed", "cuda") == "bf16-mixed"
    assert measured == ["cpu", "xpu"]  # what is given is not measured


def test_a_device_without_bfloat16_computes_in_float32(monkeypatch) -> None:
    def refuse(device: str) -> tuple[float, float]:
        raise TypeError("BFloat16 is not supported on this device")

    monkeypatch.setattr(precision, "seconds", refuse)
    assert resolve("auto", "mps") == "float32"


def test_measuring_takes_positive_time() -> None:
    assert all(0 < s < float("inf") for s in precision.seconds("cpu"))
    with pytest.raises(ValueError, match="auto, float32 or bfloat16, got 'half'"):
        resolve("half", "cpu")


@pytest.mark.parametrize("chosen", ["float32", "bfloat16"])
def test_an_upscaler_computes_auto_in_the_chosen_precision(monkeypatch, chosen: str) -> None:
    monkeypatch.setattr(precision, "fastest", lambda device: chosen)
    net = CRNetA(8, 16, 2, generator=torch.Generator().manual_seed(0)).eval()
    x = torch.rand(1, 1, 12, 12, generator=torch.Generator().manual_seed(1))
    auto, given = (crnet.Upscaler(net, precision=p)(x, 2) for p in ("auto", chosen))
    assert torch.equal(auto, given)
