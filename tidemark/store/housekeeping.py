"""What keeps the raw store in shape beside running pipelines: retention, chunks, the ledger, dead letters, dead rows.

Each step commits by itself, may be stopped anywhere and done again. Points are removed in the order: move the cut,
then remove and tell the ledger in one transaction; so a settler whose snapshot lacks points has seen the cut.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Final, NamedTuple

from sqlalchemy import Engine

from tidemark.errors import UnavailableError
from tidemark.store.connection import transaction
from tidemark.store.errors import DRIVER_ERRORS, translate
from tidemark.store.remove import record_removed

DAY_S: Final = 86_400
LEDGER_DAYS: Final = 2
"""Ledger rows older than this are folded, a row a day."""
DEAD_ROWS: Final = 10_000
DEAD_SHARE: Final = 0.1
"""A table is vacuumed when it has more dead rows than the first, and than this share of its live ones."""
TABLES: Final = ("points", "rollups", "marks", "dead_letters", "ledger", "series", "sources")
_LOCK: Final = 0x7469_6466
_DELETE_AT_ONCE: Final = 200_000

_FOLD_LEDGER: Final = f"""
WITH gone AS (
    DELETE FROM ledger
    WHERE written_at < date_trunc('day', clock_timestamp()) - interval '{LEDGER_DAYS} days'
    AND received = inserted + overwritten + ignored + dead_lettered
    RETURNING *
), folded AS (
    INSERT INTO ledger (written_at, received, inserted, overwritten, ignored, dead_lettered, removed)
    SELECT date_trunc('day', written_at), sum(received), sum(inserted), sum(overwritten), sum(ignored),
           sum(dead_lettered), sum(removed)
    FROM gone GROUP BY 1
    RETURNING 1
)
SELECT (SELECT count(*) FROM gone) - (SELECT count(*) FROM folded)"""
_DELETE_OLD: Final = """
WITH gone AS (
    DELETE FROM points WHERE (series_id, event_time) IN (
        SELECT series_id, event_time FROM points WHERE event_time < to_timestamp(%s) LIMIT %s
    ) RETURNING 1
)
SELECT count(*) FROM gone"""
_CHUNKS: Final = """
SELECT quote_ident(chunk_schema) || '.' || quote_ident(chunk_name), is_compressed, range_start, range_end
FROM timescaledb_information.chunks WHERE hypertable_name = 'points' AND range_end <= to_timestamp(%s)
ORDER BY range_end"""
_DROP: Final = (
    "SELECT drop_chunks('points', newer_than => CAST(%s AS timestamptz), older_than => CAST(%s AS timestamptz))"
)
_DEAD: Final = """
SELECT relname FROM pg_stat_user_tables
WHERE relname = ANY(CAST(%s AS text[])) AND n_dead_tup > %s AND n_dead_tup > CAST(%s AS float8) * n_live_tup ORDER BY relname"""


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

    def move_cut(self, before_s: int) -> None:
        """From now on no settler folds points before `before_s`; the cut never moves back."""
        with transaction(self.pool) as connection:
            connection.exec_driver_sql(
                "UPDATE retention SET removed_before = greatest(removed_before, to_timestamp(%s))", (before_s,)
            )

    def remove_points(self, before_s: int) -> Iterator[int]:
        """Remove points before the cut, chunks or some rows a transaction; yields how many each time.

        Raises:
            UnavailableError, MisconfiguredError: what was yielded is gone, the rest is there.
        """
        for chunk in self._chunks(before_s):
            with transaction(self.pool) as connection:
                connection.exec_driver_sql(f"LOCK TABLE {chunk.name} IN ACCESS EXCLUSIVE MODE")
                points = connection.exec_driver_sql(f"SELECT count(*) FROM {chunk.name}").scalar_one()
                connection.exec_driver_sql(_DROP, (chunk.start, chunk.end))
                record_removed(connection, points)
            yield points
        while True:
            with transaction(self.pool) as connection:
                points = connection.exec_driver_sql(_DELETE_OLD, (before_s, _DELETE_AT_ONCE)).scalar_one()
                if points:
                    record_removed(connection, points)
            if not points:
                return
            yield points

    def compress(self, before_s: int) -> int:
        """Turn chunks that end before `before_s` columnar, and what late points left beside the columns as well.

        Returns:
            How many chunks were not columnar before.

        Raises:
            UnavailableError, MisconfiguredError: the chunks before this one are done.
        """
        done = 0
        for chunk in self._chunks(before_s):
            with transaction(self.pool) as connection:
                connection.exec_driver_sql("SELECT compress_chunk(CAST(%s AS regclass), true)", (chunk.name,))
            done += not chunk.compressed
        return done

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

    def is_hypertable(self) -> bool:
        """Points are in chunks."""
        with transaction(self.pool) as connection:
            if not connection.exec_driver_sql("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").scalar():
                return False
            return bool(
                connection.exec_driver_sql(
                    "SELECT 1 FROM timescaledb_information.hypertables WHERE hypertable_name = 'points'"
                ).scalar()
            )

    def _chunks(self, before_s: int) -> list[_Chunk]:
        if not self.is_hypertable():
            return []
        with transaction(self.pool) as connection:
            return [_Chunk(*row) for row in connection.exec_driver_sql(_CHUNKS, (before_s,)).all()]


class _Chunk(NamedTuple):
    name: str
    compressed: bool
    start: datetime
    end: datetime
