"""Settings as arguments of a command."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from datetime import datetime

from tidemark.errors import UsageError
from tidemark.settings import Setting, Values, read, refuse_unknown
from tidemark.wire.message import microseconds


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


def seconds(text: str | None) -> int | None:
    """Whole seconds since 1970 of an RFC 3339 time, rounded down; None stays None.

    Raises:
        UsageError: it is no time, or has no zone.
    """
    if text is None:
        return None
    try:
        parsed = datetime.fromisoformat(text)
    except ValueError:
        raise UsageError(f"{text!r} is not a time; write it as 2026-01-31T00:00:00Z.") from None
    if parsed.tzinfo is None:
        raise UsageError(f"{text!r} has no zone; write it as 2026-01-31T00:00:00Z.")
    return microseconds(parsed) // 1_000_000
