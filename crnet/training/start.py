"""The network that a run starts with: random weights, or those of another run or model."""

import sys

import torch
from torch import Tensor

from baselines.networks.edsr_layers import Upsampler
from crnet import loading, networks
from crnet.errors import WeightsError
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from crnet.sparse import SparseCRNetA, SparseCRNetB
from crnet.training.recipe import Recipe

_BLOCK = "coder.stack.blocks."


def build(recipe: Recipe, *, fresh: bool = True, tell: bool = False) -> Network:
    """Return the network of a recipe with its initial weights.

    A network of one scale may start from the same network of another scale.  Its upsampler then
    keeps its random weights.

    A sparse network may start from one with fewer blocks.  The new blocks stand before the last
    one, and their way back H is zero, so the network first gives the images of `start`.

    Parameters
    ----------
    recipe : Recipe
        What to train.
    fresh : bool
        Load the weights of the recipe's `start`; false where a checkpoint replaces them.
    tell : bool
        Report on stderr which weights do not come from `start`.

    Returns
    -------
    Network
        In the memory format in which convolutions are fastest, channels last.

    Raises
    ------
    WeightsError
        If `start` is missing or does not fit.
    ValueError
        If the recipe asks a network without recursions to recompute them.
    """
    net = loading.build(
        recipe.architecture, recipe.network(), torch.Generator().manual_seed(recipe.seed)
    )
    if recipe.start and fresh:
        _load(recipe, net, tell)
    if isinstance(net, CRNetA | CRNetB):
        net.cista.recompute = recipe.recompute
    elif recipe.recompute:
        raise ValueError(f"{recipe.architecture} has no recursions to recompute")
    return net.to(memory_format=torch.channels_last)


def _load(recipe: Recipe, net: Network, tell: bool) -> None:
    weights, own = loading.load(recipe.start).state_dict(), net.state_dict()
    new = _upsampler_of_another_scale(recipe, net)
    weights = {k: v for k, v in weights.items() if not k.startswith(new)}
    weights |= {k: v for k, v in own.items() if k.startswith(new)}
    if isinstance(net, SparseCRNetA | SparseCRNetB):
        weights = _with_more_blocks(weights, own)
    if tell and new:
        layers = ", ".join(k.removesuffix(".") for k in new)
        sys.stderr.write(
            f"{recipe.start} is for another scale; its upsampler, {layers}, is left out\n"
        )
    try:
        net.load_state_dict(weights)
    except RuntimeError as error:
        raise WeightsError(
            f"the weights of {recipe.start} do not fit the recipe: {error}"
        ) from None


def _with_more_blocks(weights: dict[str, Tensor], own: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return weights with the blocks of `own` that they lack, which change no image at first."""
    few, many = _blocks(weights), _blocks(own)
    if not 0 < few < many:
        return weights
    last, target = f"{_BLOCK}{few - 1}.", f"{_BLOCK}{many - 1}."
    grown = {k.replace(last, target): v for k, v in weights.items()}
    for b in range(few - 1, many - 1):
        prefix, back = f"{_BLOCK}{b}.", f"coder.stack.back.{b}"
        grown |= {k: v for k, v in own.items() if k.startswith(prefix)}
        grown.setdefault(back, torch.zeros_like(own[back]))
    return grown


def _blocks(weights: dict[str, Tensor]) -> int:
    """Return the number of ridge blocks of a sparse network."""
    return len({k.removeprefix(_BLOCK).split(".")[0] for k in weights if k.startswith(_BLOCK)})


def _upsampler_of_another_scale(recipe: Recipe, net: Network) -> tuple[str, ...]:
    """Return the prefixes of the upsampler's weights if only the scale differs from `start`."""
    about, mine = loading.card(recipe.start), recipe.network()
    defaults = networks.arguments_of(recipe.architecture)
    theirs = {**defaults, **about.arguments}
    same = {**defaults, **mine, "scale": theirs.get("scale")} == theirs
    if about.architecture != recipe.architecture or not same or theirs["scale"] == mine["scale"]:
        return ()
    return tuple(f"{k}." for k, layer in net.named_modules() if isinstance(layer, Upsampler))
