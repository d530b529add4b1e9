"""One connection of HTTP/1.1, with deadlines and bounds from its first byte.

llhttp parses, and refuses what is ambiguous (two lengths, a length and chunks, bare line feeds); it bounds nothing. Here the
head is bounded in bytes and time, a body in time and in the bytes that are not its own, and a request that is answered
before its body came ends its connection so that its sender can read the answer.

There are no timers: `sweep` is called for all connections once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, Final
from urllib.parse import unquote

import httptools

from tidemark.http.request import NO_CONTENT, STATUS_LINES, Handler, Headers, Request
from tidemark.logs import log

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1 << 20
AHEAD_BYTES: Final = 64 << 10
"""What may come of further requests while one is at work."""
_OVERHEAD_BYTES: Final = 64 << 10
"""Of chunk sizes, extensions and trailers of one body."""
_JSON: Final = (b"content-type", b"application/json")


@dataclass(frozen=True)
class Bounds:
    """What a connection may do.

    Attributes:
        head_bytes: Of the request line and all headers.
        head_s: From the connection, or the first byte of a further request, to the end of its head.
        body_s, body_bytes_per_s: A body may take so long, and a second more for each so many bytes of it.
        idle_s: Between two requests.
        write_s: A client may leave its answers unread so long.
        connections: At once.
    """

    head_bytes: int = 16 << 10
    head_s: float = 10.0
    body_s: float = 10.0
    body_bytes_per_s: int = 16 << 10
    idle_s: float = 75.0
    write_s: float = 10.0
    connections: int = 10_000


@dataclass
class Open:
    """The connections of a server.

    Attributes:
        all: Those that are open.
        by_status: How many answers were given that belong to no request.
        date: The header of that name, set once a second.
    """

    all: set[Connection] = field(default_factory=set)
    by_status: dict[int, int] = field(default_factory=dict)
    date: bytes = b""

    def at_work(self) -> bool:
        """Any of them has a request that is not answered."""
        return any(connection.at_work for connection in self.all)


class Connection(asyncio.Protocol):
    """One of them; its requests are answered in the order they came."""

    def __init__(self, handler: Handler, bounds: Bounds, among: Open) -> None:
        """Not connected yet.

        Args:
            handler: Of its requests.
            bounds: That it is held to.
            among: It adds itself to these.
        """
        self._handler, self._bounds, self._among = handler, bounds, among
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: Request | None = None
        """The request that is to be answered next."""
        self._ahead: deque[Request] = deque()
        self._parsed: Request | None = None
        """The one whose body comes."""
        self._url = b""
        self._headers: dict[bytes, bytes] = {}
        self._hosts = 0
        self._in_head = True
        self._head_bytes = self._raw_bytes = self._body_bytes = 0
        self._since = time.monotonic()
        """When the head, the body, the pause or the lingering began."""
        self._idle = self._deaf = self._closes = False
        self._lingers = 0
        self._unread_since: float | None = None
        self._writing_paused = False

    @property
    def at_work(self) -> bool:
        """A request is not answered."""
        return self._current is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound how many there are."""
        self._transport = transport  # type: ignore[assignment]
        self._among.all.add(self)
        if len(self._among.all) > self._bounds.connections:
            self._refuse(503, "Too many connections.", [(b"retry-after", b"5")])

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell whoever works on its requests."""
        self._among.all.discard(self)
        self._give_up()
        self._parser = None

    def data_received(self, data: bytes) -> None:
        """Parse, and bound what is neither head nor body."""
        transport = self._transport
        if self._lingers:
            self._lingers += len(data)
            if self._lingers > LINGER_BYTES and transport is not None:
                transport.abort()
            return
        if self._deaf or transport is None or transport.is_closing():
            return
        if self._idle:
            self._idle, self._since = False, time.monotonic()
        before = self._body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is no HTTP/1.1 request: {error}.")
            return
        except httptools.HttpParserUpgrade:
            self._refuse(400, "Only HTTP/1.1 is spoken here: leave the upgrade out.")
            return
        if self._in_head:
            self._head_bytes += len(data)
            if self._head_bytes > self._bounds.head_bytes:
                self._refuse(431, f"The head may have {self._bounds.head_bytes} bytes.")
        else:
            self._raw_bytes += len(data) - (self._body_bytes - before)
            if self._raw_bytes > _OVERHEAD_BYTES:
                self._refuse(400, "The body is hardly anything but chunk sizes.")

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more requests of it."""
        self._writing_paused = True
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_writing(self) -> None:
        """It does again."""
        self._writing_paused = False
        self._unread_since = None
        if self._transport is not None and not self._transport.is_closing() and not self._ahead:
            self._transport.resume_reading()

    # of the parser

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = True
        self._url, self._headers, self._hosts = b"", {}, 0
        self._head_bytes = self._raw_bytes = self._body_bytes = 0

    def on_url(self, url: bytes) -> None:
        """A part of the request's target."""
        self._head_bytes += len(url)
        if self._head_bytes <= self._bounds.head_bytes:
            self._url += url

    def on_header(self, name: bytes, value: bytes) -> None:
        """A header; trailers are none. A head is bounded while it is parsed, in however few packets it comes."""
        if not self._in_head:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes <= self._bounds.head_bytes:
            name = name.lower()
            self._hosts += name == b"host"
            self._headers[name] = value

    def on_headers_complete(self) -> None:
        """Begin the request, unless it cannot be one."""
        parser, self._in_head = self._parser, False
        version = parser.get_http_version()
        if self._lingers or self._deaf:
            return
        if self._head_bytes > self._bounds.head_bytes:
            self._refuse(431, f"The head may have {self._bounds.head_bytes} bytes.")
        elif version not in ("1.1", "1.0"):
            self._refuse(505, "HTTP/1.1 is spoken here.")
        elif self._hosts != 1 and (version == "1.1" or self._hosts):
            self._refuse(400, "A request has one Host header.")
        elif parser.should_upgrade():
            self._refuse(400, "Only HTTP/1.1 is spoken here: leave the upgrade out.")
        else:
            self._begin(version)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        request = self._parsed
        if request is None or request.answered or self._lingers:
            return
        request.add(body)
        if request is self._current:
            self._handled(self._handler.grew, request)
        elif request.size > AHEAD_BYTES:
            self._listen_no_more()

    def on_message_complete(self) -> None:
        """All of it has come."""
        request, self._parsed = self._parsed, None
        if request is None or request.answered or self._lingers:
            return
        request.complete = True
        if request is self._current:
            self._handled(self._handler.whole, request)

    # of requests

    def answer(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer in one piece, and go on with what has come meanwhile."""
        if request.answered:
            return
        request.answered = True
        self._handled(self._handler.gone, request)
        transport = self._transport
        if request is not self._current or transport is None or transport.is_closing():
            return
        keep = request.keep_alive and request.complete and not self._closes and not self._deaf
        parts = [STATUS_LINES[status], self._among.date]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if status != NO_CONTENT:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if keep else b"connection: close\r\n\r\n")
        if request.method != "HEAD":
            parts.append(body)
        transport.write(b"".join(parts))
        self._current = None
        if keep:
            self._go_on()
        elif request.complete:
            self._ahead.clear()
            transport.close()
        else:
            self._linger()

    def shut_down(self) -> None:
        """Close it now, or with its next answer."""
        self._closes = True
        if self._current is None and self._transport is not None and not self._lingers:
            self._transport.close()

    def sweep(self, now: float) -> None:
        """Close what is past a deadline; `now` is of the monotonic clock."""
        transport = self._transport
        if transport is None or transport.is_closing():
            return
        passed = now - self._since
        if self._lingers:
            if passed > LINGER_S:
                transport.abort()
        elif self._writing_paused:
            self._unread_since = self._unread_since or now
            if now - self._unread_since > self._bounds.write_s:
                transport.abort()
        elif self._idle:
            if passed > self._bounds.idle_s:
                transport.close()
        else:
            self._unread_since = None
            self._hold_to_deadline(passed)

    def _hold_to_deadline(self, passed: float) -> None:
        current, bounds = self._current, self._bounds
        if current is None:
            if self._in_head and passed > bounds.head_s:
                self._refuse(408, "The head of the request took too long.")
        elif not current.complete and passed > bounds.body_s + self._body_bytes / bounds.body_bytes_per_s:
            self._refuse(408, "The body of the request took too long.")

    def close(self) -> None:
        """Close it."""
        if self._transport is not None:
            self._transport.close()

    def _begin(self, version: str) -> None:
        try:
            url = httptools.parse_url(self._url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
            self._refuse(400, "The request's target is no path.")
            return
        self._head_bytes = self._raw_bytes = 0
        self._since = time.monotonic()
        method = self._parser.get_method().decode("ascii")
        path = unquote(path) if "%" in path else path
        request = Request(self, method, path, url.query or b"", self._headers, self._since)
        request.keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._parsed = request
        if self._current is None:
            self._start(request)
        else:
            self._ahead.append(request)
            if self._transport is not None:
                self._transport.pause_reading()

    def _start(self, request: Request) -> None:
        self._current = request
        self._handled(self._handler.head, request)
        if request.answered:
            return
        if request is self._parsed and request.headers.get(b"expect") and self._transport is not None:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.size:
            self._handled(self._handler.grew, request)
        if request.complete and not request.answered:
            self._handled(self._handler.whole, request)

    def _go_on(self) -> None:
        """After an answer."""
        self._since = time.monotonic()
        if self._ahead:
            # not at once: a thousand of them in a row would be as many calls deep
            asyncio.get_running_loop().call_soon(self._start_next)
        else:
            self._idle = not (self._in_head and self._head_bytes)
            if not self._writing_paused and self._transport is not None:
                self._transport.resume_reading()

    def _start_next(self) -> None:
        if self._ahead and self._current is None and not self._lingers:
            self._start(self._ahead.popleft())

    def _handled(self, call: Callable[[Request], None], request: Request) -> None:
        """Call the handler; its errors are ours."""
        try:
            call(request)
        except Exception:  # noqa: BLE001  # of whatever kind: it must not take the connection's others along
            log.exception("A request could not be handled.")
            request.keep_alive = False
            request.answer(500, [_JSON], b'{"error":"This should not have happened; it is in the log."}\n')

    def _listen_no_more(self) -> None:
        """What is at work is answered; then the connection ends."""
        self._deaf = True
        if self._transport is not None:
            self._transport.pause_reading()

    def _give_up(self) -> None:
        requests = [*([self._current] if self._current else ()), *self._ahead]
        self._current = None
        self._ahead.clear()
        for request in requests:
            if not request.answered:
                request.answered = True
                self._handled(self._handler.gone, request)

    def _refuse(self, status: int, why: str, headers: Headers | None = None) -> None:
        """Answer by ourselves, as the last of this connection."""
        transport = self._transport
        if transport is None or transport.is_closing() or self._lingers or self._deaf:
            return
        self._among.by_status[status] = self._among.by_status.get(status, 0) + 1
        current = self._current
        if current is not None and (current.complete or current is not self._parsed):
            # another request is at work, and the next answer has to be its own: this one gets none
            self._listen_no_more()
            return
        self._give_up()
        text = why.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "replace")
        body = b'{"error":"%b"}\n' % text
        parts = [STATUS_LINES[status], self._among.date]
        for name, value in (_JSON, *(headers or ())):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body)
        transport.write(b"".join(parts))
        self._linger()

    def _linger(self) -> None:
        """Everything is answered: let the sender read it, take no more notice of what it sends, and close soon.

        A socket that is closed with unread bytes in it is reset, and what was answered may be lost with it.
        """
        transport = self._transport
        assert transport is not None
        self._ahead.clear()
        self._lingers, self._since = 1, time.monotonic()
        if transport.can_write_eof():
            transport.resume_reading()
            transport.write_eof()
        else:
            transport.close()  # TLS cannot be half closed
