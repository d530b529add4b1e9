"""Holds BigQuery's latest rows against the store's."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.operate.compare_store import Extent
from tidemark.operate.report import Report
from tidemark.store.connection import transaction
from tidemark.store.copy import ROLLUP_COLUMNS, copy_out
from tidemark.store.fold import SUMMARY, Range, rollups_of
from tidemark.store.series import SeriesCache
from tidemark.warehouse.read import latest
from tidemark.wire.message import moment
from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import ROLLUP

Key = tuple[str, str, str, int]
"""Project, source, metric and window start in microseconds."""


def _same(shown: Any, stored: Any) -> bool:
    """Null in BigQuery is NaN here."""
    return bool(shown == stored) or (shown is None and bool(np.isnan(stored)))


@dataclass(frozen=True)
class WarehouseComparison:
    """One comparison.

    Attributes:
        connection: In the snapshot of the store.
        pool: For a look at what the store says now.
        client: BigQuery's.
        dataset: gcp_project.dataset.
        report: Filled.
    """

    connection: Connection
    pool: Engine
    client: Any
    dataset: str
    report: Report

    def compare(self, tiers_s: tuple[int, ...], within: Extent) -> None:
        """Every tier, slice by slice."""
        series = SeriesCache(self.pool)
        for tier_s in tiers_s:
            for scope in within.slices(tier_s):
                self._compare_slice(series, tier_s, scope)

    def _compare_slice(self, series: SeriesCache, tier_s: int, scope: Range) -> None:
        query = f"SELECT {ROLLUP_COLUMNS} FROM {rollups_of(scope, tier_s)} AND p.count > 0"
        stored = copy_out(self.connection, query, ROLLUP)
        marked = self._marked(tier_s, scope)
        names = series.names(np.unique(stored["series_id"]).tolist())
        expected: dict[Key, np.void] = {
            (*names[int(row["series_id"])], int(row["window_start"])): row
            for row in stored
            if not marked(int(row["series_id"]), int(row["window_start"]))
        }
        self.report.warehouse_rows += len(expected)
        for row in latest(self.client, self.dataset, scope.start * 1_000_000, scope.end * 1_000_000, tier_s):
            key = (row.project, row.source, row.metric, row.window_start)
            wanted = expected.pop(key, None)
            if wanted is not None and row.revision == wanted["revision"]:
                if not all(_same(getattr(row, name), wanted[name]) for name in (*SUMMARY, *QUANTILES, "final")):
                    self._differs(tier_s, key, "has other numbers under the same revision")
            elif not self._explained(tier_s, key, row.revision):
                self._differs(tier_s, key, f"shows revision {row.revision}, the store has another")
        for key, wanted in expected.items():
            if not self._explained(tier_s, key, None):
                self._differs(tier_s, key, f"lacks revision {wanted['revision']}")

    def _marked(self, tier_s: int, scope: Range) -> Callable[[int, int], bool]:
        """Whether a window of a series has a mark in the snapshot."""
        rows = self.connection.exec_driver_sql(
            """SELECT extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id
               FROM marks WHERE tier_s = %s AND window_from < to_timestamp(%s) AND window_to > to_timestamp(%s)
               ORDER BY window_from""",
            (tier_s, scope.end, scope.start),
        ).all()
        spans: dict[int | None, list[tuple[int, int]]] = {}
        for start, end, series_id in rows:
            of_series = spans.setdefault(series_id, [])
            if of_series and start <= of_series[-1][1]:
                of_series[-1] = (of_series[-1][0], max(end, of_series[-1][1]))
            else:
                of_series.append((start, end))

        def covered(series_id: int | None, window: int) -> bool:
            of_series = spans.get(series_id, [])
            at = bisect_right(of_series, window, key=lambda span: span[0]) - 1
            return at >= 0 and window < of_series[at][1]

        def check(series_id: int, window_start: int) -> bool:
            window = window_start // 1_000_000
            return covered(None, window) or covered(series_id, window)

        return check

    def _explained(self, tier_s: int, key: Key, revision: int | None) -> bool:
        """The store has gone on since the snapshot and agrees now, or the window is owed a settling."""
        with transaction(self.pool) as connection:
            now, marked = connection.exec_driver_sql(
                """SELECT r.revision,
                    EXISTS (SELECT FROM marks m WHERE m.tier_s = %s
                            AND m.window_from <= w.start AND m.window_to > w.start
                            AND (m.series_id IS NULL OR m.series_id = s.series_id))
                FROM (SELECT CAST(%s AS timestamptz) AS start) w
                LEFT JOIN series s ON s.project = %s AND s.source = %s AND s.metric = %s
                LEFT JOIN rollups r ON r.series_id = s.series_id AND r.tier_s = %s AND r.window_start = w.start""",
                (tier_s, moment(key[3]), *key[:3], tier_s),
            ).one()
        return bool(marked) or (revision is not None and now == revision)

    def _differs(self, tier_s: int, key: Key, what: str) -> None:
        self.report.warehouse_differ += 1
        when = moment(key[3]).isoformat()
        self.report.example(f"BigQuery, tier {tier_s} s, {'/'.join(key[:3])}, {when}: {what}")
