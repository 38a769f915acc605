"""Laws of a teacher's images: they are what the teacher makes of the photo, where the photo is."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from baselines.resample import imresize, modcrop
from crnet import CRNetA, Upscaler, WeightsError
from crnet.color import rgb_to_ycbcr
from crnet.data import read_rgb
from crnet.loading import Card, load, serialize
from crnet.model import CRNetB
from crnet.training.patches import Cuts, Sampler, read_photos
from crnet.training.teacher import taught
from tests.crnet.pictures import photo, save
from tests.laws import close

ON_Y = Cuts((2, 3), 12, enlarged=True, rgb=False)
ON_RGB = Cuts((2, 3), 8, enlarged=False, rgb=True)


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    grey = save(tmp_path / "grey.png", photo(40, 37, 1, seed=1))
    return [save(tmp_path / "colour.png", photo(41, 38)), grey]


def teacher(path: Path, kind: type, scales: tuple[int, ...] = (2, 3)) -> str:
    arguments = {"n0": 4, "m0": 8, "recursions": 1}
    arguments |= {"scales": list(scales)} if kind is CRNetB else {}
    net = kind(**arguments, generator=torch.Generator().manual_seed(0))
    path.write_bytes(serialize(net, Card("t", kind.__name__, arguments, scales, {}, {})))
    return str(path)


def test_a_teacher_on_rgb_teaches_y(paths: list[Path], tmp_path: Path) -> None:
    name = teacher(tmp_path / "t.safetensors", CRNetB)
    photos = taught(read_photos(paths, ON_Y)[0], name)
    upscale = Upscaler(load(name), precision="auto")
    for one, path in zip(photos, paths, strict=True):
        for s in (2, 3):
            whole = modcrop(read_rgb(path), s)
            rgb = upscale(imresize(whole, 1 / s).float() / 255, s)
            grey = path.stem == "grey"  # which is no Y of 16 to 235, neither in HR
            y = rgb.mean(1, keepdim=True) if grey else rgb_to_ycbcr(rgb)[:, :1]
            assert one.taught[s].shape == one.hr[:, : whole.shape[-2], : whole.shape[-1]].shape
            close(one.taught[s].float(), y[0].float(), 1e-3)


@pytest.mark.parametrize(("kind", "cuts"), [(CRNetA, ON_Y), (CRNetB, ON_RGB)])
def test_patches_are_of_the_teachers_image(kind: type, cuts: Cuts, paths, tmp_path: Path) -> None:
    name = teacher(tmp_path / "t.safetensors", kind)
    plain = read_photos(paths, cuts)[0]
    photos = taught(plain, name)
    for step in range(4):
        x, target, _ = Sampler(photos, cuts, 3, 0).draw(step)
        same, hr, _ = Sampler(plain, cuts, 3, 0).draw(step)
        assert torch.equal(x, same)
        assert not torch.equal(target, hr)
        # At its start the teacher is near bicubic or bilinear, hence near HR where it is cut.
        assert (target - hr).abs().mean() < 0.15
    marked = [replace(p, taught={s: torch.zeros_like(t) for s, t in p.taught.items()})
              for p in photos]  # fmt: skip
    assert not Sampler(marked, cuts, 3, 0).draw(0)[1].any()


def test_images_are_kept_for_the_same_photos_and_teacher(paths, tmp_path: Path) -> None:
    name, cache = teacher(tmp_path / "t.safetensors", CRNetA), tmp_path / "run" / "teacher.pt"
    photos = read_photos(paths, ON_Y)[0]
    told: list[int] = []
    first = taught(photos, name, cache, lambda done, total: told.append(done))
    again = taught(photos, name, cache, lambda done, total: told.append(done))
    assert told == [1, 2]  # nothing was made twice
    assert all(torch.equal(a.taught[2], b.taught[2]) for a, b in zip(first, again, strict=True))
    taught(photos[:1], name, cache, lambda done, total: told.append(done))
    assert told == [1, 2, 1]
    cache.write_bytes(cache.read_bytes()[:-9])
    taught(photos[:1], name, cache, lambda done, total: told.append(done))
    assert told == [1, 2, 1, 1]  # a damaged file is made again
    assert taught(photos[:1], name, cache)[0].taught[2].equal(first[0].taught[2])


def test_unfit_teachers_are_refused(paths, tmp_path: Path) -> None:
    photos, colour = read_photos(paths, ON_Y)[0], read_photos(paths, ON_RGB)[0]
    with pytest.raises(ValueError, match="upscales by 2, not by 3"):
        taught(photos, teacher(tmp_path / "two.safetensors", CRNetB, (2,)))
    with pytest.raises(ValueError, match="takes Y, but the network to train takes RGB"):
        taught(colour, teacher(tmp_path / "y.safetensors", CRNetA))
    with pytest.raises(WeightsError, match="no model and no file"):
        taught(photos, "nobody")
