"""Published PyTorch files as networks: ``.pth`` and ``.pt``.

A file is recognised by the names and shapes of its tensors, and its names are changed to ours:

    SRCNN   github.com/yjn870/SRCNN-pytorch, github.com/Lornatang/SRCNN-PyTorch, OpenMMLab
    VDSR    github.com/twtygqyy/pytorch-vdsr, github.com/Lornatang/VDSR-PyTorch
    EDSR    the authors' EDSR-PyTorch, BasicSR
    MDSR    the authors' EDSR-PyTorch
    RDN     EDSR-PyTorch (configuration B), github.com/yjn870/RDN-pytorch, OpenMMLab
    MSRN    the authors' MSRN-PyTorch
    DDBPN   the authors' DBPN-Pytorch
    MemNet  the code that names its blocks ``dense_memory``

Some of this code works on images in [0, 255].  Its first and last convolutions are scaled, so that
the networks here take images in [0, 1].

Files are opened with ``weights_only=True``: nothing but tensors is unpickled.  Public code for DRRN
and SRDenseNet defines other networks than the papers, and is not recognised.  SRCNN pads by
replication, as in its authors' test code, where the code above pads with zeros.
"""

import math
import pickle
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import torch
from torch import Tensor

from baselines.networks.edsr_layers import MEAN
from baselines.weights import WeightsError

Tensors: TypeAlias = dict[str, Tensor]
Arguments: TypeAlias = dict[str, int | float | bool | list[int]]

_INSIDE = ("params_ema", "params", "state_dict", "model_state_dict", "model", "net", "generator")
"""Names under which training code nests the weights; an average comes first."""

_PREFIXES = ("module.", "generator.", "_orig_mod.")
"""What DataParallel, OpenMMLab and ``torch.compile`` put before each name."""


@dataclass(frozen=True)
class Published:
    """A network of :mod:`baselines.networks` in a PyTorch file.

    Attributes
    ----------
    architecture : str
        Name of the class.
    arguments : dict
        Arguments of its constructor.
    tensors : dict of Tensor
        Its ``state_dict``, float32.
    scales : tuple of int
        The scales it upscales by; empty if the file does not say.
    """

    architecture: str
    arguments: Arguments
    tensors: Tensors
    scales: tuple[int, ...]


def read_torch(path: str | Path) -> Published:
    """Return the network in a ``.pth`` or ``.pt`` file.

    Parameters
    ----------
    path : str or Path
        A state dict, plain or under one of the usual names (``params_ema``, ``params``,
        ``state_dict``, ``model``), with or without the prefix ``module.``.

    Raises
    ------
    WeightsError
        If the file is missing, cannot be opened safely, or holds no network that is recognised.
    """
    path = Path(path)
    if not path.is_file():
        raise WeightsError(f"no weights file {path}")
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise WeightsError(
            f"{path} holds Python objects, which only its own code may open; there, save "
            f"model.state_dict() with torch.save"
        ) from error
    except Exception as error:  # damaged bytes make the reader raise anything
        raise WeightsError(f"{path} cannot be read as a PyTorch file: {error}") from error
    try:
        return recognise(_tensors(content))
    except ValueError as error:
        raise WeightsError(f"{path}: {error}") from error


def recognise(tensors: Mapping[str, Tensor]) -> Published:
    """Return the network whose weights these are, by their names and shapes.

    Raises
    ------
    ValueError
        If no layout fits; the message says what is missing.

    Examples
    --------
    >>> names = {"conv1": (64, 1, 9, 9), "conv2": (32, 64, 5, 5), "conv3": (1, 32, 5, 5)}
    >>> tensors = {f"{name}.weight": torch.zeros(shape) for name, shape in names.items()}
    >>> tensors |= {f"{name}.bias": torch.zeros(shape[0]) for name, shape in names.items()}
    >>> found = recognise(tensors)
    >>> found.architecture, found.arguments
    ('SRCNN', {'middle': 5, 'channels': 1})
    """
    for layout in _LAYOUTS:
        if all(name in tensors for name in layout.marks):
            return layout.convert(tensors)
    known = "; ".join(f"{one.architecture} has {' and '.join(one.marks)}" for one in _LAYOUTS)
    some = ", ".join(list(tensors)[:4]) or "no tensors"
    raise ValueError(f"no known network; it begins with {some}. {known}")


