"""Published MATLAB weights as networks.

MATLAB stores a k×k kernel as a column of k² numbers, top to bottom and then left to right.  Its
``imfilter`` and ``vl_nnconv`` correlate, like torch's convolution.  So a kernel is reshaped and its
two axes are exchanged, without a flip:

- SRCNN: ``weights_conv1`` (81, 64), ``weights_conv2`` (64, k², 32), ``weights_conv3`` (32, 25), and
  ``biases_conv1`` (64), ``biases_conv2`` (32), ``biases_conv3`` (1).
- VDSR: a struct ``model`` of cells, ``weight`` of (3, 3, in, out) and ``bias`` of (out).
- SCN: H is ``conv`` (81, 100); W is ``wd`` (100, M), S is ``usd1`` (M, M) and D is ``ud`` (M, 25),
  which multiply row vectors from the right; g is ``addp`` (25).  The two fixed filters are
  ``mean2`` (169) and ``diffms`` (81, 25).  All are variables of the file, or fields of a struct
  ``model``, as the authors' code loads them.

References
----------
The test code of the authors of SRCNN and of VDSR, and github.com/huangzehao/SCN_Matlab for SCN.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, nn

from baselines.networks.scn import SCN
from baselines.networks.srcnn import SRCNN
from baselines.networks.vdsr import VDSR

Variables: TypeAlias = Mapping[str, object]
"""The variables of a file, the fields of a struct or numbered cells, by name."""


def load_matlab(path: str | Path) -> SRCNN | VDSR | SCN:
    """Return the network of a ``.mat`` file, recognised by the names of its variables.

    Parameters
    ----------
    path : str or Path
        File of MATLAB 5 to 7.2 with the variables above.

    Returns
    -------
    SRCNN, VDSR or SCN
        In evaluation mode, float32.  A cascade of two SCNs is
        ``CSCN.of(load_matlab(first), load_matlab(second))``.

    Raises
    ------
    FileNotFoundError
        If the file does not exist.
    ValueError
        If the file cannot be read, holds none of the three networks, or if a variable is missing,
        has another shape, or is not finite and real.
    """
    variables = _read(Path(path))
    try:
        if "weights_conv1" in variables:
            return _srcnn(variables)
        if "model" in variables:
            model = _fields(variables["model"])
            return _scn(model) if "wd" in model else _vdsr(model)
        if "wd" in variables:
            return _scn(variables)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error
    raise ValueError(
        f"{path} holds no known network: SRCNN has weights_conv1, VDSR has a struct model, SCN has "
        f"wd or a struct model; the file has {', '.join(variables) or 'nothing'}"
    )


def _read(path: Path) -> Variables:
    from scipy.io import loadmat

    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    try:
        found = loadmat(path, appendmat=False)
    except NotImplementedError as error:
        raise ValueError(
            f"{path} is a file of MATLAB 7.3; in MATLAB, save it with '-v7'"
        ) from error
    except Exception as error:  # a damaged file can make the reader raise anything
        raise ValueError(f"{path} cannot be read as a .mat file: {error}") from error
    return {name: value for name, value in found.items() if not name.startswith("__")}


def _srcnn(variables: Variables) -> SRCNN:
    shape = np.asarray(variables.get("weights_conv2")).shape
    k = round(shape[1] ** 0.5) if len(shape) > 1 else 0
    if k not in (1, 3, 5):
        raise ValueError(f"weights_conv2 must be (64, k², 32), k = 1, 3 or 5; got {shape}")
    net = SRCNN(k)
    first, second, third = (layer for layer in net.layers if isinstance(layer, nn.Conv2d))
    _set(first.weight, _kernels(_array(variables, "weights_conv1", (81, 64)).T))
    _set(
        second.weight,
        _kernels(_array(variables, "weights_conv2", (64, k * k, 32)).permute(2, 0, 1)),
    )
    _set(third.weight, _kernels(_array(variables, "weights_conv3", (32, 25))))
    for i, layer in enumerate((first, second, third), 1):
        _set(layer.bias, _vector(variables, f"biases_conv{i}", layer.out_channels))
    return net.eval()


def _vdsr(model: Variables) -> VDSR:
    weights, biases = (_cells(model, name) for name in ("weight", "bias"))
    if len(weights) != len(biases) or len(weights) < 2:
        raise ValueError(
            f"model must have equally many weights and biases, at least 2; "
            f"got {len(weights)} and {len(biases)}"
        )
    maps = np.asarray(weights["weight{1}"]).shape[-1]
    net = VDSR(len(weights), maps)
    layers = [layer for layer in net.layers if isinstance(layer, nn.Conv2d)]
    for i, layer in enumerate(layers, 1):
        shape = (3, 3, layer.in_channels, layer.out_channels)
        _set(layer.weight, _array(weights, f"weight{{{i}}}", shape).permute(3, 2, 0, 1))
        _set(layer.bias, _vector(biases, f"bias{{{i}}}", layer.out_channels))
    return net.eval()


def _scn(variables: Variables) -> SCN:
    M = np.asarray(variables["wd"]).shape[-1]
    net = SCN(M)
    _set(net.H.weight, _kernels(_array(variables, "conv", (81, 100)).T))
    for layer, name in ((net.W, "wd"), (net.S, "usd1"), (net.D, "ud")):
        shape = (layer.in_channels, layer.out_channels)  # they multiply rows from the right
        _set(layer.weight, _array(variables, name, shape).T)
    _set(net.g.weight, _vector(variables, "addp", 25))
    _set(net.smooth, _kernels(_vector(variables, "mean2", 169)))
    _set(net.centred, _kernels(_array(variables, "diffms", (81, 25)).T))
    return net.eval()


def _fields(model: object) -> Variables:
    """Return the fields of a struct by name; anything else has no fields."""
    struct = np.asarray(model)
    names = struct.dtype.names or ()
    return {name: struct[name].item() for name in names} if struct.size == 1 else {}


def _cells(model: Variables, name: str) -> Variables:
    """Return the cells of a field of a struct, as ``name{1}``, ``name{2}``, ..."""
    if name not in model:
        raise ValueError(
            f"model must be a struct with weight and bias (VDSR) or with wd (SCN); "
            f"got fields {', '.join(model) or 'none'}"
        )
    cells = np.asarray(model[name])
    if cells.dtype.kind != "O":
        raise ValueError(f"model.{name} must be cells, one for each layer")
    return {f"{name}{{{i}}}": cell for i, cell in enumerate(cells.ravel(), 1)}


def _array(variables: Variables, name: str, shape: tuple[int, ...]) -> Tensor:
    """Return a variable of this shape; MATLAB drops ones at the end of a shape."""
    if name not in variables:
        raise ValueError(f"{name} is missing; it must be {shape}")
    value = np.asarray(variables[name])
    if value.dtype.kind not in "fiu":
        raise ValueError(f"{name} must hold real numbers, got {value.dtype}")
    found = value.shape + (1,) * (len(shape) - value.ndim)
    if found != shape:
        raise ValueError(f"{name} must be {shape}, got {value.shape}")
    with np.errstate(over="ignore"):
        single = value.astype(np.float32)
    if not np.isfinite(single).all():
        raise ValueError(f"{name} holds NaN or numbers that are infinite in float32")
    return torch.from_numpy(single).reshape(shape)


def _vector(variables: Variables, name: str, n: int) -> Tensor:
    """Return a variable of n numbers, a row or a column."""
    value = np.asarray(variables[name]) if name in variables else np.zeros(0)
    if value.size != n or max(value.shape, default=1) != n:
        raise ValueError(f"{name} must be {n} numbers, got shape {value.shape}")
    return _array({name: value.ravel()}, name, (n,))


def _kernels(columns: Tensor) -> Tensor:
    """Return kernels (..., k, k) from columns (..., k²), which list a kernel column by column."""
    k = round(columns.shape[-1] ** 0.5)
    return columns.reshape(*columns.shape[:-1], k, k).mT


@torch.no_grad()
def _set(parameter: Tensor | None, value: Tensor) -> None:
    if parameter is not None:
        parameter.copy_(value.reshape(parameter.shape))
