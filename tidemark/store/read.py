"""Reads points and buckets of series back, in bounded memory."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

import numpy as np
import numpy.typing as npt
from sqlalchemy import Engine

from tidemark.errors import UsageError
from tidemark.store.connection import single_statement
from tidemark.store.copy import TIMES, copy_out
from tidemark.store.fold import MEAN_OF_WIDE, OF_ROLLUPS, SUMMARY, base_window, of_points
from tidemark.wire.block import SeriesKey
from tidemark.wire.message import moment
from tidemark.wire.summary import MICROSECONDS, ROLLUP

PAGE_POINTS: Final = 50_000
MOST_BUCKETS: Final = 1_000_000

_SERIES: Final = """
SELECT series_id, project, source, metric FROM series
WHERE project = %s AND (CAST(%s AS text) IS NULL OR source = %s) AND (CAST(%s AS text) IS NULL OR metric = %s)
ORDER BY project, source, metric LIMIT %s"""
_MICROSECONDS: Final = "(extract(epoch FROM {}) * 1000000)::bigint"
_POINTS: Final = f"""
SELECT {_MICROSECONDS.format("event_time")}, value, {_MICROSECONDS.format("publish_time")}, attributes::text
FROM points WHERE series_id = %s AND event_time >= %s AND event_time < %s ORDER BY event_time LIMIT %s"""


class StoredPoint(NamedTuple):
    """A point as it stands; times in microseconds since 1970 UTC, `attributes` as JSON or None."""

    event_time: int
    value: float
    publish_time: int
    attributes: str | None


@dataclass(frozen=True)
class Reader:
    """Reads one store.

    Attributes:
        pool: Connections; a user that may SELECT is enough.
        tiers_s: As given to ingest.
    """

    pool: Engine
    tiers_s: tuple[int, ...]

    def series(
        self, project: str, source: str | None = None, metric: str | None = None, most: int = 10_000
    ) -> dict[int, SeriesKey]:
        """Numbers and names of a project's series, in the order of their names.

        Raises:
            UnavailableError, MisconfiguredError: the database could not be asked.
        """
        with single_statement(self.pool) as connection:
            rows = connection.exec_driver_sql(_SERIES, (project, source, source, metric, metric, most)).all()
        return {row[0]: SeriesKey(*row[1:]) for row in rows}

    def points(self, series_id: int, start_us: int, end_us: int, page: int = PAGE_POINTS) -> Iterator[StoredPoint]:
        """Points of a series by event time in [start_us, end_us), fetched a page at a time, each page in one snapshot.

        Raises:
            UnavailableError, MisconfiguredError: the database could not be asked.
        """
        while start_us < end_us:
            with single_statement(self.pool) as connection:
                bounds = (series_id, moment(start_us), moment(end_us), page)
                rows = connection.exec_driver_sql(_POINTS, bounds).all()
            for row in rows:
                yield StoredPoint(*row)
            if len(rows) < page:
                return
            start_us = rows[-1][0] + 1

    def buckets(
        self,
        series_ids: Sequence[int],
        start_us: int,
        end_us: int,
        interval_s: int,
        fields: Collection[str],
        origin_us: int = 0,
    ) -> npt.NDArray[np.void]:
        """What series did in each interval that has points, right as of one snapshot.

        Intervals that settled rollups can give are folded from the widest tier that divides them; those that contain
        a window which is still owed a settling, and those cut by the range, from points.

        Args:
            series_ids: Their numbers.
            start_us: First event time, in microseconds since 1970 UTC.
            end_us: The exclusive last.
            interval_s: Length of an interval in whole seconds.
            fields: Of `SUMMARY`.
            origin_us: Intervals start at this and every `interval_s` before and after.

        Returns:
            Shape (n,), sorted by (series_id, start); columns series_id, start in microseconds, and `fields`.

        Raises:
            UsageError: an unknown field, or more than `MOST_BUCKETS` buckets.
            UnavailableError, MisconfiguredError: the database could not be asked.
        """
        unknown = sorted(set(fields) - set(SUMMARY))
        if unknown:
            raise UsageError(f"A rollup has no {unknown[0]!r}; it has {', '.join(SUMMARY)}.")
        width_us = interval_s * MICROSECONDS
        wanted = len(series_ids) * -(-(end_us - start_us) // width_us)
        if wanted > MOST_BUCKETS:
            raise UsageError(f"That is {wanted:,} intervals and may be {MOST_BUCKETS:,}: ask for longer ones.")
        chosen = [name for name in SUMMARY if name in fields]
        types = {name: ROLLUP[name] for name in chosen}
        dtype = np.dtype([("series_id", "<i4"), ("start", "<i8"), *types.items()])
        if not len(series_ids) or start_us >= end_us:
            return np.empty(0, dtype)
        query = _Query(self.tiers_s, tuple(series_ids), start_us, end_us, interval_s, chosen, origin_us)
        with single_statement(self.pool) as connection:
            return copy_out(connection, query.sql(), dtype, times=TIMES | {"start"})


@dataclass(frozen=True)
class _Query:
    """The SQL of `buckets`; every number in it is an integer of ours, since COPY takes no parameters."""

    tiers_s: tuple[int, ...]
    series_ids: tuple[int, ...]
    start_us: int
    end_us: int
    interval_s: int
    fields: list[str]
    origin_us: int

    def sql(self) -> str:
        tier_s = self._tier()
        if tier_s is None:
            return f"{self._of_points(self._range('p.event_time'))} ORDER BY 1, 2"
        return f"""
            WITH stale AS MATERIALIZED (
                SELECT DISTINCT s.series_id, b.start
                FROM marks m
                CROSS JOIN LATERAL generate_series(
                    {self._bin("greatest(m.window_from, " + _at(self.start_us) + ")")},
                    least(m.window_to, {_at(self.end_us)}) - interval '1 microsecond', {self._width()}) AS b(start)
                CROSS JOIN unnest(ARRAY[{self._ids()}]) AS s(series_id)
                WHERE m.tier_s <= {tier_s:d} AND NOT m.closing
                AND m.window_from < {_at(self.end_us)} AND m.window_to > {_at(self.start_us)}
                AND (m.series_id IS NULL OR m.series_id = s.series_id)
            )
            SELECT * FROM ({self._of_rollups(tier_s)}) t
            WHERE NOT EXISTS (SELECT FROM stale s WHERE s.series_id = t.series_id AND s.start = t.start)
            UNION ALL
            SELECT t.* FROM stale s CROSS JOIN LATERAL (
                {
            self._of_points(
                "p.series_id = s.series_id AND p.event_time >= s.start AND p.event_time < s.start + "
                + self._width()
                + " AND "
                + self._range("p.event_time")
            )
        } OFFSET 0
            ) t
            ORDER BY 1, 2"""

    def _tier(self) -> int | None:
        """The widest tier whose windows the intervals and the range are made of."""
        for tier_s in reversed(self.tiers_s):
            width_us = tier_s * MICROSECONDS
            if self.interval_s % tier_s == 0 and not any(
                us % width_us for us in (self.origin_us, self.start_us, self.end_us)
            ):
                return tier_s
        return None

    def _width(self) -> str:
        return f"interval '{self.interval_s:d} seconds'"

    def _bin(self, time: str) -> str:
        return f"date_bin({self._width()}, {time}, {_at(self.origin_us)})"

    def _ids(self) -> str:
        return ", ".join(f"{number:d}" for number in self.series_ids)

    def _range(self, time: str) -> str:
        return f"{time} >= {_at(self.start_us)} AND {time} < {_at(self.end_us)}"

    def _of_points(self, where: str) -> str:
        expressions = of_points(self.tiers_s[0])
        chosen = "".join(f", {expressions[name]} AS {name}" for name in self.fields)
        return f"""
            SELECT p.series_id, p.start{chosen}
            FROM (
                SELECT p.*, {self._bin("p.event_time")} AS start, {base_window(self.tiers_s[0])} AS base_start
                FROM points p WHERE p.series_id IN ({self._ids()}) AND {where}
            ) p
            GROUP BY p.series_id, p.start"""

    def _of_rollups(self, tier_s: int) -> str:
        chosen = "".join(f", {OF_ROLLUPS[name]} AS {name}" for name in self.fields)
        rows = f"""
            SELECT p.*, {self._bin("p.window_start")} AS start FROM rollups p
            WHERE p.series_id IN ({self._ids()}) AND p.tier_s = {tier_s:d} AND {self._range("p.window_start")}
            AND p.count > 0"""
        if "m2" in self.fields:
            rows = f"SELECT p.*, {MEAN_OF_WIDE} AS mean FROM ({rows}) p WINDOW whole AS (PARTITION BY p.series_id, p.start)"
        return f"SELECT p.series_id, p.start{chosen} FROM ({rows}) p GROUP BY p.series_id, p.start"


def _at(us: int) -> str:
    return f"timestamptz '{moment(us).isoformat()}'"
