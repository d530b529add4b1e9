"""The SQL that folds points into rollups of the base tier, and rollups of one tier into the next.

Used by settling and by verification, which must mean the same thing by a rollup. Every number in the text is an
integer of ours, so that it can stand inside a COPY, which takes no parameters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from tidemark.wire.quantiles import LEAST, LOG_GAMMA, MIDDLE, OFFSET, QUANTILES

# Powers of two change no digit. Without them the running square of 10,000 points of ±1e150 overflows, and an
# overflow fails the whole statement. Doubles: 2.0 alone is a numeric, whose power keeps seven digits.
_DOWN: Final = "(2::float8 ^ -30)"
_UP: Final = "(2::float8 ^ 60)"
# PostgreSQL fails a statement also when a product or quotient underflows, where other arithmetic says 0.
_TINY: Final = "1e-290::float8"
_TINY_ROOT: Final = "1e-140::float8"


def _mean(total: str, count: str) -> str:
    return f"(CASE WHEN abs({total}) > {_TINY} THEN {total} / {count} ELSE 0 END)"


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
    "m2": f"var_pop(CASE WHEN abs(p.value) > {_TINY} THEN p.value * {_DOWN} ELSE 0 END) * count(*) * {_UP}",
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
    "m2": (
        f"sum(p.m2) + sum(CASE WHEN abs({_mean('p.sum', 'p.count')} - p.mean) > {_TINY_ROOT}"
        f" THEN p.count * power(({_mean('p.sum', 'p.count')} - p.mean) * {_DOWN}, 2) ELSE 0 END) * {_UP}"
    ),
    "first_publish_time": "min(p.first_publish_time)",
    "last_publish_time": "max(p.last_publish_time)",
    LATE: "sum(p.late_count)::bigint",
}
"""Each number of a summary as SQL, over points p with their `base_start`, and over rollups p of count > 0 with the
`mean` of the whole."""
_AT: Final = "(array_agg({value}))[array_position(array_agg({time}), {end}({time}))]"
_POINTS_AT: Final = {
    "first": _AT.format(value="p.value", time="p.event_time", end="min"),
    "last": _AT.format(value="p.value", time="p.event_time", end="max"),
}
_ROLLUPS_AT: Final = {
    "first": _AT.format(value="p.first", time="p.window_start", end="min"),
    "last": _AT.format(value="p.last", time="p.window_start", end="max"),
}
"""The same as above in half of the time, since no window's points are sorted. Of many hashed groups the arrays would all be
in memory at once: see `SORTED`."""
SORTED: Final = "set_config('enable_hashagg', 'off', true)"
"""The SQL of a setting for a transaction that folds: its groups come one after the other."""
RANGED: Final = ", ".join(
    f"set_config('{name}', '{value}', true)"
    for name, value in (
        ("enable_seqscan", "off"),
        ("enable_indexscan", "off"),
        ("max_parallel_workers_per_gather", "0"),
    )
)
"""The same for one that reads ranges of all series: by a bitmap of the blocks of their time, and nothing else. Of a table
that is newer than its statistics PostgreSQL does not know that points lie in the order of their times, and would read all of
it, or all of its key, for each range."""
MEAN_OF_WIDE: Final = _mean("sum(p.sum) OVER whole", "sum(p.count::float8) OVER whole")
"""Exact below 2^53 points; the sum of integers is a numeric, and to make that a double for each row takes long."""
SKETCH: Final = ("bins", "bin_counts", *QUANTILES)
"""What a rollup has besides its summary where quantiles are asked for: see `tidemark.wire.quantiles`. Null elsewhere."""
BIN: Final = (
    f"CASE WHEN abs(p.value) < {LEAST!r}::float8 THEN 0"
    f" ELSE (sign(p.value) * (ceil(ln(abs(p.value)) / {LOG_GAMMA!r}::float8) + {OFFSET}))::integer END"
)
_OF_BIN: Final = (
    f"CASE {{bin}} WHEN 0 THEN 0"
    f" ELSE sign({{bin}}) * {MIDDLE!r}::float8 * exp((abs({{bin}}) - {OFFSET}) * {LOG_GAMMA!r}::float8) END"
)
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
    """The SQL of ranges of single series, as a table r(series_id, start, until).

    Of three arrays: a thousand rows of VALUES take longer to be parsed and planned than to be settled.
    """
    ids, starts, ends = (
        "'{" + ",".join(f"{number:d}" for number in numbers) + "}'"
        for numbers in zip(*((r.series_id, r.start, r.end) for r in ranges), strict=True)
    )
    arrays = f"unnest({ids}::integer[], {starts}::bigint[], {ends}::bigint[])"
    return f"(SELECT u.s AS series_id, to_timestamp(u.f) AS start, to_timestamp(u.t) AS until FROM {arrays} AS u(s, f, t)) AS r"


def points_of(scope: Range | Sequence[Range]) -> str:
    """FROM and WHERE that give points p of one range of all series, or of ranges of single series."""
    if isinstance(scope, Range):
        return f"points p WHERE p.event_time >= {timestamp(scope.start)} AND p.event_time < {timestamp(scope.end)}"
    # bounds of all ranges in the text: a hypertable's other chunks are left out, and not locked, when this is planned
    first, last = timestamp(min(r.start for r in scope)), timestamp(max(r.end for r in scope))
    return (
        f"{ranges_sql(scope)} CROSS JOIN LATERAL (SELECT * FROM points q WHERE q.series_id = r.series_id"
        f" AND q.event_time >= {first} AND q.event_time < {last}"
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


def fold_base(tier_s: int, scope: Range | Sequence[Range], *, quantiles: bool = False) -> str:
    """Rollups of the base tier: from points, and as they stand before the cut of retention, which they outlive.

    The cut is read in the statement's own snapshot: retention moves it before it removes anything, so a snapshot that
    lacks points knows.

    Columns: series_id, window_start, `SUMMARY` and `SKETCH`, which is null without `quantiles`.
    """
    source = f"{points_of(scope)} AND p.event_time >= {_CUT}"
    counted = f"""SELECT p.series_id, {base_window(tier_s)} AS window_start, {BIN} AS bin, count(*) AS n
        FROM {source} GROUP BY 1, 2, 3"""
    return f"""{_with_sketch(_fold_points(tier_s, source), counted if quantiles else None)}
        UNION ALL
        SELECT p.series_id, p.window_start, {", ".join(f"p.{name}" for name in (*SUMMARY, *SKETCH))}
        FROM {rollups_of(scope, tier_s)} AND p.window_start < {_CUT}"""


def _fold_points(tier_s: int, source: str) -> str:
    """`m2` by PostgreSQL's Youngs-Cramer variance."""
    return f"""
        SELECT p.series_id, p.window_start, {_listed({**of_points(tier_s), **_POINTS_AT})}
        FROM (
            SELECT p.*, p.base_start AS window_start FROM (SELECT p.*, {base_window(tier_s)} AS base_start FROM {source}) p
        ) p
        GROUP BY p.series_id, p.window_start"""


