"""Connections for those who read: what they state, which URL they are made with, and which server answers.

The URL, its TLS and what a connection states are those of `tidemark.store`; only the driver is another.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable
from datetime import datetime
from typing import Final

import asyncpg

from tidemark.errors import TidemarkError
from tidemark.logs import log
from tidemark.store import session
from tidemark.store.connection import CONNECT_TIMEOUT_S, NOT_STATED_SO, PORT, RENEW_S
from tidemark.store.url import Address, read_url

FAILURES: Final = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,  # a server that ends in the middle of something
    OSError,
    TimeoutError,
)
SAYS_UNKNOWN: Final = ("26000", "42P05")
"""A pooler gave this statement to another connection than the one that has prepared it."""
_STATED: Final = {"default_transaction_read_only": "on", "plan_cache_mode": "force_generic_plan"}
"""To plan the statement of a query takes as long as to execute it."""
_STATEMENTS: Final = 200
STARTED: Final = "pg_catalog.pg_postmaster_start_time()"
"""The SQL of what tells servers apart: none has started in the same microsecond as another, or as itself before."""
_FIRST: Final = f"SELECT ARRAY({session.DIFFERING.replace('%s', '$1')}), {STARTED}"


class Connection(asyncpg.Connection):
    """One of them.

    Attributes:
        unheard: What was stated and not heard, as of a pooler: each transaction states it.
        way: By the how many-th URL it was made.
    """

    __slots__ = ("unheard", "way")
    unheard: dict[str, str]
    way: int


class Connections:
    """Makes them.

    Attributes:
        way: How often the URL has changed; what was made before the last time is not to be used any more.
        server: How often another server has answered than before.
        prepares: Statements are prepared once a connection.
    """

    def __init__(
        self, database_url: str, statement_timeout_s: float, renewed_url: Callable[[], str] | None = None
    ) -> None:
        """Nothing is connected yet; see `tidemark.query.database.Database`."""
        self._url, self._renewed_url = database_url, renewed_url
        self._address = read_url(database_url)
        self._stated = {**session.startup(statement_timeout_s), **_STATED}
        self._looked = -RENEW_S
        self._started: datetime | None = None
        self.way = self.server = 0
        self.prepares = True

    async def made(self) -> Connection:
        """A connection; with a URL that has changed where the one before leads nowhere."""
        try:
            return await self._made(self._address)
        except FAILURES:
            address = await self._renewed()
            if address is None:
                raise
        made = await self._made(address)
        self._address = address
        self.way += 1
        made.way = self.way
        return made

    def answered_by(self, started: datetime) -> None:
        """Note which server answers.

        Args:
            started: What `STARTED` gives.
        """
        if started != self._started:
            self._started = started
            self.server += 1

    async def _renewed(self) -> Address | None:
        """Another URL than before; None: it is the same, or was looked at just now."""
        if self._renewed_url is None or time.monotonic() < self._looked + RENEW_S:
            return None
        self._looked = time.monotonic()
        try:
            text = await asyncio.get_running_loop().run_in_executor(None, self._renewed_url)
            if text == self._url:
                return None
            address = read_url(text)
        except TidemarkError as error:
            log.warning("%s The database URL that was read before is used.", error)
            return None
        self._url = text
        return address

    async def _made(self, address: Address) -> Connection:
        try:
            return await self._stating(address, {**address.settings, **self._stated})
        except asyncpg.PostgresError as error:
            if error.sqlstate not in NOT_STATED_SO:
                raise
        return await self._stating(address, {})

    async def _stating(self, address: Address, stated: dict[str, str]) -> Connection:
        arguments, url = address.arguments, address.url
        directory, _, _ = arguments.get("unix_sock", "").rpartition("/")
        tls = arguments["ssl_context"]
        made: Connection = await asyncpg.connect(
            host=directory or url.host,
            port=url.port or PORT,
            user=url.username,
            password=url.password or "",
            database=url.database,
            ssl="prefer" if tls is None else tls,
            timeout=arguments.get("timeout", CONNECT_TIMEOUT_S),
            statement_cache_size=_STATEMENTS if self.prepares else 0,
            connection_class=Connection,
            server_settings={"application_name": arguments.get("application_name", "tidemark-query"), **stated},
        )
        try:
            wanted = {name.lower(): value for name, value in {**self._stated, **session.LATER}.items()}
            differing, started = await made.fetchrow(_FIRST, json.dumps(wanted), timeout=CONNECT_TIMEOUT_S)
            made.unheard, made.way = {name: wanted[name.lower()] for name in differing}, self.way
            self.answered_by(started)
        except BaseException:
            made.terminate()
            raise
        return made
