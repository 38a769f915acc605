"""``crnet train``: train a network by a recipe, each field of which is an option."""

import argparse
import dataclasses
import inspect
import json
import os
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args, get_origin

from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, say, tell
from crnet.cli.options import add_data, add_device
from crnet.cli.progress import progress
from crnet.errors import words
from crnet.networks import ARCHITECTURES
from crnet.training import recipe
from crnet.training.recipe import Recipe

PREFIX = "field_"

GROUPS = {
    "network": [
        "architecture",
        "n0",
        "m0",
        "recursions",
        "bias",
        "threshold",
        "residual",
        "border",
        "sizes",
        "scales",
    ],
    "data": ["sets", "exclude", "validation", "teacher"],
    "patches": ["patch", "batch", "detail"],
    "optimisation": ["loss", "deep", "optimizer", "lr", "momentum", "weight_decay", "clip", "ema"],
    "schedule": ["steps", "minutes", "warmup", "schedule", "decay_every", "decay_factor"],
}
"""The fields of a recipe as the help groups them; all others belong to the run."""


def add(p: Parser) -> None:
    """Add the options of the command."""
    p.add_argument(
        "recipe", metavar="RECIPE", help=f"a TOML file, or one of {', '.join(recipe.bundled())}"
    )
    add_data(p)
    p.add_argument(
        "--out",
        type=Path,
        metavar="RUN",
        help="folder of the run (default: runs/RECIPE, or the folder of a run's recipe.toml)",
    )
    p.add_argument("--resume", action="store_true", help="continue the run in the folder")
    add_device(p)
    p.add_argument(
        "--devices",
        type=int,
        default=1,
        metavar="N",
        help="devices that train together, a process each (default: 1)",
    )
    p.add_argument(
        "--workers",
        type=int,
        default=0,
        metavar="N",
        help="processes that load patches (default: 0)",
    )
    p.add_argument(
        "--validate-every",
        type=int,
        default=1000,
        metavar="STEPS",
        help="steps between validations (default: 1000)",
    )
    p.add_argument(
        "--save-minutes",
        type=float,
        default=5,
        metavar="MIN",
        help="minutes between checkpoints (default: 5)",
    )
    _add_fields(p)


def run(arguments: argparse.Namespace) -> int:
    """Train a network by a recipe."""
    try:
        from crnet.training import train
        from crnet.training.folder import on_own_photos
        from crnet.training.module import VALIDATION_SIDE
    except ModuleNotFoundError as error:
        raise UsageError(f"training needs {error.name}: pip install 'csc-crnet[train]'") from error
    overrides = {
        name.removeprefix(PREFIX): value
        for name, value in vars(arguments).items()
        if name.startswith(PREFIX) and value is not None
    }
    chosen = recipe.read(arguments.recipe, overrides)
    folder = _folder(arguments)
    if arguments.resume and not _holds_a_run(folder):
        raise UsageError(f"{folder} holds no run to resume; leave --resume out to start one")
    chosen = _with_fitting_warmup(chosen, overrides)
    root = arguments.data or os.environ.get("CRNET_DATA")
    if root and "sets" not in overrides:
        own = on_own_photos(chosen, Path(root), validation="validation" not in overrides)
        if own != chosen:
            held = words(own.validation, "and")
            if not own.validation and "validation" not in overrides:
                held += f"; it takes two photos, one with sides of {VALIDATION_SIDE} pixels or more"
            tell(f"training on the photos in {root}; held out for validation: {held}")
        chosen = own
    try:
        train.train(
            chosen,
            folder,
            arguments.data,
            resume=arguments.resume,
            device=arguments.device,
            devices=arguments.devices,
            workers=arguments.workers,
            validate_every=arguments.validate_every,
            save_minutes=arguments.save_minutes,
            bar=True,
            progress=progress,
        )
    except (FileExistsError, ValueError) as error:
        raise UsageError(str(error)) from error
    say(f"trained: {folder / 'last.ckpt'}; crnet export writes it as a weights file")
    return 0


def _folder(arguments: argparse.Namespace) -> Path:
    """Return the folder of the run; a ``recipe.toml`` is what a run saved in its own."""
    given = Path(arguments.recipe)
    beside = given.parent if given.name == "recipe.toml" else Path("runs") / given.stem
    return arguments.out or beside


