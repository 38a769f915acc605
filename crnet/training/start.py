"""The network that a run starts with: random weights, or those of another run or model."""

import sys

import torch

from baselines.networks.edsr_layers import Upsampler
from crnet import loading, networks
from crnet.errors import WeightsError
from crnet.model import CRNetA, CRNetB
from crnet.networks import Network
from crnet.training.recipe import Recipe


def build(recipe: Recipe, *, fresh: bool = True, tell: bool = False) -> Network:
    """Return the network of a recipe with its initial weights.

    A network of one scale may start from the same network of another scale.  Its upsampler then
    keeps its random weights.

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


def _upsampler_of_another_scale(recipe: Recipe, net: Network) -> tuple[str, ...]:
    """Return the prefixes of the upsampler's weights if only the scale differs from `start`."""
    about, mine = loading.card(recipe.start), recipe.network()
    defaults = networks.arguments_of(recipe.architecture)
    theirs = {**defaults, **about.arguments}
    same = {**defaults, **mine, "scale": theirs.get("scale")} == theirs
    if about.architecture != recipe.architecture or not same or theirs["scale"] == mine["scale"]:
        return ()
    return tuple(f"{k}." for k, layer in net.named_modules() if isinstance(layer, Upsampler))
