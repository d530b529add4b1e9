"""Settings as arguments of a command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tidemark.settings import Setting, Values, read, refuse_unknown


def add_settings(parser: argparse.ArgumentParser, settings: Iterable[Setting]) -> None:
    """Add `--name` for each setting; its value stays text until `read_settings`."""
    for setting in settings:
        shown = f" Default: {setting.default}." if setting.default else ""
        text = f"{setting.help}{shown} Environment: {setting.variable}."
        parser.add_argument(f"--{setting.name}", metavar="VALUE", help=text.replace("%", "%%"))


def read_settings(arguments: argparse.Namespace, settings: Iterable[Setting]) -> Values:
    """The checked values of what `add_settings` added.

    Raises:
        UsageError: the first setting whose value cannot be used, or a variable of the environment that is none.
    """
    refuse_unknown()
    return read(settings, vars(arguments))
