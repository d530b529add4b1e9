"""`tidemark settings`: shows what all programs of a store run with, or changes it for all of them.

A change needs --yes. Programs that run with other settings store and settle nothing from then on, and say so: start them
again. What a new tier or quantiles owe is marked in the same transaction, and settled by ingest from the newest window
to the oldest, beside what is live.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.settings import AGREED, STORE, Setting, read
from tidemark.store.agreement import NAMES, Agreement, kept
from tidemark.store.change import Owed, change, owed
from tidemark.store.connection import make_engine, transaction
from tidemark.store.location import database_url
from tidemark.wire.message import moment_s

STATEMENT_TIMEOUT_S: Final = 3600


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "settings", help="show or change what all programs of a store run with", description=__doc__
    )
    add_settings(parser, STORE)
    for setting in AGREED:
        parser.add_argument(f"--{setting.name}", metavar="VALUE", help=_help(setting))
    parser.add_argument("--yes", action="store_true", help="change them; without it the change is only described")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def _help(setting: Setting) -> str:
    return f"change it to this: {setting.help}".replace("%", "%%")


def run(arguments: argparse.Namespace) -> int:
    """Show, describe or change.

    Raises:
        UsageError: a value cannot be, or cannot become that any more.
    """
    values = read_settings(arguments, STORE)
    given = read(AGREED, vars(arguments), environment={})
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        with transaction(pool) as connection:
            old = kept(connection)
        new = Agreement(
            *(getattr(given, name) if old is None or name in given.told else getattr(old, name) for name in NAMES)
        )
        found = None
        if given.told and new != old:
            found = change(pool, new) if arguments.yes else owed(pool, old, new)
    finally:
        pool.dispose()
    changed = found is not None and arguments.yes
    if arguments.json:
        shown = new if changed else old
        texts = None if shown is None else shown.texts()
        print(json.dumps({"settings": texts, "changed": changed, "owed_tiers_s": found.tiers_s if found else []}))  # noqa: T201
    else:
        print("\n".join(_told(old, new, found, changed=changed)))  # noqa: T201
    return 0


def _told(old: Agreement | None, new: Agreement, found: Owed | None, *, changed: bool) -> list[str]:
    if changed:
        lines = [str(new), "Start every program again that runs with others: it stores and settles nothing any more."]
    else:
        lines = [str(old) if old else "Nothing is kept yet: the first ingest keeps its own."]
    if found is None:
        return lines
    if not changed:
        lines.append(f"With --yes they become {new}.")
    if found.tiers_s:
        tiers = ", ".join(f"{tier} s" for tier in found.tiers_s)
        start, end = moment_s(found.within.start).isoformat(), moment_s(found.within.end).isoformat()
        verb = "are" if changed else "would be"
        lines.append(f"All windows of {tiers} from {start} to {end} {verb} owed a settling; ingest does it.")
    if found.removed_s:
        tiers = ", ".join(map(str, found.removed_s))
        lines.append(
            f"Rollups of {tiers} s stay in BigQuery as they are, and are not corrected any more: leave them out, or "
            f"DELETE FROM rollups WHERE tier_s IN ({tiers}) AND window_start >= '1970-01-01'."
        )
    return lines
