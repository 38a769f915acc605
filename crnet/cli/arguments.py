"""The parser of the command line, light: a command's module is imported when it is called.

torch takes seconds to import, and ``crnet --help`` can do without it.
"""

import argparse
import textwrap
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NoReturn


class _Formatter(argparse.HelpFormatter):
    """argparse's, but names such as ``crnet-a`` stay on one line."""

    def _split_lines(self, text: str, width: int) -> list[str]:
        return textwrap.wrap(" ".join(text.split()), width, break_on_hyphens=False)


class Parser(argparse.ArgumentParser):
    """argparse, with one line on stderr instead of the usage and the line."""

    def __init__(self, **settings: Any) -> None:
        super().__init__(formatter_class=_Formatter, **settings)

    def error(self, message: str) -> NoReturn:
        """Tell what is wrong with the call, and where its help is."""
        self.exit(2, f"crnet: {message} ({self.hint()})\n")

    def hint(self) -> str:
        """Return where the help of this command is."""
        return f"see {self.prog} --help"


class Command(Parser):
    """The parser of a command, whose module gives its options and its `run`."""

    module = ""

    def fill(self) -> "Command":
        """Import the module and add its options, once."""
        if self.module:
            module = import_module(self.module)
            self.set_defaults(run=module.run, parser=self)
            module.add(self)
            self.module = ""
        return self

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Fill in the options, and parse."""
        self.fill()
        return super().parse_known_args(args, namespace)


def add_commands(
    parser: Parser, commands: Sequence[tuple[str, str, str]], metavar: str
) -> dict[str, Command]:
    """Add commands to a parser, each by its name, what it does, and its module; return them."""
    added: dict[str, Command] = {}
    subcommands = parser.add_subparsers(required=True, metavar=metavar, parser_class=Command)
    for name, summary, module in commands:
        description = f"{summary[0].upper()}{summary[1:]}."
        added[name] = subcommands.add_parser(name, help=summary, description=description)
        added[name].module = module
    return added