@dataclass(frozen=True)
class _Layout:
    """How public code names the tensors of a network.

    Attributes
    ----------
    architecture : str
        Name of our class.
    marks : tuple of str
        Names that the file must hold.
    names : callable
        Returns regular expressions for the start of a name, and what replaces it.  The first match
        counts.  Its argument is the tensors of the file.
    arguments : callable
        Reads the arguments of the constructor from the renamed tensors.
    first, last : str
        The layers that see images, where the code works on images in [0, 255].
    complete : callable
        Adds tensors that the code does not have.
    """

    architecture: str
    marks: tuple[str, ...]
    names: Callable[[Mapping[str, Tensor]], list[tuple[str, str]]]
    arguments: Callable[[Tensors], Arguments]
    first: str = ""
    last: str = ""
    complete: Callable[[Tensors], None] = lambda tensors: None

    def convert(self, tensors: Mapping[str, Tensor]) -> Published:
        levels = _levels(tensors) if self.first else 1.0
        names = self.names(tensors)
        found: Tensors = {}
        for name, tensor in tensors.items():
            if re.match(r"(sub|add)_mean\.", name):
                continue
            for pattern, ours in names:
                renamed, times = re.subn(rf"^{pattern}", ours, name)
                if times:
                    found[renamed] = tensor.float() if tensor.is_floating_point() else tensor
                    break
            else:
                raise ValueError(f"{self.architecture} of this layout has no tensor {name}")
        if levels != 1:
            for layer, factor in ((f"{self.first}.weight", levels),
                                  (f"{self.last}.weight", 1 / levels),
                                  (f"{self.last}.bias", 1 / levels)):  # fmt: skip
                found[layer] = found[layer] * factor
        try:
            arguments = self.arguments(found)
        except KeyError as error:
            raise ValueError(f"{self.architecture} lacks the tensor {error.args[0]}") from error
        self.complete(found)
        scale = arguments.get("scale")
        scales = arguments.get("scales", [scale] if isinstance(scale, int) else [])
        return Published(
            self.architecture, arguments, found, tuple(scales) if isinstance(scales, list) else ()
        )


def _tensors(content: object) -> Tensors:
    """Return the state dict in what a file holds, without the prefixes of its names."""
    while isinstance(content, Mapping):
        inner = next((content[key] for key in _INSIDE if isinstance(content.get(key), Mapping)), 0)
        if not isinstance(inner, Mapping):
            break
        content = inner
    if not isinstance(content, Mapping) or not content:
        raise ValueError(f"it holds a {type(content).__name__}, not a state dict of tensors")
    found: Tensors = {}
    for key, value in content.items():
        if not isinstance(value, Tensor):
            raise ValueError(f"its entry {key!r} is a {type(value).__name__}, not a tensor")
        name = str(key)
        while name.startswith(_PREFIXES):
            name = name.partition(".")[2]
        found[name] = value
    return found


def _levels(tensors: Mapping[str, Tensor]) -> float:
    """Return the largest value R of the images: the mean that is subtracted is R times DIV2K's."""
    bias = tensors.get("sub_mean.bias")
    if bias is None:
        return 255.0
    mean = torch.tensor(MEAN)
    levels = float((-bias.float() / mean).mean())
    if levels <= 0 or not torch.allclose(-bias.float(), levels * mean, rtol=1e-3):
        raise ValueError(
            f"it subtracts the mean {[round(-float(b), 4) for b in bias]}, not DIV2K's"
        )
    return levels


