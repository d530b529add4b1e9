"""The SQL of a query: what series did in each interval, right as of one snapshot, folded in the database.

Parameters: $1 and $2, the range; $3, the series; $4, the interval's length, or all starts where they are not
equally far apart (`Intervals`). One row comes back: each column of the result as bytes, so that a million values are a few
arrays and no objects. A plan is made once a connection, for whatever parameters: so series are gone through one by one, each by
its index.
"""

from __future__ import annotations

from datetime import timedelta
from functools import lru_cache, partial
from typing import Any, Final, NamedTuple

import numpy as np

from tidemark.query.intervals import REMEMBERED, SECOND_US, Axis
from tidemark.query.standing import CUT, SERIES, owed, points, rollups, standing
from tidemark.store.fold import MEAN_OF_WIDE, OF_ROLLUPS, base_window, of_points
from tidemark.wire.message import moment

MOST_TAKEN: Final = 1_000_000
"""That are taken out of it, each of which needs 110 bytes here."""
REVISION: Final = "revision"
"""Beside the fields of a summary: of the newest rollup in an interval; 0 where points were read."""
WHOLE: Final = frozenset({"count", "late_count", REVISION})
"""Of the fields, those that are whole numbers."""
_AS_OF: Final = """CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_xact_replay_timestamp(), clock_timestamp())
    ELSE clock_timestamp() END AS as_of"""


class Intervals(NamedTuple):
    """How the SQL finds the interval of a moment.

    Attributes:
        arguments: $4.
        start_of: The SQL of the start of the interval of a moment.
    """

    arguments: tuple[Any, ...]
    start_of: str


@lru_cache(maxsize=REMEMBERED)
def intervals(axis: Axis) -> Intervals:
    """Those of an axis."""
    widths = np.diff(axis.boundaries)
    if (widths[:-1] == widths[0]).all() and widths[-1] <= widths[0]:
        return Intervals((timedelta(microseconds=int(widths[0])),), _EQUAL)
    return Intervals(([moment(int(at)) for at in axis.boundaries[:-1]],), _LISTED)


_EQUAL: Final = "date_bin($4::interval, {}, $1::timestamptz)"
_LISTED: Final = "($4::timestamptz[])[width_bucket({}, $4::timestamptz[])]"


@lru_cache(maxsize=REMEMBERED)
def widest(tiers_s: tuple[int, ...], axis: Axis) -> int | None:
    """The widest tier whose windows the intervals are made of; None: points have to be read."""
    for tier_s in reversed(tiers_s):
        if not (axis.boundaries % (tier_s * SECOND_US)).any():
            return tier_s
    return None


@lru_cache(maxsize=1024)
def folded(
    tiers_s: tuple[int, ...],
    tier_s: int | None,
    fields: tuple[str, ...],
    start_of: str,
    *,
    alone: bool,
    corrected: bool = False,
    owing: bool = True,
) -> str:
    """The statement.

    Args:
        tiers_s: All tiers, the narrowest first.
        tier_s: Of the rollups that are read; None: points are.
        fields: Of `tidemark.store.fold.SUMMARY`.
        start_of: Of `Intervals`.
        alone: It is one series, whose number every row would tell.
        corrected: Also how often windows of each interval were corrected, of the tier that is read.
        owing: Without it rollups count whatever is owed: a sixth less to do, for an answer that holds where nothing is.
    """
    base_s = tiers_s[0]
    of_base = partial(_of_points, base_s, fields)
    if tier_s is None:
        rows = of_base(start_of.format("p.event_time"), points())
    elif not owing:
        rows = _joined(rollups(tier_s, fields), fields, start_of.format("p.window_start"), "0")
    else:
        rows = _joined(standing(tiers_s, tier_s, fields, of_base), fields, start_of.format("p.window_start"))
    sent = "".join(
        f", coalesce(string_agg({'int8send' if name in WHOLE else 'float8send'}(r.{name}), ''), '') AS {name}"
        for name in fields
    )
    return f"""
        WITH {owed(tiers_s, tier_s, standing=owing)}
        SELECT {"''::bytea" if alone else "coalesce(string_agg(int4send(r.series_id), ''), '')"} AS series_id,
               coalesce(string_agg(timestamptz_send(r.start), ''), '') AS start{sent},
               coalesce(sum(r.points), 0) AS points,
               (SELECT coalesce(string_agg(int4send(coalesce(m.series_id, 0)) || timestamptz_send(m.window_from)
                    || timestamptz_send(m.window_to) || int4send(m.closing::integer), ''), '') FROM owed m) AS owed,
               {CUT} AS cut, {_AS_OF}{_corrected(tier_s or base_s, start_of) if corrected else ""}
        FROM ({rows}) r"""


