"""`tidemark verify`: proves that every number follows from the raw points.

In one snapshot of the database: no mark has been due for longer than the grace, every settled rollup of every tier
equals a fresh fold, and the ledger balances; then `rollups_latest` in BigQuery is held against the same rows. A base
rollup is folded from the points, one of an upper tier from the tier below, which was compared itself. Windows that are
owed a settling are pending and not compared. Those that were settled while they were open, and owe only a last look,
are: it changes `final` and no number, so one that is overdue is told, and is no failure.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from functools import partial
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import TidemarkError
from tidemark.operate.arguments import span
from tidemark.operate.compare_store import check_ledger, check_marks, check_rollups, extent
from tidemark.operate.report import Report, text
from tidemark.settings import VERIFY, Values, require
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine
from tidemark.store.fold import SORTED
from tidemark.store.identity import identity
from tidemark.store.location import database_url
from tidemark.store.settle import NO_NESTED_LOOPS, WORK_MEM
from tidemark.store.snapshot import snapshot

STATEMENT_TIMEOUT_S: Final = 3600
GRACE_S: Final = 30
CONNECTIONS: Final = 4
"""The snapshot, a part of it, a newer one of what differs, names of series."""


def verify(
    database: str,
    dataset: str,
    tiers_s: tuple[int, ...],
    start: int | None = None,
    end: int | None = None,
    grace_s: int = 0,
    *,
    quantiles: bool = False,
) -> Report:
    """Compare everything, or what lies in [start, end) of event time.

    Args:
        database: URL.
        dataset: gcp_project.dataset.
        tiers_s: As given to ingest; a tier that has no rollups at all is one that differs.
        start: Seconds since 1970, aligned to the largest tier it is compared in; None: from the first point, rollup or
            row of BigQuery.
        end: The same; None: to the last.
        grace_s: A mark that had been due for less when the comparison began is pending: beside a running ingest some
            always are.
        quantiles: As given to ingest.

    Raises:
        UnavailableError, MisconfiguredError: the comparison could not be made.
    """
    # BigQuery's client takes a second to import
    from tidemark.operate.compare_warehouse import WarehouseComparison  # noqa: PLC0415
    from tidemark.warehouse.clients import rest  # noqa: PLC0415
    from tidemark.warehouse.owner import check  # noqa: PLC0415
    from tidemark.warehouse.read import occupied  # noqa: PLC0415

    pool = make_engine(database, pool_size=CONNECTIONS, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        report = Report()
        settings = [
            f"SELECT set_config('work_mem', '{WORK_MEM}', true), {SORTED}",
            *([NO_NESTED_LOOPS] if quantiles else []),
        ]
        with snapshot(pool, *settings) as now:
            connection = now.connection
            whole = start is None and end is None
            client = rest(dataset)
            check(client, dataset, identity(connection))
            shown = partial(occupied, client, dataset, tiers_s[-1])
            within = extent(now, tiers_s[-1], start, end, shown)
            check_marks(connection, report, grace_s)
            if whole:
                check_ledger(now, report)
            for level, tier_s in enumerate(tiers_s):
                for scope in within.slices(tier_s):
                    with now.part() as part:
                        check_rollups(part, report, tiers_s, level, scope, quantiles=quantiles)
            WarehouseComparison(connection, pool, client, dataset, grace_s, report).compare(tiers_s, within)
        return report
    finally:
        pool.dispose()


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser(
        "verify", help="prove that every rollup follows from the points", description=__doc__
    )
    add_settings(parser, VERIFY)
    parser.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339; default: the first in either store")
    parser.add_argument("--to", dest="end", metavar="TIME", help="RFC 3339; default: the last in either store")
    parser.add_argument("--tier", type=int, metavar="SECONDS", help="only up to this tier")
    parser.add_argument(
        "--grace", type=int, default=GRACE_S, metavar="SECONDS", help="how long a mark may have been due (%(default)s)"
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def _agreed(values: Values) -> Values:
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        return agreed(pool, values, keep=False)
    finally:
        pool.dispose()


def run(arguments: argparse.Namespace) -> int:
    """Compare and report: 0 PASS, 1 something differs, 2 it could not be compared."""
    try:
        values = read_settings(arguments, VERIFY)
        require(values, "rollup_dataset")
        values = _agreed(values)
        tiers_s = tuple(t for t in values.tiers_s if arguments.tier is None or t <= arguments.tier)
        report = verify(
            database_url(values),
            values.rollup_dataset,
            tiers_s,
            *span(arguments.start, arguments.end),
            arguments.grace,
            quantiles=values.quantiles,
        )
    except TidemarkError as error:
        if arguments.json:
            print(json.dumps({"verify": "ERROR", "error": str(error)}))  # noqa: T201
        else:
            print(f"Could not compare: {error}")  # noqa: T201
        return 2
    verdict = "PASS" if report.passed else "FAIL"
    if arguments.json:
        print(json.dumps({"verify": verdict, **asdict(report), "rollups_pending": report.rollups_pending}))  # noqa: T201
    else:
        print(text(report))  # noqa: T201
    return 0 if report.passed else 1
