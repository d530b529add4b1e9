"""The store, asked from an event loop: a pool of read-only connections, each statement prepared once.

Nothing that a request waits for waits for the network without an end: what becomes of a connection after a failure, or after
nobody waits for its answer any more, is found out beside it. Meanwhile it counts as one of the pool.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Final

import asyncpg

from tidemark.errors import TidemarkError, UnavailableError
from tidemark.query.connections import FAILURES, SAYS_UNKNOWN, Connection, Connections
from tidemark.store.errors import translated

_GRACE_S: Final = 2.0
_IDLE_S: Final = 240.0
"""What was idle for longer may have been cut off on its way by now, as balancers of clouds do after 350 s."""
_SNAPSHOT: Final = "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY"


class Database:
    """A pool; one for a process, in its event loop.

    Attributes:
        connections: Makes them, and knows which server answers.
    """

    def __init__(
        self, database_url: str, size: int, statement_timeout_s: float, renewed_url: Callable[[], str] | None = None
    ) -> None:
        """Nothing is connected before it is asked.

        Args:
            database_url: As `tidemark.store.url` reads it.
            size: Most connections.
            statement_timeout_s: Bounds each statement on the server.
            renewed_url: Asked when no connection can be made: a URL that has changed since is used from then on.

        Raises:
            UsageError: the URL cannot be read.
        """
        self.connections = Connections(database_url, statement_timeout_s, renewed_url)
        self._timeout_s = statement_timeout_s
        self._places = asyncio.Semaphore(size)
        self._idle: list[tuple[float, Connection]] = []
        """And since when."""
        self._ending: set[asyncio.Task[None]] = set()

    async def close(self) -> None:
        """Close what is idle; what runs is broken off after a moment."""
        if self._ending:
            await asyncio.wait(self._ending)
        idle, self._idle = self._idle, []
        await asyncio.gather(*(connection.close(timeout=_GRACE_S) for _, connection in idle), return_exceptions=True)

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
            found: Sequence[asyncpg.Record] = await connection.fetch(statement, *arguments)
            return found

    async def rows_together(self, *asked: tuple[str, tuple[Any, ...]]) -> list[asyncpg.Record]:
        """The one row of each of several statements, all of which see one snapshot.

        Args:
            asked: Statements and their arguments.

        Raises:
            UnavailableError, MisconfiguredError: see `tidemark.store.errors`.
        """
        async with self._connection(together=True) as connection:
            return [await connection.fetchrow(statement, *arguments) for statement, arguments in asked]

    @asynccontextmanager
    async def _connection(self, *, together: bool = False) -> AsyncIterator[Connection]:
        """A connection, for one statement or in a transaction for some; nobody ends that where it fails but `_ended`."""
        connection, held, well = None, False, False
        try:
            async with asyncio.timeout(self._timeout_s + _GRACE_S):
                held = await self._places.acquire()
                connection = self._taken() or await self.connections.made()
                begins = together or bool(connection.unheard)
                if begins:
                    await connection.execute(_SNAPSHOT)
                if connection.unheard:
                    pairs = [text for pair in connection.unheard.items() for text in pair]
                    calls = (f"set_config(${n}, ${n + 1}, true)" for n in range(1, len(pairs), 2))
                    await connection.fetch(f"SELECT {', '.join(calls)}", *pairs)
                yield connection
                if begins:
                    await connection.execute("COMMIT")
            well = True
        except FAILURES as error:
            if getattr(error, "sqlstate", None) in SAYS_UNKNOWN:
                self.connections.prepares = False
            raise _told(error) from error
        finally:
            if held:
                self._let_go(connection, well=well)

    def _let_go(self, connection: Connection | None, *, well: bool) -> None:
        if well or connection is None or connection.is_closed():
            self._given_back(connection)
        else:
            task = asyncio.get_running_loop().create_task(self._ended(connection))
            self._ending.add(task)
            task.add_done_callback(self._ending.discard)

    def _taken(self) -> Connection | None:
        """The one that was used last, where that was not long ago; None: another has to be made."""
        while self._idle:
            since, connection = self._idle.pop()
            fresh = time.monotonic() - since < _IDLE_S and connection.way == self.connections.way
            if fresh and not connection.is_closed():
                return connection
            connection.terminate()
        return None

    def _given_back(self, connection: Connection | None) -> None:
        if connection is not None and not connection.is_closed():
            self._idle.append((time.monotonic(), connection))
        self._places.release()

    async def _ended(self, connection: Connection) -> None:
        """Wait until what it was at is over, or cancelled, and keep it where it answers."""
        try:
            await connection.execute("ROLLBACK" if connection.is_in_transaction() else "SELECT", timeout=_GRACE_S)
        except FAILURES:
            connection.terminate()
            while self._idle:  # they lead to the same server
                self._idle.pop()[1].terminate()
        finally:
            self._given_back(connection)


def _told(error: BaseException) -> TidemarkError:
    if isinstance(error, asyncpg.PostgresError) and error.sqlstate:
        return translated(error.sqlstate, (error.message or str(error)).rstrip("."))
    said = str(error).rstrip(".") or "it took too long"
    return UnavailableError(f"The database does not answer: {said}.")
