"""uvicorn's protocol, with what a server that anybody can reach needs: deadlines and bounds from the first byte.

uvicorn parses with llhttp, which refuses what is ambiguous (two lengths, a length and chunks, bare line feeds), and bounds
nothing. Here the head is bounded in bytes and time, a body in time and in the bytes that are not its own, and a request
that is answered before its body came is closed so that its sender can read the answer.

One sweep a second looks at all connections; there is no timer for each.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass, field
from typing import Any, Final

import httptools
from uvicorn.config import Config
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol
from uvicorn.server import ServerState

LINGER_S: Final = 2.0
LINGER_BYTES: Final = 1 << 20
_OVERHEAD_BYTES: Final = 64 << 10
"""Of chunk sizes, extensions and trailers of one body."""


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
class Counts:
    """What became of connections and of what never was a request; read by whoever shows it."""

    open: int = 0
    by_status: dict[int, int] = field(default_factory=dict)

    def status(self, status: int) -> None:
        """Count an answer that the protocol gave by itself."""
        self.by_status[status] = self.by_status.get(status, 0) + 1


_REASONS: Final = {
    400: "Bad Request",
    408: "Request Timeout",
    431: "Request Header Fields Too Large",
    503: "Service Unavailable",
    505: "HTTP Version Not Supported",
}


class _Lingering:
    """Stands for a transport in the last answer of a connection: `close` lets the sender read it first.

    A socket that is closed with unread bytes in it is reset, and what was answered may be lost with it.
    """

    def __init__(self, protocol: BoundedProtocol) -> None:
        self._protocol = protocol

    def write(self, data: bytes) -> None:
        self._protocol.transport.write(data)

    def is_closing(self) -> bool:
        return self._protocol.transport.is_closing()

    def close(self) -> None:
        self._protocol.linger()


class BoundedProtocol(HttpToolsProtocol):
    """One connection."""

    bounds: Bounds
    counts: Counts

    def __init__(self, config: Config, state: ServerState, bounds: Bounds, counts: Counts) -> None:
        super().__init__(config, state, {}, asyncio.get_running_loop())
        self.bounds, self.counts = bounds, counts
        self._in_head = True
        self._head_bytes = 0
        self._body_bytes = 0
        self._raw_bytes = 0
        self._lingers = 0
        self._deaf = False
        self._since = time.monotonic()
        """When the head, the body, the pause or the lingering began."""
        self._idle = False
        self._unread_since: float | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Bound how many there are."""
        super().connection_made(transport)
        self.counts.open += 1
        if self.counts.open > self.bounds.connections:
            self._refuse(503, "Too many connections.", b"retry-after: 5\r\n")

    def connection_lost(self, exc: Exception | None) -> None:
        """As uvicorn's."""
        self.counts.open -= 1
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Bound the head, and what is neither head nor body."""
        if self._lingers:
            self._lingers += len(data)
            if self._lingers > LINGER_BYTES:
                self.transport.abort()
            return
        if self._deaf or self.transport.is_closing():
            return
        if self._idle:
            self._idle, self._since = False, time.monotonic()
        before = self._body_bytes
        try:
            self.parser.feed_data(data)
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is no HTTP/1.1 request: {error}.")
            return
        except httptools.HttpParserUpgrade:
            self._refuse(400, "Only HTTP/1.1 is spoken here: leave the upgrade out.")
            return
        if self.parser is not None:
            self._bound(len(data), self._body_bytes - before)

    def _bound(self, received: int, of_body: int) -> None:
        if self._in_head:
            self._head_bytes += received
            if self._head_bytes > self.bounds.head_bytes:
                self._refuse(431, f"The head may have {self.bounds.head_bytes} bytes.")
        else:
            self._raw_bytes += received - of_body
            if self._raw_bytes > _OVERHEAD_BYTES:
                self._refuse(400, "The body is hardly anything but chunk sizes.")

    def on_message_begin(self) -> None:
        """As uvicorn's."""
        super().on_message_begin()
        self._in_head = True
        self._head_bytes = self._raw_bytes = self._body_bytes = 0

    def on_header(self, name: bytes, value: bytes) -> None:
        """Trailers are no headers; a head is bounded while it is parsed, in however few packets it comes."""
        if not self._in_head:
            return
        self._head_bytes += len(name) + len(value) + 4
        if self._head_bytes <= self.bounds.head_bytes:
            super().on_header(name, value)

    def on_url(self, url: bytes) -> None:
        """The same of the request line."""
        self._head_bytes += len(url)
        if self._head_bytes <= self.bounds.head_bytes:
            super().on_url(url)

    def on_headers_complete(self) -> None:
        """Refuse what cannot be a request here before anything is started for it."""
        version = self.parser.get_http_version()
        if self._head_bytes > self.bounds.head_bytes:
            self._refuse(431, f"The head may have {self.bounds.head_bytes} bytes.")
        elif version not in ("1.0", "1.1"):
            self._refuse(505, "HTTP/1.1 is spoken here.")
        elif version == "1.1" and sum(name == b"host" for name, _ in self.headers) != 1:
            self._refuse(400, "A request has one Host header.")
        elif self.parser.should_upgrade():
            self._refuse(400, "Only HTTP/1.1 is spoken here: leave the upgrade out.")
        else:
            self._in_head, self._since = False, time.monotonic()
            self._head_bytes = self._raw_bytes = 0
            try:
                super().on_headers_complete()
            except (httptools.HttpParserInvalidURLError, UnicodeDecodeError):
                self._refuse(400, "The request's target is no path.")
                return
            self.scope["extensions"] = {"tidemark.linger": {"protocol": self}}

    def on_body(self, body: bytes) -> None:
        """As uvicorn's, counted."""
        self._body_bytes += len(body)
        if not self._lingers and self.cycle is not None:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """As uvicorn's; after a refusal there is no request."""
        if self.cycle is not None and not self._lingers:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """As uvicorn's, without a timer for each pause."""
        self.server_state.total_requests += 1
        if self.transport.is_closing() or self._lingers:
            return
        self.flow.resume_reading()
        self._since = time.monotonic()
        if self.pipeline:
            cycle, app = self.pipeline.pop()
            self._start_asgi_task(cycle, app)
        elif not self._in_head or not self._head_bytes:
            self._idle = True

    def last(self, scope: Any) -> None:
        """The answer to the request of this scope is the connection's last, if its body has not come whole."""
        cycle = self.cycle
        if cycle is not None and cycle.scope is scope and cycle.more_body:
            cycle.transport = _Lingering(self)  # type: ignore[assignment]
            cycle.keep_alive = False

    def linger(self) -> None:
        """Everything is answered: let the sender read it, take no more notice of what it sends, and close soon."""
        if self.transport.is_closing() or self._lingers:
            return
        self._lingers, self._since = 1, time.monotonic()
        self.flow.resume_reading()
        if self.transport.can_write_eof():
            self.transport.write_eof()
        else:
            self.transport.close()  # TLS cannot be half closed

    def sweep(self, now: float) -> None:
        """Close what is past a deadline; `now` is of the monotonic clock."""
        if self.transport is None or self.transport.is_closing():
            return
        passed = now - self._since
        unread_since = self._unread_since
        self._unread_since = (unread_since or now) if self.flow.write_paused else None
        if self._lingers:
            if passed > LINGER_S:
                self.transport.abort()
        elif unread_since is not None and self.flow.write_paused:
            if now - unread_since > self.bounds.write_s:
                self.transport.abort()
        elif self._idle:
            if passed > self.bounds.idle_s:
                self.transport.close()
        else:
            self._hold_to_deadline(passed)

    def _hold_to_deadline(self, passed: float) -> None:
        at_work = self.cycle is not None and not self.cycle.response_complete
        if self._in_head and not at_work and passed > self.bounds.head_s:
            self._refuse(408, "The head of the request took too long.")
        elif (
            not self._in_head
            and at_work
            and self.cycle.more_body
            and passed > self.bounds.body_s + self._body_bytes / self.bounds.body_bytes_per_s
        ):
            self._refuse(408, "The body of the request took too long.")

    def _refuse(self, status: int, why: str, headers: bytes = b"") -> None:
        """Answer by ourselves, as the last of this connection; whoever works on a request of it is told it is gone."""
        if self.transport.is_closing() or self._lingers or self._deaf:
            return
        self.counts.status(status)
        at_work = self.cycle is not None and not self.cycle.response_complete
        if at_work and self._in_head:
            # an earlier request is still at work, and the next answer has to be its own: this one gets none
            self._deaf = True
            self.cycle.keep_alive = False
            return
        if at_work:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        text = why.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "replace")
        body = b'{"error":"%b"}' % text
        self.transport.write(
            b"HTTP/1.1 %d %b\r\ncontent-type: application/json\r\ncontent-length: %d\r\n%bconnection: close\r\n\r\n%b"
            % (status, _REASONS[status].encode(), len(body), headers, body)
        )
        self.linger()
