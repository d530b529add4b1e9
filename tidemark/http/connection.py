"""One connection of HTTP/1.1, with deadlines and bounds from its first byte.

llhttp parses, and refuses what is ambiguous (two lengths, a length and chunks, bare line feeds); it bounds nothing. Here the
head is bounded in bytes and time, a body in time and in the bytes that are not its own, and a request that is answered
before its body came ends its connection so that its sender can read the answer.

What is read is parsed in small steps, and none of it while a whole request is at work or answers are left unread: it stays
as it came, and no more is read. So a sender of many requests in a row costs a step of parsed ones, and one read of bytes.

There are no timers: `sweep` is called for all connections once a second.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any, Final

import httptools

from tidemark.http.bounds import Bounds, Open
from tidemark.http.request import NO_CONTENT, STATUS_LINES, Handler, Headers, Request
from tidemark.logs import log

LARGE_BYTES: Final = 64 << 10
"""Of an answer's body."""
LINGER_S: Final = 2.0
LINGER_BYTES: Final = 16 << 20
STEP_BYTES: Final = 4 << 10
"""Parsed at once, beside the rest of a body whose length is known."""
UNREAD_BYTES: Final = 16 << 10
"""Of answers that the kernel does not take, before no more requests are."""
_REFUSED_AT_ONCE: Final = 50
"""Connections beyond the bound that are told so; those beyond these are only closed, since each is a file."""
_OVERHEAD_BYTES: Final = 64 << 10
_BODY_BYTES_A_BYTE: Final = 16
"""Of chunk sizes, extensions and trailers one body may have so many, and one more for each of so many bytes of its own."""
_JSON: Final = (b"content-type", b"application/json")
_BROKEN: Final = "This should not have happened; it is in the log."
_ONE_HOP: Final = (b"connection", b"upgrade")


