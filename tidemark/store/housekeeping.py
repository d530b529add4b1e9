"""What keeps the raw store in shape beside running pipelines: retention, chunks, the ledger, what is old, dead rows.

Each step commits by itself, may be stopped anywhere and done again. Points are removed in the order: move the cut,
then remove and tell the ledger in one transaction; so a settler whose snapshot lacks points has seen the cut. The cut
waits for windows that are owed a settling: once it has passed, they are left as they stand.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Final, NamedTuple

from sqlalchemy import Engine

from tidemark.errors import UnavailableError
from tidemark.retry import a_few_times
from tidemark.store.connection import transaction
from tidemark.store.errors import DRIVER_ERRORS, translate
from tidemark.store.hypertable import Chunk, Hypertable, enable_columns, hypertable, literal, swollen
from tidemark.store.ledger import totals
from tidemark.store.remove import record_removed
from tidemark.store.snapshot import snapshot
from tidemark.wire.message import microseconds, moment_s

DAY_S: Final = 86_400
LEDGER_DAYS: Final = 2
"""Ledger rows older than this are folded, a row a day."""
DEAD_ROWS: Final = 10_000
DEAD_SHARE: Final = 0.1
"""A table is vacuumed when it has more dead rows than the first, and than this share of its live ones."""
TABLES: Final = (
    "points",
    "rollups",
    "marks",
    "dead_letters",
    "ledger",
    "series",
    "sources",
    "corrections",
    "heartbeats",
)
LOCK_TIMEOUT_S: Final = 5.0
"""Writers queue behind a lock that is waited for: so not for long, and then again."""
_LOCK: Final = 0x7469_6466
_DELETE_AT_ONCE: Final = 200_000

_OWED: Final = """
SELECT count(*), extract(epoch FROM min(window_from))::bigint, min(ready_at) FROM marks, retention
WHERE NOT closing AND window_from < to_timestamp(%s) AND window_to > removed_before"""
"""A closing look follows rollups, and changes none of their numbers; what lies before the cut stays as it stands."""
_MOVE: Final = """
UPDATE retention SET removed_before = greatest(removed_before, to_timestamp(%s))
RETURNING extract(epoch FROM removed_before)::bigint"""
_FOLD_LEDGER: Final = f"""
WITH gone AS (
    DELETE FROM ledger
    WHERE written_at < date_trunc('day', clock_timestamp()) - interval '{LEDGER_DAYS} days'
    AND received + redriven = inserted + overwritten + ignored + dead_lettered
    RETURNING *
), folded AS (
    INSERT INTO ledger (written_at, received, redriven, inserted, overwritten, ignored, dead_lettered, removed)
    SELECT date_trunc('day', written_at), sum(received), sum(redriven), sum(inserted), sum(overwritten), sum(ignored),
           sum(dead_lettered), sum(removed)
    FROM gone GROUP BY 1
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) - (SELECT count(*) FROM folded)"""
_TRIM: Final = """
DELETE FROM dead_letters WHERE id IN (
    SELECT id FROM (
        SELECT id, sum(octet_length(data) + octet_length(attributes::text) + 200) OVER (ORDER BY id DESC) AS so_far
        FROM dead_letters
    ) AS newest_first WHERE so_far > %s
)"""
_OLD: Final = """
SELECT date_bin(interval '1 day', event_time, to_timestamp(0)) FROM points WHERE event_time < to_timestamp(%s) LIMIT 1"""
_DELETE_OLD: Final = """
WITH gone AS (
    DELETE FROM points WHERE event_time >= {start} AND event_time < {end} AND (series_id, event_time) IN (
        SELECT series_id, event_time FROM points WHERE event_time >= {start} AND event_time < {end} LIMIT {most:d}
    ) RETURNING 1
)
SELECT count(*) FROM gone"""
"""With bounds in the text, so that other chunks are left out, and not locked, when the statement is planned."""
_OLD_CORRECTIONS: Final = """
DELETE FROM corrections WHERE ctid = ANY(ARRAY(
    SELECT ctid FROM corrections WHERE corrected_at < clock_timestamp() - make_interval(days => %s) LIMIT %s
))"""
_OLD_HEARTBEATS: Final = "DELETE FROM heartbeats WHERE at < (SELECT max(at) FROM heartbeats) - interval '1 day'"
_DEAD: Final = """
SELECT relname FROM pg_stat_user_tables
WHERE relname = ANY(CAST(%s AS text[])) AND n_dead_tup > %s AND n_dead_tup > CAST(%s AS float8) * n_live_tup ORDER BY relname"""


@dataclass(frozen=True)
class HeldBack:
    """Points that are past their age and stay, since windows among them are owed a settling.

    Attributes:
        start, end: Their event times.
        marks: How many owe it.
        due_at: When the first of these is, or was, due.
    """

    start: datetime
    end: datetime
    marks: int
    due_at: datetime


class Cut(NamedTuple):
    """Points before `before_s`, in seconds since 1970, may go; what is held back may not."""

    before_s: int
    held_back: HeldBack | None


@dataclass(frozen=True)
class Housekeeping:
    """One store's.

    Attributes:
        pool: Of the tables' owner.
    """

    pool: Engine

    @contextmanager
    def alone(self) -> Iterator[None]:
        """Keep a second one out.

        Raises:
            UnavailableError: another one is at work.
        """
        try:
            with self.pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                if not connection.exec_driver_sql("SELECT pg_try_advisory_lock(%s)", (_LOCK,)).scalar_one():
                    raise UnavailableError("Another `tidemark maintain` is at work: let it finish.")
                try:
                    yield
                finally:
                    connection.exec_driver_sql("SELECT pg_advisory_unlock(%s)", (_LOCK,))
        except DRIVER_ERRORS as error:
            raise translate(error) from error

    def move_cut(self, before_s: int, largest_s: int) -> Cut:
        """Move the cut to `before_s`, or as far as nothing before it is owed a settling; it never moves back.

        From then on no settler folds points before it. A transaction that stores or deletes points has either committed,
        and its marks are looked at, or commits after the cut has moved: then its points are in no rollup, as any that
        come too late, and `Deletion` looks once more where the cut is.

        Args:
            before_s: Where it should be, aligned to the largest tier.
            largest_s: Length of that tier's windows.

        Raises:
            UnavailableError: others kept the marks locked; it is where it was.
        """
        return a_few_times(lambda: self._move_cut(before_s, largest_s))

    def _move_cut(self, before_s: int, largest_s: int) -> Cut:
        with transaction(self.pool) as connection:
            if connection.exec_driver_sql(
                "SELECT removed_before >= to_timestamp(%s) FROM retention", (before_s,)
            ).scalar_one():
                return Cut(before_s, None)
            connection.exec_driver_sql(
                "SELECT set_config('lock_timeout', %s, true)", (str(round(LOCK_TIMEOUT_S * 1000)),)
            )
            # waits for transactions whose marks cannot be seen yet, and keeps others from adding some
            connection.exec_driver_sql("LOCK TABLE marks IN SHARE MODE")
            marks, first_s, due_at = connection.exec_driver_sql(_OWED, (before_s,)).one()
            wanted_s = first_s // largest_s * largest_s if marks else before_s
            reached_s = connection.exec_driver_sql(_MOVE, (wanted_s,)).scalar_one()
        if not marks:
            return Cut(before_s, None)
        return Cut(reached_s, HeldBack(moment_s(reached_s), moment_s(before_s), marks, due_at))

    def remove_points(self, before_s: int) -> Iterator[int]:
        """Remove points before the cut, chunks or some rows a transaction; yields how many each time.

        Raises:
            UnavailableError, MisconfiguredError: what was yielded is gone, the rest is there.
        """
        table, chunks = self._chunks(before_s)
        for chunk in chunks:
            assert table is not None
            with transaction(self.pool) as connection:
                connection.exec_driver_sql(f"LOCK TABLE {chunk.name} IN ACCESS EXCLUSIVE MODE")
                points = connection.exec_driver_sql(f"SELECT count(*) FROM {chunk.name}").scalar_one()
                table.drop(connection, chunk)
                record_removed(connection, points)
            yield points
        while True:
            with transaction(self.pool) as connection:
                day = connection.exec_driver_sql(_OLD, (before_s,)).scalar()
                if day is None:
                    return
                end = min(day + timedelta(days=1), moment_s(before_s))
                sql = _DELETE_OLD.format(
                    start=literal(microseconds(day)), end=literal(microseconds(end)), most=_DELETE_AT_ONCE
                )
                points = connection.exec_driver_sql(sql).scalar_one()
                record_removed(connection, points)
            yield points

    def compress(self, before_s: int) -> int:
        """Turn chunks that end before `before_s` columnar, and what late points left beside the columns as well.

        Where there was something beside them, the chunk is then written anew: it gives its bytes back.

        Returns:
            How many chunks were not columnar before.

        Raises:
            UnavailableError, MisconfiguredError: the chunks before this one are done.
        """
        with transaction(self.pool) as connection:
            enable_columns(connection)
        table, chunks = self._chunks(before_s)
        if table is None or not table.columns:
            return 0
        done = 0
        for chunk in chunks:
            to_shrink = a_few_times(partial(self._make_columnar, table, chunk))  # it gives up beside others' writes
            done += not chunk.columnar
            if to_shrink:
                a_few_times(partial(self._shrink, to_shrink))
        return done

    def _make_columnar(self, table: Hypertable, chunk: Chunk) -> list[str]:
        with transaction(self.pool) as connection:
            to_shrink = swollen(connection, chunk)
            table.make_columnar(connection, chunk)
        return to_shrink

    def _shrink(self, tables: list[str]) -> None:
        """Write tables anew without what is gone from them; who reads or writes this chunk waits meanwhile."""
        try:
            with self.pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                connection.exec_driver_sql(f"SET lock_timeout = {round(LOCK_TIMEOUT_S * 1000):d}")
                try:
                    for name in tables:
                        connection.exec_driver_sql(f"VACUUM (FULL, ANALYZE) {name}")
                finally:
                    connection.exec_driver_sql("RESET lock_timeout")
        except DRIVER_ERRORS as error:
            raise translate(error) from error

    def adopt_removed(self) -> int:
        """Tell the ledger of points that others removed; returns how many.

        Points and their account are of one snapshot: what is being written or removed meanwhile is in both, or in neither.
        """
        with snapshot(self.pool) as now:
            account = totals(now.connection)
            missing = account.inserted - account.removed - now.points()
            if missing > 0:
                record_removed(now.connection, missing)
        return max(0, missing)

    def fold_ledger(self) -> int:
        """Fold balanced rows of past days into one a day; returns how many rows fewer there are."""
        with transaction(self.pool) as connection:
            fewer: int = connection.exec_driver_sql(_FOLD_LEDGER).scalar_one()
        return fewer

    def remove_dead_letters(self, days: int) -> int:
        """Remove those that were first seen longer ago; returns how many."""
        with transaction(self.pool) as connection:
            return int(
                connection.exec_driver_sql(
                    "DELETE FROM dead_letters WHERE first_seen < clock_timestamp() - make_interval(days => %s)", (days,)
                ).rowcount
            )

    def trim_dead_letters(self, most_bytes: int) -> int:
        """Remove the oldest of those that are more than so many bytes together; returns how many."""
        with transaction(self.pool) as connection:
            return int(connection.exec_driver_sql(_TRIM, (most_bytes,)).rowcount)

    def remove_corrections(self, days: int) -> int:
        """Remove those that were made longer ago, some a transaction; returns how many."""
        removed = 0
        while True:
            with transaction(self.pool) as connection:
                some = int(connection.exec_driver_sql(_OLD_CORRECTIONS, (days, _DELETE_AT_ONCE)).rowcount)
            removed += some
            if some < _DELETE_AT_ONCE:
                return removed

    def remove_heartbeats(self) -> int:
        """Remove those of processes that were silent for a day when the newest was written, which stays; returns how many."""
        with transaction(self.pool) as connection:
            return int(connection.exec_driver_sql(_OLD_HEARTBEATS).rowcount)

    def vacuum(self) -> list[str]:
        """Vacuum and analyse the tables with many dead rows; returns their names."""
        try:
            with self.pool.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
                names = [
                    row[0] for row in connection.exec_driver_sql(_DEAD, (list(TABLES), DEAD_ROWS, DEAD_SHARE)).all()
                ]
                for name in names:
                    connection.exec_driver_sql(f"VACUUM (ANALYZE, SKIP_LOCKED) {name}")
        except DRIVER_ERRORS as error:
            raise translate(error) from error
        return names

    def hypertable(self) -> Hypertable | None:
        """What the table of points is; None: a plain one."""
        with transaction(self.pool) as connection:
            return hypertable(connection)

    def _chunks(self, before_s: int) -> tuple[Hypertable | None, list[Chunk]]:
        with transaction(self.pool) as connection:
            found = hypertable(connection)
            return found, [] if found is None else found.chunks(connection, before_s)