def _corrected(tier_s: int, start_of: str) -> str:
    """One more column: series, start of the interval and number, of those that have some."""
    return f""",
               (SELECT coalesce(string_agg(int4send(c.series_id) || timestamptz_send(c.start) || int8send(c.number), ''), '')
                FROM (
                    SELECT c.series_id, {start_of.format("c.window_start")} AS start, count(*) AS number
                    FROM {SERIES} CROSS JOIN LATERAL (
                        SELECT * FROM corrections c WHERE c.series_id = s.series_id AND c.tier_s = {tier_s:d}
                        AND c.window_start >= $1::timestamptz AND c.window_start < $2::timestamptz OFFSET 0
                    ) c
                    GROUP BY 1, 2
                ) c) AS corrected"""


def _of_points(base_s: int, fields: tuple[str, ...], start: str, source: str) -> str:
    """Points folded into intervals, or into rows like rollups.

    Args:
        base_s: The narrowest tier.
        fields: Of `tidemark.store.fold.SUMMARY`.
        start: The SQL of the start of a point's interval or window.
        source: The SQL of points p.
    """
    expressions = {**of_points(base_s), REVISION: "0::bigint"}
    chosen = "".join(f", {expressions[name]} AS {name}" for name in fields)
    return f"""
        SELECT p.series_id, p.start, count(*)::integer AS points{chosen}
        FROM (SELECT p.*, {start} AS start, {base_window(base_s)} AS base_start FROM {source}) p
        GROUP BY p.series_id, p.start"""


_COUNTS: Final = {name: f"sum(p.{name}::float8)::bigint" for name in ("count", "late_count")}
"""A sum of whole numbers is of PostgreSQL's `numeric`, which is slower; doubles are exact for as many points as there may be."""


def _joined(rows: str, fields: tuple[str, ...], start: str, points: str = "sum(p.points)::integer") -> str:
    """Rollups, and what is like them, folded into intervals."""
    expressions = {**OF_ROLLUPS, **_COUNTS, REVISION: "CASE WHEN sum(p.points) > 0 THEN 0 ELSE max(p.revision) END"}
    chosen = "".join(f", {expressions[name]} AS {name}" for name in fields)
    rows = f"SELECT p.*, {start} AS start FROM ({rows}) p"
    if "m2" in fields:
        rows = f"SELECT p.*, {MEAN_OF_WIDE} AS mean FROM ({rows}) p WINDOW whole AS (PARTITION BY p.series_id, p.start)"
    return f"SELECT p.series_id, p.start, {points} AS points{chosen} FROM ({rows}) p GROUP BY p.series_id, p.start"


POINTS: Final = """
    SELECT coalesce(string_agg(int4send(r.series_id), ''), '') AS series_id,
           coalesce(string_agg(timestamptz_send(r.event_time), ''), '') AS event_time,
           coalesce(string_agg(float8send(r.value), ''), '') AS value
    FROM (
        (SELECT p.series_id, p.event_time, p.value
         FROM unnest(CASE WHEN $4 THEN $3::integer[] END) AS s(series_id) CROSS JOIN LATERAL (
             SELECT * FROM points p WHERE p.series_id = s.series_id AND p.event_time < $1::timestamptz
             ORDER BY p.event_time DESC LIMIT 1) p)
        UNION ALL
        (SELECT p.series_id, p.event_time, p.value
         FROM unnest($3::integer[]) AS s(series_id) CROSS JOIN LATERAL (
             SELECT * FROM points p
             WHERE p.series_id = s.series_id AND p.event_time >= $1::timestamptz AND p.event_time < $2::timestamptz OFFSET 0) p
         LIMIT $5)
    ) r"""
"""At most $5 points of series by themselves, in no order; with $4 also the last one of each before the range."""
HOW_MANY: Final = """
    SELECT coalesce(sum(p.count), 0)::bigint FROM unnest($3::integer[]) AS s(series_id) CROSS JOIN LATERAL (
        SELECT p.count FROM rollups p
        WHERE p.series_id = s.series_id AND p.tier_s = $4 AND p.window_start >= $1::timestamptz
        AND p.window_start + $4 * interval '1 second' <= $2::timestamptz OFFSET 0) p"""
"""About how many points a range has, by rollups of the tier $4; never more than were settled there."""
