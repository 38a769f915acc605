"""numpy arrays in and out: images as the rest of the world stores them.

    numpy (H, W), (H, W, C)  ↔  torch (1, C, H, W)

uint8 becomes float32 in [0, 1].  float32 and float64 stay as they are.  A tensor passes unchanged.
"""

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from csc.checks import check_images

Array: TypeAlias = NDArray[Any]
Image: TypeAlias = Tensor | Array
"""A tensor (B, C, H, W), or an array (H, W) or (H, W, C)."""


def to_tensor(x: Image, name: str = "x") -> Tensor:
    """Return an image as a tensor (B, C, H, W); tensors pass unchanged.

    Examples
    --------
    >>> to_tensor(np.zeros((4, 6, 3), np.uint8)).shape
    torch.Size([1, 3, 4, 6])
    """
    if isinstance(x, Tensor):
        check_images(x, name)
        return x
    if not isinstance(x, np.ndarray):
        raise TypeError(f"{name} must be a tensor or a numpy array, got {type(x).__name__}")
    if x.ndim not in (2, 3):
        raise ValueError(f"{name} must have shape (H, W) or (H, W, C), got {x.shape}")
    if x.dtype not in (np.uint8, np.float32, np.float64):
        raise TypeError(f"{name} must be uint8, float32 or float64, got {x.dtype}; use astype")
    values = x.astype(np.float32) / 255 if x.dtype == np.uint8 else x.copy()
    image = torch.from_numpy(values.reshape(*x.shape[:2], -1)).permute(2, 0, 1)[None]
    check_images(image, name)
    return image.contiguous()


def like(image: Tensor, x: Image) -> Image:
    """Return an image (1, C, H, W) in the layout of x.

    Examples
    --------
    >>> like(torch.zeros(1, 1, 4, 6), np.zeros((4, 6))).shape
    (4, 6)
    """
    if isinstance(x, Tensor):
        return image
    array: Array = np.ascontiguousarray(image[0].permute(1, 2, 0).cpu().numpy())
    return array[:, :, 0] if x.ndim == 2 else array


def to_tensors(X: Tensor | Array | Sequence[Image]) -> list[Tensor]:
    """Return the images of a batch one by one, each (1, C, H, W).

    Parameters
    ----------
    X : Tensor (N, C, H, W), array (N, H, W) or (N, H, W, C), or sequence of images
        Images in a sequence may differ in size.
    """
    if isinstance(X, Tensor):
        check_images(X, "X")
        return [X[i : i + 1] for i in range(len(X))]
    if isinstance(X, np.ndarray) and X.ndim not in (3, 4):
        raise ValueError(f"X must have shape (N, H, W) or (N, H, W, C), got {X.shape}")
    return [to_tensor(x, f"X[{i}]") for i, x in enumerate(X)]
