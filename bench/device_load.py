"""Load on the listeners for devices: MQTT with many messages in flight, lines over TCP, datagrams as fast as they can be sent."""

from __future__ import annotations

import asyncio
import json
import socket
import statistics
import time
from collections.abc import Callable, Iterator

import uvloop

Body = Callable[[int], bytes]


def one_point(number: int) -> bytes:
    """Another point each."""
    return b'{"source":"gateway-%d","metric":"fps","event_time":%d,"value":24.5}' % (
        number % 1000,
        _first_ms + 4 * number,
    )


_first_ms = time.time_ns() // 1_000_000 - 10**9


def _field(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _packet(first: int, body: bytes) -> bytes:
    length, number = bytearray(), len(body)
    while number > 127:
        length.append(number & 127 | 128)
        number >>= 7
    length.append(number)
    return bytes((first,)) + length + body


def connect(version: int, client_id: str, token: str, keep_alive_s: int = 60) -> bytes:
    """CONNECT."""
    body = b"\0\4MQTT" + bytes((version, 0xC2)) + keep_alive_s.to_bytes(2, "big") + (b"\0" if version == 5 else b"")
    return _packet(0x10, body + _field(client_id.encode()) + _field(b"bench") + _field(token.encode()))


class _Client(asyncio.Protocol):
    """Keeps so many messages of QoS 1 in flight until as many as it has are acknowledged."""

    def __init__(
        self, version: int, messages: Iterator[bytes], token: str, inflight: int, done: asyncio.Future[None]
    ) -> None:
        self._version, self._messages, self._inflight, self._done = version, messages, inflight, done
        self._token = token
        self._sent: dict[int, float] = {}
        self._number = 0
        self._buffer = b""
        self.delays: list[float] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport: asyncio.Transport = transport  # type: ignore[assignment]
        self._transport.write(connect(self._version, f"bench-{id(self)}", self._token))

    def connection_lost(self, error: Exception | None) -> None:
        if not self._done.done():
            self._done.set_exception(error or ConnectionError("closed"))

    def data_received(self, data: bytes) -> None:
        data = self._buffer + data
        at, now, acknowledged = 0, time.perf_counter(), 0
        while len(data) - at >= 2 and len(data) - at >= 2 + data[at + 1]:
            if data[at] == 0x20:
                assert data[at + 3] == 0, data
                self._send(self._inflight)
            else:
                assert data[at : at + 2] == b"\x40\x02", data[at:]
                self.delays.append(now - self._sent.pop(data[at + 2] << 8 | data[at + 3]))
                acknowledged += 1
            at += 2 + data[at + 1]
        self._buffer = data[at:]
        if acknowledged:
            self._send(acknowledged)
            if not self._sent and not self._done.done():
                self._done.set_result(None)

    def _send(self, number: int) -> None:
        now, parts = time.perf_counter(), []
        for _ in range(number):
            payload = next(self._messages, None)
            if payload is None:
                break
            self._number = self._number % 60_000 + 1
            self._sent[self._number] = now
            head = _field(b"tidemark/bench") + self._number.to_bytes(2, "big") + (b"\0" if self._version == 5 else b"")
            parts.append(_packet(0x32, head + payload))
        if parts:
            self._transport.write(b"".join(parts))


def mqtt(port: int, token: str, *, version: int, connections: int, inflight: int, messages: int) -> dict[str, float]:
    """So many messages over all connections; how many a second were acknowledged, and the delays of that."""

    async def run() -> dict[str, float]:
        loop = asyncio.get_running_loop()
        each = messages // connections
        clients, futures = [], []
        began = time.perf_counter()
        for connection in range(connections):
            done: asyncio.Future[None] = loop.create_future()
            made = (one_point(connection * each + n) for n in range(each))
            _, client = await loop.create_connection(
                lambda made=made, done=done: _Client(version, made, token, inflight, done), "127.0.0.1", port
            )
            clients.append(client)
            futures.append(done)
        await asyncio.gather(*futures)
        took = time.perf_counter() - began
        delays = sorted(delay for client in clients for delay in client.delays)
        return {
            "messages": each * connections,
            "a_second": round(each * connections / took),
            "p50_ms": round(statistics.median(delays) * 1000, 1),
            "p99_ms": round(delays[len(delays) * 99 // 100] * 1000, 1),
        }

    return uvloop.run(run())


def tcp(port: int, token: str, lines: int) -> dict[str, float]:
    """So many lines of one point over one connection, until the last is told to be kept."""
    text = b"".join(one_point(number) + b"\n" for number in range(lines))
    with socket.create_connection(("127.0.0.1", port)) as connection:
        began = time.perf_counter()
        connection.sendall(json.dumps({"token": token}).encode() + b"\n" + text)
        connection.shutdown(socket.SHUT_WR)
        answer = b"".join(iter(lambda: connection.recv(65536), b""))
        took = time.perf_counter() - began
    last = json.loads(answer.splitlines()[-1])
    assert last == {"line": lines, "accepted": lines, "refused": 0, "end": True}, last
    return {"lines": lines, "a_second": round(lines / took)}


def udp(port: int, seconds: float) -> tuple[int, float]:
    """As many datagrams of one point as can be sent; how many, and in how long."""
    texts = [one_point(number) for number in range(200_000)]
    sent = 0
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        sender.connect(("127.0.0.1", port))
        send, began = sender.send, time.perf_counter()
        while time.perf_counter() - began < seconds:
            for text in texts[sent % 200_000 :][:1000]:
                send(text)
            sent += 1000
        return sent, time.perf_counter() - began
