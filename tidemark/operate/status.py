"""`tidemark status`: until when answers are complete, whether ingest lives, and what was corrected lately.

Complete until a time means: no number before it changes any more, but by points later than the horizon, or by a deletion.
docs/concepts.md says what that rests on. Exit status 1: ingest is silent.
"""

from __future__ import annotations

import argparse
import json
from typing import Any, Final

from tidemark.arguments import add_settings, read_settings
from tidemark.settings import STATUS
from tidemark.store.completeness import MOST_CORRECTIONS, Completeness, Heartbeat, completeness_of
from tidemark.store.connection import make_engine
from tidemark.store.location import database_url
from tidemark.store.sources import SourceLateness, sources
from tidemark.wire.message import to_the_second
from tidemark.wire.summary import MICROSECONDS

STATEMENT_TIMEOUT_S: Final = 60
SILENT_S: Final = 600
"""Sources that were not heard of for so long are told of."""
MOST_SOURCES: Final = 10


def add_parser(subparsers: Any) -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", help="until when answers are complete", description=__doc__)
    add_settings(parser, STATUS)
    parser.add_argument("--project", metavar="NAME", help="only of this project")
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Ask and print."""
    values = read_settings(arguments, STATUS)
    pool = make_engine(database_url(values), pool_size=1, statement_timeout_s=STATEMENT_TIMEOUT_S)
    try:
        found = completeness_of(pool, arguments.project)
        some = sources(pool, "silent", MOST_SOURCES, arguments.project)
    finally:
        pool.dispose()
    silent = [] if found is None else [s for s in some if found.now / MICROSECONDS - s.last_seen >= SILENT_S]
    if arguments.json:
        print(json.dumps(_told(found, silent)))  # noqa: T201
    else:
        print("\n".join(_lines(found, silent)))  # noqa: T201
    return int(found is not None and found.silent_since is not None)


def _told(found: Completeness | None, silent: list[SourceLateness]) -> dict[str, Any]:
    if found is None:
        return {"complete_until": None, "ingest": "nothing was written yet"}
    return {
        "complete_until": to_the_second(found.complete_until),
        "behind_s": found.behind_s,
        "settled_until": to_the_second(found.settled_until),
        "ingested_until": to_the_second(found.ingested_until),
        "ingest": found.ingest,
        "expected_late": found.expected_late,
        "oldest_due_s": found.oldest_due_s,
        "corrections": found.corrections,
        "heartbeats": [
            {
                **one.__dict__,
                "at": to_the_second(one.at),
                "written_publish_time": to_the_second(one.written_publish_time),
                "watermark": to_the_second(one.watermark),
            }
            for one in found.heartbeats
        ],
        "silent_sources": [s._asdict() for s in silent],
    }


def _lines(found: Completeness | None, silent: list[SourceLateness]) -> list[str]:
    if found is None:
        return ["No program has written to this store yet."]
    if found.behind_s is None:
        complete = "not known: ingest does not know yet what it has stored"
    else:
        complete = f"{to_the_second(found.complete_until)}, {found.behind_s:,.0f} s behind the clock"
    late = "no points yet" if found.expected_late is None else f"{found.expected_late:.2%} of the points"
    more = " or more" if found.corrections == MOST_CORRECTIONS else ""
    lines = [
        f"complete until   {complete}",
        f"settled until    {to_the_second(found.settled_until)}   the oldest due mark {found.oldest_due_s:,.0f} s old",
        f"ingested until   {to_the_second(found.ingested_until) or 'not known'}   ingest {found.ingest}",
        f"expected late    {late} came after the horizon of their window",
        f"corrections      {found.corrections:,}{more} in the last hour",
    ]
    lines += [f"  {_of(one, found.now)}" for one in found.heartbeats]
    return lines + [
        f"  {found.now / MICROSECONDS - s.last_seen:,.0f} s silent: source {s.project}/{s.source}" for s in silent
    ]


def _of(one: Heartbeat, now: int) -> str:
    doing = "idle" if one.idle else "at work"
    heard = f"heard of {(now - one.at) / MICROSECONDS:,.0f} s ago, {doing}"
    return f"{one.job}, process {one.process}: {heard}, stored until {to_the_second(one.written_publish_time) or 'not known'}"
