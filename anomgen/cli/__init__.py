"""The command line: parses, calls, prints."""

from anomgen.cli.app import main

__all__ = ["main"]
