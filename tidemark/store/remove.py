"""Removes points: for good by a person's wish, or by age; the ledger is told in the same transaction.

A deletion leaves marks, so rollups follow the points. Retention leaves none: rollups outlive their points, and the
cut, which moves before anything is removed, tells every settler so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from sqlalchemy import Connection, Engine

from tidemark.errors import UsageError
from tidemark.retry import a_few_times
from tidemark.store.connection import transaction
from tidemark.store.fold import SKETCH, SUMMARY, Range, base_window
from tidemark.store.marks import insert_marks
from tidemark.wire.message import microseconds, moment_s
from tidemark.wire.summary import MICROSECONDS

DAY_S: Final = 86_400
SERIES_AT_ONCE: Final = 1_000

_DELETE: Final = """
WITH gone AS (
    DELETE FROM points p WHERE series_id = ANY(CAST(%s AS integer[])) AND event_time >= %s AND event_time < %s
    RETURNING series_id, event_time
), emptied AS (
    INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
    SELECT series_id, %s, window_start, {zeros}, (extract(epoch FROM clock_timestamp()) * 1000000)::bigint, false
    FROM (SELECT DISTINCT p.series_id, {window} AS window_start FROM gone p ORDER BY 1, 2) w
    ON CONFLICT DO NOTHING
)
SELECT series_id, count(*) FROM gone GROUP BY series_id"""
"""A window that was never settled gets a row without points: BigQuery may show a preview of it, which nothing else
would ever beat."""
_COUNT: Final = """
SELECT count(*) FROM points WHERE series_id = ANY(CAST(%s AS integer[])) AND event_time >= %s AND event_time < %s"""
_DAYS: Final = f"""
SELECT DISTINCT extract(epoch FROM date_bin(interval '{DAY_S} seconds', event_time, to_timestamp(0)))::bigint FROM points
WHERE series_id = ANY(CAST(%s AS integer[])) AND event_time >= %s AND event_time < %s ORDER BY 1"""
"""A clock decades off makes the range long, but not the days that hold anything many."""
_SPAN: Final = """
SELECT min(t), max(t) FROM (
    SELECT event_time AS t FROM points WHERE series_id = ANY(CAST(%s AS integer[]))
    UNION ALL
    SELECT window_start FROM rollups WHERE series_id = ANY(CAST(%s AS integer[])) AND tier_s = %s
) spans"""
_HIDE: Final = """
UPDATE rollups SET {zeros}, revision = greatest((extract(epoch FROM clock_timestamp()) * 1000000)::bigint, revision + 1),
    settled_at = now()
