"""One HTML page that shows how a network draws an image: :func:`page`.

The page holds the image, and the codes rounded to a step.  What the rounded codes leave over is
shown beside the parts of the atoms.  So the numbers of a pixel sum to the pixel of the network, up
to `UNIT`.
"""

import base64
import json
import zlib
from importlib import resources
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from baselines.resample import round_uint8
from crnet.inspecting.drawing import Drawing, Mixing, drawing
from crnet.inspecting.states import State, states
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from csc.recursion.spectrum import operator_norm

UNIT = 1 / (255 * 64)
"""Images on the page are whole multiples of this: 1/64 of an 8-bit level."""

STEPS = (1 / 16, 1 / 8, 1 / 4, 1 / 2)
"""Steps of the codes in 8-bit levels at the peak of their atom; the first that fits is taken."""

LARGEST = 5e6
"""Bytes of the page."""


def page(net: Network, x: Tensor, scale: int, *, model: str, source: str) -> str:
    """Return a self-contained HTML page about the image of an LR image (1, C, h, w) in [0, 1].

    Parameters
    ----------
    net : Network
        A network with codes: CRNetA, CRNetB, SparseCRNetA or SparseCRNetB.
    x : Tensor, shape (1, C, h, w)
        Y or RGB, as the network takes it.
    scale : int
        Factor.
    model, source : str
        Names of the network and of the image, for the title.

    Raises
    ------
    TypeError
        If the network has no codes.
    ValueError
        If the page would be larger than `LARGEST`.
    """
    template = resources.files("crnet.inspecting").joinpath("page.html").read_text("utf-8")
    about = _about(net, x, scale, model, source)
    drawn = drawing(net, x, scale)
    for step in STEPS:
        data = json.dumps(about | _drawn(drawn, step), ensure_ascii=False)
        made = template.replace("/*DATA*/", data.replace("<", "\\u003c"))
        if len(made.encode()) <= LARGEST:
            return made
    raise ValueError(f"the page would have more than {LARGEST / 1e6:g} MB; choose a smaller --crop")


def _about(net: Network, x: Tensor, scale: int, model: str, source: str) -> dict[str, Any]:
    """Return all but what draws the image: titles, states, and what is proven."""
    made, found = states(net, x, scale)
    last = made[-1].image
    assert last is not None  # noqa: S101  # the last codes draw the image
    certificate, norm = None, None
    base = "bicubic" if found is not None or isinstance(net, CRNetA) else "without codes"
    if isinstance(net, CRNetA | CRNetB):
        norm = operator_norm(net.cista.S, (16, 16), periodic=True)
    if found is not None:
        certificate = {
            "relative": found.relative[:, 0].tolist(),
            "gap": (found.gap[:, 0] / found.objective[:, 0].abs()).tolist(),
        }
    return {
        "model": model,
        "source": source,
        "scale": scale,
        "channels": len(last),
        "size": list(last.shape[1:]),
        "formula": f"image = {base} + {'Σ codes * atoms' if found else 'Σ parts of the atoms'}",
        "base_name": base,
        "certificate": certificate,
        "norm": norm,
        "weights": sum(p.numel() for p in net.parameters()),
        "states": _stored(made),
    }


def _stored(made: list[State]) -> list[dict[str, Any]]:
    """Return the states; the image of each is stored as the difference from the next one."""
    stored: list[dict[str, Any]] = []
    following: NDArray[np.uint8] | None = None
    for state in reversed(made):
        image = None if state.image is None else levels(state.image)
        difference = None if image is None or following is None else packed(image - following)
        stored.append(
            {
                "block": state.block,
                "k": state.k,
                "nonzero": state.nonzero,
                "change": state.change,
                "bound": state.bound,
                "density": packed(_map(state.density)),
                "image": difference,  # modulo 256
                "draws": image is not None,
            }
        )
        following = image
    return stored[::-1]


