"""Holds the store's rollups, marks and ledger against its points."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import Final

from sqlalchemy import Connection

from tidemark.operate.report import EXAMPLES, Report
from tidemark.store.fold import (
    SKETCH,
    SUMMARY,
    TOLERANT,
    Range,
    differs,
    fold_base,
    fold_rollups,
    rollups_of,
    timestamp,
)
from tidemark.store.ledger import totals
from tidemark.store.snapshot import Snapshot

SLICE_WINDOWS: Final = 1440
"""Windows of a series compared at a time: a day of minutes. Bounds the memory."""


@dataclass(frozen=True)
class Extent:
    """The range to compare, in whole windows of the largest tier, and which of these hold anything.

    Attributes:
        start, end: Seconds since 1970.
        largest_s: Length of the largest tier's windows.
        occupied: Starts of its windows that hold points or rollups, in order.
    """

    start: int
    end: int
    largest_s: int
    occupied: list[int]

    def slices(self, tier_s: int) -> Iterator[Range]:
        """Cut the range where something is, so that a clock decades off costs a slice and not a slice for each day."""
        step = max(self.largest_s, tier_s * SLICE_WINDOWS // self.largest_s * self.largest_s)
        start, full = self.start, None
        for window in self.occupied:
            if full is not None and window >= full:
                yield Range(start, window)
                start = window
            if full is None or window >= full:
                full = window + step
        if start < self.end:
            yield Range(start, self.end)


def extent(
    now: Snapshot,
    largest_s: int,
    start: int | None,
    end: int | None,
    shown: Callable[[int | None, int | None], Iterable[int]],
) -> Extent:
    """What lies in [start, end), in the store or in BigQuery; None: from the first, to the last.

    Args:
        now: The store.
        largest_s: Length of the largest tier's windows; the range is widened to whole ones.
        start: Seconds since 1970.
        end: The same, exclusive.
        shown: Asked for the starts of the windows of that length in which BigQuery has rows.
    """
    low = None if start is None else start // largest_s * largest_s
    high = None if end is None else -(-end // largest_s) * largest_s
    bounds = [f"{{column}} {sense} {timestamp(edge)}" for sense, edge in ((">=", low), ("<", high)) if edge is not None]

    def windows(connection: Connection, table: str, column: str, within: str) -> set[int]:
        where = " AND ".join([within, *bounds]).format(column=column)
        start = f"date_bin(interval '{largest_s:d} seconds', {column}, {timestamp(0)})"
        rows = connection.exec_driver_sql(
            f"SELECT extract(epoch FROM {start})::bigint FROM {table} WHERE {where} GROUP BY 1"
        )
        return {int(row[0]) for row in rows.all()}

    found = windows(now.connection, "rollups", "window_start", "true")
    for span in now.spans:
        with now.part() as connection:
            found |= windows(connection, "points", "event_time", span.sql())
    occupied = sorted({*found, *shown(low, high)})
    first, last = (occupied[0], occupied[-1] + largest_s) if occupied else (0, 0)
    return Extent(first if low is None else low, last if high is None else high, largest_s, occupied)


def check_marks(connection: Connection, report: Report, grace_s: int) -> None:
    """Count what is owed; a last look that is overdue is told, but no failure: it changes `final` and no number.

    Args:
        connection: Snapshot.
        report: Takes the counts.
        grace_s: A mark may have been due for so long when the snapshot was taken; until then ingest is about to
            settle it.
    """
    report.due_marks, report.overdue_looks, report.pending_marks = connection.exec_driver_sql(
        """SELECT count(*) FILTER (WHERE due AND NOT closing), count(*) FILTER (WHERE due AND closing),
                  count(*) FILTER (WHERE NOT due)
           FROM (SELECT closing, ready_at <= now() - make_interval(secs => CAST(%s AS float8)) AS due FROM marks) m""",
        (grace_s,),
    ).one()
    if report.due_marks:
        report.example(f"{report.due_marks} marks are due: these windows are owed a settling (is ingest running?)")
    if report.overdue_looks:
        report.example(
            f"{report.overdue_looks} last looks are overdue: no number waits for them, but `final` does (is ingest "
            "running?)"
        )


def check_ledger(now: Snapshot, report: Report) -> None:
    ledger = totals(now.connection)
    report.points = now.points()
    report.ledger_unbalanced = ledger.unbalanced
    report.ledger_off_by = report.points - (ledger.inserted - ledger.removed)
    if report.ledger_unbalanced:
        report.example(f"{report.ledger_unbalanced} ledger rows do not balance")
    if report.ledger_off_by:
        kept = ledger.inserted - ledger.removed
        by_others = (
            f": {-report.ledger_off_by} were removed by another than Tidemark (a policy of TimescaleDB, drop_chunks, "
            "DELETE); end that, then `tidemark maintain --adopt_removed --retention_days=…` accounts for them"
        )
        said = f"the ledger says {kept} points, the table has {report.points}"
        report.example(said + (by_others if report.ledger_off_by < 0 else ""))


_UNMARKED: Final = """NOT EXISTS (
    SELECT FROM marks m WHERE m.tier_s = {tier_s} AND m.window_from <= {row}.window_start
    AND m.window_to > {row}.window_start AND (m.series_id IS NULL OR m.series_id = {row}.series_id) AND NOT m.closing)"""


def check_rollups(
    connection: Connection, report: Report, tiers_s: tuple[int, ...], level: int, scope: Range, *, quantiles: bool
) -> None:
    """Hold the store's rollups of one tier against a fresh fold, their sketches too where quantiles are asked for."""
    tier_s = tiers_s[level]
    if level == 0:
        fresh = fold_base(tier_s, scope, quantiles=quantiles)
    else:
        fresh = fold_rollups(tier_s, rollups_of(scope, tiers_s[level - 1]), quantiles=quantiles)
    same_sketch = " AND ".join(f"f.{name} IS NOT DISTINCT FROM o.{name}" for name in SKETCH) if quantiles else "true"
    stored = f"SELECT p.* FROM {rollups_of(scope, tier_s)}"
    told = ", ".join(_told(name) for name in (*SUMMARY, *(SKETCH if quantiles else ())))
    found = connection.exec_driver_sql(
        f"""WITH f AS MATERIALIZED ({fresh}), o AS MATERIALIZED ({stored}),
        j AS MATERIALIZED (
            SELECT series_id, window_start, o.series_id IS NOT NULL AS stored, coalesce(o.count = 0, false) AS empty,
                   CASE WHEN o.series_id IS NULL THEN 'it is missing; the points are ' || f.count
                        WHEN f.series_id IS NULL THEN 'it counts ' || o.count || ' points where there are none'
                        ELSE concat_ws(', ', {told}) END AS told,
                   CASE WHEN f.series_id IS NULL THEN o.count > 0
                        WHEN o.series_id IS NULL THEN true
                        ELSE {differs("f", "o")} OR NOT ({same_sketch}) END AS differs
            FROM f FULL JOIN o USING (series_id, window_start)
        ),
        d AS MATERIALIZED (SELECT * FROM j WHERE differs AND {_UNMARKED.format(tier_s=tier_s, row="j")})
        SELECT (SELECT count(*) FROM j WHERE stored), (SELECT count(*) FROM j WHERE empty), (SELECT count(*) FROM d),
               (SELECT json_agg(e) FROM (
                   SELECT coalesce(concat_ws('/', s.project, s.source, s.metric), d.series_id::text) AS series,
                          d.window_start, d.told
                   FROM (SELECT * FROM d LIMIT {EXAMPLES}) d LEFT JOIN series s USING (series_id)) e)"""
    ).one()
    report.rollups += found[0]
    report.rollups_empty += found[1]
    report.rollups_differ += found[2]
    for example in found[3] or ():
        report.example(f"tier {tier_s} s, {example['series']}, {example['window_start']}: {example['told']}")


def _told(name: str) -> str:
    """The SQL of what is told of a column that differs; null where it does not, rounding left aside."""
    fresh, stored = f"f.{name}", f"o.{name}"
    differ = f"{fresh} IS DISTINCT FROM {stored}"
    if name in TOLERANT:
        # not less than what a thousand-millionth of does not underflow, which fails the statement
        differ = f"abs({fresh} - {stored}) > 1e-9 * greatest(abs({fresh}), abs({stored}), 1e-140::float8)"
    if name in ("bins", "bin_counts"):
        return f"CASE WHEN {differ} THEN 'other {name}' END"
    shown = f"coalesce({stored}::text, 'null') || ', should be ' || coalesce({fresh}::text, 'null')"
    return f"CASE WHEN {differ} THEN '{name} is ' || {shown} END"
