"""What comes from the open internet: nothing of it takes the edge, or its other clients, along."""

from __future__ import annotations

import base64
import contextlib
import gzip
import io
import json
import random
import selectors
import socket
import threading
import time
import urllib.request
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard

from tests.edge.conftest import point
from tests.edge.house import MB, House, housed, reset, rest, statuses
from tests.waiting import eventually
from tidemark.local.pubsub.faults import Change

TIMEOUT_S = 1.0
INFLIGHT = 16 * MB
RSS_BESIDE_MB = 150
SMUGGLED = b"GET /healthz HTTP/1.1\r\nHost: x\r\n\r\n"


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(
        tmp_path_factory.mktemp("hostile"),
        client_timeout_s=str(TIMEOUT_S),
        inflight_bytes=str(INFLIGHT),
        access_log_share="0",
    ) as made:
        yield made


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    yield shared
    shared.unharmed()
    assert shared.rss_mb() < INFLIGHT / MB + RSS_BESIDE_MB


# what is no request

CHUNKS = b"2\r\n{}\r\n0\r\n\r\n"
NO_REQUEST: dict[str, tuple[bytes, int]] = {
    "two lengths": (b"Content-Length: 2\r\nContent-Length: 3\r\n\r\n{}", 400),
    "the same length twice": (b"Content-Length: 2\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a list of lengths": (b"Content-Length: 2, 2\r\n\r\n{}", 400),
    "a length with a sign": (b"Content-Length: +2\r\n\r\n{}", 400),
    "a hexadecimal length": (b"Content-Length: 0x2\r\n\r\n{}", 400),
    "a negative length": (b"Content-Length: -2\r\n\r\n{}", 400),
    "no length": (b"Content-Length: \r\n\r\n{}", 400),
    "a length of 30 digits": (b"Content-Length: " + b"9" * 30 + b"\r\n\r\n{}", 400),
    "length and chunks": (b"Content-Length: 2\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "chunks and length": (b"Transfer-Encoding: chunked\r\nContent-Length: 2\r\n\r\n" + CHUNKS, 400),
    "gzip, chunked": (b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, 501),
    "gzip and chunked": (b"Transfer-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 501),
    "chunked, identity": (b"Transfer-Encoding: chunked, identity\r\n\r\n" + CHUNKS, 400),
    "chunked twice": (b"Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "identity": (b"Transfer-Encoding: identity\r\n\r\n" + CHUNKS, 501),
    "xchunked": (b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, 501),
    "chunked, in quotes": (b'Transfer-Encoding: "chunked"\r\n\r\n' + CHUNKS, 501),
    "chunked, with a parameter": (b"Transfer-Encoding: chunked;q=1\r\n\r\n" + CHUNKS, 501),
    "chunked after a vertical tab": (b"Transfer-Encoding: \x0bchunked\r\n\r\n" + CHUNKS, 400),
    "a space before the colon": (b"Transfer-Encoding : chunked\r\n\r\n" + CHUNKS, 400),
    "a folded header": (b"X: a\r\n b\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a folded coding": (b"Transfer-Encoding:\r\n chunked\r\n\r\n" + CHUNKS, 400),
    "NUL in a header": (b"X: a\0b\r\nContent-Length: 2\r\n\r\n{}", 400),
    "NUL in a header's name": (b"X\0: b\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a bare line feed": (b"X: a\nContent-Length: 2\r\n\r\n{}", 400),
    "a bare carriage return": (b"X: a\rContent-Length: 2\r\n\r\n{}", 400),
    "no name": (b": a\r\nContent-Length: 2\r\n\r\n{}", 400),
    "no colon": (b"X\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a second host": (b"Host: y\r\nContent-Length: 2\r\n\r\n{}", 400),
    "a chunk's size with a sign": (b"Transfer-Encoding: chunked\r\n\r\n+2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk's size with 0x": (b"Transfer-Encoding: chunked\r\n\r\n0x2\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk's size of 17 digits": (b"Transfer-Encoding: chunked\r\n\r\n" + b"f" * 17 + b"\r\n{}", 400),
    "a chunk longer than its size": (b"Transfer-Encoding: chunked\r\n\r\n1\r\n{}\r\n0\r\n\r\n", 400),
    "a chunk ended by a line feed": (b"Transfer-Encoding: chunked\r\n\r\n2\n{}\n0\n\n", 400),
    "a head of 64 KB": (b"X: " + b"a" * (64 << 10) + b"\r\n\r\n", 431),
    "10,000 headers": (b"a: b\r\n" * 10_000 + b"\r\n", 431),
    "1-byte chunks": (b"Transfer-Encoding: chunked\r\n\r\n" + b"1\r\n \r\n" * 40_000, 400),
    "a chunk's extension of 1 MB": (b"Transfer-Encoding: chunked\r\n\r\n2;" + b"x" * MB, 400),
    "trailers of 1 MB": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n" + b"a: b\r\n" * (MB // 6), 400),
    "a trailer of 1 MB": (b"Transfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\na: " + b"b" * MB, 400),
}


@pytest.mark.parametrize("what", NO_REQUEST)
def test_what_can_be_read_in_two_ways_or_has_no_bound_is_refused_once(shared: House, what: str) -> None:
    lines, status = NO_REQUEST[what]
    head = shared.head().removesuffix(b"\r\n")
    assert statuses(shared.exchange(head + lines + SMUGGLED)) == [status]


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: a\r\nHost: a\r\n\r\n", 400),
        (b"GET /healthz HTTP/0.9\r\n\r\n", 505),
        (b"GET /healthz\r\n\r\n", 505),
        (b"GET /healthz HTTP/2.0\r\nHost: x\r\n\r\n", 505),
        (b"GET /healthz HTTP/1.2\r\nHost: x\r\n\r\n", 400),
        (b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n", 400),
        (b"CONNECT x:443 HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"POST /v1/points HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
        (b"GET /a b HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"get /healthz HTTP/1.1\r\nHost: x\r\n\r\n", 400),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500), 400),
        (b"SSH-2.0-OpenSSH_9.6\r\n", 400),
        (b"\0" * 20_000, 400),
        (b"\r\n" * 20_000, 431),
        (b"G" * 20_000, 400),
        (b"GET /" + b"a" * 70_000, 431),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_what_speaks_otherwise_is_refused_and_closed(shared: House, data: bytes, status: int) -> None:
    assert statuses(shared.exchange(data)) == [status]


@pytest.mark.parametrize(
    ("target", "status"),
    [
        ("/v1/points", 200),
        ("/v1/points?source=a&x=%00", 200),
        ("/v1/points#here", 200),
        ("http://x/v1/points", 200),
        ("http://elsewhere:81/v1/points", 200),
        ("/v1/points/", 404),
        ("//v1/points", 404),
        ("/v1//points", 404),
        ("/v1/./points", 404),
        ("/v1/x/../points", 404),
        ("/v1/%2e/points", 404),
        ("/v1/point%73", 404),
        ("/v1/points%00", 404),
        ("/v1/points%2f", 404),
        ("/v1/points;x", 404),
        ("/V1/points", 404),
        ("/" + "a" * 10_000, 404),
        ("/%0a2026-01-01%20ERROR", 404),
        ("*", 404),
        ("v1/points", 400),
        ("/v1/points\0", 400),
        ("/v1/points\x7f", 400),
        ("http://", 400),
        ("http://x:99999999/v1/points", 400),
    ],
)
def test_only_the_path_itself_is_the_path(shared: House, target: str, status: int) -> None:
    body = json.dumps(point()).encode()
    head = shared.head(f"Content-Length: {len(body)}", "Connection: close", path=target)
    assert statuses(shared.exchange(head + body)) == [status]


# one connection


def test_whole_requests_before_a_bad_one_are_answered_and_then_the_bad_one(house: House) -> None:
    bad = house.head("Content-Length: 1", "Content-Length: 2") + b"ab"
    cut = house.head("Transfer-Encoding: chunked") + b"1\r\n{\r\nno size\r\n"
    for last in (bad, cut, b"\0"):
        assert statuses(house.exchange(house.request() * 3 + last + SMUGGLED)) == [200, 200, 200, 400]


@pytest.mark.parametrize("piece", [1, 7, 1000, 4096, 60_000, 1 << 30])
def test_requests_in_a_row_are_answered_in_order_wherever_they_are_cut(house: House, piece: int) -> None:
    big = json.dumps([point(attributes={"a": "x" * 50}) for _ in range(600)]).encode()
    row = [(house.request(), 200), (house.head(method="GET", path="/nothing"), 404)]
    row += [(house.request(big), 200), (house.head("Content-Length: 2") + b"{}", 400)]
    row += [(house.head("Transfer-Encoding: chunked") + CHUNKS, 400), (SMUGGLED, 200)]
    number = 1 if piece == 1 else 20
    data = b"".join(request for request, _ in row) * number + house.request(None, "Connection: close")
    with house.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        found: list[bytes] = []
        reader = threading.Thread(target=lambda: found.append(rest(connection)))
        reader.start()
        step = 10_000 if piece == 1 else piece
        at = len(data) - 2000 if piece == 1 else len(data)
        for start in range(0, at, step):
            connection.sendall(data[start : min(at, start + step)])
        for start in range(at, len(data)):
            connection.sendall(data[start : start + 1])
        reader.join(20)
    assert statuses(found[0]) == [*([status for _, status in row] * number), 200]


def test_a_head_of_10_kb_may_come_byte_by_byte(house: House) -> None:
    head = house.head("Connection: close", f"X: {'a' * 10_000}", method="GET", path="/healthz")
    with house.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for at in range(0, len(head), 5):
            connection.sendall(head[at : at + 5])
        assert statuses(rest(connection)) == [200]


def test_an_offer_to_speak_otherwise_is_passed_over(house: House) -> None:
    offer = ("Connection: Upgrade, HTTP2-Settings", "Upgrade: h2c", "HTTP2-Settings: AAEAAEAAAAIAAAABAAMAAABk")
    body = json.dumps(point()).encode()
    chunked = house.head(*offer, "Transfer-Encoding: chunked") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body)
    row = house.request(None, *offer) + chunked + house.head(*offer, method="GET", path="/healthz")
    assert statuses(house.exchange(row * 3 + house.request(None, "Connection: close"))) == [200] * 10


def test_who_has_sent_a_whole_request_is_answered_after_its_end(house: House) -> None:
    assert statuses(house.exchange(house.request(), half_close=True)) == [200]
    assert statuses(house.exchange(house.request() * 30, half_close=True)) == [200] * 30
    assert statuses(house.exchange(house.request() * 3 + house.request()[:-1], half_close=True)) == [200] * 3
    assert statuses(house.exchange(SMUGGLED * 3, half_close=True)) == [200] * 3


@pytest.mark.parametrize("length", ["Content-Length: 100000", "Transfer-Encoding: chunked"])
def test_who_ends_before_its_body_does_is_closed_and_nothing_is_held(house: House, length: str) -> None:
    began = time.monotonic()
    with house.connect() as connection:
        connection.sendall(house.head(length) + b"10\r\n" + b" " * 16)
        eventually(lambda: house.running.metric("inflight_bytes") >= 64 << 10)
        connection.shutdown(socket.SHUT_WR)
        assert rest(connection) == b""
    assert time.monotonic() - began < TIMEOUT_S
    eventually(lambda: house.running.metric("inflight_bytes") == 0)


def test_what_is_more_than_the_length_says_is_another_request(house: House) -> None:
    body = json.dumps(point()).encode()
    assert statuses(house.exchange(house.head(f"Content-Length: {len(body)}") + body + b"more")) == [200, 400]
    short = house.head(f"Content-Length: {len(body) - 5}") + body
    assert statuses(house.exchange(short)) == [400, 400]


def test_a_body_that_cannot_be_taken_is_refused_before_it_is_read(house: House) -> None:
    size = 11_000_000
    with house.connect() as connection:
        connection.sendall(house.head(f"Content-Length: {size}"))
        assert statuses(rest(connection)) == [413]
    part = b"%x\r\n%b\r\n" % (1 << 16, b" " * (1 << 16))
    for parts in ([part] * (size >> 16), [b"%x\r\n" % size, *[b" " * 100_000] * 110]):
        assert statuses(house.exchange(house.head("Transfer-Encoding: chunked"), *parts)) == [413]
    with house.connect() as connection:  # as long as it is read, it is told
        connection.sendall(house.head("Transfer-Encoding: chunked") + part * 127)
        eventually(lambda: house.running.metric("inflight_bytes") > 8_000_000)
        connection.sendall(part * 2)
        assert statuses(rest(connection)) == [413]


def test_a_body_in_small_chunks_is_taken(house: House) -> None:
    line = json.dumps(point(attributes={"camera": "north"})).encode() + b"\n"
    body = b"".join(b"%x\r\n%b\r\n" % (len(line), line) for _ in range(40_000))
    head = house.head("Transfer-Encoding: chunked", "Connection: close")
    assert statuses(house.exchange(head + body + b"0\r\n\r\n")) == [200]


# what is in it


def _members(number: int, text: bytes) -> bytes:
    return gzip.compress(text) * number


def _zstd(text: bytes, *, size: bool = True) -> bytes:
    return zstandard.ZstdCompressor(level=19, write_content_size=size).compress(text)


def _streamed_zstd(size: int) -> bytes:
    out = io.BytesIO()
    with zstandard.ZstdCompressor(level=19).stream_writer(out, closefd=False) as stream:
        for _ in range(size >> 20):
            stream.write(bytes(MB))
    return out.getvalue()


GOOD = json.dumps(point()).encode()
PACKED = gzip.compress(GOOD)
BODIES: dict[str, tuple[str, bytes, int]] = {
    "gzip bomb": ("gzip", gzip.compress(bytes(200 * MB)), 413),
    "gzip bomb of objects": ("gzip", gzip.compress(b"[" + b"{}," * (8 * MB // 3 - 1) + b"{}]"), 400),
    "gzip bomb in a gzip": ("gzip", gzip.compress(gzip.compress(bytes(200 * MB))), 400),
    "many gzips that are a bomb": ("gzip", _members(40, bytes(MB)), 413),
    "100,000 empty gzips": ("gzip", _members(100_000, b""), 400),
    "many gzips": ("gzip", _members(3, GOOD + b"\n"), 200),
    "a cut gzip": ("gzip", PACKED[:-1], 400),
    "half a gzip": ("gzip", PACKED[: len(PACKED) // 2], 400),
    "something behind a gzip": ("gzip", PACKED + b"garbage", 400),
    "a gzip whose sum is wrong": ("gzip", PACKED[:-8] + bytes(8), 400),
    "no gzip": ("gzip", GOOD, 400),
    "nothing as gzip": ("gzip", b"", 400),
    "zstd bomb": ("zstd", _zstd(bytes(100 * MB)), 413),
    "zstd bomb that states no size": ("zstd", _zstd(bytes(100 * MB), size=False), 413),
    "streamed zstd bomb": ("zstd", _streamed_zstd(100 * MB), 413),
    "zstd bomb of many blocks": ("zstd", _zstd(bytes(200 * MB)), 400),
    "zstd bomb in a zstd": ("zstd", _zstd(_zstd(bytes(200 * MB))), 400),
    "zstd frames that are a bomb": ("zstd", _zstd(bytes(MB)) * 40, 413),
    "zstd frame of a window of 3.75 TB": ("zstd", b"\x28\xb5\x2f\xfd\x00\xff" + b"\x01\x00\x00", 400),
    "zstd that states 1 EB": ("zstd", b"\x28\xb5\x2f\xfd\xe0" + (1 << 60).to_bytes(8, "little") + b"\x01\x00\x00", 400),
    "100,000 empty zstds": ("zstd", _zstd(b"") * 100_000, 400),
    "zstd frames": ("zstd", _zstd(GOOD + b"\n") * 3, 200),
    "a cut zstd": ("zstd", _zstd(GOOD)[:-1], 400),
    "something behind a zstd": ("zstd", _zstd(GOOD) + b"garbage", 400),
    "gzip called zstd": ("zstd", PACKED, 400),
    "gzip, gzip": ("gzip, gzip", gzip.compress(PACKED), 415),
    "deflate": ("deflate", GOOD, 415),
    "8 MB of brackets": ("identity", b"[" * (8 * MB), 400),
    "8 MB of open objects": ("identity", b'{"a":' * (8 * MB // 5), 400),
    "8 MB of nothing": ("identity", b" " * (8 * MB), 400),
    "2 million empty objects": ("identity", b"{}\n" * (6 * MB // 3), 400),
    "a number of 8 MB": ("identity", b"9" * (8 * MB), 400),
    "a name of 8 MB": ("identity", json.dumps(point(metric="m" * (8 * MB - 200))).encode(), 400),
    "100,000 fields": ("identity", json.dumps({**point(), **{f"f{n}": n for n in range(100_000)}}).encode(), 200),
    "no UTF-8": ("identity", b'{"source":"\xff\xfe"}', 400),
    "NULs": ("identity", bytes(10_000), 400),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_costs_what_it_may_and_no_more(shared: House, what: str) -> None:
    encoding, body, status = BODIES[what]
    began = time.monotonic()
    found = shared.exchange(shared.request(body, f"Content-Encoding: {encoding}", "Connection: close"))
    assert statuses(found) == [status]
    assert len(found) < 64 << 10
    assert time.monotonic() - began < 5


# time


class Slow(threading.Thread):
    """Connections that hold on as long as they are let; each that ends is followed by another."""

    def __init__(self, shared: House, number: int, kinds: tuple[str, ...]) -> None:
        super().__init__(daemon=True)
        self._shared, self._number, self._kinds = shared, number, kinds
        self._selector = selectors.DefaultSelector()
        self._wish = threading.Event()
        self.ended: list[tuple[str, float, bytes]] = []
        """Kind, how long it lived in seconds, what it was answered."""
        self.open = 0

    def run(self) -> None:
        for number in range(self._number):
            self._begin(self._kinds[number % len(self._kinds)])
        while not self._wish.wait(0.2):
            for key in list(self._selector.get_map().values()):
                self._drip(key)
        for key in list(self._selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]

    def stop(self) -> None:
        self._wish.set()
        self.join()

    def of(self, kind: str) -> list[tuple[float, bytes]]:
        return [(lived, answer) for one, lived, answer in self.ended if one == kind]

    def _begin(self, kind: str) -> None:
        began = time.monotonic()
        connection = self._shared.connect()
        first = {
            "silent": b"",
            "head": b"POST /v1/points HTTP/1.1\r\nHost: x\r\n",
            "body": self._shared.head("Content-Length: 100000"),
            "chunks": self._shared.head("Transfer-Encoding: chunked"),
            "second head": SMUGGLED + b"G",
        }[kind]
        connection.sendall(first)
        connection.setblocking(False)
        self._selector.register(connection, selectors.EVENT_READ, (kind, began, bytearray()))
        self.open += 1

    def _drip(self, key: selectors.SelectorKey) -> None:
        kind, began, answer = key.data
        connection: socket.socket = key.fileobj  # type: ignore[assignment]
        with contextlib.suppress(BlockingIOError):
            try:
                while part := connection.recv(65536):
                    answer += part
            except ConnectionError:
                pass
            self.ended.append((kind, time.monotonic() - began, bytes(answer)))
            self._selector.unregister(connection)
            connection.close()
            self.open -= 1
            self._begin(kind)
            return
        drop = {"silent": b"", "head": b"X: a\r\n", "chunks": b"1\r\n \r\n", "body": b" ", "second head": b"ET"[:0]}[
            kind
        ]
        with contextlib.suppress(ConnectionError):
            connection.send(drop)


SLOW = ("silent", "head", "body", "chunks", "second head")


def _p99(house: House, number: int) -> float:
    took = []
    with house.connect() as connection:
        for _ in range(number):
            began = time.monotonic()
            connection.sendall(house.request())
            assert connection.recv(65536).startswith(b"HTTP/1.1 200 ")
            took.append(time.monotonic() - began)
    return sorted(took)[int(number * 0.99)]


def _slowly(house: House, number: int, timeout_s: float) -> None:
    _p99(house, 200)
    slow = Slow(house, number, SLOW)
    alone, beside = [], []
    alone += [_p99(house, 200) for _ in range(2)]
    slow.start()
    eventually(lambda: slow.open >= number)
    until = time.monotonic() + timeout_s + 2
    while time.monotonic() < until or len(beside) < 3:
        beside.append(_p99(house, 200))
    eventually(lambda: {kind for kind, _, _ in slow.ended} == set(SLOW), timeout_s + 10)
    slow.stop()
    alone += [_p99(house, 200) for _ in range(2)]
    a, b = sorted(alone)[len(alone) // 2], sorted(beside)[len(beside) // 2]
    print(f"p99 of good requests: alone {a * 1000:.2f} ms, beside {number} slow connections {b * 1000:.2f} ms")
    for kind in SLOW:
        for lived, answer in slow.of(kind):
            assert statuses(answer) == ([200, 408] if kind == "second head" else [408])
            assert lived < timeout_s + 2
    assert b <= 3 * a


def test_slow_clients_are_sent_away_in_time_and_cost_the_others_nothing(house: House) -> None:
    _slowly(house, 60, TIMEOUT_S)


@pytest.mark.long
def test_500_slow_clients_at_the_deadlines_of_every_day(tmp_path: Path) -> None:
    with housed(tmp_path, access_log_share="0") as house:
        _slowly(house, 500, 10.0)
        house.unharmed()


@pytest.mark.long
def test_an_empty_line_between_requests_does_not_hold_a_connection_for_ever(tmp_path: Path) -> None:
    with housed(tmp_path) as house, house.connect() as connection:
        connection.settimeout(90)
        connection.sendall(house.request() + b"\r\n")
        assert statuses(rest(connection)) == [200]


@pytest.mark.parametrize("what", ["paths", "refused points"])
def test_who_never_reads_its_answers_costs_little_and_not_for_long(house: House, what: str) -> None:
    before = house.rss_mb()
    one = SMUGGLED if what == "paths" else house.request(b"[" + b"{}," * 150 + b"{}]")
    connections = []
    for _ in range(3):
        connection = socket.socket()
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.connect(("127.0.0.1", house.running.port))
        connection.settimeout(1)
        connections.append(connection)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                connection.sendall(one * 20)
    assert house.rss_mb() - before < 30
    try:
        eventually(lambda: house.running.metric("connections") == 0, TIMEOUT_S + 13)
    finally:
        for connection in connections:
            connection.close()


# many, and here and gone


def test_more_connections_than_may_be_are_told_and_the_next_ones_are_served(tmp_path: Path) -> None:
    with housed(tmp_path, max_connections="20", access_log_share="0") as house:
        first = [house.connect() for _ in range(20)]
        eventually(lambda: house.running.metric("connections") == 20)
        beyond = [house.connect() for _ in range(300)]
        told = [rest(connection) for connection in beyond]
        assert statuses(told[0]) == [503]
        assert b"\r\nretry-after: " in told[0]
        assert {tuple(statuses(answer)) for answer in told} == {(503,), ()}
        first[0].sendall(house.request(None, "Connection: close"))
        assert statuses(rest(first[0])) == [200]
        for connection in (*first, *beyond):
            connection.close()
        eventually(lambda: house.running.metric("connections") == 0)
        house.unharmed()


def test_who_goes_in_the_middle_of_anything_leaves_nothing(house: House) -> None:
    line = json.dumps(point()).encode()
    chunked = house.head("Transfer-Encoding: chunked", "Expect: 100-continue")
    chunked += b"%x\r\n%b\r\n%x\r\n%b\r\n0\r\nA: b\r\n\r\n" % (len(line), line, len(line), line)
    packed = house.request(gzip.compress(line), "Content-Encoding: gzip")
    for request in (house.request(), chunked, packed, house.request() * 2 + SMUGGLED):
        for end in range(len(request) + 1):
            connection = house.connect()
            connection.sendall(request[:end])
            reset(connection) if end % 2 else connection.close()
    eventually(lambda: house.running.metric("connections") == 0)


def test_who_goes_while_its_points_are_on_their_way_leaves_nothing(house: House) -> None:
    with house.bus.control() as control:
        control.change(Change(delay_s={"Publish": 0.5}))
        connections = [house.connect() for _ in range(50)]
        for number, connection in enumerate(connections):
            connection.sendall(house.request() * (1 + number % 3))
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
        for connection in connections:
            reset(connection)
        eventually(lambda: house.running.metric("inflight_bytes") == 0)
        control.change(Change(clear=True))
    eventually(lambda: house.running.metric("connections") == 0)


def test_requests_in_a_row_behind_one_at_work_stay_as_they_came(house: House) -> None:
    before = house.rss_mb()
    with house.bus.control() as control:
        control.change(Change(delay_s={"Publish": 2.0}))
        connections = [house.connect() for _ in range(100)]
        for connection in connections:
            connection.setblocking(False)
            row = memoryview(house.request() + SMUGGLED * 40_000)
            with contextlib.suppress(BlockingIOError):
                while row:
                    row = row[connection.send(row) :]
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
        assert house.rss_mb() - before < 40
        for connection in connections:
            connection.close()
        control.change(Change(clear=True))


def test_bodies_are_taken_as_far_as_there_is_room(house: House) -> None:
    body = b" " * (7 * MB) + json.dumps(point()).encode()
    packed = gzip.compress(body)
    found: list[int] = []

    def send(request: bytes) -> None:
        for _ in range(3):
            found.extend(statuses(house.exchange(request)))

    requests = [
        house.request(body, "Connection: close"),
        house.request(packed, "Content-Encoding: gzip", "Connection: close"),
        house.head("Transfer-Encoding: chunked", "Connection: close") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(body), body),
    ]
    threads = [threading.Thread(target=send, args=(requests[number % 3],)) for number in range(24)]
    for thread in threads:
        thread.start()
    most = 0.0
    while any(thread.is_alive() for thread in threads):
        most = max(most, house.rss_mb())
        threads[0].join(0.01)
        threads = [thread for thread in threads if thread.is_alive()] or threads[:1]
    print(f"most RSS {most:.0f} MB with room for {INFLIGHT / MB:.0f}")
    assert set(found) == {200, 503}
    assert most < INFLIGHT / MB + RSS_BESIDE_MB


# who it is


def _basic(password: str) -> str:
    return "Basic " + base64.b64encode(f"any:{password}".encode()).decode()


@pytest.mark.parametrize(
    ("authorization", "status"),
    [
        ("Bearer T", 200),
        ("bearer T", 200),
        ("BEARER   T", 200),
        ("Bearer T ", 200),
        ("Token T", 200),
        (_basic("T"), 401),
        ("", 401),
        ("T", 401),
        ("Bearer", 401),
        ("Bearer ", 401),
        ("Bearer T T", 401),
        ("Bearer\tT", 401),
        ("Bearer: T", 401),
        ("BearerT", 401),
        ("Digest T", 401),
        ('Bearer "T"', 401),
        ("Bearer t", 401),
        ("Bearer T\r\nAuthorization: Bearer tm_another", 401),
        ("Bearer tm_another\r\nAuthorization: Bearer T", 401),
        ("Bearer tm_another", 403),
        ("Bearer tm_nobody", 401),
        ("Bearer \xfc\xff", 401),
        ("Bearer " + "a" * 16_000, 401),
        ("Basic !!!", 401),
        ("Basic YW55", 401),
        ("Basic \xff", 401),
        ("Negotiate T", 401),
    ],
)
def test_only_a_token_lets_in(shared: House, authorization: str, status: int) -> None:
    body = json.dumps(point(project="cams")).encode()
    given = authorization.replace("T", shared.token) if "Token" not in authorization else f"Token {shared.token}"
    head = f"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: {given}\r\nContent-Length: {len(body)}\r\n\r\n"
    found = shared.exchange(head.encode("latin-1") + body, half_close=True)
    assert statuses(found) == [status]
    assert (b"\r\nwww-authenticate: Bearer" in found) == (status == 401)


def test_the_password_of_any_user_may_be_the_token(house: House) -> None:
    head = house.head("Connection: close", f"Content-Length: {len(GOOD)}")
    head = head.replace(f"Bearer {house.token}".encode(), _basic(house.token).encode())
    assert statuses(house.exchange(head + GOOD)) == [200]


def test_no_secret_is_told_anywhere(tmp_path: Path) -> None:
    value = "h0rse-battery-staple"
    told = b""
    with housed(tmp_path, access_log_share="1", publish_timeout_s="0.5") as house:
        bodies = [
            (json.dumps(point(attributes={"a": value})).encode(), 200),
            (json.dumps(point(source=value, event_time=value)).encode(), 400),
            (json.dumps(point(**{value: value, "value": value})).encode(), 400),
            (value.encode(), 400),
            (b'{"source":"' + value.encode(), 400),
        ]
        for body, status in bodies:
            for lines in ((), ("Content-Encoding: gzip",)):
                packed = gzip.compress(body) if lines else body
                found = house.exchange(house.request(packed, "Connection: close", *lines))
                assert statuses(found) == [status]
                told += found
        token = house.token
        for scheme in (f"Bearer {token}x", f"Bearer  {token}", f"Basic {token}", _basic(token), f"Digest {token}"):
            head = f"POST /v1/points?token={token} HTTP/1.1\r\nHost: x\r\nAuthorization: {scheme}\r\nContent-Length: 2\r\n\r\n"
            told += house.exchange(head.encode() + b"{}", half_close=True)
        told += house.exchange(house.head("Content-Length: 1", "Content-Length: 2"))
        told += house.exchange(house.head(path="/nowhere"), half_close=True)
        house.bus.server.kill()
        told += house.exchange(house.request(bodies[0][0], "Connection: close"))
        assert statuses(told[told.rindex(b"HTTP/1.1 ") :]) == [503]
        told += house.exchange(house.request(bodies[0][0], "Connection: close"))
        with urllib.request.urlopen(f"http://127.0.0.1:{house.running.metrics_port}/metrics", timeout=10) as answer:
            metrics = answer.read()
        process = Path(f"/proc/{house.running.process.pid}")
        shown = metrics + (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
        house.bus.server.start()
        log = house.stopped()
    assert "POST /v1/points 200 project=cams" in log
    assert "POST /v1/points 401 project=-" in log
    assert (token in log, value in log) == (False, False), log
    assert (token.encode() in shown, value.encode() in shown) == (False, False)
    assert token.encode() not in told


# anything


def _mutated(request: bytes, chance: random.Random) -> bytes:
    data = bytearray(request)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(data) + 1)
        end = min(len(data), at + chance.choice((1, 2, 8, 64)))
        kind = chance.randrange(6)
        if kind == 0:
            data[at:end] = chance.randbytes(end - at)
        elif kind == 1:
            del data[at:end]
        elif kind == 2:
            data[at:at] = data[at:end] * chance.choice((1, 2, 50))
        elif kind == 3:
            data[at:at] = chance.choice(
                (b"\r\n", b"\n", b"\0", b" ", b":", b"\r\n\r\n", b"0\r\n\r\n", b"\xff", b"9" * 20, b'"', b"{")
            )
        elif kind == 4:
            data = bytearray(bytes(data).swapcase()) if chance.random() < 0.1 else data
        else:
            data += request
    return bytes(data)


def _fuzz(house: House, seed: int, number: int) -> None:
    chance = random.Random(seed)
    line = json.dumps(point()).encode()
    valid = [
        house.request(),
        house.request(json.dumps([point(), point(value=2)]).encode(), "Content-Type: application/json", "Accept: */*"),
        house.request(gzip.compress(line), "Content-Encoding: gzip"),
        house.request(zstandard.compress(line), "Content-Encoding: zstd"),
        house.head("Transfer-Encoding: chunked", "Expect: 100-continue") + b"%x\r\n%b\r\n0\r\n\r\n" % (len(line), line),
        house.request(None, "Connection: Upgrade", "Upgrade: h2c"),
        SMUGGLED + house.request(),
        house.head("Origin: http://x", method="OPTIONS"),
    ]
    known = {200, 204, 400, 401, 403, 404, 405, 413, 415, 417, 431, 501, 503, 505}
    for turn in range(number):
        data = _mutated(chance.choice(valid), chance)
        if chance.random() < 0.1:
            with house.connect() as connection:
                connection.sendall(data)
            continue
        found = house.exchange(data, half_close=True)
        found = found.replace(b"HTTP/1.1 100 Continue\r\n\r\n", b"")
        if b"HEAD" not in data:
            assert set(statuses(found)) <= known, (seed, turn, data)
        if turn % 500 == 0:
            assert house.good() < 2


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_sent_it_answers_good_requests_afterwards(house: House, seed: int) -> None:
    _fuzz(house, seed, 3000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_whatever_is_sent_for_longer_it_answers_good_requests_afterwards(house: House, seed: int) -> None:
    _fuzz(house, seed, 10_000)


@pytest.mark.parametrize("framed", ["Transfer-Encoding: chunked", f"Content-Length: {7 * MB}"])
def test_what_was_sent_of_a_body_that_is_sent_away_is_not_kept(house: House, framed: str) -> None:
    """Its sender may leave the answer unread, and come again by another connection."""
    part = b" " * (4 * MB)
    begun = house.head(framed) + (b"%x\r\n" % (7 * MB) if "chunked" in framed else b"") + part
    before, connections = house.rss_mb(), []
    stop = threading.Event()
    told: Counter[bytes] = Counter()

    def send() -> None:
        while not stop.is_set():
            connection = house.connect()
            connection.settimeout(0.5)
            try:
                connection.sendall(begun)
                told[connection.recv(12)[9:]] += 1
            except (ConnectionError, TimeoutError):
                connection.close()  # it had room, which is there for another now
            else:
                connections.append(connection)

    threads = [threading.Thread(target=send) for _ in range(16)]
    for thread in threads:
        thread.start()
    most, until = 0.0, time.monotonic() + 3
    while time.monotonic() < until:
        most = max(most, house.rss_mb())
        time.sleep(0.02)
    stop.set()
    for thread in threads:
        thread.join()
    for connection in connections:
        connection.close()
    assert told[b"503"] > 100, told
    assert most - before < INFLIGHT / MB + 40