class Connection(asyncio.BufferedProtocol):
    """One of them; its requests are answered in the order they came."""

    __slots__ = (
        "_again",
        "_ahead",
        "_all_body_bytes",
        "_among",
        "_began",
        "_body_bytes",
        "_bounds",
        "_closes",
        "_current",
        "_ended",
        "_ended_since",
        "_handler",
        "_head_bytes",
        "_headers",
        "_held",
        "_hosts",
        "_idle",
        "_in_head",
        "_last",
        "_lingers",
        "_parsed",
        "_parser",
        "_raw_bytes",
        "_rest",
        "_since",
        "_taken_at",
        "_transport",
        "_unparsed",
        "_unread_bytes",
        "_unread_since",
        "_url",
        "unread",
    )

    def __init__(self, handler: Handler, bounds: Bounds, among: Open) -> None:
        """Not connected yet.

        Args:
            handler: Of its requests.
            bounds: That it is held to.
            among: What it shares with others.
        """
        self._handler, self._bounds, self._among = handler, bounds, among
        self._parser: Any = httptools.HttpRequestParser(self)
        self._transport: asyncio.Transport | None = None
        self._current: Request | None = None
        """The request that is to be answered next."""
        self._ahead: list[Request] = []
        self._parsed: Request | None = None
        """The one whose body comes."""
        self._unparsed = b""
        self._url = self._again = b""
        self._headers: dict[bytes, bytes] = {}
        self._hosts = 0
        self._in_head, self._began = True, False
        self._head_bytes = self._raw_bytes = self._body_bytes = self._all_body_bytes = self._rest = 0
        self._since = time.monotonic()
        """When the head, the body, the pause or the lingering began."""
        self._idle = self._closes = self._ended = self._held = False
        self._ended_since = 0.0
        self._lingers = 0
        self._last: bytes | None = None
        """The answer to what was no request, after those to the requests before it."""
        self._unread_since: float | None = None
        self._unread_bytes, self._taken_at = 0, 0.0
        self.unread: bytes | None = None
        """The body of a large answer that the kernel has not taken all of."""

    @property
    def at_work(self) -> bool:
        """A request is not answered, or a large answer not taken."""
        return self._current is not None or self.unread is not None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Bound how many there are."""
        self._transport = made = transport  # type: ignore[assignment]
        made.set_write_buffer_limits(UNREAD_BYTES)  # type: ignore[attr-defined]
        self._among.peers.all.add(self)
        beyond = self._among.peers.beyond()
        if beyond > _REFUSED_AT_ONCE:
            self._count(503)
            made.abort()  # type: ignore[attr-defined]
        elif beyond > 0:
            self._refuse(503, "Too many connections.", [(b"retry-after", b"5")])

    def connection_lost(self, _error: Exception | None) -> None:
        """Tell whoever works on its requests."""
        self._among.peers.all.discard(self)
        self._give_up()
        self._parser = self.unread = None

    def get_buffer(self, _size: int) -> memoryview:
        """All read into the same one: what is read is taken out before the next read."""
        return self._among.peers.buffer

    def buffer_updated(self, size: int) -> None:
        """Parse what was read."""
        transport = self._transport
        if self._lingers:
            self._lingers += size
            if self._lingers > LINGER_BYTES and transport is not None:
                transport.abort()
        elif not self._done():
            data = bytes(self._among.peers.buffer[:size])
            at_rest = self._idle and not self._unparsed
            if at_rest and self._repeated(data):
                return
            self._unparsed += data
            self._parse_on()
            request = self._current
            if at_rest and request is not None and request.complete and request.keep_alive:
                self._among.heads.learn(data, request)

    def eof_received(self) -> bool:
        """The client sends no more; what has come as a whole is answered all the same."""
        transport = self._transport
        if transport is None or self._lingers or not transport.can_write_eof():
            return False
        self._ended, self._ended_since = True, time.monotonic()
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed is self._current:
            self._give_up()
        elif parsed is not None:
            self._ahead.pop()
        return self._current is not None or bool(self._ahead) or self._last is not None

    def pause_writing(self) -> None:
        """The client does not read its answers: take no more requests of it."""
        self._unread_since = time.monotonic()
        self._note_unread()
        self._hold()

    def resume_writing(self) -> None:
        """It does again."""
        self._unread_since = self.unread = None
        asyncio.get_running_loop().call_soon(self._next)

    # of the parser

    def on_message_begin(self) -> None:
        """A head begins."""
        self._in_head = self._began = True
        self._url, self._headers, self._hosts = b"", {}, 0
        self._head_bytes = self._raw_bytes = self._body_bytes = 0
        if self._idle:
            self._idle, self._since = False, time.monotonic()

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
            headers = self._headers
            headers[name] = b"%b, %b" % (headers[name], value) if name in headers else value

    def on_headers_complete(self) -> None:
        """Begin the request, unless it cannot be one."""
        parser, self._in_head = self._parser, False
        version = parser.get_http_version()
        coding = self._headers.get(b"transfer-encoding")
        if self._done():
            return
        if self._head_bytes > self._bounds.head_bytes:
            self._refuse(431, f"The head may have {self._bounds.head_bytes} bytes.")
        elif version not in ("1.1", "1.0"):
            self._refuse(505, "HTTP/1.1 is spoken here.")
        elif self._hosts != 1 and (version == "1.1" or self._hosts):
            self._refuse(400, "A request has one Host header.")
        elif coding is not None and version == "1.0":
            self._refuse(400, "HTTP/1.0 has no Transfer-Encoding.")
        elif coding is not None and coding.lower() != b"chunked":
            self._refuse(501, "Of transfer codings only chunked is known; compressed is said by Content-Encoding.")
        elif not parser.should_upgrade():
            self._begin(version)
        elif parser.get_method() == b"CONNECT":
            self._refuse(400, "This is no proxy.")
        else:
            self._again = self._without_upgrade(version)

    def on_body(self, body: bytes) -> None:
        """A part of the body."""
        self._body_bytes += len(body)
        self._all_body_bytes += len(body)
        self._rest -= len(body)
        request = self._parsed
        if request is None or request.answered or self._lingers:
            return
        request.add(body)
        if request is self._current:
            self._handled(self._handler.grew, request)

    def on_message_complete(self) -> None:
        """All of it has come."""
        request, self._parsed = self._parsed, None
        if request is None or request.complete:
            return
        request.complete = True
        if request is self._current and not request.answered:
            self._handled(self._handler.whole, request)

    # of requests

    def answer(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        """Write an answer in one piece, and go on with what has come meanwhile."""
        if request.answered:
            return
        request.answered = True
        request.forget()
        self._handled(self._handler.gone, request)
        transport = self._transport
        if request is not self._current or transport is None or transport.is_closing():
            return
        keep = request.keep_alive and request.complete and not self._closes
        keep = keep and (not self._ended or bool(self._ahead) or self._last is not None)
        parts = [STATUS_LINES[status], self._among.date]
        for name, value in headers:
            parts += (name, b": ", value, b"\r\n")
        if status != NO_CONTENT:
            parts.append(b"content-length: %d\r\n" % len(body))
        parts.append(b"\r\n" if keep else b"connection: close\r\n\r\n")
        if request.method == "HEAD":
            body = b""
        if len(body) < LARGE_BYTES:
            transport.write(b"".join((*parts, body)))
        else:  # which others may be answered with as well: it is not copied
            transport.writelines((b"".join(parts), body))
            self.unread = body if self._unread_since is not None else None
        self._current = None
        if keep:
            self._go_on()
        elif request.complete and not self._held:
            self.close()
        else:
            self._linger()

    def shut_down(self) -> None:
        """Close it now, or with its next answer."""
        self._closes = True
        if self._current is None and not self._lingers:
            self.close()

    def sweep(self, now: float) -> None:
        """Close what is past a deadline; `now` is of the monotonic clock."""
        transport, bounds = self._transport, self._bounds
        if transport is None:
            return
        passed = now - self._since
        if transport.is_closing() or self._unread_since is not None:
            self._hold_to_reading(transport, now)
            self._since = now  # of lingering, which begins once all is read
        elif self._lingers:
            if passed > LINGER_S:
                transport.abort()
        elif self._ended and now - self._ended_since > bounds.ended_s:
            transport.abort()
        elif self._idle:
            if passed > bounds.idle_s:
                self.close()
        else:
            self._hold_to_deadline(passed)

    def _hold_to_reading(self, transport: asyncio.Transport, now: float) -> None:
        if transport.get_write_buffer_size() <= self._unread_bytes - self._bounds.taken_bytes:
            self._note_unread()
        elif now - self._taken_at > self._bounds.slow_s:
            transport.abort()

    def _note_unread(self) -> None:
        """From now on again so much has to be taken in time."""
        if self._transport is not None:
            self._taken_at, self._unread_bytes = time.monotonic(), self._transport.get_write_buffer_size()

    def _hold_to_deadline(self, passed: float) -> None:
        current, bounds = self._current, self._bounds
        if current is None:
            if self._in_head and passed > bounds.slow_s:
                self._refuse(408, "The head of the request took too long.")
        elif not current.complete and passed > bounds.slow_s + self._body_bytes / bounds.body_bytes_per_s:
            self._refuse(408, "The body of the request took too long.")

    def close(self) -> None:
        """Close it, once what was answered is written."""
        if self._transport is not None and not self._transport.is_closing():
            self._ahead.clear()
            self._note_unread()
            self._transport.close()

    def _done(self) -> bool:
        """Nothing more is taken."""
        return self._lingers > 0 or self._last is not None or self._transport is None or self._transport.is_closing()

    def _busy(self) -> bool:
        """What has come has to wait: for answers, or for their being read."""
        current = self._current
        return (
            (current is not None and current is not self._parsed) or bool(self._ahead) or self._unread_since is not None
        )

    def _parse_on(self) -> None:
        """Parse what has come, as far as it need not wait."""
        data, self._unparsed = self._unparsed, b""
        at = 0
        while at < len(data):
            if self._busy():
                self._unparsed = data[at:]
                self._hold()
                return
            step = data[at : at + STEP_BYTES + max(0, self._rest)]
            at += len(step)
            self._parse(step)
            if self._done():
                return

    def _repeated(self, data: bytes) -> bool:
        """Begin a request whose head was parsed before, past the parser, which is between two requests."""
        found = self._among.heads.known(data)
        if found is None:
            return False
        head, body = found
        self._idle, self._since = False, time.monotonic()
        request = Request(self, head.method, head.path, head.query, head.headers, self._since)
        request.complete = True
        request.add(body)
        self._start(request)
        return True

    def _parse(self, data: bytes) -> None:
        """Parse a step, and bound what is neither head nor body."""
        before = self._all_body_bytes
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserCallbackError:
            log.exception("A request could not be read.")
            self._refuse(500, _BROKEN)
        except httptools.HttpParserError as error:
            self._refuse(400, f"This is no HTTP/1.1 request: {error}.")
        except httptools.HttpParserUpgrade as upgrade:
            if not self._done():
                again, self._again = self._again, b""
                self._parser = httptools.HttpRequestParser(self)
                self._parse(again + data[upgrade.args[0] :])
        if self._began:
            self._began = False  # what came before it is another's
            return
        self._raw_bytes += len(data) - (self._all_body_bytes - before)
        if self._in_head:
            if self._raw_bytes > self._bounds.head_bytes:
                self._refuse(431, f"The head may have {self._bounds.head_bytes} bytes.")
        elif self._raw_bytes > _OVERHEAD_BYTES + self._body_bytes // _BODY_BYTES_A_BYTE:
            self._refuse(400, "The body is hardly anything but chunk sizes.")

    def _without_upgrade(self, version: str) -> bytes:
        """The head, for another parser: this one takes what follows an upgrade for no HTTP, and clients offer one unasked.

        Java's does with every first request. An offer may be ignored: RFC 9110, 7.8.
        """
        lines = [b"%b %b HTTP/%b" % (self._parser.get_method(), self._url, version.encode())]
        lines += [b"%b: %b" % header for header in self._headers.items() if header[0] not in _ONE_HOP]
        if not self._parser.should_keep_alive():
            lines.append(b"connection: close")
        return b"\r\n".join((*lines, b"", b""))

    def _begin(self, version: str) -> None:
        try:
            url = httptools.parse_url(self._url)
            path = url.path.decode("ascii")
        except (httptools.HttpParserInvalidURLError, UnicodeDecodeError, AttributeError):
            self._refuse(400, "The request's target is no path.")
            return
        headers = self._headers
        self._head_bytes = self._raw_bytes = 0
        now = time.monotonic()
        request = Request(self, self._parser.get_method().decode("ascii"), path, url.query or b"", headers, now)
        request.keep_alive = version == "1.1" and self._parser.should_keep_alive()
        self._rest = int(headers.get(b"content-length", b"0"))
        request.complete = not self._rest and b"transfer-encoding" not in headers
        if version == "1.0":
            headers.pop(b"expect", None)
        self._parsed = request
        if self._current is None and not self._ahead:
            self._since = now
            self._start(request)
        else:
            self._ahead.append(request)

    def _start(self, request: Request) -> None:
        self._current = request
        self._idle = False
        self._handled(self._handler.head, request)
        if request.answered:
            return
        if not request.complete and request is self._parsed and request.headers.get(b"expect") and self._transport:
            self._transport.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if request.size:
            self._handled(self._handler.grew, request)
        if request.complete and not request.answered:
            self._handled(self._handler.whole, request)

    def _go_on(self) -> None:
        """After an answer."""
        self._since, self._idle = time.monotonic(), not self._in_head
        if self._idle:
            self._headers = {}  # thousands may be idle
        if self._ahead or self._unparsed:
            # not at once: a thousand of them in a row would be as many calls deep
            asyncio.get_running_loop().call_soon(self._next)
        elif self._last is not None and self._transport is not None:
            self._transport.write(self._last)
            self._linger()
        elif self._ended:
            self.close()
        else:
            self._release()

    def _next(self) -> None:
        """What had to wait."""
        if self._lingers or self._transport is None or self._transport.is_closing():
            return
        if self._current is None and self._ahead and self._unread_since is None:
            self._start(self._ahead.pop(0))
        if self._busy() or self._done():
            return
        self._parse_on()
        if not self._unparsed:
            self._release()

    def _hold(self) -> None:
        if not self._held and self._transport is not None:
            self._held = True
            self._transport.pause_reading()

    def _release(self) -> None:
        if self._held and not self._ended and self._unread_since is None and self._transport is not None:
            self._held = False
            if not self._transport.is_closing():
                self._transport.resume_reading()

    def _handled(self, call: Callable[[Request], None], request: Request) -> None:
        """Call the handler; its errors are ours."""
        try:
            call(request)
        except Exception:  # noqa: BLE001  # of whatever kind: it must not take the connection's others along
            log.exception("A request could not be handled.")
            self._count(500)
            request.keep_alive = False
            request.answer(500, [_JSON], _problem(_BROKEN))

    def _give_up(self) -> None:
        """No answer is wanted any more."""
        request, self._current = self._current, None
        self._ahead.clear()
        self._unparsed = b""
        if request is not None and not request.answered:
            request.answered = True
            request.forget()
            self._handled(self._handler.gone, request)

    def _refuse(self, status: int, why: str, headers: Headers | None = None) -> None:
        """Answer by ourselves, as the last of this connection; those to whole requests before it come first."""
        transport = self._transport
        if transport is None or self._done():
            return
        self._count(status)
        body = _problem(why)
        parts = [STATUS_LINES[status], self._among.date]
        for name, value in (_JSON, *(headers or ())):
            parts += (name, b": ", value, b"\r\n")
        parts += (b"content-length: %d\r\nconnection: close\r\n\r\n" % len(body), body)
        answer = b"".join(parts)
        parsed, self._parsed = self._parsed, None
        if parsed is not None and parsed is self._current:
            self._give_up()
        elif self._ahead and self._ahead[-1] is parsed:
            self._ahead.pop()
        if self._current is not None or self._ahead:
            self._last = answer
            self._hold()
        else:
            transport.write(answer)
            self._linger()

    def _count(self, status: int) -> None:
        self._among.by_status[status] = self._among.by_status.get(status, 0) + 1

    def _linger(self) -> None:
        """Everything is answered: let the sender read it, take no more notice of what it sends, and close soon.

        A socket that is closed with unread bytes in it is reset, and what was answered may be lost with it.
        """
        transport = self._transport
        assert transport is not None
        if self._ended or not transport.can_write_eof():  # TLS cannot be half closed
            self.close()
            return
        self._ahead.clear()
        self._unparsed = b""
        self._lingers, self._since = 1, time.monotonic()
        transport.resume_reading()
        transport.write_eof()


def _problem(why: str) -> bytes:
    return b'{"error":"%b"}\n' % why.replace("\\", "\\\\").replace('"', '\\"').encode("ascii", "replace")
