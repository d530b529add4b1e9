"""The SQL of what counts in a snapshot: rollups to which nothing is owed, and what stands in for the others.

A rollup counts where no mark owes its window, or one below, a settling. Where one does, the rollups of the tier below stand in for
it, by the same rule; of the narrowest tier the points do, but before the cut of retention.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Final

from tidemark.store.fold import base_window

MOST_POINTS: Final = 5_000_000
"""That are folded in the database."""
CUT: Final = "(SELECT nullif(removed_before, '-infinity') FROM retention)"
SERIES: Final = "unnest($3::integer[]) AS s(series_id)"
_STALE: Final = "stale"
_NOT_STALE: Final = "AND NOT s.of_{0:d} @> p.window_start"


def owed(tiers_s: tuple[int, ...], tier_s: int | None, *, standing: bool) -> str:
    """CTEs: `owed`, the marks of the series and the range; with `standing` also what `standing` reads.

    Args:
        tiers_s: All tiers, the narrowest first.
        tier_s: Of the rollups that are read; None: points are.
        standing: Whether that will be read.
    """
    read = [each for each in tiers_s if tier_s is not None and each <= tier_s]
    return f"""owed AS MATERIALIZED (
            SELECT m.tier_s, m.window_from, m.window_to, m.series_id, m.closing FROM marks m
            WHERE m.tier_s <= {tier_s or tiers_s[0]:d} AND m.window_from < $2::timestamptz AND m.window_to > $1::timestamptz
            AND (m.series_id IS NULL OR m.series_id = ANY($3::integer[]))
        ){_stale(read) if standing else ""}"""


def standing(
    tiers_s: tuple[int, ...], tier_s: int, fields: tuple[str, ...], of_points: Callable[[str, str], str]
) -> str:
    """Rows of series_id, window_start, points and fields; `points` is how many of them a row was made of just now.

    Args:
        tiers_s: All tiers, the narrowest first.
        tier_s: Of the rollups that are read.
        fields: Columns of `rollups`.
        of_points: Makes such rows of the base tier from the SQL of a window's start and from points p.
    """
    base_s = tiers_s[0]
    parts = [rollups(tier_s, fields, f"{_STALE} s", but=_NOT_STALE)]
    read = [each for each in reversed(tiers_s) if each <= tier_s]
    for wide_s, each in pairwise(read):
        parts.append(rollups(each, fields, _ranges(wide_s), "lower(r.r)", "upper(r.r)", but=_NOT_STALE))
    parts.append(of_points(base_window(base_s), points(_ranges(base_s), "lower(r.r)", "upper(r.r)")))
    return " UNION ALL ".join(parts)


def rollups(
    tier_s: int,
    fields: tuple[str, ...],
    source: str = SERIES,
    start: str = "$1::timestamptz",
    end: str = "$2::timestamptz",
    *,
    but: str = "",
) -> str:
    """Rollups of a tier that have points, of each series s."""
    chosen = "".join(f", p.{name}" for name in fields)
    return f"""
        SELECT p.* FROM {source} CROSS JOIN LATERAL (
            SELECT p.series_id, p.window_start, 0 AS points{chosen} FROM rollups p
            WHERE p.series_id = s.series_id AND p.tier_s = {tier_s:d} AND p.window_start >= {start} AND p.window_start < {end}
            AND p.count > 0 {but.format(tier_s)} OFFSET 0
        ) p"""


def points(source: str = SERIES, first: str = "$1", last: str = "$2") -> str:
    """Points p of each series s, no more than one above `MOST_POINTS`."""
    return f"""(
            SELECT p.* FROM {source} CROSS JOIN LATERAL (
                SELECT * FROM points p WHERE p.series_id = s.series_id AND p.event_time >= $1::timestamptz
                AND p.event_time < $2::timestamptz AND p.event_time >= {first} AND p.event_time < {last} OFFSET 0
            ) p LIMIT {MOST_POINTS + 1}
        ) p"""


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
    both[0] = f"({both[0]}) * tstzmultirange(tstzrange({_up(CUT, read[0])}, NULL))"
    named = ", ".join(f"{text} AS of_{each:d}" for text, each in zip(both, read, strict=True))
    return f""", changed AS MATERIALIZED (
            SELECT m.series_id, {ranges} FROM owed m WHERE NOT m.closing GROUP BY m.series_id
        ), {_STALE} AS MATERIALIZED (
            SELECT s.series_id, {named}
            FROM {SERIES}
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
