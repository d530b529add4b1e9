"""The SQL of a query: what series did in each interval, right as of one snapshot, folded in the database.

Parameters: $1 and $2, the range; $3, the series; $4, the interval's length and origin, or all boundaries where they are not
equally far apart (`Intervals`). One row comes back: each column of the result as bytes, so that a million values are a few
arrays and no objects.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt

from tidemark.query.intervals import SECOND_US, Axis
from tidemark.store.fold import MEAN_OF_WIDE, OF_ROLLUPS, base_window, of_points
from tidemark.wire.message import moment

MOST_POINTS: Final = 5_000_000
POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts."""
REVISION: Final = "revision"
"""Beside the fields of a summary: of the newest rollup in an interval; 0 where points were read."""
WHOLE: Final = frozenset({"count", "late_count", REVISION})
"""Of the fields, those that are whole numbers."""
_AS_OF: Final = """CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_xact_replay_timestamp(), clock_timestamp())
    ELSE clock_timestamp() END AS as_of"""
_CUT: Final = "(SELECT nullif(removed_before, '-infinity') FROM retention)"


@dataclass(frozen=True)
class Intervals:
    """How the SQL finds the interval of a moment.

    Attributes:
        arguments: $4, and $5 where there is one.
        start_of: The SQL of the start of the interval of a moment.
        between: The SQL that gives, as b(start), the intervals that overlap a range.
    """

    arguments: tuple[Any, ...]
    start_of: str
    between: str
    end_of: str


def intervals(axis: Axis) -> Intervals:
    """Those of an axis."""
    widths = np.diff(axis.boundaries)
    if (widths[:-1] == widths[0]).all() and widths[-1] <= widths[0]:
        return Intervals((timedelta(microseconds=int(widths[0])),), *_EQUAL)
    return Intervals(([moment(int(at)) for at in axis.boundaries[:-1]],), *_LISTED)


_EQUAL: Final = (
    "date_bin($4::interval, {}, $1::timestamptz)",
    "generate_series(date_bin($4::interval, {first}, $1::timestamptz), {last} - interval '1 microsecond', $4::interval) AS b(start)",
    "least({} + $4::interval, $2::timestamptz)",
)
_LISTED: Final = (
    "($4::timestamptz[])[width_bucket({}, $4::timestamptz[])]",
    """unnest(($4::timestamptz[])[width_bucket({first}, $4::timestamptz[]):
       width_bucket({last} - interval '1 microsecond', $4::timestamptz[])]) AS b(start)""",
    "coalesce(($4::timestamptz[])[width_bucket({}, $4::timestamptz[]) + 1], $2::timestamptz)",
)


def widest(tiers_s: Sequence[int], axis: Axis) -> int | None:
    """The widest tier whose windows the intervals are made of; None: points have to be read."""
    for tier_s in reversed(tiers_s):
        if not (axis.boundaries % (tier_s * SECOND_US)).any():
            return tier_s
    return None


@lru_cache(maxsize=1024)
def folded(tier_s: int | None, base_s: int, fields: tuple[str, ...], start_of: str, between: str, end_of: str) -> str:
    """The statement.

    Args:
        tier_s: Of the rollups that are read; None: points are.
        base_s: The narrowest tier.
        fields: Of `tidemark.store.fold.SUMMARY`.
        start_of: Of `Intervals`.
        between: The same.
        end_of: The same.
    """
    if tier_s is None:
        points = _of_points(
            base_s,
            fields,
            start_of,
            "p.series_id = ANY($3::integer[]) AND p.event_time >= $1::timestamptz AND p.event_time < $2::timestamptz",
            limit=f"LIMIT {MOST_POINTS + 1}",
        )
        rows, stale = f"SELECT t.*, 1 AS part FROM ({points}) t", ""
    else:
        first, last = "greatest(m.window_from, $1::timestamptz)", "least(m.window_to, $2::timestamptz)"
        stale = f""", stale AS MATERIALIZED (
            SELECT DISTINCT s.series_id, b.start
            FROM owed m CROSS JOIN LATERAL {between.format(first=first, last=last)}
            JOIN unnest($3::integer[]) AS s(series_id) ON m.series_id IS NULL OR m.series_id = s.series_id
            WHERE NOT m.closing
        )"""
        end = end_of.format("s.start")
        fresh = _of_points(
            base_s,
            fields,
            start_of,
            f"p.series_id = s.series_id AND p.event_time >= s.start AND p.event_time < {end}"
            f" AND p.event_time >= coalesce({_CUT}, '-infinity')",
        )
        kept = _of_rollups(
            base_s,
            fields,
            start_of,
            f"p.series_id = s.series_id AND p.window_start >= s.start AND p.window_start < least({end}, {_CUT})",
        )
        whole = _of_rollups(
            tier_s,
            fields,
            start_of,
            "p.series_id = ANY($3::integer[]) AND p.window_start >= $1::timestamptz AND p.window_start < $2::timestamptz",
        )
        rows = f"""
            SELECT t.*, 1 AS part FROM ({whole}) t
            WHERE NOT EXISTS (SELECT FROM stale s WHERE s.series_id = t.series_id AND s.start = t.start)
            UNION ALL
            SELECT t.*, 1 AS part FROM stale s CROSS JOIN LATERAL ({fresh} OFFSET 0) t
            UNION ALL
            SELECT t.*, 0 AS part FROM stale s CROSS JOIN LATERAL ({kept} OFFSET 0) t WHERE s.start < {_CUT}"""
    sent = "".join(
        f", coalesce(string_agg({'int8send' if name in WHOLE else 'float8send'}(r.{name}), ''), '') AS {name}"
        for name in fields
    )
    return f"""
        WITH owed AS MATERIALIZED (
            SELECT m.window_from, m.window_to, m.series_id, m.closing FROM marks m
            WHERE m.tier_s <= {tier_s or base_s:d} AND m.window_from < $2::timestamptz AND m.window_to > $1::timestamptz
            AND (m.series_id IS NULL OR m.series_id = ANY($3::integer[]))
        ){stale}
        SELECT coalesce(string_agg(int4send(r.series_id), ''), '') AS series_id,
               coalesce(string_agg(timestamptz_send(r.start), ''), '') AS start,
               coalesce(string_agg(int4send(r.part), ''), '') AS part{sent},
               (SELECT coalesce(string_agg(int4send(coalesce(m.series_id, 0)) || timestamptz_send(m.window_from)
                    || timestamptz_send(m.window_to) || int4send(m.closing::integer), ''), '') FROM owed m) AS owed,
               {_CUT} AS cut, {_AS_OF}
        FROM ({rows}) r"""