def _drawn(d: Drawing, step: float) -> dict[str, Any]:
    """Return the image and what draws it, rounded."""
    kernel, kernel_step = _whole(d.kernel)
    peak = _peaks(d)
    codes_step = torch.where(peak > 0, step / 255 / peak, 1.0)  # (M,)
    codes = (d.codes / codes_step[:, None, None]).round().clamp(0, 65535)
    base = (d.base / UNIT).round()
    rounded = Drawing(
        base * UNIT, codes * codes_step[:, None, None], kernel * kernel_step, d.stride, d.edge, None
    )
    mixing = None
    if d.mixing is not None:
        mixed, mixed_step = _whole(d.mixing.kernel)
        rounded = rounded._replace(mixing=Mixing(mixed * mixed_step, d.mixing.bias))
        mixing = {
            "kernel": packed(mixed.numpy().astype(np.int16)),
            "step": mixed_step,
            "bias": d.mixing.bias.tolist(),
        }
    image = d.image()
    added = (image / UNIT).round() - base
    return {
        "unit": UNIT,
        "base": packed(base.numpy().astype(np.int32), smooth=True),
        "added": packed(added.numpy().astype(np.int32)),
        "largest": float((image - rounded.image()).abs().max()) * 255,
        "kernel": packed(kernel.numpy().astype(np.int16)),
        "kernelStep": kernel_step,
        "stride": d.stride,
        "edge": d.edge,
        "grid": list(codes.shape),
        "codes": sparse(codes.numpy().astype(np.uint16)),
        "codesStep": codes_step.tolist(),
        "mixing": mixing,
    }


def _whole(kernel: Tensor) -> tuple[Tensor, float]:
    """Return a kernel as whole multiples of a step, in 16 bits."""
    step = float(kernel.abs().max()) / 32767 or 1.0
    return (kernel / step).round(), step


def _peaks(d: Drawing) -> Tensor:
    """Return the largest change of a pixel by an isolated unit code, (M,)."""
    if d.mixing is None:
        return d.kernel.abs().amax((1, 2, 3))
    unit = F.pad(torch.eye(d.codes.shape[0])[:, :, None, None], (2,) * 4).to(d.codes)
    maps = F.conv2d(unit, d.mixing.kernel, padding=1).relu_()
    return F.conv_transpose2d(maps, d.kernel, stride=d.stride).abs().amax((1, 2, 3))


def _map(density: Tensor) -> NDArray[np.uint8]:
    """Return Σ_m |z_m| as 8-bit brightness, of at most 256 positions a side."""
    while max(density.shape) > 256:
        density = F.avg_pool2d(density[None], 2, ceil_mode=True)[0]
    top = float(density.flatten().quantile(0.995)) or 1.0
    return levels((density / top).sqrt())


def levels(image: Tensor) -> NDArray[np.uint8]:
    """Return an image in [0, 1] as 8-bit levels, clipped."""
    return np.asarray(round_uint8(image.double() * 255).numpy(), dtype=np.uint8)


def packed(array: NDArray[Any], *, smooth: bool = False) -> dict[str, Any]:
    """Return an array for JSON: deflated, with the bytes of equal weight together, in base64.

    Signed numbers are stored as 0, −1, 1, −2, … → 0, 1, 2, 3, ….  With `smooth`, the last two axes
    are an image, of which the differences along both are stored.
    """
    stored = array
    if smooth:
        for axis in (-1, -2):
            stored = np.diff(stored, axis=axis, prepend=array.dtype.type(0))
    if array.dtype.kind == "i":
        stored = (stored << 1) ^ (stored >> (8 * array.itemsize - 1))
    little = np.ascontiguousarray(stored).astype(stored.dtype.newbyteorder("<"))
    planes = little.view(np.uint8).reshape(-1, array.itemsize).T
    data = base64.b64encode(zlib.compress(planes.tobytes(), 9)).decode()
    return {"type": array.dtype.name, "shape": list(array.shape), "smooth": smooth, "data": data}


def sparse(codes: NDArray[np.uint16]) -> dict[str, Any]:
    """Return sparse codes (M, h, w) for JSON: counts, gaps between positions, values."""
    flat = codes.reshape(len(codes), -1)
    at = [np.flatnonzero(row) for row in flat]
    gaps = np.concatenate([np.diff(i, prepend=-1) for i in at]).astype(np.uint32)
    values = np.concatenate([row[i] for row, i in zip(flat, at, strict=True)])
    return {
        "counts": [len(i) for i in at],
        "gaps": packed(gaps),
        "values": packed(values.astype(np.uint16)),
    }
