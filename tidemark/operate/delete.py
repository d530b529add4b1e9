"""`tidemark delete`: removes points of a project, a source or a series, and leaves marks, so that rollups follow.

Without --metric, --from and --to the dead letters of the project go as well, or those in which the source is named. Without --yes it counts them and removes nothing. A message that comes again later is stored again: stop its sender first.
"""

from __future__ import annotations

import argparse
import difflib
import json
from typing import Any, Final

from sqlalchemy import Engine

from tidemark.arguments import add_settings, read_settings
from tidemark.errors import UsageError
from tidemark.operate.arguments import span
from tidemark.settings import DELETE
from tidemark.store.agreement import agreed
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.letters import count_of, remove_of
from tidemark.store.location import database_url
from tidemark.store.read import Reader
from tidemark.store.remove import Deletion

STATEMENT_TIMEOUT_S: Final = 3600
MOST_SERIES: Final = 10_000_000


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("delete", help="remove points, and let rollups follow", description=__doc__)
    add_settings(parser, DELETE)
    parser.add_argument("--series_project", required=True, metavar="NAME", help="project of the series")
    parser.add_argument("--source", metavar="NAME", help="only this source")
    parser.add_argument("--metric", metavar="NAME", help="only this metric")
    parser.add_argument("--from", dest="start", metavar="TIME", help="RFC 3339; default: the first point")
    parser.add_argument("--to", dest="end", metavar="TIME", help="RFC 3339, exclusive; default: all that follow")
    parser.add_argument("--yes", action="store_true", help="remove them; without it they are only counted")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Count or delete.

    Raises:
        UsageError: there is no such series.
    """
    values = read_settings(arguments, DELETE)
    start, end = span(arguments.start, arguments.end)
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        values = agreed(pool, values, keep=False)
        names = (arguments.series_project, arguments.source, arguments.metric)
        found = Reader(pool, values.tiers_s).series(*names, most=MOST_SERIES)
        # what could not be read has no metric and no time
        sender = names[:2] if (arguments.metric, start, end) == (None, None, None) else None
        letters = count_of(pool, *sender) if sender else 0
        if not found and not letters:
            raise UsageError(_nothing(pool, names))
        if sender and arguments.yes:
            # before the points: what is being redriven out of them now is a point when they are gone, perhaps of a new series
            letters = remove_of(pool, *sender)
            found = Reader(pool, values.tiers_s).series(*names, most=MOST_SERIES)
        points = _points(Deletion(pool, values.tiers_s, list(found), start, end), arguments.yes) if found else 0
    finally:
        pool.dispose()
    if arguments.json:
        told = {"series": len(found), "points": points, "dead_letters": letters, "removed": arguments.yes}
        print(json.dumps(told))  # noqa: T201
        return 0
    what = f"{points:,} points of {len(found):,} series" + (f" and {letters:,} dead letters" if letters else "")
    if arguments.yes:
        print(f"Removed {what}; ingest settles their rollups.")  # noqa: T201
    else:
        print(f"{what} would be removed: add --yes.")  # noqa: T201
    return 0


def _points(deletion: Deletion, yes: bool) -> int:
    return sum(removed.points for removed in deletion.run()) if yes else deletion.count()


_KNOWN: Final = {
    "project": "SELECT DISTINCT project FROM series LIMIT 10000",
    "source": "SELECT DISTINCT source FROM series WHERE project = %s LIMIT 10000",
    "metric": "SELECT DISTINCT metric FROM series WHERE project = %s AND (CAST(%s AS text) IS NULL OR source = %s) LIMIT 10000",
}


def _nothing(pool: Engine, names: tuple[str, str | None, str | None]) -> str:
    """Which of the names it is that no series has, and the ones that are like it."""
    project, source, metric = names
    asked = (("project", project, ()), ("source", source, (project,)), ("metric", metric, (project, source, source)))
    with single_statement(pool) as connection:
        for what, name, parameters in asked:
            known = [row[0] for row in connection.exec_driver_sql(_KNOWN[what], parameters)]
            if name is not None and name not in known:
                near = difflib.get_close_matches(name, known, 3, 0.6)
                meant = f" {' or '.join(map(repr, near))} is there." if near else ""
                return f"There is no series whose {what} is {name!r}.{meant}"
    return "There is no series of that project, source and metric together."
