"""Settings as arguments of a command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable

from tidemark.settings import Setting, Values, read, refuse_unknown


def add_settings(
    parser: argparse.ArgumentParser, settings: Iterable[Setting], *, besides: Iterable[Setting] = ()
) -> None:
    """Add `--name` for each setting; its value stays text until `read_settings`.

    Args:
        parser: Of the command.
        settings: Those it takes.
        besides: Those that a command around it takes as well: given there, they count here.
    """
    others = {setting.name for setting in besides}
    for setting in settings:
        shown = f" Default: {setting.default}." if setting.default else ""
        text = f"{setting.help}{shown} Environment: {setting.variable}."
        default = argparse.SUPPRESS if setting.name in others else None
        parser.add_argument(f"--{setting.name}", metavar="VALUE", help=text.replace("%", "%%"), default=default)


def read_settings(arguments: argparse.Namespace, settings: Iterable[Setting]) -> Values:
    """The checked values of what `add_settings` added.

    Raises:
        UsageError: the first setting whose value cannot be used, or a variable of the environment that is none.
    """
    refuse_unknown()
    return read(settings, vars(arguments))
