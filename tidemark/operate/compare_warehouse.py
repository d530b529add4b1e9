"""Holds BigQuery's latest rows against the store's.

The store's snapshot comes first, BigQuery's answer after it. A mark dies only once its rows are durable in BigQuery:
so where the snapshot has no mark, BigQuery shows what the snapshot has, or something newer, from an ingest that went
on meanwhile. What differs is therefore compared again, with a newer snapshot; only what differs each time is different.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.operate.compare_store import Extent
from tidemark.operate.report import Report
from tidemark.store.connection import transaction
from tidemark.store.copy import ROLLUP_COLUMNS, copy_out
from tidemark.store.fold import SUMMARY, TOLERANT, Range, rollups_of
from tidemark.store.series import SeriesCache
from tidemark.warehouse.read import Rollup, latest
from tidemark.wire.message import moment
from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import MICROSECONDS, ROLLUP

Series = tuple[str, str, str]
"""Project, source and metric."""
Key = tuple[str, str, str, int]
"""Of a series, and window start in microseconds."""

AGAIN: Final = 2
"""How often what differs is compared again. An ingest that runs would have to settle the same window between snapshot
and answer each time."""
_EXACT: Final = tuple(name for name in SUMMARY if name not in TOLERANT)

# A closing mark is no debt of numbers. Only while it is being worked on may the store's row be newer than BigQuery's:
# it was due when the snapshot was taken (or is by now, which is no less), and was not due for longer than the grace.
_MARKS: Final = """
SELECT extract(epoch FROM window_from)::bigint AS start, extract(epoch FROM window_to)::bigint AS end, series_id, closing
FROM marks WHERE tier_s = %s AND window_from < to_timestamp(%s) AND window_to > to_timestamp(%s)
AND (NOT closing OR ready_at <= clock_timestamp() AND ready_at > now() - make_interval(secs => CAST(%s AS float8)))
ORDER BY window_from"""


class _Windows:
    """Windows, of single series or of all."""

    def __init__(self, spans: Iterable[tuple[int, int, Series | None]]) -> None:
        """From spans (start, end, series or None for all) in seconds since 1970, ordered by start."""
        self._spans: dict[Series | None, list[tuple[int, int]]] = {}
        for start, end, series in spans:
            of_series = self._spans.setdefault(series, [])
            if of_series and start <= of_series[-1][1]:
                of_series[-1] = (of_series[-1][0], max(end, of_series[-1][1]))
            else:
                of_series.append((start, end))

    def __contains__(self, key: Key) -> bool:
        if not self._spans:
            return False
        window = key[3] // MICROSECONDS
        return self._covered(None, window) or self._covered(key[:3], window)

    def _covered(self, series: Series | None, window: int) -> bool:
        of_series = self._spans.get(series, [])
        at = bisect_right(of_series, window, key=lambda span: span[0]) - 1
        return at >= 0 and window < of_series[at][1]


def _same(shown: Any, stored: Any) -> bool:
    """Null in BigQuery is NaN here."""
    return bool(shown == stored) or (shown is None and bool(np.isnan(stored)))


def _last_look(shown: Rollup, stored: np.void) -> bool:
    """Whether `stored` can be what a last look made of `shown`: a greater revision of the same numbers."""
    return 0 < shown.revision < stored["revision"] and all(getattr(shown, name) == stored[name] for name in _EXACT)


@dataclass(frozen=True)
class WarehouseComparison:
    """One comparison.

    Attributes:
        connection: In the snapshot of the store.
        pool: For newer snapshots, and for names of series.
        client: BigQuery's.
        dataset: gcp_project.dataset.
        grace_s: How long a last look may have been due and BigQuery lack its row.
        report: Filled.
    """

    connection: Connection
    pool: Engine
    client: Any
    dataset: str
    grace_s: int
    report: Report

    def compare(self, tiers_s: tuple[int, ...], within: Extent) -> None:
        """Every tier, slice by slice."""
        series = SeriesCache(self.pool)
        for tier_s in tiers_s:
            for scope in within.slices(tier_s):
                self._compare_slice(series, tier_s, scope)

    def _compare_slice(self, series: SeriesCache, tier_s: int, scope: Range) -> None:
        compared, differ = self._differences(self.connection, series, tier_s, scope)
        self.report.warehouse_rows += compared
        for _ in range(AGAIN):
            if not differ:
                return
            windows = [key[3] // MICROSECONDS for key in differ]
            with transaction(self.pool, "REPEATABLE READ") as newer:
                _, still = self._differences(newer, series, tier_s, Range(min(windows), max(windows) + tier_s))
            differ = {key: still[key] for key in differ if key in still}
        self.report.warehouse_differ += len(differ)
        for key, what in differ.items():
            when = moment(key[3]).isoformat()
            self.report.example(f"BigQuery, tier {tier_s} s, {'/'.join(key[:3])}, {when}: {what}")

    def _differences(
        self, connection: Connection, series: SeriesCache, tier_s: int, scope: Range
    ) -> tuple[int, dict[Key, str]]:
        """How many rows the store has in windows that are owed nothing, and how BigQuery differs in such windows."""
        stored = copy_out(
            connection, f"SELECT {ROLLUP_COLUMNS} FROM {rollups_of(scope, tier_s)} AND p.count > 0", ROLLUP
        )
        marks = connection.exec_driver_sql(_MARKS, (tier_s, scope.end, scope.start, self.grace_s)).all()
        numbers = {mark.series_id for mark in marks} - {None}
        names = series.names(numbers.union(np.unique(stored["series_id"]).tolist()))
        owed, looked_at = (
            _Windows(
                (m.start, m.end, m.series_id and names[m.series_id])
                for m in marks
                if m.closing == closing and (m.series_id is None or m.series_id in names)
            )
            for closing in (False, True)
        )
        expected: dict[Key, np.void] = {
            key: row for row in stored if (key := (*names[int(row["series_id"])], int(row["window_start"]))) not in owed
        }
        compared = len(expected)
        differ: dict[Key, str] = {}
        for row in latest(self.client, self.dataset, scope.start * MICROSECONDS, scope.end * MICROSECONDS, tier_s):
            key = (row.project, row.source, row.metric, row.window_start)
            wanted = expected.pop(key, None)
            if wanted is None:
                if key not in owed:
                    differ[key] = f"shows revision {row.revision}, the store has no points there"
            elif row.revision == wanted["revision"]:
                other = [
                    f"{name} is {getattr(row, name)}, the store has {wanted[name]}"
                    for name in (*SUMMARY, *QUANTILES, "final")
                    if not _same(getattr(row, name), wanted[name])
                ]
                if other:
                    differ[key] = f"under the same revision {', '.join(other)}"
            elif not (key in looked_at and _last_look(row, wanted)):
                differ[key] = f"shows revision {row.revision}, the store has {wanted['revision']}"
        for key, wanted in expected.items():
            differ[key] = f"lacks revision {wanted['revision']}"
        return compared, differ
