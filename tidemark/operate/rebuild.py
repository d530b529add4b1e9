"""`tidemark rebuild`: owes every window of a range a settling, so that ingest recomputes it and BigQuery gets it again.

For after a fail-over, a restore, a repair by hand, or a table of BigQuery that was lost. With --rollup_dataset, the
table and the view are made where they are missing, and rows that the store lacks or has older (they were lost with the
last seconds of a primary) are outdone: by emptied ones, or by what the store has.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from sqlalchemy import Engine

from tidemark.arguments import add_settings, read_settings
from tidemark.operate.arguments import span
from tidemark.settings import REBUILD
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.identity import identity
from tidemark.store.location import database_url
from tidemark.store.rebuild import Rebuild

STATEMENT_TIMEOUT_S: Final = 3600


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("rebuild", help="settle a range again", description=__doc__)
    add_settings(parser, REBUILD)
    parser.add_argument("--from", dest="start", required=True, metavar="TIME", help="RFC 3339")
    parser.add_argument("--to", dest="end", required=True, metavar="TIME", help="RFC 3339, exclusive")
    parser.add_argument("--series_project", metavar="NAME", help="only series of this project")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Mark, and say how much."""
    values = read_settings(arguments, REBUILD)
    start, end = span(arguments.start, arguments.end)
    assert start is not None  # both are required
    assert end is not None
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        values = agreed(pool, values, keep=False)
        rebuild = Rebuild(pool, values.tiers_s, start, end, arguments.series_project)
        if values.rollup_dataset:
            _own(pool, values.rollup_dataset, values.rollup_location)
        hidden = rebuild.hide(_only_in_warehouse(values.rollup_dataset, rebuild)) if values.rollup_dataset else 0
        marks = rebuild.mark()
    finally:
        pool.dispose()
    if arguments.json:
        print(json.dumps({"marks": marks, "hidden": hidden}))  # noqa: T201
    else:
        print(f"{marks:,} marks, {hidden:,} rows that BigQuery has newer or alone; ingest settles them.")  # noqa: T201
    return 0


def _own(pool: Engine, dataset: str, location: str | None) -> None:
    """Make what is missing in the dataset; one of another database's is refused before anything is hidden."""
    from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import
    from tidemark.warehouse.owner import claim  # noqa: PLC0415
    from tidemark.warehouse.tables import ensure  # noqa: PLC0415

    with single_statement(pool) as connection:
        store = identity(connection)
    client = rest(dataset)
    ensure(client, dataset, location)
    claim(client, dataset, store)


def _only_in_warehouse(dataset: str, rebuild: Rebuild) -> Any:
    from tidemark.warehouse.clients import rest  # noqa: PLC0415  # seconds to import
    from tidemark.warehouse.read import latest  # noqa: PLC0415

    within = rebuild.within
    for tier_s in rebuild.tiers_s:
        for row in latest(rest(dataset), dataset, within.start * 1_000_000, within.end * 1_000_000, tier_s):
            yield (row.project, row.source, row.metric), tier_s, row.window_start // 1_000_000, row.revision