WHERE series_id = ANY(CAST(%s AS integer[])) AND tier_s = %s AND window_start >= %s AND window_start < %s AND count > 0
RETURNING series_id, extract(epoch FROM window_start)::bigint"""
_ZERO: Final = {name: "window_start" if name.endswith("_time") else "0" for name in SUMMARY}
_ZEROS: Final = ", ".join([*(f"{name} = {zero}" for name, zero in _ZERO.items()), *(f"{n} = NULL" for n in SKETCH)])


class Removed(NamedTuple):
    """What one transaction removed: points of event time in [start, end), in seconds since 1970."""

    start: int
    end: int
    points: int


def cut(connection: Connection) -> int | None:
    """Where retention has cut, in seconds since 1970; None: nowhere yet."""
    found = connection.exec_driver_sql(
        "SELECT removed_before FROM retention WHERE removed_before > '-infinity'"
    ).scalar()
    return None if found is None else microseconds(found) // MICROSECONDS


@dataclass(frozen=True)
class Deletion:
    """Removes points of some series in a range of event time, a day a transaction, with marks for what they were in.

    Attributes:
        pool: Of a user that may DELETE from points.
        tiers_s: As given to ingest.
        series_ids: Whose points.
        start, end: Seconds since 1970; None: from the first window of the base tier, to the end of the last.
    """

    pool: Engine
    tiers_s: tuple[int, ...]
    series_ids: Sequence[int]
    start: int | None
    end: int | None

    def count(self) -> int:
        """How many points that would be.

        Raises:
            UnavailableError, MisconfiguredError: the database could not be asked.
        """
        within = self._within()
        with transaction(self.pool) as connection:
            return sum(_count(connection, ids, within) for ids in self._groups())

    def run(self) -> Iterator[Removed]:
        """Delete, a transaction at a time; what was yielded stands.

        Raises:
            UsageError: the range cuts through a window whose points retention has removed.
            UnavailableError, MisconfiguredError: the rest is still there; delete again.
        """
        within = self._within()
        hidden_to = self._hide_before_cut(within)
        for ids in self._groups():
            with transaction(self.pool) as connection:
                days = connection.exec_driver_sql(_DAYS, (ids, moment_s(within.start), moment_s(within.end))).all()
            for (start,) in days:
                day = Range(max(start, within.start), min(start + DAY_S, within.end))
                removed = self._delete_again(day, ids)
                if removed:
                    yield Removed(day.start, day.end, removed)
        # The cut may have moved on, and points been gone before they were looked for. From here on it waits for the marks.
        self._hide_before_cut(Range(hidden_to, within.end))

    def _delete_again(self, day: Range, ids: list[int]) -> int:
        """`_delete`, repeated where the settler had the same new rollups in another order: a deadlock ends one of two."""
        return a_few_times(lambda: self._delete(day, ids))

    def _delete(self, day: Range, ids: list[int]) -> int:
        base_s = self.tiers_s[0]
        sql = _DELETE.format(names=", ".join(_ZERO), zeros=", ".join(_ZERO.values()), window=base_window(base_s))
        with transaction(self.pool) as connection:
            gone = connection.exec_driver_sql(sql, (ids, moment_s(day.start), moment_s(day.end), base_s)).all()
            removed = sum(int(number) for _, number in gone)
            if removed:
                insert_marks(
                    connection, self.tiers_s, base_s, [Range(day.start, day.end, series) for series, _ in gone]
                )
                record_removed(connection, removed)
        return removed

    def _hide_before_cut(self, within: Range) -> int:
        """Hide what lies before the cut of retention; returns up to where."""
        with transaction(self.pool) as connection:
            before = cut(connection)
        if before is None or before <= within.start:
            return within.start
        end = min(within.end, before)
        self._hide(Range(within.start, end))
        return end

    def _hide(self, within: Range) -> None:
        """Where the points are gone already, empty the rollups themselves, and owe BigQuery the news."""
        base_s = self.tiers_s[0]
        if within.start % base_s or within.end % base_s:
            raise UsageError(
                f"The points before {moment_s(within.end).isoformat()} are gone by retention: there, "
                f"--from and --to must be whole windows of {base_s} s."
            )
        for ids in self._groups():
            with transaction(self.pool) as connection:
                bounds = (moment_s(within.start), moment_s(within.end))
                hidden = connection.exec_driver_sql(_HIDE.format(zeros=_ZEROS), (ids, base_s, *bounds)).all()
                for tier_s in self.tiers_s:
                    windows = {(series, start // tier_s * tier_s) for series, start in hidden}
                    ranges = [Range(start, start + tier_s, series) for series, start in sorted(windows)]
                    insert_marks(connection, self.tiers_s, tier_s, ranges)

    def _within(self) -> Range:
        if self.start is not None and self.end is not None:
            return Range(self.start, self.end)
        low = high = None
        with transaction(self.pool) as connection:
            for ids in self._groups():
                first, last = connection.exec_driver_sql(_SPAN, (ids, ids, self.tiers_s[0])).one()
                if first is not None:
                    low = min(first, low) if low else first
                    high = max(last, high) if high else last
        if low is None or high is None:
            return Range(self.start or 0, self.start or 0)
        base_us = self.tiers_s[0] * MICROSECONDS
        first_window, last_window = microseconds(low) // base_us, microseconds(high) // base_us
        start = first_window * self.tiers_s[0] if self.start is None else self.start
        end = (last_window + 1) * self.tiers_s[0] if self.end is None else self.end
        return Range(start, end)

    def _groups(self) -> Iterator[list[int]]:
        ids = sorted(self.series_ids)
        for at in range(0, len(ids), SERIES_AT_ONCE):
            yield ids[at : at + SERIES_AT_ONCE]


def record_removed(connection: Connection, points: int) -> None:
    """The ledger's row for points that were removed."""
    connection.exec_driver_sql("INSERT INTO ledger (removed) VALUES (%s)", (points,))


def _count(connection: Connection, ids: list[int], within: Range) -> int:
    found: int = connection.exec_driver_sql(_COUNT, (ids, moment_s(within.start), moment_s(within.end))).scalar_one()
    return found
