"""The command `tidemark`."""

from __future__ import annotations

import argparse
import importlib
import sys
from collections.abc import Mapping, Sequence
from typing import Final

from tidemark import program
from tidemark.errors import UsageError
from tidemark.version import VERSION

COMMANDS: Final[Mapping[str, str]] = {
    "local": "tidemark.local.commands",
    "migrate": "tidemark.operate.migrate",
    "preflight": "tidemark.operate.preflight",
    "verify": "tidemark.operate.verify",
    "rebuild": "tidemark.operate.rebuild",
    "delete": "tidemark.operate.delete",
    "maintain": "tidemark.operate.maintain",
    "compact": "tidemark.operate.compact",
    "sources": "tidemark.operate.sources",
    "status": "tidemark.operate.status",
    "advise": "tidemark.operate.advise",
    "settings": "tidemark.operate.settings",
    "dead-letters": "tidemark.operate.dead_letters",
    "redrive": "tidemark.operate.redrive",
    "mapping": "tidemark.mapping.commands",
    "edge": "tidemark.edge.commands",
    "serve": "tidemark.query.commands",
    "token": "tidemark.edge.token",
}
"""The module of each, with `add_parser(subparsers)`, which sets `run`; imported when it is asked for."""

NAMES: Final = ("series_project", "project", "source", "metric")
"""Arguments of commands, which go to the database: text, and not the bytes of a terminal that has other letters."""


def parser(commands: Sequence[str] = tuple(COMMANDS)) -> argparse.ArgumentParser:
    """The command line, of all commands or of some."""
    made = argparse.ArgumentParser(
        prog="tidemark",
        description="Time series from Pub/Sub to TimescaleDB and BigQuery, right in the end.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"tidemark {VERSION}")
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for name in commands:
        importlib.import_module(COMMANDS[name]).add_parser(subparsers)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit status; otherwise as `tidemark.program.reported`.
    """
    return program.reported(lambda: _run(list(sys.argv[1:] if argv is None else argv)))


def _run(argv: list[str]) -> int:
    chosen = parser(argv[:1]) if argv[:1] and argv[0] in COMMANDS else parser()
    arguments = chosen.parse_args(argv)
    for name in NAMES:
        text = getattr(arguments, name, None)
        if isinstance(text, str) and any("\ud800" <= c <= "\udfff" for c in text):
            raise UsageError(f"--{name} is no UTF-8: {text!r}.")
    return int(arguments.run(arguments))
