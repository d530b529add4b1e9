"""The query service as a process: from the settings to the last answer.

settings ─▶ database ─▶ catalogue, completeness ─▶ service ─▶ http
a signal: not ready ─▶ no new connections ─▶ what is asked is answered ─▶ end
"""

from __future__ import annotations

import asyncio
import gc
import time
from collections.abc import Callable
from email.utils import formatdate
from typing import Final

from prometheus_client import CollectorRegistry

from tidemark.edge.tokens import Tokens
from tidemark.errors import TidemarkError, UsageError
from tidemark.exposition import serve_registry
from tidemark.http.bounds import Bounds, Open
from tidemark.http.connection import Connection
from tidemark.logs import log
from tidemark.net.listen import address_of, allow_files, listen
from tidemark.net.peers import Peers
from tidemark.net.tls import Tls, tls_of
from tidemark.program import LOOPBACK, event
from tidemark.query.buckets import Store
from tidemark.query.catalogue import Catalogue
from tidemark.query.completeness import Completeness
from tidemark.query.counters import Counters, Shown
from tidemark.query.database import Database
from tidemark.query.http import Desk
from tidemark.query.reference import openapi
from tidemark.query.service import Service
from tidemark.query.static import Page
from tidemark.settings import Values
from tidemark.store.location import database_url, renewed_url

SWEEP_S: Final = 1.0
BACKLOG: Final = 2048
DRAIN_LOOK_S: Final = 0.02
GC_OBJECTS: Final = 50_000
READY_LOOK_S: Final = 2.0
ENDED_S: Final = 1.0
"""Who closes a connection cannot be told from who only sends no more; what is asked is answered or given up by then."""


class Serve:
    """One process of it; made and run in an event loop."""

    def __init__(self, values: Values) -> None:
        """Everything that can be refused is refused here; nothing listens yet.

        Raises:
            UsageError, UnavailableError, MisconfiguredError: one sentence why it cannot start.
        """
        if values.tokens is None and values.http_address not in LOOPBACK:
            raise UsageError("--tokens is missing: without them it listens on this machine's own address only.")
        self._values = values
        self.counters = Counters()
        self.tokens = Tokens(values.tokens) if values.tokens else None
        self.tls: Tls | None = tls_of(values)
        self.database = Database(
            database_url(values), values.database_pool_size, values.query_timeout_s, renewed_url(values)
        )
        self.peers = Peers(values.max_connections)
        self._open = Open(self.peers)
        self._bounds = Bounds(values.client_timeout_s, ended_s=ENDED_S)
        store = Store(self.database, values.tiers_s, values.horizon_s)
        self._completeness = Completeness(store)
        self._trouble = ""
        self._draining = False
        self.desk = Desk(
            Service(store, Catalogue(self.database), self._completeness),
            self.tokens,
            self.counters,
            self.unready,
            openapi().encode(),
            Page(values.edge_url),
            self._unread,
            asyncio.Semaphore(values.database_pool_size),
            values.database_pool_size + values.max_waiting,
            values.query_timeout_s,
            values.access_log_share,
            frozenset(origin.encode() for origin in (values.cors_origins or "").split(",") if origin),
        )

    def unready(self) -> str:
        """Why nothing is answered just now; empty: it is."""
        return "This service is about to stop: come again, to another." if self._draining else self._trouble

    def _unread(self, more: bytes) -> int:
        found = (peer.unread for peer in self.peers.all if isinstance(peer, Connection))
        return sum({id(body): len(body) for body in (more, *found) if body is not None}.values())

    async def serve(self, stopped: asyncio.Event) -> None:
        """Listen until `stopped` is set, then drain.

        Args:
            stopped: The wish to stop.

        Raises:
            UsageError: the address cannot be listened at.
        """
        values, loop = self._values, asyncio.get_running_loop()
        allow_files(values.max_connections)
        gc.collect()
        gc.freeze()
        gc.set_threshold(GC_OBJECTS, 20, 20)
        self._metrics()
        await self._look()
        tls = self.tls.context if self.tls else None
        server = await listen(
            lambda: Connection(self.desk, self._bounds, self._open),
            "--http_port",
            values.http_address,
            values.http_port,
            tls,
            self._bounds.slow_s,
            BACKLOG,
        )
        event("ready", url=f"{'https' if tls else 'http'}://{address_of(server)}")
        tasks = [loop.create_task(self._sweep()), loop.create_task(self._keep_looking())]
        wish = loop.create_task(stopped.wait())
        try:
            ended, _ = await asyncio.wait([wish, *tasks], return_when=asyncio.FIRST_COMPLETED)
            await self._drain(server)
            for task in ended:
                task.result()  # what was to go on for ever has failed
        finally:
            for task in (wish, *tasks):
                task.cancel()
            await asyncio.gather(wish, *tasks, return_exceptions=True)
            await self.database.close()
        event("drained", open_connections=len(self.peers.all))

    def reload(self) -> None:
        """Read the certificates again; those that are in use stay where they cannot be."""
        if self.tls is not None:
            self.tls.reload()

    async def _drain(self, server: asyncio.Server) -> None:
        self._draining = True
        server.close()
        for connection in list(self.peers.all):
            connection.shut_down()
        until = time.monotonic() + self._values.drain_s
        while self.peers.at_work() and time.monotonic() < until:  # noqa: ASYNC110  # seldom, and what ends it has many places
            await asyncio.sleep(DRAIN_LOOK_S)
        for connection in list(self.peers.all):
            connection.close()
        await asyncio.sleep(0)

    async def _sweep(self) -> None:
        """Once a second: deadlines, the date of answers, tokens that were changed."""
        loop = asyncio.get_running_loop()
        while True:
            self._open.date = b"date: %b\r\n" % formatdate(time.time(), usegmt=True).encode()
            now = time.monotonic()
            for connection in list(self.peers.all):
                connection.sweep(now)
            for status, number in self._open.by_status.items():
                self.counters.count("requests", number, "protocol", str(status))
            self._open.by_status.clear()
            if self.tokens is not None and self.tokens.due():
                found = await loop.run_in_executor(None, self.tokens.look)
                if found is not None and self.tokens.use(found):
                    log.info("%d tokens are in force.", len(self.tokens))
            await asyncio.sleep(SWEEP_S)

    async def _keep_looking(self) -> None:
        while True:
            await asyncio.sleep(READY_LOOK_S)
            await self._look()

    async def _look(self) -> None:
        """Whether the database answers, and with which settings it is written."""
        try:
            await self._completeness.look()
        except TidemarkError as error:
            log.warning("%s", error)
            self._trouble = str(error)
        else:
            self._trouble = ""

    def _metrics(self) -> None:
        if not self._values.metrics_port:
            return
        registry = CollectorRegistry(auto_describe=False)
        tokens = self.tokens
        gauges: dict[str, Callable[[], float]] = {
            "connections": lambda: len(self.peers.all),
            "running": lambda: len(self.desk.running),
            "tokens": lambda: 0 if tokens is None else len(tokens),
            "tokens_stale": lambda: tokens is not None and tokens.wrong is not None,
            "ready": lambda: not self.unready(),
        }
        registry.register(Shown(self.counters, gauges))
        serve_registry(registry, self._values.metrics_port, self._values.metrics_address)
