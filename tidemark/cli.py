"""The command `tidemark`."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Final

from tidemark import logs
from tidemark.local import commands as local
from tidemark.operate import compact, delete, maintain, migrate, preflight, rebuild, sources, verify
from tidemark.version import VERSION

COMMANDS: Final = (local, migrate, preflight, verify, rebuild, delete, maintain, compact, sources)
"""Each has `add_parser(subparsers)`, which sets `run`, and imports what is heavy only when it runs."""


def parser() -> argparse.ArgumentParser:
    """The command line."""
    made = argparse.ArgumentParser(
        prog="tidemark",
        description="Time series from Pub/Sub to TimescaleDB and BigQuery, right in the end.",
        allow_abbrev=False,
    )
    made.add_argument("--version", action="version", version=f"tidemark {VERSION}")
    subparsers = made.add_subparsers(required=True, metavar="COMMAND")
    for command in COMMANDS:
        command.add_parser(subparsers)
    return made


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns:
        Its exit status; 2 for a wrong setting, 1 for any other foreseen failure, 130 when interrupted.
    """
    arguments = parser().parse_args(argv)
    try:
        return logs.reported(lambda: int(arguments.run(arguments)))
    except KeyboardInterrupt:
        return 130
