"""One state of the store, looked at in as many transactions as it takes: each lets go of the locks of its chunks."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from sqlalchemy import Connection, Engine

from tidemark.store.connection import transaction
from tidemark.store.hypertable import Span, hypertable, spans


@dataclass(frozen=True)
class Snapshot:
    """A state, as long as it is held.

    Attributes:
        pool: Has two connections at least.
        connection: Of the transaction that holds it; for what does not read points.
        spans: Ranges of event time, each of no more chunks than one transaction should lock; together everything.
    """

    pool: Engine
    connection: Connection
    spans: list[Span]
    _name: str
    _settings: tuple[str, ...]

    @contextmanager
    def part(self) -> Iterator[Connection]:
        """A transaction of its own that sees this state; for what reads the points of one span."""
        with transaction(self.pool, "REPEATABLE READ", snapshot=self._name) as connection:
            for statement in self._settings:
                connection.exec_driver_sql(statement)
            yield connection

    def points(self) -> int:
        """How many points there are."""
        found = 0
        for span in self.spans:
            with self.part() as connection:
                found += connection.exec_driver_sql(f"SELECT count(*) FROM points WHERE {span.sql()}").scalar_one()
        return found


@contextmanager
def snapshot(pool: Engine, *settings: str) -> Iterator[Snapshot]:
    """Hold the state of now.

    Args:
        pool: Has two connections at least.
        settings: Statements that each of its transactions begins with.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    with transaction(pool, "REPEATABLE READ") as connection:
        for statement in settings:
            connection.exec_driver_sql(statement)
        name = connection.exec_driver_sql("SELECT pg_export_snapshot()").scalar_one()
        yield Snapshot(pool, connection, spans(connection, hypertable(connection)), name, settings)
