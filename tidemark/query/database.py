"""The store, asked from an event loop: a pool of read-only connections, each statement prepared once.

The URL, its TLS, what a connection states and what an error means are those of `tidemark.store`; only the driver is another.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tidemark.errors import TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.store import session
from tidemark.store.connection import CONNECT_TIMEOUT_S, NOT_STATED_SO, PORT, RENEW_S
from tidemark.store.errors import translated
from tidemark.store.url import Address, read_url

_STATED: Final = {"default_transaction_read_only": "on", "plan_cache_mode": "force_generic_plan"}
"""To plan the statement of a query takes as long as to execute it."""
_GRACE_S: Final = 2.0
_STATEMENTS: Final = 200
_IDLE_S: Final = 240.0
"""What was idle for longer may have been cut off on its way by now, as balancers of clouds do after 350 s."""
_SAYS_UNKNOWN: Final = ("26000", "42P05")
"""A pooler gave this statement to another connection than the one that has prepared it."""
_FAILURES: Final = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)


class _Connection(asyncpg.Connection):
    """One of them; what was stated and not heard, as of a pooler, each transaction states."""

    __slots__ = ("unheard",)
    unheard: dict[str, str]


class Database:
    """A pool; one for a process, in its event loop."""

    def __init__(
        self, database_url: str, size: int, statement_timeout_s: float, renewed_url: Callable[[], str] | None = None
    ) -> None:
        """Nothing is connected before `open`.

        Args:
            database_url: As `tidemark.store.url` reads it.
            size: Most connections.
            statement_timeout_s: Bounds each statement on the server.
            renewed_url: Asked when no connection can be made: a URL that has changed since is used from then on.

        Raises:
            UsageError: the URL cannot be read.
        """
        self._url, self._renewed_url = database_url, renewed_url
        self._address = read_url(database_url)
        self._size, self._timeout_s = size, statement_timeout_s
        self._stated = {**session.startup(statement_timeout_s), **_STATED}
        self._looked = -RENEW_S
        self._pool: asyncpg.Pool | None = None
        self._idle: list[tuple[float, _Connection]] = []
        """Taken from the pool and not given back, since that takes longer than a short statement; and since when."""
        self._waiting = 0
        self._prepares = True

    async def open(self) -> None:
        """Make the pool; connections are made as they are needed."""
        self._pool = await asyncpg.create_pool(
            min_size=0,
            max_size=self._size,
            connect=self._connect,
            reset=_nothing,
        )

    async def close(self) -> None:
        """Close all connections; what runs is broken off after a moment."""
        if self._pool is not None:
            while self._idle:
                await self._pool.release(self._idle.pop()[1])
            try:
                await asyncio.wait_for(self._pool.close(), _GRACE_S)
            except TimeoutError:
                self._pool.terminate()

    async def row(self, statement: str, *arguments: Any) -> asyncpg.Record:
        """The one row of a statement.

        Raises:
            UnavailableError, MisconfiguredError: see `tidemark.store.errors`.
        """
        found = await self.rows(statement, *arguments)
        return found[0]

    async def rows(self, statement: str, *arguments: Any) -> Sequence[asyncpg.Record]:
        """All rows of a statement, which sees one snapshot.

        Raises:
            UnavailableError, MisconfiguredError: see `tidemark.store.errors`.
        """
        async with self._connection() as connection:
            return list(await connection.fetch(statement, *arguments, timeout=self._timeout_s + _GRACE_S))

    async def rows_together(self, *asked: tuple[str, tuple[Any, ...]]) -> list[asyncpg.Record]:
        """The one row of each of several statements, all of which see one snapshot.

        Args:
            asked: Statements and their arguments.

        Raises:
            UnavailableError, MisconfiguredError: see `tidemark.store.errors`.
        """
        async with self._connection() as connection, connection.transaction(isolation="repeatable_read", readonly=True):
            timeout_s = self._timeout_s + _GRACE_S
            return [
                await connection.fetchrow(statement, *arguments, timeout=timeout_s) for statement, arguments in asked
            ]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[_Connection]:
        try:
            connection = await self._taken()
            try:
                if connection.unheard:
                    async with connection.transaction(readonly=True):
                        pairs = [text for pair in connection.unheard.items() for text in pair]
                        calls = (f"set_config(${n}, ${n + 1}, true)" for n in range(1, len(pairs), 2))
                        await connection.fetch(f"SELECT {', '.join(calls)}", *pairs)
                        yield connection
                else:
                    yield connection
            except BaseException:
                await self._given_back(connection)
                raise
            if self._waiting:
                await self._given_back(connection)
            else:
                self._idle.append((time.monotonic(), connection))
        except _FAILURES as error:
            if getattr(error, "sqlstate", None) in _SAYS_UNKNOWN:
                self._prepares = False
            raise _told(error) from error

    async def _taken(self) -> _Connection:
        """One that was used not long ago, or one of the pool."""
        assert self._pool is not None
        while self._idle:
            since, connection = self._idle.pop()
            if not connection.is_closed() and time.monotonic() - since < _IDLE_S:
                return connection
            connection.terminate()
            await self._pool.release(connection)
        self._waiting += 1
        try:
            made: _Connection = await self._pool.acquire()
            return made
        finally:
            self._waiting -= 1

    async def _given_back(self, connection: _Connection) -> None:
        assert self._pool is not None
        await self._pool.release(connection)

    async def _connect(self, *_: Any, **__: Any) -> asyncpg.Connection:
        """A connection; with a URL that has changed where the one before leads nowhere."""
        try:
            return await self._made(self._address)
        except _FAILURES:
            address = await self._renewed()
            if address is None:
                raise
        made = await self._made(address)
        self._address = address
        return made

    async def _renewed(self) -> Address | None:
        """Another URL than before; None: it is the same, or was looked at just now."""
        if self._renewed_url is None or time.monotonic() < self._looked + RENEW_S:
            return None
        self._looked = time.monotonic()
        try:
            text = await asyncio.get_running_loop().run_in_executor(None, self._renewed_url)
            if text == self._url:
                return None
            self._url = text
            return read_url(text)
        except TidemarkError as error:
            log.warning("%s The database URL that was read before is used.", error)
            return None

    async def _made(self, address: Address) -> asyncpg.Connection:
        try:
            return await self._stating(address, {**address.settings, **self._stated})
        except asyncpg.PostgresError as error:
            if error.sqlstate not in NOT_STATED_SO:
                raise
        return await self._stating(address, {})

    async def _stating(self, address: Address, stated: dict[str, str]) -> _Connection:
        arguments, url = address.arguments, address.url
        directory, _, _ = arguments.get("unix_sock", "").rpartition("/")
        tls = arguments["ssl_context"]
        made: _Connection = await asyncpg.connect(
            host=directory or url.host,
            port=url.port or PORT,
            user=url.username,
            password=url.password or "",
            database=url.database,
            ssl="prefer" if tls is None else tls,
            timeout=arguments.get("timeout", CONNECT_TIMEOUT_S),
            statement_cache_size=_STATEMENTS if self._prepares else 0,
            connection_class=_Connection,
            server_settings={"application_name": arguments.get("application_name", "tidemark-query"), **stated},
        )
        try:
            wanted = {name.lower(): value for name, value in {**self._stated, **session.LATER}.items()}
            differing = await made.fetch(session.DIFFERING.replace("%s", "$1"), json.dumps(wanted))
            made.unheard = {name: wanted[name.lower()] for (name,) in differing}
        except BaseException:
            made.terminate()
            raise
        return made


async def _nothing(_connection: asyncpg.Connection) -> None:
    """No statement changes what a connection is, and so there is nothing to reset."""


def _told(error: BaseException) -> TidemarkError:
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return translated(error.sqlstate, (error.message or str(error)).rstrip("."))
    said = str(error).rstrip(".") or "it took too long"
    return UnavailableError(f"The database does not answer: {said}.")
