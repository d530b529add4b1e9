"""`tidemark sources`: which sources are silent, and how late points are.

By project: how many points came after the end of their window, so that its on-time preview lacked them, and after its
horizon, so that its first settling did; and how late they were. Then the sources that were silent for longest, or, with
--by=late, those whose points most often miss the first settling. Counted as delivered, since the database was made.
"""

from __future__ import annotations

import argparse
import json
import time
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.metrics import LATENESS
from tidemark.settings import SOURCES
from tidemark.store.connection import make_engine
from tidemark.store.location import database_url
from tidemark.store.sources import ProjectLateness, SourceLateness, projects, sources
from tidemark.wire.message import moment

STATEMENT_TIMEOUT_S: Final = 60


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("sources", help="silent sources, and how late points are", description=__doc__)
    add_settings(parser, SOURCES)
    parser.add_argument("--series_project", metavar="NAME", help="only this project")
    parser.add_argument("--by", choices=("silent", "late"), default="silent", help="which sources first (%(default)s)")
    parser.add_argument("--limit", type=int, default=10, metavar="N", help="how many sources (%(default)s)")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    values = read_settings(arguments, SOURCES)
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        of_projects = list(projects(pool, arguments.series_project))
        some = sources(pool, arguments.by, max(0, arguments.limit), arguments.series_project)
    finally:
        pool.dispose()
    if arguments.json:
        told = {
            "projects": [
                {**p._asdict(), "histogram": dict(zip(LATENESS, p.histogram, strict=True))} for p in of_projects
            ],
            "sources": [s._asdict() for s in some],
        }
        print(json.dumps(told))  # noqa: T201
    else:
        print(_text(of_projects, some, time.time()))  # noqa: T201
    return 0


def _text(of_projects: list[ProjectLateness], some: list[SourceLateness], now: float) -> str:
    lines = []
    for p in of_projects:
        lines.append(
            f"{p.project}: {p.sources:,} sources, {p.points:,} points; {p.after_window / p.points:.2%} came after their "
            f"window, {p.after_horizon / p.points:.2%} after its horizon; the latest {p.most_late_s:,.1f} s late"
        )
        shares = (
            f"{name.replace('_', ' ')} {number / p.points:.2%}"
            for name, number in zip(LATENESS, p.histogram, strict=True)
        )
        lines.append("    " + ", ".join(shares))
    if some:
        lines.append(
            f"{'silent for':>14} {'points':>14} {'missed':>8} {'latest':>12}  source (missed: its first settling)"
        )
    lines += [
        f"{now - s.last_seen:>12,.0f} s {s.points:>14,} {s.after_horizon / s.points:>8.2%} {s.most_late_s:>10,.1f} s"
        f"  {s.project}/{s.source}, last event {moment(round(s.last_event_time * 1e6)).isoformat(timespec='seconds')}"
        for s in some
    ]
    return "\n".join(lines or ["No points yet; ingest writes this every minute."])
