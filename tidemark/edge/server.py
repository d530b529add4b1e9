"""The edge as a process: listeners over one intake and one publisher, from the settings to the last answer.

settings ─▶ publisher, spool ─▶ intake ─▶ http, mqtt, tcp, udp
a signal: not ready ─▶ no new connections ─▶ what is in flight is answered ─▶ end
"""

from __future__ import annotations

import asyncio
import contextlib
import gc
import time
from collections.abc import Callable
from email.utils import formatdate
from pathlib import Path
from typing import Final

from prometheus_client import CollectorRegistry

from tidemark.bus.publisher import Publisher, async_channel
from tidemark.edge.budget import Budget
from tidemark.edge.counters import Counters, Shown
from tidemark.edge.devices import Devices
from tidemark.edge.flush import drain
from tidemark.edge.http import Door
from tidemark.edge.intake import Intake
from tidemark.edge.spool import Spool
from tidemark.edge.stream import Desk
from tidemark.edge.tokens import Tokens
from tidemark.errors import UsageError
from tidemark.exposition import serve_registry
from tidemark.http.bounds import Bounds, Open
from tidemark.http.connection import Connection
from tidemark.logs import log
from tidemark.mapping.program import of_settings
from tidemark.net.listen import address_of, allow_files, listen
from tidemark.net.peers import Peers
from tidemark.net.tls import tls_of
from tidemark.program import event
from tidemark.settings import Values
from tidemark.wire.limits import Limits

SWEEP_S: Final = 1.0
BACKLOG: Final = 2048
DRAIN_LOOK_S: Final = 0.02
GC_OBJECTS: Final = 50_000


class Edge:
    """One process of it; made and run in an event loop."""

    def __init__(self, values: Values) -> None:
        """Everything that can be refused is refused here; nothing listens yet.

        Raises:
            UsageError, UnavailableError, MisconfiguredError: one sentence why it cannot start.
        """
        self._values = values
        self.counters = Counters()
        self.tokens = Tokens(values.tokens)
        self.tls = tls_of(values)
        self.spool = _spool(values)
        channel = async_channel()
        self.publisher = Publisher(values.topic, channel, timeout_s=values.publish_timeout_s, count=self.counters.count)
        limits = Limits.of(values)
        self.intake = Intake(
            self.publisher,
            limits,
            values.tiers_s[0],
            values.max_series,
            self.spool,
            of_settings(values),
            lambda number, project: self.counters.count("values_filtered", number, project),
        )
        self.budget = Budget(values.inflight_bytes)
        self._channel = channel
        self._draining = False
        self.peers = Peers(values.max_connections)
        self._open = Open(self.peers)
        self._bounds = Bounds(values.client_timeout_s)
        desk = Desk(
            self.intake,
            self.tokens,
            self.budget,
            self.counters,
            self.peers,
            values.client_timeout_s,
            min(values.max_packet_bytes, limits.max_message_bytes),
            names=values.tls_client_projects,
        )
        self._devices = Devices(values, desk)
        self.door = Door(
            intake=self.intake,
            tokens=self.tokens,
            budget=self.budget,
            counters=self.counters,
            max_body_bytes=limits.max_message_bytes,
            ready=self.unready,
            cors_origins=frozenset(origin.encode() for origin in (values.cors_origins or "").split(",") if origin),
            logged=values.access_log_share,
        )

    def unready(self) -> str:
        """Why no points are taken just now; empty: they are."""
        if self._draining:
            return "This edge is about to stop: come again, to another."
        trouble = self.publisher.trouble if self.spool is None else None
        return "" if trouble is None else str(trouble)

    async def serve(self, stopped: asyncio.Event) -> None:
        """Listen until `stopped` is set, then drain.

        Args:
            stopped: The wish to stop.

        Raises:
            UsageError: the address cannot be listened at.
        """
        loop = asyncio.get_running_loop()
        allow_files(self.peers.most)
        _collect_seldom()
        self._metrics()
        tls = self.tls.context if self.tls else None
        values = self._values
        server = await listen(
            lambda: Connection(self.door, self._bounds, self._open),
            "--http_port",
            values.http_address,
            values.http_port,
            tls,
            self._bounds.slow_s,
            BACKLOG,
        )
        try:
            addresses = await self._devices.listen(tls, BACKLOG)
        except UsageError:
            server.close()
            raise
        scheme = "https" if tls else "http"
        tasks: list[asyncio.Task[None]] = [loop.create_task(self._sweep()), loop.create_task(self._look_for_bus())]
        if self.spool is not None:
            tasks.append(loop.create_task(drain(self.spool, self.publisher)))
        event("ready", url=f"{scheme}://{address_of(server)}", topic=values.topic, **addresses)
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
            await self._channel.close()
            if self.intake.mapper is not None:
                self.intake.mapper.close()
            if self.spool is not None:
                self.spool.close()
            self._devices.close()
        event("drained", open_connections=len(self.peers.all))

    def reload(self) -> None:
        """Read the certificates again; those that are in use stay where they cannot be."""
        if self.tls is not None:
            self.tls.reload()

    async def _drain(self, server: asyncio.Server) -> None:
        self._draining = True
        server.close()
        self._devices.stop_listening()
        for connection in list(self.peers.all):
            connection.shut_down()
        until = time.monotonic() + self._values.drain_s
        while (self.peers.at_work() or self._devices.at_work) and time.monotonic() < until:  # noqa: ASYNC110  # seldom, and what ends it has many places
            await asyncio.sleep(DRAIN_LOOK_S)
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self.intake.drained(), max(0.1, until - time.monotonic()))
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
            self.peers.fit()
            for status, number in self._open.by_status.items():
                self.counters.count("requests", number, "protocol", str(status))
            self._open.by_status.clear()
            self._devices.sweep()
            if self.tokens.due():
                found = await loop.run_in_executor(None, self.tokens.look)
                if found is not None and self.tokens.use(found):
                    log.info("%d tokens are in force.", len(self.tokens))
                    self._devices.look_again()
            await asyncio.sleep(SWEEP_S)

    async def _look_for_bus(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_S)
            if self.publisher.trouble is not None:
                await self.publisher.probe()

    def _metrics(self) -> None:
        if not self._values.metrics_port:
            return
        registry = CollectorRegistry(auto_describe=False)
        spool = self.spool
        gauges: dict[str, Callable[[], float]] = {
            "connections": lambda: len(self.peers.all),
            "inflight_bytes": lambda: self.budget.used,
            "spool_bytes": lambda: 0 if spool is None else spool.size,
            "tokens": lambda: len(self.tokens),
            "tokens_stale": lambda: self.tokens.wrong is not None,
            "ready": lambda: not self.unready(),
        }
        registry.register(Shown(self.counters, gauges))
        serve_registry(registry, self._values.metrics_port, self._values.metrics_address)


def _collect_seldom() -> None:
    """What is there now stays; what comes with requests is mostly freed at once, and looked through far less often.

    A collection after every 700 objects, Python's default, takes a fifth of the time.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(GC_OBJECTS, 20, 20)


def _spool(values: Values) -> Spool | None:
    if values.spool_dir is None:
        return None
    return Spool(Path(values.spool_dir), values.spool_bytes, values.spool_free_bytes)
