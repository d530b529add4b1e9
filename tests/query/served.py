"""`tidemark serve` as a process, over a store of two projects that has something of everything, and what comes back."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import signal
import socket
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode

import numpy as np
from prometheus_client.parser import text_string_to_metric_families

from tests.edge.house import exchange
from tests.waiting import eventually
from tidemark.local.processes import free_port
from tidemark.query.paths import HEALTH
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import beat
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.sources import SourceBook
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
SOURCES = ("gw-0", "gw-1", "gw-2")
METRICS = ("fps", 'fps{lens="wide"}', "load", "rising")
MINE, OTHERS = "cams", "bank"
THEIR_OWN = "vault-of-bank"
"""A source and a metric that only the other project has."""
THEIRS = 1e12 + 0.5
"""Added to all values of the other project, so that they can be told from ours."""
START_S = int(time.time()) // 86_400 * 86_400 - 2 * 86_400
POINTS = 400
LATEST = f"/v1/latest?project={MINE}&metric=fps&source=gw-0"
HELD_S = 0.3
"""Longest that a request may wait for what others ask."""


def keys(project: str) -> list[SeriesKey]:
    """The series of a project; both have the same, and the other one more."""
    found = [SeriesKey(project, source, metric) for source in SOURCES for metric in METRICS]
    return [*found, SeriesKey(project, THEIR_OWN, THEIR_OWN)] if project == OTHERS else found


def block(project: str, late_s: int = 0, spare: int = 1) -> Block:
    """Points of all series of a project over a day and a half, some of them with attributes."""
    names = keys(project)
    at = np.arange(0, POINTS, spare)
    made = np.empty(len(at) * len(names), POINT)
    made["series_id"] = np.repeat(np.arange(len(names)), len(at))
    made["event_time"] = np.tile(START_S * 1_000_000 + at * 324_000_000, len(names))
    made["publish_time"] = made["event_time"] + (1 + late_s) * 1_000_000
    made["value"] = np.tile(at % 50, len(names)) + late_s + (THEIRS if project == OTHERS else 0.5)
    attributes: list[bytes | None] = [
        b'{"camera":"%b"}' % project.encode() if n % 3 == 0 else None for n in range(len(made))
    ]
    return Block(names, made, attributes)


def fill(url: str) -> None:
    """Points of both projects, settled; late ones, of which some corrected what was settled; what is known of sources."""
    pool = make_engine(url, 2, 60)
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, ledger, series, settings, sources, corrections")
        connection.exec_driver_sql(
            "INSERT INTO settings (tiers_s, horizon_s, debounce_s, quantiles) VALUES (CAST(%s AS integer[]), 0, 0, false)",
            (list(TIERS_S),),
        )
    writer, book = Writer(pool, SeriesCache(pool), Policy(TIERS_S[0], 0, 0)), SourceBook(pool, TIERS_S[0], 0)
    for late_s, spare, settled in ((0, 1, True), (7200, 10, True), (9000, 30, False)):
        for project in (MINE, OTHERS):
            made = block(project, late_s, spare)
            writer.write(made)
            book.observe(made)
        settler = Settler(pool, TIERS_S, 0)
        while settled and (found := list(settler.due(everything=True))):
            for one in found:
                settler.forget(one.mark_ids)
    book.write()
    beat(pool, "job", (START_S + 3600) * 1_000_000, START_S * 1_000_000, idle=False)
    pool.dispose()


class Answer(NamedTuple):
    """What came back; header names in small letters."""

    status: int
    headers: dict[str, str]
    body: bytes

    def told(self) -> Any:
        return json.loads(self.body)


class Serving:
    """The process."""

    def __init__(self, database: str, *flags: str, token: str = "") -> None:
        """Start it.

        Args:
            database: An option that says where the database is.
            flags: More of them.
            token: Sent with each request.
        """
        self.token, self.metrics_port = token, free_port()
        command = [sys.executable, "-m", "tidemark", "serve", database, "--http_port=0"]
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TIDEMARK_")}
        self.process = subprocess.Popen(
            [*command, f"--metrics_port={self.metrics_port}", *flags],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.process.communicate()[1]
        self.url: str = json.loads(line)["url"]
        self.port = int(self.url.rpartition(":")[2])

    def ask(
        self, path: str, /, *pairs: tuple[str, str], headers: dict[str, str] | None = None, **fields: Any
    ) -> Answer:
        """The answer; `_` in the name of a field stands for `-`, and one behind it for nothing."""
        given = [(name.rstrip("_").replace("_", "-"), value) for name, value in fields.items()]
        return self.get(f"{path}?{urlencode([*given, *pairs], doseq=True)}", headers)

    def get(self, target: str, headers: dict[str, str] | None = None, method: str = "GET") -> Answer:
        """The answer at a request's target as it is."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        with contextlib.closing(connection):
            known = {"Authorization": f"Bearer {self.token}"} if self.token else {}
            connection.request(method, target, headers={**known, **(headers or {})})
            answer = connection.getresponse()
            return Answer(answer.status, {name.lower(): value for name, value in answer.getheaders()}, answer.read())

    def head(self, target: str, *lines: str, method: str = "GET") -> bytes:
        """A request's head, with the token and these lines."""
        token = [f"Authorization: Bearer {self.token}"] if self.token else []
        return "\r\n".join([f"{method} {target} HTTP/1.1", "Host: x", *token, *lines, "", ""]).encode("latin-1")

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.port), timeout=20)

    def exchange(self, *parts: bytes, half_close: bool = False) -> bytes:
        """All that is answered until the connection ends."""
        return exchange(self.connect(), *parts, half_close=half_close)

    def metric(self, name: str) -> float:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.metrics_port}/metrics", timeout=10) as answer:
            families = text_string_to_metric_families(answer.read().decode())
            return sum(s.value for family in families for s in family.samples if s.name == f"tidemark_query_{name}")

    def rss_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024

    def stop(self) -> str:
        """Stop it in order; all that it has logged."""
        self.process.send_signal(signal.SIGTERM)
        _, err = self.process.communicate(timeout=60)
        assert self.process.returncode == 0, err
        return err


