"""``crnet data check``: look at the image sets under a data root."""

import argparse

from crnet.cli.arguments import Parser
from crnet.cli.messages import printable, say
from crnet.cli.options import add_data
from crnet.cli.progress import progress
from crnet.data import check, data_root

TEST_SETS = ("Set5", "Set14", "B100", "Urban100", "Manga109")


def add(p: Parser) -> None:
    """Add the options of the command."""
    add_data(p)
    p.add_argument(
        "--sets", nargs="+", metavar="SET", help="image sets to read (default: every set of ROOT)"
    )
    p.add_argument(
        "--test",
        nargs="+",
        default=TEST_SETS,
        metavar="SET",
        help=f"test sets, which no other set may overlap (default: {' '.join(TEST_SETS)})",
    )


def run(arguments: argparse.Namespace) -> int:
    """Tell how many images each set holds, and what is wrong with them."""
    root, test = data_root(arguments.data), arguments.test
    with progress("check", "images") as follow:
        found = check(root, test, follow, sets=arguments.sets)
    width = max(len(name) for name in found.images)
    lines = [
        f"{name:{width}}  {count:6} images{'  (test set)' * (name in test)}"
        for name, count in found.images.items()
    ]
    lines += [f"damaged: {message}" for message in found.damaged]
    lines += [f"the same pixels: {a} and {b}" for a, b in found.copies]
    lines += [
        f"the same picture: {b} shows {a} of a test set; leave it out with --exclude"
        for a, b in found.alike
    ]
    if not (found.damaged or found.copies or found.alike):
        lines.append("no damaged file, no copies, no training image that shows a test image")
    said = say("\n".join(map(printable, lines)))
    return 0 if said and not found.damaged else 1