def _holds_a_run(folder: Path) -> bool:
    """Tell whether a run has begun in a folder; its logs may be older than its checkpoints."""
    return any(folder.glob("*.ckpt")) or (folder / "logs").is_dir()


def _with_fitting_warmup(chosen: Recipe, overrides: dict[str, Any]) -> Recipe:
    """Shorten the warm-up in proportion where ``--steps`` leaves no room for it, and tell.

    Raises
    ------
    UsageError
        If the call itself asks for a warm-up as long as the run.
    """
    if chosen.warmup < chosen.steps or "steps" not in overrides or chosen.minutes:
        return chosen
    if "warmup" in overrides:
        raise UsageError(
            f"--warmup must be less than --steps, got {chosen.warmup} and {chosen.steps}"
        )
    shorter = chosen.steps // 10
    tell(f"the warm-up of {chosen.warmup} steps is shortened to {shorter}, a tenth of --steps")
    return dataclasses.replace(chosen, warmup=shorter)


def _add_fields(parser: argparse.ArgumentParser) -> None:
    """Add an option for each field of a recipe, with its text and its default."""
    texts, defaults = field_texts(), recipe.defaults()
    fields = {field.name: field for field in dataclasses.fields(Recipe)}
    grouped = {name for names in GROUPS.values() for name in names}
    groups = {**GROUPS, "run": [name for name in fields if name not in grouped]}
    for title, names in groups.items():
        group = parser.add_argument_group(f"fields of the recipe: {title}")
        for name in names:
            if name in fields:
                text = f"{texts.get(name, '')} (default: {_shown(defaults[name])})"
                _add_field(group, fields[name], text.replace("%", "%%").strip())


def _add_field(group: Any, field: "dataclasses.Field[Any]", text: str) -> None:
    name, dest, kind = f"--{field.name.replace('_', '-')}", f"{PREFIX}{field.name}", field.type
    if kind is bool:
        group.add_argument(name, action=argparse.BooleanOptionalAction, dest=dest, help=text)
    elif get_origin(kind) is dict:
        group.add_argument(
            name, action=_Table, nargs="+", dest=dest, metavar="NAME=NUMBER", help=text
        )
    elif get_origin(kind) is tuple:
        of = get_args(kind)[0]
        group.add_argument(name, type=of, nargs="*", dest=dest, metavar=_METAVARS[of], help=text)
    else:
        group.add_argument(name, type=kind, dest=dest, metavar=_METAVARS[kind], help=text)


_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "NAME"}


class _Table(argparse.Action):
    """``--sizes depth=8 shared=false`` as a dict."""

    def __call__(self, parser: Any, namespace: Any, values: Any, option: Any = None) -> None:
        """Take the words behind the option."""
        table = {}
        for given in values:
            name, _, value = given.partition("=")
            try:
                table[name] = json.loads(value)
            except ValueError:
                parser.error(f"argument {option}: expected NAME=NUMBER, got {given!r}")
        setattr(namespace, self.dest, table)


def field_texts() -> dict[str, str]:
    """Return what the docstring of :class:`Recipe` says of each field, as plain text."""
    text = inspect.cleandoc(Recipe.__doc__ or "")
    attributes = re.split(r"\nAttributes\n-+\n", text)[-1]
    entries = re.findall(r"^(\w[\w, ]*) : .*\n((?:[ ]{4}.*\n?)+)", attributes, re.MULTILINE)
    return {name: _plain(body.split()) for names, body in entries for name in names.split(", ")}


def _plain(words: Iterable[str]) -> str:
    """Return words of a docstring without its markup, as one sentence of a help text."""
    text = " ".join(words).replace(":data:`crnet.networks.ARCHITECTURES`", ", ".join(ARCHITECTURES))
    text = re.sub(r":\w+:`~?([^`]*)`", r"\1", text)
    text = re.sub(r"`+", "", text).rstrip(".")
    return text if text[1:2].isupper() else text[0].lower() + text[1:]


def _shown(value: Any) -> str:
    """Return a default as one would type it."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, tuple | dict):
        return " ".join(map(str, value)) or "none"
    return f"{value:g}" if isinstance(value, float) else str(value) or "none"
