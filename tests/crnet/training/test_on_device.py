"""Laws of the patches that a GPU cuts: they are those of the CPU."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from crnet.training.on_device import DeviceSampler
from crnet.training.patches import Batches, Cuts, Photo, Sampler, read_photos
from tests.crnet.pictures import photo, save

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA GPU")
DEVICES = ["cpu", pytest.param("cuda", marks=[pytest.mark.cuda, needs_cuda])]

A = Cuts((2, 3, 4), 12, enlarged=True, rgb=False)
B = Cuts((2, 3, 4), 6, enlarged=False, rgb=True)
Y = Cuts((3,), 5, enlarged=False, rgb=False)  # of the Y of LR, not rounded
EVEN = Cuts((4, 2), 9, enlarged=True, rgb=False, detail=1.0)
FLAT = replace(B, flat=3)
KINDS = {"A": A, "B": B, "Y": Y, "EVEN": EVEN, "FLAT": FLAT}


@pytest.fixture(scope="module")
def samplers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Sampler]:
    folder = tmp_path_factory.mktemp("photos")
    sizes = ((61, 50), (40, 43), (30, 90), (28, 29))
    paths = [save(folder / f"{i}.png", photo(*s, seed=i)) for i, s in enumerate(sizes)]
    made = {name: Sampler(read_photos(paths, c)[0], c, 6, 3) for name, c in KINDS.items()}
    for name in ("A", "B"):  # followed by a teacher
        g = torch.Generator().manual_seed(0)
        photos = [
            replace(p, taught={s: torch.rand(p.hr.shape, generator=g).half() for s in p.lr})
            for p in made[name].photos
        ]
        made[f"{name}, taught"] = Sampler(photos, KINDS[name], 6, 3)
    return made


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("name", [*KINDS, "A, taught", "B, taught"])
@given(step=st.integers(0, 10**6))
@settings(max_examples=15)
def test_the_batches_are_those_of_the_cpu(
    samplers: dict[str, Sampler], device: str, name: str, step: int
) -> None:
    """Bit for bit, but for the enlargement, which is equal to rounding."""
    here = samplers[name]
    there = DeviceSampler(here, torch.device(device))
    for part in (slice(None), slice(1, None, 2)):
        for at in (step, step + 1):
            x, target, scale = there.draw(at, part)
            wanted, wanted_target, wanted_scale = here.draw(at, part)
            assert x.device.type == target.device.type == device
            assert (x.dtype, scale) == (torch.float32, wanted_scale)
            assert torch.equal(target.cpu(), wanted_target)
            if here.cuts.enlarged:
                torch.testing.assert_close(x.cpu(), wanted, rtol=0, atol=2e-6)
            else:
                assert torch.equal(x.cpu(), wanted)


def test_photos_smaller_than_the_margin_are_mirrored_again_and_again() -> None:
    """An enlarged patch needs more LR around it than the smallest photo has."""
    small = Photo(Path("s"), torch.randint(256, (1, 16, 15), dtype=torch.uint8),
                  {4: torch.rand(1, 4, 3), 2: torch.rand(1, 8, 7)})  # fmt: skip
    sampler = Sampler([small], Cuts((2, 4), 11, enlarged=True, rgb=False), 8, 0)
    there = DeviceSampler(sampler, torch.device("cpu"))
    for step in range(20):
        torch.testing.assert_close(there.draw(step)[0], sampler.draw(step)[0], rtol=0, atol=2e-6)


def test_the_loader_takes_either(samplers: dict[str, Sampler]) -> None:
    here = samplers["B"]
    batches = iter(Batches(DeviceSampler(here, torch.device("cpu")), first=60))
    for step, batch in zip(range(60, 70), batches, strict=False):
        assert torch.equal(batch[0], here.draw(step)[0])


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("name", ["A", "B"])
def test_lr_made_on_a_gpu_is_that_of_the_cpu(tmp_path: Path, name: str) -> None:
    path = save(tmp_path / "0.png", photo(61, 50, seed=0))
    (here,), _ = read_photos([path], KINDS[name])
    (there,), _ = read_photos([path], KINDS[name], device="cuda")
    assert all(torch.equal(here.lr[s], there.lr[s]) for s in (2, 3, 4))


@pytest.mark.cuda
@needs_cuda
@pytest.mark.parametrize("name", ["A", "B", "FLAT"])
def test_a_batch_does_not_wait_for_the_gpu(samplers: dict[str, Sampler], name: str) -> None:
    there = DeviceSampler(samplers[name], torch.device("cuda"))
    there.draw(0)
    torch.cuda.set_sync_debug_mode("error")
    try:
        for step in range(1, 20):
            there.draw(step)
    finally:
        torch.cuda.set_sync_debug_mode("default")