def _factor(tensors: Mapping[str, Tensor], upsampler: str) -> int:
    """Return the scale of an upsampler of convolutions to f² times the maps."""
    weights = [
        w for i in range(0, 8, 2) if (w := tensors.get(f"{upsampler}.{i}.weight")) is not None
    ]
    return math.prod(math.isqrt(len(w) // w.shape[1]) for w in weights)


def _count(tensors: Mapping[str, Tensor], pattern: str) -> int:
    """Return how many different numbers stand in the place of ``#`` among the names."""
    compiled = re.compile(re.escape(pattern).replace(re.escape("#"), r"(\d+)"))
    return len({match[1] for name in tensors if (match := compiled.match(name))})


def _srcnn(tensors: Tensors) -> Arguments:
    first, second = tensors["layers.0.weight"], tensors["layers.2.weight"]
    return {"middle": second.shape[-1], "channels": first.shape[1]}


def _vdsr(tensors: Tensors) -> Arguments:
    first = tensors["layers.0.weight"]
    return {
        "depth": _count(tensors, "layers.#.weight"),
        "maps": len(first),
        "channels": first.shape[1],
        "bias": "layers.0.bias" in tensors,
    }


def _edsr(tensors: Tensors) -> Arguments:
    maps = len(tensors["head.weight"])
    return {
        "scale": _factor(tensors, "tail.0"),
        "blocks": _count(tensors, "body.#.layers.0.weight"),
        "maps": maps,
        "size": 0.1 if maps == 256 else 1.0,  # of the authors' models; the file does not say
    }


def _mdsr(tensors: Tensors) -> Arguments:
    scales = sorted({int(name.split(".")[1]) for name in tensors if name.startswith("before.")})
    return {
        "scales": scales,
        "blocks": _count(tensors, "body.#.layers.0.weight"),
        "maps": len(tensors["head.weight"]),
    }


def _rdn(tensors: Tensors) -> Arguments:
    return {
        "scale": _factor(tensors, "tail.0"),
        "blocks": _count(tensors, "blocks.#.fuse.weight"),
        "layers": _count(tensors, "blocks.0.layers.#.weight"),
        "growth": len(tensors["blocks.0.layers.0.weight"]),
        "maps": len(tensors["first.weight"]),
    }


def _msrn(tensors: Tensors) -> Arguments:
    return {
        "scale": _factor(tensors, "tail.1"),
        "blocks": _count(tensors, "blocks.#.fuse.weight"),
        "maps": len(tensors["head.weight"]),
    }


def _ddbpn(tensors: Tensors) -> Arguments:
    kernel = tensors["units.0.there.0.weight"].shape[-1]
    return {
        "scale": {6: 2, 8: 4, 12: 8}.get(kernel, kernel),
        "stages": (_count(tensors, "units.#.there.0.weight") + 1) // 2,
        "maps": len(tensors["first.2.weight"]),
        "features": len(tensors["first.0.weight"]),
    }


def _memnet(tensors: Tensors) -> Arguments:
    first = tensors["first.2.weight"]
    return {
        "blocks": _count(tensors, "blocks.#.gate.2.weight"),
        "units": _count(tensors, "blocks.0.units.#.0.2.weight"),
        "maps": len(first),
        "shared": False,
        "channels": first.shape[1],
    }


def _complete_memnet(tensors: Tensors) -> None:
    """Take the image of the last block, as this code does, and add the biases that it lacks."""
    blocks = _count(tensors, "blocks.#.gate.2.weight")
    last = f"normalize.{blocks - 1}."
    for name in [name for name in tensors if name.startswith(last)]:
        same = torch.ones_like if name.endswith(("weight", "var")) else torch.zeros_like
        for b in range(blocks - 1):  # their images have weight 0
            tensors[f"normalize.{b}.{name.removeprefix(last)}"] = same(tensors[name])
    for name in [name for name in tensors if tensors[name].ndim == 4]:
        bias = name.removesuffix("weight") + "bias"
        tensors.setdefault(bias, torch.zeros(len(tensors[name])))
    tensors["weights"] = torch.eye(blocks)[-1]


def _in_a_row(*layers: str) -> list[tuple[str, str]]:
    """Return the new names of convolutions in a row, with an activation after each."""
    return [(re.escape(f"{layer}."), f"layers.{2 * i}.") for i, layer in enumerate(layers)]


def _trunk(
    tensors: Mapping[str, Tensor], first: str, trunk: str, last: str
) -> list[tuple[str, str]]:
    """Return the new names of VDSR's layers: first, a numbered trunk, last."""
    depth = _count(tensors, f"{trunk}.#.conv.weight")
    return _in_a_row(first, *(f"{trunk}.{i}.conv" for i in range(depth)), last)


def _mdsr_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    """MDSR's code numbers its scales."""
    names = [(r"tail\.0\.", "tail."), *_EDSR_NAMES]
    for i in range(_count(tensors, "upsample.#.0.weight")):
        scale = _factor(tensors, f"upsample.{i}")
        names += [
            (rf"pre_process\.{i}\.(\d)\.body\.(\d)\.", rf"before.{scale}.\1.layers.\2."),
            (rf"upsample\.{i}\.", f"upsamplers.{scale}."),
        ]
    return names


def _rdn_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    last = max(i for i in (0, 2, 4) if f"UPNet.{i}.weight" in tensors)
    return [
        (r"SFENet1\.", "first."),
        (r"SFENet2\.", "second."),
        (r"RDBs\.(\d+)\.convs\.(\d+)\.conv\.0\.", r"blocks.\1.layers.\2."),
        (r"RDBs\.(\d+)\.LFF\.", r"blocks.\1.fuse."),
        (r"GFF\.", "fuse."),
        (rf"UPNet\.{last}\.", "tail.1."),
        (r"UPNet\.", "tail.0."),
    ]


def _ddbpn_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    names = [
        (r"feat0\.conv\.", "first.0."),
        (r"feat0\.act\.", "first.1."),
        (r"feat1\.conv\.", "first.2."),
        (r"feat1\.act\.", "first.3."),
        (r"output_conv\.conv\.", "last."),
    ]
    layers = ((1, "there"), (2, "back"), (3, "again"))
    for n in range(1, 1 + _count(tensors, "up#.up_conv1.deconv.weight")):
        for kind, unit in (("up", 2 * n - 2), ("down", 2 * n - 1)):
            reduce = (rf"{kind}{n}\.conv\.", f"units.{unit}.reduce.")
            parts = [reduce, *((rf"{kind}{n}\.{kind}_conv{i}\.", f"units.{unit}.{ours}.")
                               for i, ours in layers)]  # fmt: skip
            names += [(rf"{part}(conv|deconv)\.", f"{ours}0.") for part, ours in parts]
            names += [(rf"{part}act\.", f"{ours}1.") for part, ours in parts]
    return names


def _memnet_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    last = _count(tensors, "dense_memory.#.gate_unit.conv.weight") - 1
    unit = r"dense_memory\.(\d+)\.recursive_unit\.(\d+)\.relu_conv"
    names = [
        ("reconstructor\\.bn\\.", f"normalize.{last}."),
        ("reconstructor\\.conv\\.", "reconstruct."),
    ]
    for part, index in (("bn", 0), ("conv", 2)):
        names += [
            (rf"feature_extractor\.{part}\.", f"first.{index}."),
            (rf"{unit}1\.{part}\.", rf"blocks.\1.units.\2.0.{index}."),
            (rf"{unit}2\.{part}\.", rf"blocks.\1.units.\2.1.{index}."),
            (rf"dense_memory\.(\d+)\.gate_unit\.{part}\.", rf"blocks.\1.gate.{index}."),
        ]
    return names


_EDSR_NAMES = [
    (r"head\.0\.", "head."),
    (r"body\.(\d+)\.body\.(\d)\.", r"body.\1.layers.\2."),
    (r"body\.", "body."),
    (r"tail\.", "tail."),
]

_MSRN_NAMES = [
    (r"head\.0\.", "head."),
    (r"body\.(\d+)\.conv_3_1\.", r"blocks.\1.layers.0."),
    (r"body\.(\d+)\.conv_5_1\.", r"blocks.\1.layers.1."),
    (r"body\.(\d+)\.conv_3_2\.", r"blocks.\1.layers.2."),
    (r"body\.(\d+)\.conv_5_2\.", r"blocks.\1.layers.3."),
    (r"body\.(\d+)\.confusion\.", r"blocks.\1.fuse."),
    (r"tail\.0\.", "fuse."),
    (r"tail\.1\.", "tail.0."),
    (r"tail\.2\.", "tail.1."),
    (r"tail\.3\.", "tail.2."),
]

_RDN_NAMES = [
    (r"sfe1\.", "first."),
    (r"sfe2\.", "second."),
    (r"rdbs\.(\d+)\.layers\.(\d+)\.conv\.", r"blocks.\1.layers.\2."),
    (r"rdbs\.(\d+)\.lff\.", r"blocks.\1.fuse."),
    (r"gff\.", "fuse."),
    (r"upscale\.", "tail.0."),
    (r"output\.", "tail.1."),
]


def _basicsr_names(tensors: Mapping[str, Tensor]) -> list[tuple[str, str]]:
    blocks = _count(tensors, "body.#.conv1.weight")
    return [
        (r"conv_first\.", "head."),
        (r"body\.(\d+)\.conv1\.", r"body.\1.layers.0."),
        (r"body\.(\d+)\.conv2\.", r"body.\1.layers.2."),
        (r"conv_after_body\.", f"body.{blocks}."),
        (r"upsample\.", "tail.0."),
        (r"conv_last\.", "tail.1."),
    ]


_LAYOUTS = (
    _Layout(
        "SRCNN",
        ("conv1.weight", "conv2.weight", "conv3.weight"),
        lambda _: _in_a_row("conv1", "conv2", "conv3"),
        _srcnn,
    ),
    _Layout(
        "SRCNN",
        ("features.0.weight", "map.0.weight", "reconstruction.weight"),
        lambda _: _in_a_row("features.0", "map.0", "reconstruction"),
        _srcnn,
    ),
    _Layout(
        "VDSR",
        ("input.weight", "residual_layer.0.conv.weight", "output.weight"),
        lambda tensors: _trunk(tensors, "input", "residual_layer", "output"),
        _vdsr,
    ),
    _Layout(
        "VDSR",
        ("conv1.0.weight", "trunk.0.conv.weight", "conv2.weight"),
        lambda tensors: _trunk(tensors, "conv1.0", "trunk", "conv2"),
        _vdsr,
    ),
    _Layout(
        "MDSR",
        ("head.0.weight", "pre_process.0.0.body.0.weight", "tail.0.weight"),
        _mdsr_names,
        _mdsr,
        "head",
        "tail",
    ),
    _Layout(
        "EDSR",
        ("head.0.weight", "body.0.body.0.weight", "tail.1.weight"),
        lambda _: _EDSR_NAMES,
        _edsr,
        "head",
        "tail.1",
    ),
    _Layout(
        "EDSR",
        ("conv_first.weight", "body.0.conv1.weight", "conv_after_body.weight"),
        _basicsr_names,
        _edsr,
        "head",
        "tail.1",
    ),
    _Layout(
        "MSRN",
        ("head.0.weight", "body.0.conv_3_1.weight", "tail.3.weight"),
        lambda _: _MSRN_NAMES,
        _msrn,
        "head",
        "tail.2",
    ),
    _Layout(
        "RDN",
        ("SFENet1.weight", "RDBs.0.LFF.weight", "UPNet.0.weight"),
        _rdn_names,
        _rdn,
        "first",
        "tail.1",
    ),
    _Layout(
        "RDN",
        ("sfe1.weight", "rdbs.0.lff.weight", "output.weight"),
        lambda _: _RDN_NAMES,
        _rdn,
    ),
    _Layout(
        "DDBPN",
        ("feat0.conv.weight", "up1.up_conv1.deconv.weight", "output_conv.conv.weight"),
        _ddbpn_names,
        _ddbpn,
    ),
    _Layout(
        "MemNet",
        ("feature_extractor.conv.weight", "dense_memory.0.gate_unit.conv.weight"),
        _memnet_names,
        _memnet,
        complete=_complete_memnet,
    ),
)
"""Tried in turn; MDSR comes before EDSR, whose names it shares."""
