"""Connections: one pool a process and database, timeouts on every wait, errors translated once."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, NamedTuple
from weakref import WeakKeyDictionary

import pg8000
import sqlalchemy
from sqlalchemy import Connection, Engine, event

from tidemark.errors import TidemarkError
from tidemark.logs import log
from tidemark.store import session
from tidemark.store.errors import DRIVER_ERRORS, NO_PRIMARY, sqlstate, survives, translate
from tidemark.store.url import Address, read_url

CONNECT_TIMEOUT_S: Final = 10
STATEMENT_TIMEOUT_S: Final = 60
ANSWER_GRACE_S: Final = 10
PORT: Final = 5432
_KEEPALIVE: Final = {"TCP_KEEPIDLE": 15, "TCP_KEEPINTVL": 5, "TCP_KEEPCNT": 3, "TCP_USER_TIMEOUT": 30_000}
"""A peer that is gone is noticed within about 30 s."""
_UNHEARD: Final = "tidemark_unheard"
NOT_STATED_SO: Final = ("08P01", "22023", "42501", "42602", "42704")
"""A pooler, or a server that is not quite PostgreSQL, does not take one of the settings with which a connection is made."""
RENEW_S: Final = 10.0
"""Least time between two looks at a URL that may have changed."""
_renewals: Final[WeakKeyDictionary[Engine, _Renewal]] = WeakKeyDictionary()


def make_engine(
    database_url: str,
    pool_size: int,
    statement_timeout_s: float,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    answer_grace_s: float = ANSWER_GRACE_S,
    renewed_url: Callable[[], str] | None = None,
) -> Engine:
    """A pool.

    Args:
        database_url: As `tidemark.store.url` reads it.
        pool_size: Most connections.
        statement_timeout_s: Bounds each statement on the server.
        connect_timeout_s: Bounds the connecting.
        answer_grace_s: How much longer an answer is waited for, before the server is taken for dead.
        renewed_url: Asked when a connection cannot be made, or leads to what is no primary any more: a URL that has
            changed since, another password or host, is tried then, and once it works the others follow.

    Raises:
        UsageError: the URL cannot be read.
    """
    stated = session.startup(statement_timeout_s)
    address = read_url(database_url)
    common = {
        "application_name": "tidemark",
        "timeout": connect_timeout_s,
        "startup_params": stated,
    }
    made = sqlalchemy.create_engine(
        address.url,
        pool_size=pool_size,
        max_overflow=0,
        pool_timeout=statement_timeout_s,
        pool_use_lifo=True,
        connect_args=_arguments(common, address),
    )

    def connected(connection: Any, record: Any) -> None:
        _set_up_socket(connection._usock, statement_timeout_s + answer_grace_s)  # noqa: SLF001  # pg8000 has no public way to its socket
        record.info[_UNHEARD] = session.unheard(connection, stated)

    event.listen(made, "connect", connected)
    if renewed_url is None:
        event.listen(made, "do_connect", _do_connect)
    else:
        renewal = _Renewal(database_url, common, renewed_url)
        event.listen(made, "do_connect", renewal.connect)
        event.listen(made, "checkout", renewal.checked_out)
        _renewals[made] = renewal
    return made


def _arguments(common: Mapping[str, Any], address: Address) -> dict[str, Any]:
    """What the driver is given; what the URL's `options` set stands behind what is always stated."""
    stated = {**address.settings, **common["startup_params"]}
    return {**common, **address.arguments, "startup_params": stated}


