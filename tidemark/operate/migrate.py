"""`tidemark migrate`: brings the database's schema to what this version works with."""

from __future__ import annotations

import argparse
import json
from typing import Any

from tidemark.arguments import add_settings, read_settings
from tidemark.settings import MIGRATE
from tidemark.store.location import database_url


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("migrate", help="bring the database's schema to this version", description=__doc__)
    add_settings(parser, MIGRATE)
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Migrate and say from which revision to which."""
    from tidemark.store.migrate import migrate  # noqa: PLC0415  # alembic is slow to import

    values = read_settings(arguments, MIGRATE)
    before, after = migrate(database_url(values), values.chunk_days)
    if arguments.json:
        print(json.dumps({"before": before, "after": after}))  # noqa: T201
    elif before == after:
        print(f"The schema is at revision {after} already.")  # noqa: T201
    else:
        print(f"The schema went from {before or 'nothing'} to revision {after}.")  # noqa: T201
    return 0
