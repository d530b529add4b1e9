"""Connections: one pool a process and database, timeouts on every wait, errors translated once."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Final

import sqlalchemy
from sqlalchemy import URL, Connection, Engine, event

from tidemark.errors import UsageError
from tidemark.store.errors import DRIVER_ERRORS, translate

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 60
_engines: dict[tuple[str, int], Engine] = {}
_lock = threading.Lock()


def engine(database_url: str, pool_size: int = 6) -> Engine:
    """The process's pool for a database; bundles of one worker run on several threads and share it.

    Raises:
        UsageError: the URL cannot be read.
    """
    with _lock:
        made = _engines.get((database_url, pool_size))
        if made is None:
            made = _engines[database_url, pool_size] = make_engine(database_url, pool_size, STATEMENT_TIMEOUT_S)
        return made


def make_engine(
    database_url: str, pool_size: int, statement_timeout_s: float, connect_timeout_s: float = CONNECT_TIMEOUT_S
) -> Engine:
    """A pool of its own; `statement_timeout_s` bounds each statement, on the server and on the socket."""
    made = sqlalchemy.create_engine(
        _driver_url(database_url),
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=STATEMENT_TIMEOUT_S,
        pool_use_lifo=True,
        connect_args={
            # one number for connecting and for every read: a little over the server's own, which answers first
            "timeout": statement_timeout_s + connect_timeout_s,
            "tcp_keepalive": True,
            "application_name": "tidemark",
            "startup_params": {
                "statement_timeout": str(round(statement_timeout_s * 1000)),
                "idle_in_transaction_session_timeout": "60000",
                "timezone": "UTC",
            },
        },
    )
    event.listen(made, "connect", _no_delay)
    return made


def _driver_url(database_url: str) -> URL:
    try:
        url = sqlalchemy.make_url(database_url)
    except (sqlalchemy.exc.ArgumentError, ValueError):  # the second for a port that is no number
        raise UsageError(
            "--database_url cannot be read; it looks like postgresql://user:password@host:5432/name."
        ) from None
    return url.set(drivername="postgresql+pg8000")


def _no_delay(connection: Any, _record: Any) -> None:
    """pg8000 never sets TCP_NODELAY: without it every COPY waits about 40 ms for a delayed acknowledgement."""
    if connection._usock.family != socket.AF_UNIX:  # noqa: SLF001  # pg8000 has no public way to its socket
        connection._usock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # noqa: SLF001


@contextmanager
def transaction(pool: Engine, isolation: str = "READ COMMITTED") -> Iterator[Connection]:
    """A transaction that commits at the end, or rolls back and raises a Tidemark error.

    Raises:
        UnavailableError, MisconfiguredError, RefusedError: see `tidemark.store.errors`.
    """
    try:
        with pool.connect() as connection:
            if isolation != "READ COMMITTED":
                connection.execution_options(isolation_level=isolation)
            try:
                with connection.begin():
                    yield connection
            except DRIVER_ERRORS:
                # the connection's state is unknown after a broken socket and not worth asking for after an error
                connection.invalidate()
                raise
    except DRIVER_ERRORS as error:
        raise translate(error) from error
