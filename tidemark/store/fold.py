"""The SQL that folds points into rollups of the base tier, and rollups of one tier into the next.

Used by settling and by verification, which must mean the same thing by a rollup. Every number in the text is an
integer of ours, so that it can stand inside a COPY, which takes no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

# Powers of two change no digit. Without them the running square of 10,000 points of ±1e150 overflows, and an
# overflow fails the whole statement. Doubles: 2.0 alone is a numeric, whose power keeps seven digits.
_DOWN: Final = "(2::float8 ^ -30)"
_UP: Final = "(2::float8 ^ 60)"

SUMMARY: Final = (
    "count",
    "sum",
    "min",
    "max",
    "first",
    "last",
    "m2",
    "first_publish_time",
    "last_publish_time",
    "late_count",
)
LATE: Final = "late_count"
OF_POINTS: Final = {
    "count": "count(*)",
    "sum": "sum(p.value)",
    "min": "min(p.value)",
    "max": "max(p.value)",
    "first": "(array_agg(p.value ORDER BY p.event_time))[1]",
    "last": "(array_agg(p.value ORDER BY p.event_time))[count(*)]",  # the same aggregate, so that it is sorted once
    "m2": f"var_pop(p.value * {_DOWN}) * count(*) * {_UP}",
    "first_publish_time": "min(p.publish_time)",
    "last_publish_time": "max(p.publish_time)",
    LATE: "count(*) FILTER (WHERE p.publish_time > p.base_start + interval '1 second' * {base_s})",
}
OF_ROLLUPS: Final = {
    "count": "sum(p.count)::bigint",
    "sum": "sum(p.sum)",
    "min": "min(p.min)",
    "max": "max(p.max)",
    "first": "(array_agg(p.first ORDER BY p.window_start))[1]",
    "last": "(array_agg(p.last ORDER BY p.window_start))[count(*)]",
    "m2": f"sum(p.m2) + sum(p.count * power((p.sum / p.count - p.mean) * {_DOWN}, 2)) * {_UP}",
    "first_publish_time": "min(p.first_publish_time)",
    "last_publish_time": "max(p.last_publish_time)",
    LATE: "sum(p.late_count)::bigint",
}
"""Each number of a summary as SQL, over points p with their `base_start`, and over rollups p of count > 0 with the
`mean` of the whole."""
MEAN_OF_WIDE: Final = "sum(p.sum) OVER whole / sum(p.count) OVER whole"
TOLERANT: Final = frozenset({"sum", "m2"})
"""Their last digits depend on the order of the fold."""


@dataclass(frozen=True, order=True)
class Range:
    """Windows from `start` to `end` (seconds since 1970, aligned to a tier) of one series, or of all when it is None."""

    start: int
    end: int
    series_id: int | None = None


def timestamp(seconds: int) -> str:
    """The SQL of a moment."""
    return f"to_timestamp({seconds:d})"


def ranges_sql(ranges: Sequence[Range]) -> str:
    """The SQL of ranges of single series, as a table r(series_id, start, until)."""
    values = ", ".join(f"({r.series_id:d}, {timestamp(r.start)}, {timestamp(r.end)})" for r in ranges)
    return f"(VALUES {values}) AS r(series_id, start, until)"


def points_of(scope: Range | Sequence[Range]) -> str:
    """FROM and WHERE that give points p of one range of all series, or of ranges of single series."""
    if isinstance(scope, Range):
        return f"points p WHERE p.event_time >= {timestamp(scope.start)} AND p.event_time < {timestamp(scope.end)}"
    return (
        f"{ranges_sql(scope)} CROSS JOIN LATERAL (SELECT * FROM points q WHERE q.series_id = r.series_id"
        " AND q.event_time >= r.start AND q.event_time < r.until OFFSET 0) p WHERE true"
    )


def rollups_of(scope: Range | Sequence[Range], tier_s: int) -> str:
    """FROM and WHERE that give rollups p of one tier."""
    if isinstance(scope, Range):
        return (
            f"rollups p WHERE p.tier_s = {tier_s:d} AND p.window_start >= {timestamp(scope.start)}"
            f" AND p.window_start < {timestamp(scope.end)}"
        )
    return (
        f"{ranges_sql(scope)} CROSS JOIN LATERAL (SELECT * FROM rollups q WHERE q.series_id = r.series_id"
        f" AND q.tier_s = {tier_s:d} AND q.window_start >= r.start AND q.window_start < r.until OFFSET 0) p WHERE true"
    )


_CUT: Final = "(SELECT removed_before FROM retention)"


def fold_base(tier_s: int, scope: Range | Sequence[Range]) -> str:
    """Rollups of the base tier: from points, and as they stand before the cut of retention, which they outlive.

    The cut is read in the statement's own snapshot: retention moves it before it removes anything, so a snapshot that
    lacks points knows.

    Columns: series_id, window_start and `SUMMARY`.
    """
    return f"""{_fold_points(tier_s, scope)}
        UNION ALL
        SELECT p.series_id, p.window_start, {", ".join(f"p.{name}" for name in SUMMARY)}
        FROM {rollups_of(scope, tier_s)} AND p.window_start < {_CUT}"""


def _fold_points(tier_s: int, scope: Range | Sequence[Range]) -> str:
    """`m2` by PostgreSQL's Youngs-Cramer variance."""
    source = f"{points_of(scope)} AND p.event_time >= {_CUT}"
    return f"""
        SELECT p.series_id, p.window_start, {_listed(of_points(tier_s))}
        FROM (
            SELECT p.*, p.base_start AS window_start FROM (SELECT p.*, {base_window(tier_s)} AS base_start FROM {source}) p
        ) p
        GROUP BY p.series_id, p.window_start"""