def _with_sketch(summaries: str, counted: str | None) -> str:
    """Summaries beside the sketches of the same points.

    A quantile q of n values stands for the one with rank floor(q (n - 1)). A sketch that does not hold all of a
    summary's points, since a rollup below has none, is left out.

    Args:
        summaries: SELECT of series_id, window_start and `SUMMARY`.
        counted: SELECT of series_id, window_start, bin and n, how many of the points are in it; None: no sketches.
    """
    if counted is None:
        nulls = ("NULL::integer[]", "NULL::bigint[]", *("NULL::float8" for _ in QUANTILES))
        return f"SELECT s.*, {', '.join(f'{n} AS {name}' for n, name in zip(nulls, SKETCH, strict=True))} FROM ({summaries}) s"
    bins = ", ".join(
        f"min(c.bin) FILTER (WHERE c.up_to > {share!r}::float8 * (c.total - 1)) AS {name}"
        for name, share in QUANTILES.items()
    )
    values = ", ".join(
        # least and greatest pass over a null, and would say s.min where there is no sketch
        f"CASE WHEN q.total IS NOT NULL THEN least(greatest({_OF_BIN.format(bin=f'q.{name}')}, s.min), s.max) END AS {name}"
        for name in QUANTILES
    )
    return f"""
        SELECT s.*, q.bins, q.bin_counts, {values}
        FROM ({summaries}) s LEFT JOIN (
            SELECT c.series_id, c.window_start, max(c.total) AS total,
                   array_agg(c.bin ORDER BY c.bin) AS bins, array_agg(c.n::bigint ORDER BY c.bin) AS bin_counts, {bins}
            FROM (
                SELECT b.*, sum(b.n::float8) OVER (PARTITION BY b.series_id, b.window_start ORDER BY b.bin) AS up_to,
                       sum(b.n::float8) OVER (PARTITION BY b.series_id, b.window_start) AS total
                FROM ({counted}) b
            ) c
            GROUP BY c.series_id, c.window_start
        ) q ON q.series_id = s.series_id AND q.window_start = s.window_start AND q.total = s.count"""


def fold_rollups(tier_s: int, source: str, *, quantiles: bool = False) -> str:
    """Rollups of `tier_s` from those of the tier below: `source` is FROM … WHERE of rollups p.

    Columns as `fold_base`. `m2` by Chan, Golub and LeVeque's pairwise formula around the mean of the whole: the textbook difference of
    squares would cancel.
    """
    wide = f"date_bin(interval '{tier_s:d} seconds', p.window_start, {timestamp(0)})"
    # unnested side by side in a list of columns: as a table beside each row, which is filled anew each time, it takes longer
    counted = f"""SELECT b.series_id, b.window_start, b.bin, sum(b.n::float8) AS n
        FROM (
            SELECT p.series_id, {wide} AS window_start, unnest(p.bins) AS bin, unnest(p.bin_counts) AS n
            FROM {source} AND p.count > 0
        ) b GROUP BY 1, 2, 3"""
    summaries = f"""
        SELECT p.series_id, p.wide_start AS window_start, {_listed({**OF_ROLLUPS, **_ROLLUPS_AT})}
        FROM (
            SELECT p.*, {MEAN_OF_WIDE} AS mean
            FROM (
                SELECT p.*, {wide} AS wide_start FROM {source}
            ) p
            WHERE p.count > 0
            WINDOW whole AS (PARTITION BY p.series_id, p.wide_start)
        ) p
        GROUP BY p.series_id, p.wide_start"""
    return _with_sketch(summaries, counted if quantiles else None)


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
    # no less than 1e-140: nothing below underflows then, and what is smaller is nothing beside it
    size = f"greatest(abs({a}.min), abs({a}.max), abs({b}.min), abs({b}.max), {_TINY_ROOT})"
    count = f"greatest({a}.count, {b}.count)"
    m2 = f"greatest({a}.m2, {b}.m2, {_TINY})"
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
