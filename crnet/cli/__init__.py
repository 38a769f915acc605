"""The command line."""

from crnet.cli.parser import main

__all__ = ["main"]