def fold_rollups(tier_s: int, source: str) -> str:
    """Rollups of `tier_s` from those of the tier below: `source` is FROM … WHERE of rollups p.

    `m2` by Chan, Golub and LeVeque's pairwise formula around the mean of the whole: the textbook difference of
    squares would cancel.
    """
    width = f"interval '{tier_s:d} seconds'"
    return f"""
        SELECT p.series_id, p.wide_start AS window_start, {_listed(OF_ROLLUPS)}
        FROM (
            SELECT p.*, {MEAN_OF_WIDE} AS mean
            FROM (
                SELECT p.*, date_bin({width}, p.window_start, {timestamp(0)}) AS wide_start FROM {source}
            ) p
            WHERE p.count > 0
            WINDOW whole AS (PARTITION BY p.series_id, p.wide_start)
        ) p
        GROUP BY p.series_id, p.wide_start"""


def of_points(base_s: int) -> dict[str, str]:
    """`OF_POINTS` for a base tier."""
    return {**OF_POINTS, LATE: OF_POINTS[LATE].format(base_s=f"{base_s:d}")}


def base_window(base_s: int) -> str:
    """The SQL of the start of point p's window of the base tier."""
    return f"date_bin(interval '{base_s:d} seconds', p.event_time, {timestamp(0)})"


def _listed(expressions: Mapping[str, str]) -> str:
    return ", ".join(f"{expression} AS {name}" for name, expression in expressions.items())


def differs(a: str, b: str) -> str:
    """SQL that is true where the summaries of rows `a` and `b` differ by more than the order of a fold can explain.

    Counts, extremes, first, last and times are exact. A sum may be off by 1e-9 of count x greatest magnitude, its
    terms' own size, since a sum near zero has no digits of its own. `m2` may be off by 1e-9 of itself and by what
    rounding does to deviations from a mean that is large beside them (Chan, Golub and LeVeque 1983: the relative
    error grows with magnitude x sqrt(count / m2)).
    """
    size = f"greatest(abs({a}.min), abs({a}.max), abs({b}.min), abs({b}.max))"
    count = f"greatest({a}.count, {b}.count)"
    m2 = f"greatest({a}.m2, {b}.m2)"
    rounding = f"1e-13 * {size} * sqrt({count}) * sqrt({m2}) + {count} * power(1e-12 * {size}, 2)"
    exact = [f"{a}.{name} <> {b}.{name}" for name in SUMMARY if name not in TOLERANT]
    return (
        "("
        + " OR ".join(
            [
                *exact,
                f"abs({a}.sum - {b}.sum) > 1e-9 * {size} * {count}",
                f"abs({a}.m2 - {b}.m2) > 1e-9 * {m2} + {rounding}",
            ]
        )
        + ")"
    )