def _of_points(base_s: int, fields: tuple[str, ...], start_of: str, where: str, limit: str = "") -> str:
    expressions = {**of_points(base_s), REVISION: "0::bigint"}
    chosen = "".join(f", {expressions[name]} AS {name}" for name in fields)
    return f"""
        SELECT p.series_id, p.start{chosen}
        FROM (
            SELECT p.*, {start_of.format("p.event_time")} AS start, {base_window(base_s)} AS base_start
            FROM points p WHERE {where} {limit}
        ) p
        GROUP BY p.series_id, p.start"""


def _of_rollups(tier_s: int, fields: tuple[str, ...], start_of: str, where: str) -> str:
    expressions = {**OF_ROLLUPS, REVISION: "max(p.revision)"}
    chosen = "".join(f", {expressions[name]} AS {name}" for name in fields)
    rows = f"""
        SELECT p.*, {start_of.format("p.window_start")} AS start FROM rollups p
        WHERE p.tier_s = {tier_s:d} AND p.count > 0 AND {where}"""
    if "m2" in fields:
        rows = f"SELECT p.*, {MEAN_OF_WIDE} AS mean FROM ({rows}) p WINDOW whole AS (PARTITION BY p.series_id, p.start)"
    return f"SELECT p.series_id, p.start{chosen} FROM ({rows}) p GROUP BY p.series_id, p.start"


POINTS: Final = f"""
    SELECT coalesce(string_agg(int4send(r.series_id), ''), '') AS series_id,
           coalesce(string_agg(timestamptz_send(r.event_time), ''), '') AS event_time,
           coalesce(string_agg(float8send(r.value), ''), '') AS value
    FROM (
        (SELECT p.series_id, p.event_time, p.value
         FROM unnest(CASE WHEN $4 THEN $3::integer[] END) AS s(series_id) CROSS JOIN LATERAL (
             SELECT * FROM points p WHERE p.series_id = s.series_id AND p.event_time < $1::timestamptz
             ORDER BY p.event_time DESC LIMIT 1) p)
        UNION ALL
        (SELECT p.series_id, p.event_time, p.value FROM points p
         WHERE p.series_id = ANY($3::integer[]) AND p.event_time >= $1::timestamptz AND p.event_time < $2::timestamptz
         LIMIT {MOST_POINTS + 1})
    ) r"""
"""Points of series by themselves, in no order; with $4 also the last one of each before the range."""
HOW_MANY: Final = """
    SELECT coalesce(sum(p.count), 0)::bigint FROM rollups p
    WHERE p.tier_s = $4 AND p.series_id = ANY($3::integer[]) AND p.window_start >= $1::timestamptz
    AND p.window_start + $4 * interval '1 second' <= $2::timestamptz"""
"""About how many points a range has, by rollups of the tier $4; never more than were settled there."""


def integers(data: bytes) -> npt.NDArray[np.int64]:
    """A column of `int4send`."""
    return np.frombuffer(data, ">i4").astype(np.int64)


def longs(data: bytes) -> npt.NDArray[np.int64]:
    """A column of `int8send`."""
    return np.frombuffer(data, ">i8").astype(np.int64)


def moments(data: bytes) -> npt.NDArray[np.int64]:
    """A column of `timestamptz_send`, in microseconds since 1970."""
    return np.frombuffer(data, ">i8").astype(np.int64) + POSTGRES_EPOCH_US


def doubles(data: bytes) -> npt.NDArray[np.float64]:
    """A column of `float8send`."""
    return np.frombuffer(data, ">f8").astype(np.float64)


_OWED: Final = np.dtype([("series_id", ">i4"), ("start", ">i8"), ("end", ">i8"), ("closing", ">i4")])


class Owed:
    """Marks that overlap a range: series (0: all), from, to in microseconds since 1970, closing."""

    def __init__(self, data: bytes) -> None:
        found = np.frombuffer(data, _OWED)
        self.series_id = found["series_id"].astype(np.int64)
        self.start = found["start"].astype(np.int64) + POSTGRES_EPOCH_US
        self.end = found["end"].astype(np.int64) + POSTGRES_EPOCH_US
        self.closing = found["closing"].astype(bool)
