"""Until when answers are complete: what is settled, and what ingest says that it has stored.

    settled until    every window that ends by then is settled and final: the marks say so, in the same snapshot
    ingested until   what was published before then is stored: `heartbeats` say so, a belief of the processes that read
    complete until   the earlier of the first and of the second less the horizon, down to a window's start

A number of before `complete until` changes afterwards only by points that were published after the horizon of their
window, or by a deletion; then the table `corrections` has what it was. What waits before Pub/Sub, on a device or in an
edge's spool, nobody here knows of.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Final

from sqlalchemy import Engine

from tidemark.store.connection import single_statement
from tidemark.store.expressions import microseconds_of, moment_of, pyformat, seconds
from tidemark.store.heartbeats import COUNTS_S, LIVE_S
from tidemark.wire.message import moment
from tidemark.wire.summary import MICROSECONDS

_TOLD: Final = "10 minutes"
"""Who was heard of so long before the newest is told of."""
MOST_CORRECTIONS: Final = 10_000
"""Counted no further."""


def completeness_sql(place: Callable[[int], str]) -> str:
    """One statement, and so one snapshot, whose only row `completeness` reads.

    Its parameters: the project, or null for all of them; numbers of series, or null for all of the project's; the first
    event time and the exclusive last, in microseconds since 1970, or null.

    Args:
        place: How the n-th parameter is written, from 1 on: `pyformat` or `numbered` of `tidemark.store.expressions`.
    """
    return f"""
        WITH asked AS MATERIALIZED (
            SELECT CAST({place(1)} AS text) AS project, CAST({place(2)} AS integer[]) AS series_ids,
                   coalesce({moment_of(place(3))}, '-infinity') AS start, coalesce({moment_of(place(4))}, 'infinity') AS until
        ), kept AS MATERIALIZED (
            SELECT tiers_s, tiers_s[1] AS base_s, horizon_s FROM settings
        )
        SELECT (SELECT to_json(tiers_s)::text FROM kept), (SELECT horizon_s FROM kept), {microseconds_of("now()")},
               (SELECT {microseconds_of("min(w.start)")}
                FROM kept CROSS JOIN unnest(kept.tiers_s) AS t(tier_s) CROSS JOIN LATERAL (
                    SELECT greatest(m.window_from, date_bin({seconds("t.tier_s")}, a.start, to_timestamp(0)))
                           + {seconds("(t.tier_s - kept.base_s)")} AS start
                    FROM asked a, marks m
                    WHERE m.tier_s = t.tier_s AND m.window_from < a.until AND m.window_to > a.start
                    AND (m.series_id IS NULL OR {_is_asked("m.series_id")})
                    ORDER BY m.window_from LIMIT 1
                ) w),
               (SELECT extract(epoch FROM now() - min(ready_at))::float8 FROM marks),
               (SELECT sum(points)::bigint FROM sources, asked a WHERE a.project IS NULL OR sources.project = a.project),
               (SELECT sum(after_horizon)::bigint FROM sources, asked a
                WHERE a.project IS NULL OR sources.project = a.project),
               (SELECT count(*) FROM (
                    SELECT FROM corrections c, asked a
                    WHERE c.corrected_at > now() - interval '1 hour' AND {_is_asked("c.series_id")}
                    LIMIT {MOST_CORRECTIONS:d}
                ) c),
               (SELECT coalesce(json_agg(json_build_array(
                    process, job, {microseconds_of("at")}, idle, {microseconds_of("least(written_publish_time, at)")}, {microseconds_of("watermark")}
                ) ORDER BY at DESC, process), '[]')::text
                FROM heartbeats WHERE at > (SELECT max(at) FROM heartbeats) - interval '{_TOLD}')"""


def _is_asked(series_id: str) -> str:
    """SQL that is true of a series that is asked for, beside the row a of what is asked."""
    return f"""CASE WHEN a.series_ids IS NOT NULL THEN {series_id} = ANY(a.series_ids)
        ELSE a.project IS NULL OR EXISTS (SELECT FROM series s WHERE s.series_id = {series_id} AND s.project = a.project) END"""


@dataclass(frozen=True)
class Heartbeat:
    """What a process said last that reads messages; times in microseconds since 1970.

    Attributes:
        process, job: Which it is.
        at: When, by the database's clock.
        idle: It held nothing, and nothing came.
        written_publish_time: What was published before it is stored, as far as it knows; None: it knows nothing yet.
        watermark: Of event time; None: the engine keeps it.
    """

    process: str
    job: str
    at: int
    idle: bool
    written_publish_time: int | None
    watermark: int | None


@dataclass(frozen=True)
class Completeness:
    """Until when what was asked for is complete; times in microseconds since 1970.

    Attributes:
        now: The database's clock.
        base_s, horizon_s: With which the store is written.
        settled_until: Every window that ends by then is settled, and final.
        ingested_until: What was published before then is stored, as far as ingest knows; None: it knows nothing yet.
        silent_since: When ingest was last heard of; None: it is live, or was never heard of.
        expected_late: Share of the project's points that came after the horizon of their window; None: no points yet.
        oldest_due_s: Age of the oldest due mark, of any project; 0: none is due.
        corrections: How many rows were corrected in the last hour, up to `MOST_CORRECTIONS`.
        heartbeats: Of each process that was heard of lately, the newest first.
    """

    now: int
    base_s: int
    horizon_s: float
    settled_until: int
    ingested_until: int | None
    silent_since: int | None
    expected_late: float | None
    oldest_due_s: float
    corrections: int
    heartbeats: tuple[Heartbeat, ...]

    @property
    def complete_until(self) -> int | None:
        """Before this nothing changes any more, but by points later than the horizon; None: ingest knows nothing yet."""
        if self.ingested_until is None:
            return None
        told = self.ingested_until - round(self.horizon_s * MICROSECONDS)
        return _floor(min(self.settled_until, told), self.base_s)

    @property
    def behind_s(self) -> float | None:
        """How far that is behind the clock."""
        until = self.complete_until
        return None if until is None else (self.now - until) / MICROSECONDS

    @property
    def ingest(self) -> str:
        """`live`, `silent since …` or `never heard of`."""
        if self.silent_since is not None:
            return f"silent since {moment(self.silent_since).isoformat(timespec='seconds').replace('+00:00', 'Z')}"
        return "live" if self.heartbeats else "never heard of"


def completeness(row: Sequence[Any]) -> Completeness | None:
    """What the row of `completeness_sql` means; None: no program has written to this store yet."""
    kept, horizon_s, now, owed, due_s, points, late, corrections, beats = row
    if kept is None:
        return None
    base_s = int(json.loads(kept)[0])
    heartbeats = tuple(Heartbeat(*one) for one in json.loads(beats))
    closed = _floor(now - round(horizon_s * MICROSECONDS), base_s)
    heard = heartbeats[0].at if heartbeats else None
    silent = heard is not None and heard < now - LIVE_S * MICROSECONDS
    return Completeness(
        now=now,
        base_s=base_s,
        horizon_s=float(horizon_s),
        settled_until=closed if owed is None else min(closed, owed),
        ingested_until=_ingested(heartbeats, heard if silent and heard is not None else now),
        silent_since=heard if silent else None,
        expected_late=late / points if points else None,
        oldest_due_s=max(0.0, due_s or 0.0),
        corrections=corrections,
        heartbeats=heartbeats,
    )


def _ingested(heartbeats: Sequence[Heartbeat], at: int) -> int | None:
    """What those who counted at a time know of together: what the least of them knows."""
    known = [one.written_publish_time for one in heartbeats if one.at >= at - COUNTS_S * MICROSECONDS]
    return None if None in known else min((one for one in known if one is not None), default=None)


def _floor(at: int, width_s: int) -> int:
    return at // (width_s * MICROSECONDS) * (width_s * MICROSECONDS)


def completeness_of(
    pool: Engine,
    project: str | None = None,
    series_ids: Sequence[int] | None = None,
    start: int | None = None,
    end: int | None = None,
) -> Completeness | None:
    """Until when a project, some series, a range of event time in microseconds since 1970 are complete.

    Returns:
        None: no program has written to this store yet.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    asked = (project, None if series_ids is None else list(series_ids), start, end)
    with single_statement(pool) as connection:
        return completeness(connection.exec_driver_sql(completeness_sql(pyformat), asked).one())
