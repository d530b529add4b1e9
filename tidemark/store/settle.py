"""Settles windows: recomputes what marks say from the raw points, and gives the rows to whoever appends them.

The order is the guarantee. Marks are read; one transaction locks their windows, aggregates in a later statement
(whose snapshot is therefore newer than the lock, and than the marks), replaces the store's rollups and marks the
tier above; it commits; the caller appends the rows to BigQuery; and only then do the marks die (`forget`). Whatever
crashes in between, a mark that is still there makes it happen again, and a greater revision means a newer snapshot.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Final, NamedTuple

import numpy as np
from sqlalchemy import Connection, Engine

from tidemark.failpoints import reach
from tidemark.settings import Values
from tidemark.store.connection import transaction
from tidemark.store.copy import ROLLUP_COLUMNS, copy_out
from tidemark.store.fold import (
    SKETCH,
    SUMMARY,
    Range,
    differs,
    fold_base,
    fold_rollups,
    rollups_of,
)
from tidemark.store.write import SERIES_A_WINDOW
from tidemark.wire.summary import ROLLUP, Rollups

_LOCK: Final = 0x7469_6465  # "tide"
MARKS_A_ROUND: Final = 20_000
ROWS_A_TRANSACTION: Final = 50_000
WORK_MEM: Final = "64MB"
"""For the sort of a transaction's points; with less it goes through the disk."""
NO_NESTED_LOOPS: Final = "SELECT set_config('enable_nestloop', 'off', true)"
"""With quantiles a statement joins summaries and sketches. Of a minute that is newer than its statistics PostgreSQL expects
one row, and would make the sketches anew for each of 10,000."""
REFRESHES: Final = 10
"""How often an open window of an upper tier is settled over its length."""

_DUE: Final = """
SELECT id, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id
FROM marks WHERE tier_s = %s AND {which} ORDER BY ready_at, id LIMIT %s"""
_AROUND: Final = """
SELECT id, extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint, series_id
FROM marks WHERE tier_s = %s AND window_from >= to_timestamp(%s) AND window_to <= to_timestamp(%s) LIMIT %s"""
_MARK: Final = """
INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, closing)
SELECT %s, to_timestamp(f), to_timestamp(t), s, greatest(clock_timestamp(), to_timestamp(r)), %s
FROM unnest(CAST(%s AS bigint[]), CAST(%s AS bigint[]), CAST(%s AS integer[]), CAST(%s AS float8[])) AS m(f, t, s, r)"""


class Mark(NamedTuple):
    """A durable note that windows must be settled; times in seconds since 1970."""

    id: int
    start: int
    end: int
    series_id: int | None


class Settled(NamedTuple):
    """One transaction's rows.

    Attributes:
        rows: Every rollup in the windows of these marks, changed or not: an earlier settler may have died before it
            appended them. Shape (n,), dtype `ROLLUP`.
        changed: How many of them are new or differ from what the store had.
        corrected: How many differ from an earlier settled row.
        mark_ids: To be forgotten once the rows are durable in BigQuery.
    """

    rows: Rollups
    changed: int
    corrected: int
    mark_ids: list[int]


