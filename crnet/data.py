"""Image sets under a data root: find them, read them, check them.

A data root is a folder of image sets; a set is a folder of images.  The root comes from ``--data``
or from the environment variable ``CRNET_DATA``.
"""

import hashlib
import os
from collections.abc import Callable, Collection
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import imresize, round_uint8
from crnet.color import rgb_to_ycbcr
from crnet.errors import DataError, ImageFileError, words
from crnet.files import read_picture

IMAGE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".tif", ".tiff", ".webp"})


def data_root(root: str | Path | None = None) -> Path:
    """Return the folder of image sets: `root`, or else the folder in ``CRNET_DATA``.

    Raises
    ------
    DataError
        If neither is given or the folder does not exist.
    """
    named = root or os.environ.get("CRNET_DATA")
    if not named:
        raise DataError("no data root: give --data ROOT or set CRNET_DATA, a folder of image sets")
    path = Path(named)
    if not path.is_dir():
        raise DataError(f"the data root {path} is not a folder")
    return path


def find_images(folder: Path, exclude: Collection[str] = ()) -> list[Path]:
    """Return the image files of a set by name, except hidden files and names in `exclude`.

    A set is a folder, or a single image file.

    Raises
    ------
    DataError
        If the folder is missing or holds no image.
    """
    if folder.is_file():
        return [folder]
    if not folder.is_dir():
        raise DataError(f"the image set {folder} is not a folder; {_what_is_there(folder.parent)}")
    paths = [p for p in _images(folder) if p.name not in exclude]
    if not paths:
        raise DataError(f"the image set {folder} holds no image")
    return paths


def _what_is_there(root: Path) -> str:
    names = list(image_sets(root)) if root.is_dir() else []
    if not names:
        return (
            f"{root} holds no folder of images; --data must be the folder of the image sets, "
            "or in training a folder of photos"
        )
    options = "--sets (in training also --validation) names them"
    return f"{root} holds {words(names, 'and')}; {options}"


def image_sets(root: Path) -> dict[str, list[Path]]:
    """Return the image files of each set under a data root; skip hidden and empty folders."""
    sets = {folder.name: _images(folder) for folder in sorted(root.iterdir()) if folder.is_dir()}
    return {name: paths for name, paths in sets.items() if paths and not name.startswith(".")}


def is_image_set(folder: Path) -> bool:
    """Tell whether image files lie in a folder itself."""
    return folder.is_dir() and bool(_images(folder))


def _images(folder: Path) -> list[Path]:
    # Skip hidden files: macOS writes ._NAME.png beside NAME.png on foreign disks.
    paths = (p for p in folder.iterdir() if not p.name.startswith("."))
    return sorted(p for p in paths if p.suffix.lower() in IMAGE_SUFFIXES and p.is_file())


def read_y(path: Path) -> Tensor:
    """Return Y of an image file as uint8 (1, 1, H, W).

    Colour becomes Y by MATLAB's ``rgb2ycbcr`` on uint8, rounded.  A grey image is its own Y.

    Raises
    ------
    DataError
        If the file is not an 8-bit image that can be decoded.
    """
    levels = _levels(path)
    return levels if levels.shape[1] == 1 else luma(levels)


def read_rgb(path: Path) -> Tensor:
    """Return an image file as uint8 (1, 3, H, W); the three channels of a grey image are equal.

    Raises
    ------
    DataError
        If the file is not an 8-bit image that can be decoded.
    """
    return _levels(path).expand(-1, 3, -1, -1).contiguous()


def luma(rgb: Tensor) -> Tensor:
    """Return Y (B, 1, H, W) of uint8 RGB, rounded to uint8 as MATLAB's ``rgb2ycbcr`` does."""
    return round_uint8(255 * rgb_to_ycbcr(rgb.double() / 255)[:, :1])


def _levels(path: Path) -> Tensor:
    try:
        picture = read_picture(path)
    except ImageFileError as error:
        raise DataError(str(error)) from error
    if picture.bits != 8 or picture.alpha is not None:
        raise DataError(f"{path}: has 16 bits or transparency; convert it to 8-bit grey or RGB")
    return round_uint8(255 * picture.color)


def sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


@dataclass
class Findings:
    """What `check` found under a data root.

    Attributes
    ----------
    images : dict
        Number of readable images by set.
    damaged : list of str
        One message per unreadable file.
    copies : list of tuple
        Pairs of files with equal Y.
    alike : list of tuple
        Pairs of a test image and another that show the same picture, in any size: their thumbnails
        correlate above `ALIKE`.
    """

    images: dict[str, int] = field(default_factory=dict)
    damaged: list[str] = field(default_factory=list)
    copies: list[tuple[str, str]] = field(default_factory=list)
    alike: list[tuple[str, str]] = field(default_factory=list)


ALIKE = 0.99
"""Two images whose 16×16 thumbnails correlate above this show the same picture."""


def check(
    root: Path,
    test: Collection[str],
    on_image: Callable[[int, int], None] | None = None,
    *,
    sets: Collection[str] | None = None,
) -> Findings:
    """Read every image of every set; find copies, and training images that show a test image.

    Hashes miss resized copies: ``woman`` of Set5 is a smaller ``302003.jpg`` of BSDS200.

    Parameters
    ----------
    root : Path
        Folder of image sets.
    test : collection of str
        Names of the test sets; no other set may show their images.
    on_image : callable, optional
        Called with (images done, images in all).
    sets : collection of str, optional
        Names of the sets to read; by default all.

    Raises
    ------
    DataError
        If the root holds no image set, or one of `sets` is missing or empty.
    """
    files = image_sets(root) if sets is None else {n: find_images(root / n) for n in sets}
    if not files:
        raise DataError(f"the data root {root} holds no folder of images")
    found = Findings()
    total, done = sum(len(paths) for paths in files.values()), 0
    seen: dict[str, str] = {}
    names: list[str] = []
    thumbnails: list[Tensor] = []
    for name, paths in files.items():
        found.images[name] = 0
        for path in paths:
            done += 1
            if on_image:
                on_image(done, total)
            try:
                y = read_y(path)
            except DataError as error:
                found.damaged.append(str(error))
                continue
            found.images[name] += 1
            label = f"{name}/{path.name}"
            pixels = hashlib.sha256(str(tuple(y.shape)).encode() + y.numpy().tobytes()).hexdigest()
            if pixels in seen:
                found.copies.append((seen[pixels], label))
            seen.setdefault(pixels, label)
            names.append(label)
            thumbnails.append(_thumbnail(y))
    if thumbnails:
        found.alike = _alike(names, torch.stack(thumbnails), set(test), set(found.copies))
    return found


def _thumbnail(y: Tensor) -> Tensor:
    """Reduce Y (1, 1, H, W) to 16×16; return it flattened, with mean 0 and norm 1."""
    small = imresize(y.double(), size=(16, 16)).flatten()
    return F.normalize(small - small.mean(), dim=0)


def _alike(
    names: list[str], thumbnails: Tensor, test: set[str], copies: set[tuple[str, str]]
) -> list[tuple[str, str]]:
    tested = torch.tensor([name.split("/")[0] in test for name in names])
    here, there = tested.nonzero().flatten().tolist(), (~tested).nonzero().flatten().tolist()
    pairs = [
        (names[i], names[there[j]])
        for i in here
        for j in (thumbnails[there] @ thumbnails[i] > ALIKE).nonzero().flatten().tolist()
    ]
    return [(a, b) for a, b in pairs if not {(a, b), (b, a)} & copies]