def _do_connect(dialect: Any, _record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
    """A connection; SQLAlchemy's `do_connect`."""
    try:
        return _connected(dialect, parameters)
    except DRIVER_ERRORS as error:
        if sqlstate(error) not in NOT_STATED_SO:
            raise
    return _connected(dialect, {**parameters, "startup_params": {}})


def _connected(dialect: Any, parameters: dict[str, Any]) -> Any:
    """A connection; its socket is made here, since pg8000 leaves open the one whose server goes before it has answered."""
    if "unix_sock" in parameters:
        return dialect.connect(**parameters)
    where = parameters["host"], parameters.get("port") or PORT
    try:
        made = socket.create_connection(where, parameters.get("timeout"))
    except OSError as error:
        raise pg8000.exceptions.InterfaceError(f"no connection to {where[0]}, port {where[1]}") from error
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        return pg8000.Connection(**parameters, sock=made)
    except BaseException:
        made.close()
        raise


_WAY: Final = "tidemark_way"


class _Way(NamedTuple):
    """How connections are made: by the `number`-th URL; without parameters, by the one that the pool was made with."""

    number: int
    parameters: dict[str, Any] | None


class _Renewal:
    """Makes connections, with a URL that is read again when they fail: a password is changed, a database moves.

    A changed URL is used from the first connection on that it makes; what an earlier one made is then not used again,
    so that a process never writes to two databases.
    """

    def __init__(self, database_url: str, common: Mapping[str, Any], renewed_url: Callable[[], str]) -> None:
        self._url, self._common, self._renewed_url = database_url, common, renewed_url
        self._used = self._found = _Way(0, None)
        self._looked = -RENEW_S
        self._doubted = False
        self._lock = threading.Lock()

    def doubt(self) -> None:
        """Look at the URL before the next connection is made: this database answers, but takes nothing."""
        self._doubted = True

    def connect(self, dialect: Any, record: Any, _arguments: Any, parameters: dict[str, Any]) -> Any:
        """A connection; SQLAlchemy's `do_connect`."""
        used = self._used
        doubted, self._doubted = self._doubted, False
        first = self._look(dialect) if doubted else used
        try:
            return self._made(dialect, record, first, parameters)
        except DRIVER_ERRORS:
            second = used if doubted else self._look(dialect)
            if second.number == first.number:
                raise
        return self._made(dialect, record, second, parameters)

    def checked_out(self, _connection: Any, record: Any, _proxy: Any) -> None:
        """Let go of what an earlier URL made; SQLAlchemy's `checkout`."""
        if record.info[_WAY] < self._used.number:
            raise sqlalchemy.exc.DisconnectionError

    def _made(self, dialect: Any, record: Any, way: _Way, parameters: dict[str, Any]) -> Any:
        made = _do_connect(dialect, record, (), way.parameters or parameters)
        record.info[_WAY] = way.number
        with self._lock:
            if way.number > self._used.number:
                self._used = way
        return made

    def _look(self, dialect: Any) -> _Way:
        """The newest way that is known; one that does not work is tried beside the one that did."""
        with self._lock:
            if time.monotonic() >= self._looked + RENEW_S:
                try:
                    text = self._renewed_url()
                    address = read_url(text)
                except TidemarkError as error:
                    log.warning("%s The database URL that was read before is used.", error)
                else:
                    if text != self._url:
                        _, parameters = dialect.create_connect_args(address.url)
                        self._url = text
                        self._found = _Way(self._found.number + 1, {**parameters, **_arguments(self._common, address)})
                finally:
                    self._looked = time.monotonic()
            return self._found


def _set_up_socket(usock: Any, timeout_s: float) -> None:
    usock.settimeout(timeout_s)
    if usock.family == socket.AF_UNIX:
        return
    # pg8000 never sets this one: without it every COPY waits about 40 ms for a delayed acknowledgement
    usock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for name, value in _KEEPALIVE.items():
        if hasattr(socket, name):
            usock.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)


@contextmanager
def single_statement(pool: Engine) -> Iterator[Connection]:
    """A connection whose statements commit by themselves: for one that reads, two round trips less.

    Raises:
        UnavailableError, MisconfiguredError: see `tidemark.store.errors`.
    """
    with _translated(pool) as connection:
        if connection.info[_UNHEARD]:
            with connection.begin():
                _state(connection)
                yield connection
        else:
            yield connection.execution_options(isolation_level="AUTOCOMMIT")


@contextmanager
def transaction(
    pool: Engine, isolation: str = "READ COMMITTED", *, snapshot: str | None = None
) -> Iterator[Connection]:
    """A transaction that commits at the end, or rolls back and raises a Tidemark error.

    Args:
        pool: For a connection.
        isolation: Its level.
        snapshot: Name of an exported one, which it is to see; then the level is REPEATABLE READ.

    Raises:
        UnavailableError, MisconfiguredError, RefusedError: see `tidemark.store.errors`.
    """
    with _translated(pool) as connection:
        if isolation != "READ COMMITTED":
            connection.execution_options(isolation_level=isolation)
        with connection.begin():
            if snapshot is not None:  # before anything else is asked
                connection.exec_driver_sql(f"SET TRANSACTION SNAPSHOT '{snapshot}'")
            if connection.info[_UNHEARD]:
                _state(connection)
            yield connection


def _state(connection: Connection) -> None:
    connection.exec_driver_sql(*session.statement(connection.info[_UNHEARD]))


@contextmanager
def _translated(pool: Engine) -> Iterator[Connection]:
    try:
        with pool.connect() as connection:
            try:
                yield connection
            except DRIVER_ERRORS as error:
                if not survives(error):
                    connection.invalidate()
                if sqlstate(error) in NO_PRIMARY and pool in _renewals:
                    _renewals[pool].doubt()
                raise
    except DRIVER_ERRORS as error:
        raise translate(error) from error
