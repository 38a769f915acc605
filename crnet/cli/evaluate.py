"""``crnet evaluate``: measure systems on image sets."""

import argparse
import json
from pathlib import Path

from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, say, tell
from crnet.cli.options import add_computing, add_models, add_sets, open_device, systems
from crnet.cli.progress import progress
from crnet.cli.workers import add_workers, processes
from crnet.data import data_root
from crnet.files import output_file
from crnet.measuring.evaluate import evaluate, report, table
from crnet.measuring.protocol import protocol_of
from crnet.precision import resolve


def add(p: Parser) -> None:
    """Add the options of the command."""
    add_sets(p, scales=(2, 3, 4))
    add_models(p)
    p.add_argument(
        "--recursions", action="store_true", help="measure the image after every recursion"
    )
    p.add_argument("--no-paper", action="store_true", help="leave the published rows out")
    p.add_argument(
        "--json",
        type=Path,
        metavar="FILE",
        help="also write results and versions (default: no file)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the JSON file if it exists")
    add_workers(p)
    add_computing(p)


def run(arguments: argparse.Namespace) -> int:
    """Print the table of PSNR and SSIM, and write it as JSON if asked."""
    if arguments.recursions and arguments.ensemble:
        raise UsageError("--recursions and --ensemble cannot be combined")
    lost: list[str] = []
    if arguments.json is None:
        text, _ = _measure(arguments, lost)
        return 0 if say(text) and not lost else 1
    with output_file(arguments.json, overwrite=arguments.overwrite) as file:
        text, written = _measure(arguments, lost)
        file.write(written)
    say(text)
    return 1 if lost else 0


def _measure(arguments: argparse.Namespace, lost: list[str]) -> tuple[str, bytes]:
    """Return the table and the same as JSON; tell and add up what lost workers left out."""
    root = data_root(arguments.data)
    models = systems(arguments)
    with processes(arguments.workers) as executor, progress("evaluate", "images") as follow:
        rows = evaluate(
            models,
            root,
            arguments.sets,
            arguments.scales,
            recursions=arguments.recursions,
            on_image=follow,
            executor=executor,
            on_lost=lost.append,
        )
    for message in lost:
        tell(f"crnet: {message}")
    text = table(rows, paper=not arguments.no_paper)
    if not arguments.no_paper:
        text += "\n\n[name]: published, Tables 1 to 3 of arXiv 1908.01166"
    protocols = list({protocol_of(m).name: protocol_of(m) for m in models.values()}.values())
    precision = resolve(arguments.precision, open_device(arguments.device))
    written = {**report(rows, root, arguments.sets, protocols), "precision": precision}
    return text, (json.dumps(written, indent=1, allow_nan=False) + "\n").encode()
