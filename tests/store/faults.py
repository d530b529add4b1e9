"""What fault scenarios share: a steady writer that acknowledges only what is stored, and a proxy that misbehaves."""

from __future__ import annotations

import random
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
from sqlalchemy import Engine

from tidemark.retry import until_done
from tidemark.store.connection import transaction
from tidemark.store.ledger import totals
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

START_US = 1_767_225_600_000_000
KEYS = [SeriesKey("faults", f"s{i}", "m") for i in range(10)]
TABLES = "points, rollups, marks, dead_letters, ledger, series"


def writer(pool: Engine) -> Writer:
    return Writer(pool, SeriesCache(pool), Policy(60, 0, 0))


def block(number: int, points: int = 500) -> Block:
    """The `number`-th block: points that no other has, and the last ten of the one before, once more."""
    i = np.arange(number * points - (10 if number else 0), (number + 1) * points)
    made = np.empty(len(i), POINT)
    made["series_id"] = i % len(KEYS)
    made["event_time"] = START_US + i * 1000
    made["publish_time"] = START_US + i
    made["value"] = i
    return Block(KEYS, made)


class Stream(threading.Thread):
    """Writes block after block as the raw stage does; what has returned is acknowledged."""

    def __init__(self, by: Writer, pause_s: float = 0.02, points: int = 500) -> None:
        super().__init__(daemon=True)
        self._writer, self._pause_s, self._points = by, pause_s, points
        self.stopping = threading.Event()
        self.acknowledged = 0
        self.retries: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.wait(self._pause_s):
                some = block(self.acknowledged, self._points)
                until_done(lambda some=some: self._writer.write(some), count=self._count, give_up=self.stopping)  # type: ignore[misc]
                self.acknowledged += 1
        except BaseException as error:  # noqa: BLE001  # the test asks for it
            self.error = error

    def _count(self, name: str) -> None:
        self.retries[name] += 1

    def reaches(self, number: int, within_s: float = 30) -> None:
        """Wait until so many blocks are acknowledged."""
        until = time.monotonic() + within_s
        while self.acknowledged < number:
            assert self.error is None, self.error
            assert time.monotonic() < until, (self.acknowledged, number, self.retries)
            time.sleep(0.01)

    def goes_on(self, blocks: int = 10, within_s: float = 30) -> float:
        """Wait for more acknowledged blocks; returns how long that took."""
        began = time.monotonic()
        self.reaches(self.acknowledged + blocks, within_s)
        return time.monotonic() - began

    def stop(self, pool: Engine) -> None:
        """Stop, and hold the store against what was acknowledged."""
        self.stopping.set()
        self.join(60)
        assert not self.is_alive()
        assert self.error is None, self.error
        everything_is_there(pool, self.acknowledged, self._points)


@contextmanager
def streaming(pool: Engine, pause_s: float = 0.02, points: int = 500) -> Iterator[Stream]:
    """A stream that runs, and whose store is right in the end."""
    stream = Stream(writer(pool), pause_s, points)
    stream.start()
    try:
        stream.reaches(3)
        yield stream
    finally:
        stream.stopping.set()
    stream.stop(pool)


def everything_is_there(pool: Engine, blocks: int, points: int = 500) -> None:
    """Every point of the first `blocks` blocks once, as it was, and the ledger balances."""
    with transaction(pool) as connection:
        stored, distinct, wrong, most = connection.exec_driver_sql(
            """SELECT count(*), count(DISTINCT value),
                      count(*) FILTER (WHERE event_time <> to_timestamp(%s) + value * interval '1 millisecond'), max(value)
               FROM points JOIN series USING (series_id) WHERE source = 's' || (value::bigint %% 10)""",
            (START_US // 1_000_000,),
        ).one()
        everything = connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one()
        ledger = totals(connection)
    assert stored == distinct == everything
    assert not wrong
    assert stored >= blocks * points, "what was acknowledged is stored"
    assert stored <= (blocks + 1) * points, "and nothing but that, and the block that was under way"
    assert most is None or stored == most + 1
    assert ledger.unbalanced == 0
    assert ledger.inserted - ledger.removed == everything


class Proxy:
    """Passes TCP through to a port, until told not to."""

    def __init__(self, port: int) -> None:
        self._to = port
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.swallowing = threading.Event()
        self.watch: Callable[[bytes], bool] | None = None
        """Given what the client sends, after it was passed on; True: cut the connection before anything comes back."""
        self.rewrite: Callable[[bytes], bytes] | None = None
        """Given what the client sends; what is passed on instead."""
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def url(self, url: str) -> str:
        return url.replace(f":{self._to}/", f":{self.port}/")

    def cut(self) -> None:
        for one in self._open:
            try:
                one.shutdown(socket.SHUT_RDWR)
            except OSError:
                continue
            one.close()
        self._open.clear()

    def close(self) -> None:
        self._listener.close()
        self.cut()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                server = socket.create_connection(("127.0.0.1", self._to))
            except OSError:  # the server is away
                client.close()
                continue
            for one in (client, server):  # as the driver has it: else small packets wait for 40 ms
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._open += [client, server]
            threading.Thread(target=self._pump, args=(client, server, True), daemon=True).start()
            threading.Thread(target=self._pump, args=(server, client, False), daemon=True).start()

    def _pump(self, source: socket.socket, target: socket.socket, from_client: bool) -> None:
        try:
            while data := source.recv(1 << 16):
                if self.swallowing.is_set():
                    continue
                if from_client and self.rewrite is not None:
                    data = self.rewrite(data)
                if from_client and self.watch is not None and self.watch(data):
                    self.watch = None
                    source.shutdown(socket.SHUT_RDWR)  # the client hears nothing of what the server answers
                    target.sendall(data)
                    time.sleep(0.3)
                    target.close()
                    return
                target.sendall(data)
        except OSError:
            pass
        ended(source, target)


def ended(*ends: socket.socket) -> None:
    """Close them, also for a thread that waits for one of them."""
    for one in ends:
        with suppress(OSError):
            one.shutdown(socket.SHUT_RDWR)
        one.close()


def shuffled(rng: random.Random, number: int) -> np.ndarray:
    order = list(range(number))
    rng.shuffle(order)
    return np.array(order)
