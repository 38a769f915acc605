"""The command line ``crnet``: one module a command, and here what they have in common.

Exit code 0 is success, 1 a file that failed, 2 a call that cannot be carried out.  Every failure
is one line on stderr.
"""

import os
from collections.abc import Sequence

import crnet
from crnet.cli import compare, data, demo, evaluate, export, models, train, upscale
from crnet.cli.interrupt import check_interrupt
from crnet.cli.messages import UsageError, fail
from crnet.cli.options import Parser
from crnet.errors import CRNetError, ImageFileError


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code."""
    arguments, unknown = command_line().parse_known_args(argv)
    parser: Parser = arguments.parser
    if unknown:
        parser.error(f"unrecognized arguments: {' '.join(unknown)}")
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
    parser.add_argument("--version", action="version", version=f"crnet {crnet.__version__}")
    subcommands = parser.add_subparsers(required=True, metavar="COMMAND", parser_class=Parser)
    for command in (upscale, models, evaluate, compare, data, train, export, demo):
        command.add(subcommands)
    return parser