@dataclass
class Settler:
    """Settles what is due; one for a process."""

    pool: Engine
    tiers_s: tuple[int, ...]
    horizon_s: float
    quantiles: bool = False
    rows_a_window: float = 100.0

    @classmethod
    def of(cls, pool: Engine, values: Values) -> Settler:
        """As settings say."""
        return cls(pool, values.tiers_s, values.horizon_s, values.quantiles)

    def due(self, everything: bool = False) -> Iterator[Settled]:
        """Settle what is due now, tier by tier from the narrowest, a transaction at a time.

        Args:
            everything: Also what is not due yet, except the closing look at windows that were settled early.

        Yields:
            The rows of each transaction after its commit. Append them, then `forget` their marks.

        Raises:
            UnavailableError, MisconfiguredError: what was yielded so far stands; the rest keeps its marks.
        """
        which = "NOT closing" if everything else "ready_at <= clock_timestamp()"
        for level, tier_s in enumerate(self.tiers_s):
            with transaction(self.pool) as connection:
                found = connection.exec_driver_sql(_DUE.format(which=which), (tier_s, MARKS_A_ROUND)).all()
            for scope, chunk in chunks([Mark(*row) for row in found], tier_s, self._windows_at_once()):
                yield self._settle(level, scope, chunk)

    def forget(self, mark_ids: Sequence[int]) -> None:
        """Delete marks whose rows are durable everywhere."""
        with transaction(self.pool) as connection:
            connection.exec_driver_sql("DELETE FROM marks WHERE id = ANY(CAST(%s AS bigint[]))", (list(mark_ids),))
        reach("settle.forgotten")

    def oldest_due_s(self) -> float:
        """Age in seconds of the oldest due mark; 0 when none is due. The one alarm that matters."""
        with transaction(self.pool) as connection:
            age = connection.exec_driver_sql(
                "SELECT extract(epoch FROM clock_timestamp() - min(ready_at)) FROM marks"
            ).scalar()
        return max(0.0, float(age)) if age is not None else 0.0

    def _windows_at_once(self) -> int:
        return max(1, int(ROWS_A_TRANSACTION / max(1.0, self.rows_a_window)))

    def _settle(self, level: int, scope: Range | list[Range], marks: list[Mark]) -> Settled:
        tier_s = self.tiers_s[level]
        with transaction(self.pool) as connection:
            clock_us = self._lock(connection, scope)
            if isinstance(scope, Range):
                # Every mark that is visible now is in the snapshot below as well: one settling serves them all.
                around = connection.exec_driver_sql(_AROUND, (tier_s, scope.start, scope.end, MARKS_A_ROUND)).all()
                marks = [*marks, *(Mark(*row) for row in around)]
            found = copy_out(connection, self._replace_sql(level, scope, clock_us), _SETTLED)
            rows = found[list(ROLLUP.names or ())].astype(ROLLUP)
            if level + 1 < len(self.tiers_s):
                news = rows[found["kind"] != _UNCHANGED]
                self._mark_above(connection, self.tiers_s[level + 1], news, scope, clock_us / 1e6)
            self._mark_open(connection, tier_s, rows, scope)
        if isinstance(scope, Range) and len(rows):
            windows = (scope.end - scope.start) / tier_s
            self.rows_a_window += 0.3 * (len(rows) / windows - self.rows_a_window)
        reach("settle.committed")
        changed = int(np.count_nonzero(found["kind"]))
        corrected = int(np.count_nonzero(found["kind"] == _CORRECTED))
        return Settled(rows, changed, corrected, sorted({mark.id for mark in marks}))

    def _lock(self, connection: Connection, scope: Range | list[Range]) -> int:
        """One settler at a time in each window of the largest tier; returns the database's clock in microseconds.

        The locks are taken in order, so that two settlers never wait crosswise.
        """
        largest = self.tiers_s[-1]
        ranges = [scope] if isinstance(scope, Range) else scope
        windows = sorted({w for r in ranges for w in range(r.start // largest, -(-r.end // largest))})
        connection.exec_driver_sql(
            "SELECT pg_advisory_xact_lock(%s, w), set_config('work_mem', %s, true) FROM unnest(CAST(%s AS integer[])) AS u(w)",
            (_LOCK, WORK_MEM, windows),
        )
        if self.quantiles:
            connection.exec_driver_sql(NO_NESTED_LOOPS)
        clock = connection.exec_driver_sql("SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint")
        return int(clock.scalar_one())

    def _replace_sql(self, level: int, scope: Range | list[Range], clock_us: int) -> str:
        """One statement that folds `scope`, replaces the store's rollups that differ, and returns every row of it.

        A window without points any more becomes a row with count 0. A row that is the same to the last bit keeps its
        revision.
        """
        tier_s = self.tiers_s[level]
        if level == 0:
            fresh = fold_base(tier_s, scope, quantiles=self.quantiles)
        else:
            fresh = fold_rollups(tier_s, rollups_of(scope, self.tiers_s[level - 1]), quantiles=self.quantiles)
        names = ", ".join((*SUMMARY, *SKETCH))
        summary = ", ".join(
            f"coalesce(f.{name}, {'window_start' if name.endswith('_time') else 0}) AS {name}" for name in SUMMARY
        )
        sketch = ", ".join(f"f.{name}" for name in SKETCH)
        olds = ", ".join(f"o.{name} AS old_{name}" for name in (*SUMMARY, *SKETCH))
        other_bits = " OR ".join(
            [f"j.{name} <> j.old_{name}" for name in SUMMARY]
            + [f"j.{name} IS DISTINCT FROM j.old_{name}" for name in SKETCH]
        )
        updates = ", ".join(f"{name} = excluded.{name}" for name in (*SUMMARY, *SKETCH, "final"))
        closed = f"clock_timestamp() >= window_start + interval '1 second' * ({tier_s:d} + {float(self.horizon_s)!r})"
        return f"""
            WITH f AS MATERIALIZED ({fresh}),
            o AS MATERIALIZED (SELECT p.* FROM {rollups_of(scope, tier_s)}),
            j AS MATERIALIZED (
                SELECT series_id, window_start, {summary}, {sketch}, {olds}, o.revision AS old_revision,
                       coalesce(o.final, false) AS old_final, coalesce(o.final, false) OR {closed} AS final
                FROM f FULL JOIN o USING (series_id, window_start)
            ),
            k AS MATERIALIZED (
                SELECT j.*, CASE WHEN j.old_revision IS NULL THEN {_NEW:d}
                                 WHEN {_differs_from_old()} THEN {_CORRECTED:d}
                                 WHEN j.final <> j.old_final OR {other_bits} THEN {_REFRESHED:d}
                                 ELSE {_UNCHANGED:d} END AS kind
                FROM j
            ),
            r AS MATERIALIZED (
                SELECT series_id, {tier_s:d} AS tier_s, window_start, {names}, kind, final,
                       CASE WHEN kind = {_UNCHANGED:d} THEN old_revision
                            ELSE greatest({clock_us:d}, coalesce(old_revision, 0) + 1) END AS revision
                FROM k
            ),
            written AS (
                INSERT INTO rollups (series_id, tier_s, window_start, {names}, revision, final)
                SELECT series_id, tier_s, window_start, {names}, revision, final FROM r WHERE kind <> {_UNCHANGED:d}
                ON CONFLICT (series_id, tier_s, window_start) DO UPDATE
                SET {updates}, revision = excluded.revision, settled_at = now()
            )
            SELECT {ROLLUP_COLUMNS}, kind FROM r p"""

    def _mark_above(
        self, connection: Connection, tier_s: int, rows: Rollups, scope: Range | list[Range], now: float
    ) -> None:
        """Mark the windows of the tier above that contain these rows; `now` is the database's clock in seconds."""

        def ready(_start: int, end: int) -> float:
            closes = end + self.horizon_s
            if now >= closes:
                return 0.0
            step = tier_s / REFRESHES
            return min(closes, (now // step + 1) * step)

        windows = rows["window_start"] // (tier_s * 1_000_000) * tier_s
        _insert_marks(
            connection, tier_s, windows, rows["series_id"], whole=isinstance(scope, Range), ready=ready, closing=False
        )

    def _mark_open(self, connection: Connection, tier_s: int, rows: Rollups, scope: Range | list[Range]) -> None:
        """Owe windows that were settled before their horizon one more look, at their horizon."""
        early = rows[~rows["final"]]

        def ready(_start: int, end: int) -> float:
            return end + self.horizon_s

        windows = early["window_start"] // 1_000_000
        _insert_marks(
            connection, tier_s, windows, early["series_id"], whole=isinstance(scope, Range), ready=ready, closing=True
        )


_UNCHANGED: Final = 0
_NEW: Final = 1
_CORRECTED: Final = 2
_REFRESHED: Final = 3
"""Only the last digits of a sum, `final` or the sketch differ."""
_SETTLED: Final = np.dtype([*ROLLUP.descr, ("kind", "<i4")])


def _differs_from_old() -> str:
    """`fold.differs` between a row j and the row it replaces, whose columns stand in the same row as old_*."""
    text = differs("j", "old")
    for name in SUMMARY:
        text = text.replace(f"old.{name}", f"j.old_{name}")
    return text


def _insert_marks(
    connection: Connection,
    tier_s: int,
    windows: np.ndarray,
    series: np.ndarray,
    *,
    whole: bool,
    ready: Callable[[int, int], float],
    closing: bool,
) -> None:
    """Mark windows (starts in seconds) of a tier, whole or by series; many series of a window become the whole."""
    starts: list[int] = np.unique(windows).tolist() if whole else []
    owners: list[int | None] = [None] * len(starts)
    pairs = np.unique(np.column_stack((windows, series)), axis=0) if not whole else np.empty((0, 2), np.int64)
    for start, group in groupby(pairs.tolist(), key=lambda pair: pair[0]):
        of_window = [pair[1] for pair in group]
        if len(of_window) > SERIES_A_WINDOW:
            of_window = [None]
        starts += [start] * len(of_window)
        owners += of_window
    if starts:
        ends = [start + tier_s for start in starts]
        due = [ready(start, end) for start, end in zip(starts, ends, strict=True)]
        connection.exec_driver_sql(_MARK, (tier_s, closing, starts, ends, owners, due))


def chunks(marks: Sequence[Mark], tier_s: int, windows: int) -> Iterator[tuple[Range | list[Range], list[Mark]]]:
    """Group marks into scopes of about `windows` windows, no mark in two of them.

    Overlapping and adjacent marks of all series become one range; marks of single series that such a range covers
    join it; the rest become lists of ranges, adjacent ones of a series merged.
    """
    whole = sorted((m for m in marks if m.series_id is None), key=lambda m: (m.start, m.end))
    single = sorted((m for m in marks if m.series_id is not None), key=lambda m: (m.series_id, m.start, m.end))
    ranges: list[tuple[Range, list[Mark]]] = []
    for mark in whole:
        if ranges:
            last, members = ranges[-1]
            overlaps = mark.start < last.end
            adjoins = mark.start == last.end and (mark.end - last.start) // tier_s <= windows
            if overlaps or adjoins:
                ranges[-1] = (Range(last.start, max(last.end, mark.end)), [*members, mark])
                continue
        ranges.append((Range(mark.start, mark.end), [mark]))
    covered: dict[int, list[Mark]] = {}
    left = []
    starts = np.array([r.start for r, _ in ranges], np.int64)
    for mark in single:
        place = int(np.searchsorted(starts, mark.start, side="right")) - 1
        if place >= 0 and mark.end <= ranges[place][0].end:
            covered.setdefault(place, []).append(mark)
        else:
            left.append(mark)
    for place, (scope, members) in enumerate(ranges):
        yield scope, members + covered.get(place, [])
    yield from _single_chunks(left)


def _single_chunks(marks: Sequence[Mark]) -> Iterator[tuple[list[Range], list[Mark]]]:
    """Marks of single series, sorted by series and start, as lists of disjoint ranges."""
    scope: list[Range] = []
    members: list[Mark] = []
    for mark in marks:
        last = scope[-1] if scope else None
        if last is not None and last.series_id == mark.series_id and mark.start <= last.end:
            scope[-1] = Range(last.start, max(last.end, mark.end), mark.series_id)
        else:
            if len(scope) >= 1000:
                yield scope, members
                scope, members = [], []
            scope.append(Range(mark.start, mark.end, mark.series_id))
        members.append(mark)
    if scope:
        yield scope, members
