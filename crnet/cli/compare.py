"""``crnet compare``: systems side by side, as a table and as a sheet of crops."""

import argparse
from pathlib import Path

from crnet.cli.arguments import Parser
from crnet.cli.messages import UsageError, printable, say
from crnet.cli.options import add_computing, add_models, add_sets, systems
from crnet.cli.progress import progress
from crnet.data import data_root, find_images
from crnet.errors import words
from crnet.files import output_file
from crnet.measuring.compare import compare_on
from crnet.measuring.evaluate import evaluate, table


def add(p: Parser) -> None:
    """Add the options of the command."""
    add_sets(p, scales=(3,))
    add_models(p)
    p.add_argument(
        "--image", metavar="FILE", help="image of the sheet (default: the first of each set)"
    )
    p.add_argument(
        "--crop",
        nargs=3,
        type=int,
        metavar=("TOP", "LEFT", "SIDE"),
        help="region of the sheet in HR pixels (default: where bicubic is worst)",
    )
    p.add_argument(
        "-o",
        "--out",
        type=Path,
        metavar="OUT",
        default=Path("compare.png"),
        help="sheet to write, a .png file (default: compare.png)",
    )
    p.add_argument("--overwrite", action="store_true", help="replace the sheet if it exists")
    add_computing(p)


def run(arguments: argparse.Namespace) -> int:
    """Print the table, and write the sheet of crops."""
    if arguments.out.suffix.lower() != ".png":
        raise UsageError(f"the sheet must end in .png, got {arguments.out}")
    root = data_root(arguments.data)
    models = systems(arguments)
    chosen = [path for name in arguments.sets for path in _chosen(root / name, arguments.image)]
    if not chosen:
        raise UsageError(f"no image {arguments.image} in {words(arguments.sets)}")
    with output_file(arguments.out, overwrite=arguments.overwrite) as file:
        pairs = [(path, scale) for path in chosen for scale in arguments.scales]
        looks = []
        with progress("sheet", "images") as follow:
            for done, (path, scale) in enumerate(pairs):
                follow(done, len(pairs))
                try:
                    looks.append(compare_on(path, scale, models, arguments.crop))
                except ValueError as error:
                    raise UsageError(str(error)) from error
        with progress("compare", "images") as follow:
            rows = evaluate(models, root, arguments.sets, arguments.scales, on_image=follow)
        say(table(rows, parameters=True))
        from crnet import plot

        plot.sheet(looks).savefig(file, dpi=110, format="png")
    say(printable(arguments.out))
    return 0


def _chosen(folder: Path, name: str | None) -> list[Path]:
    paths = find_images(folder)
    return paths[:1] if name is None else [p for p in paths if name in (p.name, p.stem)]
