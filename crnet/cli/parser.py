"""The command line ``crnet``: one module a command, and here what they have in common.

Exit code 0 is success, 1 a file that failed, 2 a call that cannot be carried out.  Every failure
is one line on stderr.
"""

import argparse
import os
from collections.abc import Sequence

import crnet
from crnet.cli.arguments import Parser, add_commands
from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import UsageError, fail, say, tell_what_is_logged

COMMANDS = (
    ("upscale", "enlarge image files", "crnet.cli.upscale"),
    ("models", "list the networks and baselines, or print the card of some", "crnet.cli.models"),
    ("evaluate", "measure PSNR and SSIM on image sets", "crnet.cli.evaluate"),
    (
        "compare",
        "show systems side by side: a table and a sheet of crops",
        "crnet.cli.compare",
    ),
    ("inspect", "write a page that shows how a network draws an image", "crnet.cli.inspect"),
    ("data", "look at image sets: crnet data check", ""),
    ("train", "train a network by a recipe", "crnet.cli.train"),
    ("export", "measure a network and write it as a weights file", "crnet.cli.export"),
    ("demo", "upscale a real photo and draw its codes", "crnet.cli.demo"),
)
"""Each command: its name, what it does, and its module."""

CHECKS = (
    ("check", "read every image; find damaged files, copies and test images", "crnet.cli.data"),
)
"""The commands of ``crnet data``."""


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments, unknown = command_line().parse_known_args(argv)
    parser: Parser = arguments.parser
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
    from crnet.errors import CRNetError, ImageFileError

    tell_what_is_logged("csc")
    try:
        code: int = arguments.run(arguments)
        return code
    except UsageError as error:
        return fail(f"{error} ({parser.hint()})", 2)
    except ImageFileError as error:
        return fail(str(error), 1)
    except CRNetError as error:
        return fail(str(error), 2)
    except KeyboardInterrupt:
        return fail("interrupted", 130)
    except Exception as error:
        check_interrupt()
        if os.environ.get("CRNET_TRACEBACK"):
            raise
        return fail(f"{error or type(error).__name__}", 1)


def command_line() -> Parser:
    """Return the parser of all commands."""
    parser = Parser(prog="crnet", description="Super-resolution by unfolded sparse coding.")
    parser.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")
    commands = add_commands(parser, COMMANDS, "COMMAND")
    add_commands(commands["data"], CHECKS, "check")
    return parser


class _Version(argparse.Action):
    """Print the version, which is imported only then."""

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        """Print it and exit."""
        say(f"crnet {crnet.__version__}")
        parser.exit()