@contextlib.contextmanager
def serving(database: str, *flags: str, token: str = "") -> Iterator[Serving]:
    """One that is stopped in order at the end, and has said nothing of errors of its own."""
    made = Serving(database, *flags, token=token)
    try:
        yield made
        if made.process.returncode is None:
            assert "Traceback" not in (err := made.stop()), err
    finally:
        if made.process.returncode is None:
            made.process.kill()
            made.process.communicate()


class Others(threading.Thread):
    """Somebody who asks for little, all the time.

    Attributes:
        held: For how long each of its requests of the event loop waited for others, less what it waited for this machine.
        took: How long each answer took that needs the database.
    """

    def __init__(self, served: Serving) -> None:
        super().__init__(daemon=True)
        self._served, self._wish = served, threading.Event()
        self.held: list[float] = []
        self.took: list[float] = []

    def run(self) -> None:
        with self._served.connect() as connection:
            while not self._wish.is_set():
                for target, times in ((HEALTH, self.held), (LATEST, self.took)):
                    waited, began = self._waited_s(), time.monotonic()
                    connection.sendall(self._served.head(target))
                    assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
                    times.append(time.monotonic() - began - (self._waited_s() - waited))

    def _waited_s(self) -> float:
        """For a CPU, by this thread and by the service's event loop."""
        pid = self._served.process.pid
        tasks = (f"/proc/{pid}/task/{pid}/schedstat", f"/proc/self/task/{threading.get_native_id()}/schedstat")
        return sum(int(Path(task).read_text().split()[1]) for task in tasks) / 1e9

    def not_held(self) -> None:
        """Neither the event loop nor those who need the database."""
        assert max(self.held) < HELD_S
        assert max(self.took) < 5 * HELD_S

    def __enter__(self) -> Self:
        self.start()
        eventually(lambda: bool(self.took))
        return self

    def __exit__(self, *_: object) -> None:
        self._wish.set()
        self.join()
