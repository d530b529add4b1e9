"""Requests as bytes, and what comes back."""

from __future__ import annotations

import contextlib
import json
import signal
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.edge.conftest import Bus, Running, point
from tests.waiting import eventually
from tidemark.edge.tokens import line_of, new_token
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import delivered

MB = 1 << 20


@dataclass
class House:
    """An edge before its bus, for many tests."""

    bus: Bus
    running: Running
    token: str
    tokens: Path

    def head(self, *lines: str, method: str = "POST", path: str = "/v1/points") -> bytes:
        """A head with the token, and these lines."""
        first = f"{method} {path} HTTP/1.1"
        return "\r\n".join([first, "Host: x", f"Authorization: Bearer {self.token}", *lines, "", ""]).encode()

    def request(self, body: bytes | None = None, *lines: str) -> bytes:
        """A request for points."""
        text = json.dumps(point()).encode() if body is None else body
        return self.head(f"Content-Length: {len(text)}", *lines) + text

    def connect(self) -> socket.socket:
        return socket.create_connection(("127.0.0.1", self.running.port), timeout=20)

    def exchange(self, *parts: bytes, half_close: bool = False) -> bytes:
        """All that is answered until the connection ends; what cannot be sent any more is not."""
        return exchange(self.connect(), *parts, half_close=half_close)

    def good(self) -> float:
        """A good request is answered as one; how long it took."""
        began = time.monotonic()
        assert statuses(self.exchange(self.request(None, "Connection: close"))) == [200]
        return time.monotonic() - began

    def publishes_again(self) -> None:
        """Wait until the bus is there once more."""
        eventually(lambda: statuses(self.exchange(self.request(None, "Connection: close"))) == [200])

    def rss_mb(self) -> float:
        for line in Path(f"/proc/{self.running.process.pid}/status").read_text().splitlines():
            if line.startswith("VmRSS:"):
                return int(line.split()[1]) / 1024
        raise AssertionError

    def grant(self, *lines: str) -> None:
        """Put tokens in force, beside the two that there always are."""
        always, mark = self.tokens.read_text().splitlines()[:2], new_token()
        self.tokens.write_text("\n".join([*always, *lines, line_of(mark, "cams", ["read"]), ""]))
        asked = self.request(None, "Connection: close").replace(self.token.encode(), mark.encode())
        eventually(lambda: statuses(self.exchange(asked)) == [403])

    def columns(self) -> Columns:
        """All points in the bus that were not looked at before, in their order."""
        columns, now_us = Columns(), time.time_ns() // 1000
        for one in self.bus.pulled():
            Decoder().decode(delivered(one.data, dict(one.attributes), now_us, one.message_id), columns, now_us)
        assert not columns.dead_letters
        return columns

    def kept(self) -> list[tuple[str, float]]:
        """Their metrics and values."""
        columns = self.columns()
        return [
            (columns.keys[series].metric, value) for series, value in zip(columns.series, columns.value, strict=True)
        ]

    def stopped(self) -> str:
        """Stop it in order; all that it has logged."""
        status, err = self.running.stop()
        assert status == 0, err
        return err

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """It stands still meanwhile."""
        self.running.process.send_signal(signal.SIGSTOP)
        try:
            yield
        finally:
            self.running.process.send_signal(signal.SIGCONT)

    def unharmed(self) -> None:
        """It lives, holds nothing of anybody, and works."""
        assert self.running.process.poll() is None
        eventually(lambda: self.running.metric("inflight_bytes") == 0)
        assert self.good() < 2


@contextlib.contextmanager
def housed(directory: Path, **flags: str) -> Iterator[House]:
    """One for many tests; at its end it stops in order, and has said nothing of errors of its own."""
    token = new_token()
    tokens = directory / "tokens"
    tokens.write_text(
        line_of(token, "cams", ["write"]) + "\n" + line_of("tm_another", "other", ["write"], source="gateway-9") + "\n"
    )
    with contextlib.ExitStack() as ends:
        bus = Bus(directory / "pubsub")
        ends.callback(bus.server.stop)
        running = Running(bus.address, tokens, *(f"--{name}={value}" for name, value in flags.items()))
        ends.callback(running.process.communicate)
        ends.callback(running.process.kill)
        made = House(bus, running, token, tokens)
        yield made
        if running.process.returncode is None:
            if running.url.startswith("http:"):
                made.unharmed()
            err = made.stopped()
            assert "Traceback" not in err, err


def rest(connection: socket.socket) -> bytes:
    """All that comes until the end, however it ends."""
    found = b""
    with contextlib.suppress(ConnectionError):
        while part := connection.recv(65536):
            found += part
    return found


def exchange(connection: socket.socket, *parts: bytes, half_close: bool = False) -> bytes:
    """Send, and all that is answered until the connection ends; what cannot be sent any more is not."""
    with connection:
        with contextlib.suppress(ConnectionError):
            for part in parts:
                connection.sendall(part)
            if half_close:
                connection.shutdown(socket.SHUT_WR)
        return rest(connection)


def reset(connection: socket.socket) -> None:
    """Close it as one that crashes does."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def statuses(data: bytes) -> list[int]:
    """Of the answers in a row; nothing may be left over."""
    found = []
    while data:
        head, end, data = data.partition(b"\r\n\r\n")
        assert end, (found, head)
        status = head.split(b" ", 2)[1]
        assert head.startswith(b"HTTP/1.1 "), head
        found.append(int(status))
        for line in head.split(b"\r\n"):
            name, _, value = line.partition(b":")
            if name.lower() == b"content-length":
                assert len(data) >= int(value)
                data = data[int(value) :]
    return found
