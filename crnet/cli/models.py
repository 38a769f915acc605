"""``crnet models``: the bundled networks and baselines as a table, and the card of one."""

import argparse
import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from crnet import loading, networks
from crnet.cli.arguments import Parser
from crnet.cli.messages import say
from crnet.cli.options import add_device, open_device
from crnet.cli.progress import progress
from crnet.contracts import parameters
from crnet.errors import RecipeError
from crnet.loading import RECOMMENDED, Card
from crnet.measuring.published import cells
from crnet.systems import BASELINES, Found, find
from crnet.training import recipe

SET = "Set5"
"""The image set whose PSNR orders the table."""

UNKNOWN = "-"

SIDE = 96
"""LR pixels to each side of the image that models are timed with."""


@dataclass(frozen=True)
class Model:
    """What the table and the card say of a model.

    Attributes
    ----------
    name, architecture : str
        How the command line calls it, and its class.
    scales : tuple of int
        Those it was made for; empty where it takes any.
    file : Path, optional
        Its weights.
    parameters : dict
        Learned numbers by scale; one entry, of scale 0, if all scales use the same.
    multiplications : dict
        Multiply-accumulates per HR pixel by scale, where they are known.
    psnr : dict
        PSNR in dB by set and by scale.
    card : dict
        The rest of its card.
    seconds : float, optional
        Time per megapixel of the enlarged image, if measured.
    """

    name: str
    architecture: str
    scales: tuple[int, ...]
    file: Path | None
    parameters: dict[int, int]
    multiplications: dict[int, float]
    psnr: dict[str, dict[int, float]]
    card: dict[str, Any] = field(default_factory=dict)
    seconds: float | None = None

    @property
    def megabytes(self) -> float | None:
        """Size of its file."""
        return None if self.file is None else self.file.stat().st_size / 1e6

    @property
    def rank(self) -> float:
        """Mean PSNR over the scales, for the order of the table."""
        known = self.psnr.get(SET, {}).values()
        return sum(known) / len(known) if known else 0.0


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "models",
        nargs="*",
        metavar="NAME",
        help="models whose card to print: names, weights files or checkpoints (default: a table "
        "of all)",
    )
    p.add_argument(
        "--time",
        action="store_true",
        help="measure seconds per megapixel of the enlarged image, on this machine, in the table",
    )
    add_device(p)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of all models, or the cards of some."""
    if arguments.models:
        lines = [line for name in arguments.models for line in card_lines(about(name))]
    else:
        names = (*BASELINES, *loading.bundled())
        models = sorted(map(about, names), key=lambda m: (m.name != RECOMMENDED, -m.rank))
        if arguments.time:
            models = _timed(models, open_device(arguments.device))
        lines = table_lines(models)
        lines += [
            "",
            f"{RECOMMENDED} is the default.  M mult.: millions of multiplications.  "
            "crnet models NAME prints the whole card.",
        ]
    return 0 if say("\n".join(lines)) else 1


def _timed(models: Sequence[Model], device: str) -> list[Model]:
    """Return the models with their measured times."""
    timed = []
    with progress("measure", "models") as follow:
        for done, model in enumerate(models):
            follow(done, len(models))
            timed.append(replace(model, seconds=seconds_per_megapixel(model.name, device)))
    return timed


def seconds_per_megapixel(name: str, device: str = "cpu") -> float:
    """Return the time of a model per megapixel of the enlarged image, at its smallest scale."""
    found = find(name)
    scale, system = min(found.scales, default=2), found.open(device)
    x = torch.rand(1, system.channels, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    system(x[..., :8, :8], scale)  # loads and compiles
    started = time.perf_counter()
    system(x, scale).cpu()
    return (time.perf_counter() - started) / ((scale * SIDE) ** 2 / 1e6)


def about(name: str) -> Model:
    """Return what is known of a model, without its weights.

    Raises
    ------
    WeightsError
        If there is no such model.
    """
    found = find(name)
    if isinstance(found.card, Card):
        return _network(name, found.path, found.card)
    if found.path is None or found.card is None:
        known = {c.scale: c.psnr for c in cells(SET) if c.method.lower() == "bicubic"}
        return Model(name, "bicubic", (), None, {0: 0}, {}, {SET: known})
    return _sparse_coding(name, found, found.card)


def _network(name: str, path: Path | None, card: Card) -> Model:
    net = loading.outline(card.architecture, card.arguments)
    if net.enlarged:  # works at the size of HR, whatever the scale
        work = dict.fromkeys(card.scales, networks.multiplications(net, 1))
    else:
        work = {scale: networks.multiplications(net, scale) for scale in card.scales}
    return Model(
        name,
        card.architecture,
        card.scales,
        path,
        {0: sum(p.numel() for p in net.parameters())},
        work,
        {name: _by_scale(told) for name, told in card.psnr.items()},
        {"arguments": card.arguments, **card.training},
    )


def _sparse_coding(name: str, found: Found, card: Mapping[str, Any]) -> Model:
    one = found.open()
    training = {key: value for key, value in card["training"].items() if key != "psnr"}
    settings = {
        key: value
        for key, value in card.items()
        if key not in ("name", "scales", "training", "psnr")
    }
    psnr = {name: _by_scale(told) for name, told in card.get("psnr", {}).items()}
    # CSC-SR has its PSNR by scale and then by set.
    for scale, told in card["training"].get("psnr", {}).items():
        for image_set, value in told.items():
            psnr.setdefault(image_set, {}).update(_by_scale({scale: value}))
    return Model(
        name,
        type(one).__name__,
        found.scales,
        found.path,
        {scale: parameters(one, scale) for scale in found.scales},
        {},
        psnr,
        {**training, **settings},
    )


def _by_scale(told: Mapping[str, float]) -> dict[int, float]:
    return {int(scale.removeprefix("x")): value for scale, value in told.items()}


def table_lines(models: Sequence[Model]) -> list[str]:
    """Return a table, a line a model."""
    scales = sorted({scale for model in models for scale in model.scales})
    timed = any(model.seconds is not None for model in models)
    rows = [
        [
            model.name,
            model.architecture,
            " ".join(map(str, model.scales)) or "any",
            _range(model.parameters.values()),
            _number(model.megabytes, ".2f"),
            *(_number(model.multiplications.get(s), ".3f", 1e-6) for s in scales),
            *(_number(model.psnr.get(SET, {}).get(s), ".2f") for s in scales),
            *[_number(model.seconds, ".2g")] * timed,
        ]
        for model in models
    ]
    by_scale = [f"x{scale}" for scale in scales]
    head = ["model", "architecture", "scales", "parameters", "MB", *by_scale, *by_scale]
    head += ["s/MP"] * timed
    widths = [max(map(len, column)) for column in zip(head, *rows, strict=True)]
    lines = [
        "  ".join(
            f"{cell:{width}}" if i < 3 else f"{cell:>{width}}"
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in (head, *rows)
    ]
    before = sum(widths[:5]) + 2 * 5
    group = sum(widths[5 : 5 + len(scales)]) + 2 * (len(scales) - 1)
    over = f"{'':{before}}{'M mult. per HR pixel':{group}}  PSNR in dB, {SET}"
    return [over, *lines]


def _range(counts: Any) -> str:
    low, high = min(counts), max(counts)
    return f"{low:,}" if low == high else f"{low:,}-{high:,}"


def _number(value: float | None, form: str, unit: float = 1) -> str:
    return UNKNOWN if value is None else f"{value * unit:{form}}"


def card_lines(model: Model) -> list[str]:
    """Return all that is known of a model."""
    lines = [
        model.name,
        f"  architecture: {model.architecture}",
        f"  scales: {' '.join(f'x{s}' for s in model.scales) or 'any'}",
        f"  parameters: {_told(model.parameters, '{:,}')}",
    ]
    if model.file is not None:
        lines.append(f"  file: {model.file}, {model.megabytes:.2f} MB")
    if model.multiplications:
        told = {s: m / 1e6 for s, m in model.multiplications.items()}
        lines.append(f"  millions of multiplications per HR pixel: {_told(told, '{:.3f}')}")
    for key, value in model.card.items():
        if key == "recipe":
            lines += ["  recipe:", *(f"    {line}" for line in recipe_lines(str(value)))]
        else:
            lines.append(f"  {key}: {json.dumps(value) if isinstance(value, dict) else value}")
    lines += [f"  PSNR in dB, {name}: {_told(v, '{:.2f}')}" for name, v in model.psnr.items()]
    return lines


def _told(by_scale: Mapping[int, float], form: str) -> str:
    return ", ".join(f"x{s} {form.format(v)}" if s else form.format(v) for s, v in by_scale.items())


def recipe_lines(text: str) -> list[str]:
    """Return the recipe of a card, with the fields that its architecture has."""
    try:
        return recipe.from_fields(json.loads(text)).toml().splitlines()
    except (ValueError, RecipeError):  # of another version of this package
        return [text]
