"""`tidemark compact`: removes previews and older revisions from closed days of BigQuery, which a newer row has replaced.

What `rollups_latest` shows stays the same; what goes is the history. Safe beside a running ingest, and to repeat. Each
day is one statement over its partition, so choose the days: --from and --to, by default the seven days that were closed
last.
"""

from __future__ import annotations

import argparse
import json
import time
from datetime import UTC, date, datetime, timedelta
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.operate.arguments import seconds
from tidemark.settings import COMPACT, DAY_S, Values, require

DAYS: Final = 7


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("compact", help="remove superseded rows from BigQuery", description=__doc__)
    add_settings(parser, COMPACT)
    parser.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339; the first day")
    parser.add_argument("--to", dest="end", metavar="TIME", help="RFC 3339, exclusive; default: the last closed day")
    parser.add_argument("--dry_run", action="store_true", help="count, and remove nothing")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Compact day after day."""
    from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import
    from tidemark.warehouse.compact import remove_superseded, superseded  # noqa: PLC0415

    values = read_settings(arguments, COMPACT)
    require(values, "rollup_dataset")
    days = closed_days(seconds(arguments.start), seconds(arguments.end), values, time.time())
    client = rest(values.rollup_dataset)
    one = superseded if arguments.dry_run else remove_superseded
    verb = "would be removed" if arguments.dry_run else "removed"
    rows: dict[str, int] = {}
    for day in days:
        rows[day.isoformat()] = one(client, values.rollup_dataset, day)
        if not arguments.json:  # what was done is known even if a later day fails
            print(f"{day.isoformat()}: {rows[day.isoformat()]:,} superseded rows {verb}.", flush=True)  # noqa: T201
    if arguments.json:
        print(json.dumps({"removed": not arguments.dry_run, "rows": sum(rows.values()), "days": rows}))  # noqa: T201
    else:
        print(f"{sum(rows.values()):,} superseded rows of {len(rows)} days {verb}.")  # noqa: T201
    return 0


def closed_days(start: int | None, end: int | None, values: Values, now_s: float) -> list[date]:
    """The days of [start, end), in seconds since 1970, whose windows have all passed their horizon.

    Raises:
        UsageError: none of them is closed, or the range is empty.
    """
    closed = int(now_s - values.horizon_s - values.debounce_s) // DAY_S
    last = closed if end is None else min(closed, -(-end // DAY_S))
    first = last - DAYS if start is None else start // DAY_S
    if first >= last:
        closes = datetime.fromtimestamp(closed * DAY_S, UTC).date()
        raise UsageError(f"No day of that range is closed: give days before {closes.isoformat()}.")
    return [date(1970, 1, 1) + timedelta(days=day) for day in range(first, last)]
