"""The SQL of a query: what series did in each interval, right as of one snapshot, folded in the database.

Parameters: $1 and $2, the range; $3, the series; $4, the interval's length, or all starts where they are not
equally far apart (`Intervals`). One row comes back: each column of the result as bytes, so that a million values are a few
arrays and no objects. A plan is made once a connection, for whatever parameters: so series are gone through one by one, each by
its index.
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import timedelta
from functools import lru_cache
from itertools import pairwise
from typing import Any, Final, NamedTuple

import numpy as np
import numpy.typing as npt

from tidemark.query.intervals import REMEMBERED, SECOND_US, Axis
from tidemark.store.fold import MEAN_OF_WIDE, OF_ROLLUPS, base_window, of_points
from tidemark.wire.message import moment

MOST_POINTS: Final = 5_000_000
"""That are folded in the database."""
MOST_TAKEN: Final = 1_000_000
"""That are taken out of it, each of which needs 110 bytes here."""
POSTGRES_EPOCH_US: Final = 946_684_800_000_000
"""2000-01-01, from which PostgreSQL counts."""
REVISION: Final = "revision"
"""Beside the fields of a summary: of the newest rollup in an interval; 0 where points were read."""
WHOLE: Final = frozenset({"count", "late_count", REVISION})
"""Of the fields, those that are whole numbers."""
_AS_OF: Final = """CASE WHEN pg_is_in_recovery() THEN coalesce(pg_last_xact_replay_timestamp(), clock_timestamp())
    ELSE clock_timestamp() END AS as_of"""
_STALE: Final = "stale"
_CUT: Final = "(SELECT nullif(removed_before, '-infinity') FROM retention)"


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

    A rollup counts where no mark owes its window, or one below, a settling. Where one does, the rollups of the tier below
    stand in for it, by the same rule; of the narrowest tier the points do, but before the cut of retention.

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
    read = [each for each in tiers_s if tier_s is not None and each <= tier_s]
    if tier_s is None:
        rows = _of_points(
            base_s, fields, start_of.format("p.event_time"), "unnest($3::integer[]) AS s(series_id)", "$1", "$2"
        )
    elif not owing:
        read = []
        rows = _rollups(
            tier_s, "unnest($3::integer[]) AS s(series_id)", "$1::timestamptz", "$2::timestamptz", fields, ""
        )
        rows = _joined(rows, fields, start_of.format("p.window_start"), "0")
    else:
        parts = [_rollups(tier_s, f"{_STALE} s", "$1::timestamptz", "$2::timestamptz", fields)]
        for wide_s, each in pairwise(reversed(read)):
            parts.append(_rollups(each, _ranges(wide_s), "lower(r.r)", "upper(r.r)", fields))
        parts.append(_of_points(base_s, fields, base_window(base_s), _ranges(base_s), "lower(r.r)", "upper(r.r)"))
        rows = _joined(" UNION ALL ".join(parts), fields, start_of.format("p.window_start"))
    sent = "".join(
        f", coalesce(string_agg({'int8send' if name in WHOLE else 'float8send'}(r.{name}), ''), '') AS {name}"
        for name in fields
    )
    return f"""
        WITH owed AS MATERIALIZED (
            SELECT m.tier_s, m.window_from, m.window_to, m.series_id, m.closing FROM marks m
            WHERE m.tier_s <= {tier_s or base_s:d} AND m.window_from < $2::timestamptz AND m.window_to > $1::timestamptz
            AND (m.series_id IS NULL OR m.series_id = ANY($3::integer[]))
        ){_stale(read)}
        SELECT {"''::bytea" if alone else "coalesce(string_agg(int4send(r.series_id), ''), '')"} AS series_id,
               coalesce(string_agg(timestamptz_send(r.start), ''), '') AS start{sent},
               coalesce(sum(r.points), 0) AS points,
               (SELECT coalesce(string_agg(int4send(coalesce(m.series_id, 0)) || timestamptz_send(m.window_from)
                    || timestamptz_send(m.window_to) || int4send(m.closing::integer), ''), '') FROM owed m) AS owed,
               {_CUT} AS cut, {_AS_OF}{_corrected(tier_s or base_s, start_of) if corrected else ""}
        FROM ({rows}) r"""


def _corrected(tier_s: int, start_of: str) -> str:
    """One more column: series, start of the interval and number, of those that have some."""
    return f""",
               (SELECT coalesce(string_agg(int4send(c.series_id) || timestamptz_send(c.start) || int8send(c.number), ''), '')
                FROM (
                    SELECT c.series_id, {start_of.format("c.window_start")} AS start, count(*) AS number
                    FROM unnest($3::integer[]) AS s(series_id) CROSS JOIN LATERAL (
                        SELECT * FROM corrections c WHERE c.series_id = s.series_id AND c.tier_s = {tier_s:d}
                        AND c.window_start >= $1::timestamptz AND c.window_start < $2::timestamptz OFFSET 0
                    ) c
                    GROUP BY 1, 2
                ) c) AS corrected"""


def _stale(read: Sequence[int]) -> str:
    """CTEs that give each series the ranges whose rollups do not count, of each tier: of_60, of_3600 and so on."""
    if not read:
        return ""
    ranges = ", ".join(
        f"""range_agg(tstzrange({_down("greatest(m.window_from, $1::timestamptz)", each)},
                {_up("least(m.window_to, $2::timestamptz)", each)})) FILTER (WHERE m.tier_s <= {each:d}) AS of_{each:d}"""
        for each in read
    )
    both = [f"coalesce(o.of_{each:d}, '{{}}') + coalesce(a.of_{each:d}, '{{}}')" for each in read]
    both[0] = f"({both[0]}) * tstzmultirange(tstzrange({_up(_CUT, read[0])}, NULL))"
    named = ", ".join(f"{text} AS of_{each:d}" for text, each in zip(both, read, strict=True))
    return f""", changed AS MATERIALIZED (
            SELECT m.series_id, {ranges} FROM owed m WHERE NOT m.closing GROUP BY m.series_id
        ), {_STALE} AS MATERIALIZED (
            SELECT s.series_id, {named}
            FROM unnest($3::integer[]) AS s(series_id)
            LEFT JOIN changed o ON o.series_id = s.series_id LEFT JOIN changed a ON a.series_id IS NULL
        )"""


def _down(moment_: str, tier_s: int) -> str:
    """The start of the window of a moment."""
    return f"date_bin(interval '{tier_s:d} seconds', {moment_}, to_timestamp(0))"


def _up(moment_: str, tier_s: int) -> str:
    """The first start of a window that is not before a moment."""
    return _down(f"{moment_} + interval '{tier_s:d} seconds' - interval '1 microsecond'", tier_s)


def _ranges(tier_s: int) -> str:
    """FROM that gives each series s its ranges r(r); that they overlap is known, but not to the planner."""
    return f"""{_STALE} s CROSS JOIN LATERAL (
            SELECT r FROM unnest(s.of_{tier_s:d}) AS r WHERE lower(r) < $2::timestamptz AND upper(r) > $1::timestamptz
        ) r"""


def _rollups(
    tier_s: int,
    source: str,
    start: str,
    end: str,
    fields: tuple[str, ...],
    but: str = "AND NOT s.of_{0:d} @> p.window_start",
) -> str:
    """Rollups of a tier that count."""
    chosen = "".join(f", p.{name}" for name in fields)
    return f"""
        SELECT p.* FROM {source} CROSS JOIN LATERAL (
            SELECT p.series_id, p.window_start, 0 AS points{chosen} FROM rollups p
            WHERE p.series_id = s.series_id AND p.tier_s = {tier_s:d} AND p.window_start >= {start} AND p.window_start < {end}
            AND p.count > 0 {but.format(tier_s)} OFFSET 0
        ) p"""


def _of_points(base_s: int, fields: tuple[str, ...], start: str, source: str, first: str, last: str) -> str:
    """Points folded into intervals, or into rows like rollups."""
    expressions = {**of_points(base_s), REVISION: "0::bigint"}
    chosen = "".join(f", {expressions[name]} AS {name}" for name in fields)
    return f"""
        SELECT p.series_id, p.start, count(*)::integer AS points{chosen}
        FROM (
            SELECT p.*, {start} AS start, {base_window(base_s)} AS base_start
            FROM {source} CROSS JOIN LATERAL (
                SELECT * FROM points p WHERE p.series_id = s.series_id AND p.event_time >= $1::timestamptz
                AND p.event_time < $2::timestamptz AND p.event_time >= {first} AND p.event_time < {last} OFFSET 0
            ) p LIMIT {MOST_POINTS + 1}
        ) p
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


_CORRECTED: Final = np.dtype([("series_id", ">i4"), ("start", ">i8"), ("number", ">i8")])


def corrections(
    data: bytes,
) -> tuple[npt.NDArray[np.int64], npt.NDArray[np.int64], npt.NDArray[np.int64]]:
    """Series, starts of intervals in microseconds since 1970, and how often windows in them were corrected."""
    found = np.frombuffer(data, _CORRECTED)
    start = found["start"].astype(np.int64) + POSTGRES_EPOCH_US
    return found["series_id"].astype(np.int64), start, found["number"].astype(np.int64)


class Owed:
    """Marks that overlap a range: series (0: all), from, to in microseconds since 1970, closing."""

    def __init__(self, data: bytes) -> None:
        found = np.frombuffer(data, _OWED)
        self.series_id = found["series_id"].astype(np.int64)
        self.start = found["start"].astype(np.int64) + POSTGRES_EPOCH_US
        self.end = found["end"].astype(np.int64) + POSTGRES_EPOCH_US
        self.closing = found["closing"].astype(bool)

    def owes(self) -> bool:
        """Whether one of them is of windows that have to be settled, and not only looked at once more."""
        return not self.closing.all()
