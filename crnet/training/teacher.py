"""Images of a teacher, a trained network that a smaller network imitates.

HR has details that LR does not determine, so no network can predict them.  The teacher's image
lacks these details, too, so the smaller network can match its target.

References
----------
Hinton, Vinyals, Dean, "Distilling the knowledge in a neural network", arXiv 1503.02531, 2015.
"""

import contextlib
import dataclasses
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch import Tensor

from baselines.resample import imresize, modcrop
from crnet import loading
from crnet.color import rgb_to_ycbcr
from crnet.data import read_rgb, sha256
from crnet.errors import words
from crnet.files import output_file
from crnet.training.patches import Photo, fingerprint
from crnet.upscale import Upscaler


def taught(
    photos: Sequence[Photo],
    teacher: str,
    cache: Path | None = None,
    on_photo: Callable[[int, int], None] | None = None,
) -> list[Photo]:
    """Return photos with the images that a teacher makes of their LR, at every scale.

    Parameters
    ----------
    photos : sequence of Photo
        Photos of :func:`crnet.training.patches.read_photos`.  Where they are Y and the teacher
        takes RGB, it gets the RGB of the file.
    teacher : str
        Bundled model, weights file or checkpoint; computes in the faster precision.
    cache : Path, optional
        File that keeps the images for the next call.
    on_photo : callable, optional
        Called with (photos done, photos in all).

    Returns
    -------
    list of Photo
        The photos, with `taught`.

    Raises
    ------
    WeightsError
        If there is no such teacher.
    ValueError
        If it does not make all the scales, or takes Y but the photos are RGB.
    """
    made = loading.card(teacher).scales
    scales = tuple(photos[0].lr)
    if not set(scales) <= set(made):
        missing = words(s for s in scales if s not in made)
        raise ValueError(f"the teacher {teacher} upscales by {words(made)}, not by {missing}")
    upscale = Upscaler(loading.load(teacher), precision="auto")
    if upscale.channels < photos[0].hr.shape[0]:
        raise ValueError(f"the teacher {teacher} takes Y, but the network to train takes RGB")
    key = _key(photos, teacher)
    images = _cached(cache, key)
    for done, photo in enumerate(photos[len(images) :], len(images) + 1):
        images.append({s: _image(photo, s, upscale) for s in scales})
        if on_photo:
            on_photo(done, len(photos))
    if cache is not None and not cache.exists():
        cache.parent.mkdir(parents=True, exist_ok=True)
        with output_file(cache, overwrite=True) as file:
            torch.save({"key": key, "images": images}, file)
    pairs = zip(photos, images, strict=True)
    return [dataclasses.replace(photo, taught=image) for photo, image in pairs]


def _image(photo: Photo, s: int, upscale: Upscaler) -> Tensor:
    """Return the teacher's image (C, H, W) of a photo at a scale, float16."""
    if upscale.channels == photo.hr.shape[0]:
        lr = photo.lr[s][None]
        out = upscale(lr if lr.is_floating_point() else lr.float() / 255, s)
    else:
        original = read_rgb(photo.path)
        rgb = upscale(imresize(modcrop(original, s), 1 / s).float() / 255, s)
        grey = torch.equal(original[0, :1], photo.hr)  # grey levels, not Y of 16 to 235
        out = rgb.mean(1, keepdim=True) if grey else rgb_to_ycbcr(rgb)[:, :1]
    return out[0].half()


def _key(photos: Sequence[Photo], teacher: str) -> str:
    return f"{sha256(loading.find(teacher))} {fingerprint(photos)} {tuple(photos[0].lr)}"


def _cached(cache: Path | None, key: str) -> list[dict[int, Tensor]]:
    """Return the images in a cache; an empty list if it is damaged or has another key."""
    if cache is None or not cache.exists():
        return []
    with contextlib.suppress(Exception):  # whatever a damaged file makes the loader raise
        held = torch.load(cache, map_location="cpu", weights_only=True)
        images: list[dict[int, Tensor]] = held["images"]
        if held["key"] == key:
            return images
    cache.unlink()
    return []
