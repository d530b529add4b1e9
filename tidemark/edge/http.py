"""HTTP: from a request to the intake and back, in the order that takes nothing of what cannot be taken.

Method and path, token, media type, encoding, length, room, quota; only then the body. What is answered stands in
`tidemark.edge.contract`.
"""

from __future__ import annotations

import base64
import binascii
import logging
import random
import time
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from typing import Any, Final

import msgspec

from tidemark.edge import contract
from tidemark.edge.budget import Budget
from tidemark.edge.contract import Status
from tidemark.edge.counters import Counters
from tidemark.edge.intake import ForbiddenError, Intake, TooLargeError, Verdict
from tidemark.edge.spool import FullError
from tidemark.edge.tokens import Grant, Tokens
from tidemark.errors import TidemarkError

Receive = Callable[[], Awaitable[Any]]
Send = Callable[[Any], Awaitable[None]]
Headers = list[tuple[bytes, bytes]]

_GROWS: Final = 64 << 10
"""What is reserved for a body of unknown length, and again whenever it is used up."""
_JSON: Final = (b"content-type", b"application/json")
_TEXT: Final = msgspec.json.Encoder()
_LONGEST_RETRY_S: Final = 30
_access: Final = logging.getLogger("tidemark.access")


class _AnswerError(Exception):
    """An answer other than a verdict."""

    def __init__(self, status: Status, why: str, headers: Iterable[tuple[bytes, bytes]] = ()) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, list(headers)


class _GoneError(Exception):
    """The sender is gone, or was sent away by a deadline."""


@dataclass
class _Asked:
    """What the head of a request says."""

    authorization: bytes = b""
    media_type: bytes = b""
    encoding: bytes = b""
    length: bytes = b""
    expect: bytes = b""
    origin: bytes = b""

    @classmethod
    def of(cls, headers: Headers) -> _Asked:
        asked = cls()
        for name, value in headers:
            field = _FIELDS.get(name)
            if field is not None:
                setattr(asked, field, value)
        return asked


_FIELDS: Final = {
    b"authorization": "authorization",
    b"content-type": "media_type",
    b"content-encoding": "encoding",
    b"content-length": "length",
    b"expect": "expect",
    b"origin": "origin",
}


@dataclass
class Door:
    """The ASGI application.

    Attributes:
        intake: Where bodies go.
        tokens: Of those who may send.
        budget: Of bytes in flight.
        counters: Told of every answer.
        max_body_bytes: As sent.
        ready: Why points are not taken just now; empty: they are.
        cors_origins: Origins whose pages may send, or `*`; empty: none.
        logged: Share of the requests that are logged.
    """

    intake: Intake
    tokens: Tokens
    budget: Budget
    counters: Counters
    max_body_bytes: int
    ready: Callable[[], str]
    cors_origins: frozenset[bytes] = frozenset()
    logged: float = 0.0

    async def __call__(self, scope: Any, receive: Receive, send: Send) -> None:
        """Answer one request."""
        began = time.monotonic()
        asked = _Asked.of(scope["headers"])
        project = ""
        try:
            path = contract.PATHS.get(scope["path"])
            if path is None:
                raise _AnswerError(Status.NOT_FOUND, "There is no such path.")
            if scope["method"] not in path.methods:
                allowed = ", ".join(path.methods).encode()
                raise _AnswerError(Status.METHOD, f"{path.path} takes {allowed.decode()}.", [(b"allow", allowed)])
            if path is not contract.POINTS:
                why = self.ready() if path is contract.READY else ""
                status, body, headers = (
                    (Status.UNAVAILABLE if why else Status.OK),
                    _problem(why) if why else b"{}\n",
                    [_JSON],
                )
            elif scope["method"] == "OPTIONS":
                status, body, headers = Status.NO_CONTENT, b"", []
            else:
                grant = self._grant(asked.authorization)
                project = grant.project
                verdict = await self._points(asked, grant, receive)
                status, body, headers = self._answer(verdict, project)
                if verdict.accepted:
                    self.counters.kept(time.monotonic() - began)
        except _GoneError:
            return
        except _AnswerError as answer:
            status, body, headers = answer.status, _problem(answer.why), [_JSON, *answer.headers]
            _close_unread(scope)
        headers = [*headers, *self._cors(asked.origin, preflight=scope["method"] == "OPTIONS")]
        self.counters.count(
            "requests", 1, scope["path"] if scope["path"] in contract.PATHS else "other", str(int(status))
        )
        if self.logged and random.random() < self.logged:  # noqa: S311  # a sample
            took_ms = (time.monotonic() - began) * 1000
            _access.info("%s %s %d project=%s %.1f ms", scope["method"], scope["path"], status, project or "-", took_ms)
        await _send(send, status, headers, body)

    def _grant(self, authorization: bytes) -> Grant:
        token = _token(authorization)
        grant = self.tokens.grant(token) if token else None
        if grant is None or "write" not in grant.may:
            why = "No token is known by this name." if token else "A token is needed: Authorization: Bearer TOKEN."
            if grant is not None:
                raise _AnswerError(Status.FORBIDDEN, "The token may not write.")
            raise _AnswerError(Status.UNAUTHORIZED, why, [(b"www-authenticate", b'Bearer realm="tidemark"')])
        return grant

    async def _points(self, asked: _Asked, grant: Grant, receive: Receive) -> Verdict:
        encoding = self._check_head(asked)
        why = self.ready()
        if why:
            raise _AnswerError(Status.UNAVAILABLE, why, _retry_after(1, jitter=True))
        wait_s = grant.wait_s(time.monotonic())
        if wait_s:
            why = f"The token's quota of {grant.points_per_s:g} points a second is used up."
            raise _AnswerError(Status.QUOTA, why, _retry_after(wait_s))
        length = int(asked.length) if asked.length else None
        reserved = _Reserved(self.budget, grant.project)
        try:
            body = await self._body(reserved, length, receive)
            self.counters.count("body_bytes", len(body), grant.project)
            return await self._taken(body, encoding, grant, reserved)
        except ForbiddenError as error:
            raise _AnswerError(Status.FORBIDDEN, str(error)) from None
        except TooLargeError as error:
            raise _AnswerError(Status.TOO_LARGE, str(error)) from None
        except FullError as error:
            raise _AnswerError(Status.FULL, str(error), _retry_after(_LONGEST_RETRY_S)) from None
        except TidemarkError as error:
            raise _AnswerError(Status.UNAVAILABLE, str(error), _retry_after(1, jitter=True)) from None
        finally:
            reserved.give_back()

    def _check_head(self, asked: _Asked) -> str:
        """Refuse a body by what is said of it; returns its encoding."""
        media_type = asked.media_type.partition(b";")[0].strip().lower().decode("latin-1")
        encoding = asked.encoding.strip().lower().decode("latin-1")
        if media_type and media_type not in contract.MEDIA_TYPES:
            raise _AnswerError(Status.MEDIA_TYPE, "The body is JSON: Content-Type: application/json.")
        if encoding and encoding not in (*contract.ENCODINGS, "x-gzip"):
            accepted = [(b"accept-encoding", ", ".join(contract.ENCODINGS).encode())]
            raise _AnswerError(Status.MEDIA_TYPE, "gzip and zstd are known as Content-Encoding.", accepted)
        if asked.expect and asked.expect.lower() != b"100-continue":
            raise _AnswerError(Status.EXPECTATION, "Only 100-continue can be expected.")
        if asked.length and int(asked.length) > self.max_body_bytes:
            raise _AnswerError(Status.TOO_LARGE, f"A body may have {self.max_body_bytes} bytes.")
        return encoding

    async def _body(self, reserved: _Reserved, length: int | None, receive: Receive) -> bytes:
        reserved.take(_GROWS if length is None else length)
        parts: list[bytes] = []
        size = 0
        while True:
            event = await receive()
            if event["type"] == "http.disconnect":
                raise _GoneError
            part = event["body"]
            if part:
                parts.append(part)
                size += len(part)
                if size > self.max_body_bytes:
                    raise _AnswerError(Status.TOO_LARGE, f"A body may have {self.max_body_bytes} bytes.")
                if size > reserved.size:
                    reserved.take(max(_GROWS, size))
            if not event["more_body"]:
                return parts[0] if len(parts) == 1 else b"".join(parts)

    async def _taken(self, body: bytes, encoding: str, grant: Grant, reserved: _Reserved) -> Verdict:
        if encoding and encoding != "identity":
            text = self.intake.unpack(body, encoding)
            if isinstance(text, Verdict):
                return text
            reserved.take(len(text))
        else:
            text = body
        return await self.intake.take(text, grant)

    def _answer(self, verdict: Verdict, project: str) -> tuple[Status, bytes, Headers]:
        if verdict.accepted:
            self.counters.count("points_accepted", verdict.accepted, project, "spool" if verdict.spooled else "bus")
        spooled = [(b"x-tidemark-durability", b"spool")] if verdict.spooled else []
        if not verdict.refused:
            status = Status.SPOOLED if verdict.spooled else Status.OK
            return status, b'{"accepted":%d,"rejected":[]}\n' % verdict.accepted, [_JSON, *spooled]
        listed = [{"index": one.at, "reason": one.reason, "detail": one.detail} for one in verdict.rejected]
        for one in verdict.rejected:
            self.counters.count("points_refused", 1, project, one.reason)
        more = max(0, verdict.refused - len(listed))
        answer = {"accepted": verdict.accepted, "rejected": listed, "more": more}
        return Status.REFUSED, _TEXT.encode(answer) + b"\n", [_JSON, *spooled]

    def _cors(self, origin: bytes, *, preflight: bool) -> Headers:
        if not origin or not self.cors_origins & {origin, b"*"}:
            return []
        headers = [
            (b"access-control-allow-origin", b"*" if b"*" in self.cors_origins else origin),
            (b"vary", b"origin"),
        ]
        if preflight:
            return [
                *headers,
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", b"authorization, content-type, content-encoding"),
                (b"access-control-max-age", b"600"),
            ]
        return [*headers, (b"access-control-expose-headers", b"retry-after, x-tidemark-durability")]


class _Reserved:
    """What one request holds of the budget."""

    def __init__(self, budget: Budget, project: str) -> None:
        self._budget, self._project = budget, project
        self.size = 0

    def take(self, size: int) -> None:
        """Hold so much more.

        Raises:
            _AnswerError: there is no room.
        """
        if not self._budget.take(self._project, size):
            raise _AnswerError(
                Status.UNAVAILABLE, "There is no room for it just now: come again.", _retry_after(1, jitter=True)
            )
        self.size += size

    def give_back(self) -> None:
        if self.size:
            self._budget.give_back(self._project, self.size)


def _token(authorization: bytes) -> str:
    """The token of `Bearer T`, of `Token T`, or of `Basic` as its password; empty: none."""
    scheme, _, rest = authorization.strip().partition(b" ")
    kind, text = scheme.lower(), rest.strip()
    if kind == b"basic":
        try:
            text = base64.b64decode(text, validate=True).partition(b":")[2]
        except binascii.Error:
            return ""
    elif kind not in (b"bearer", b"token"):
        return ""
    return text.decode("utf-8", "surrogateescape")


def _retry_after(seconds: float, *, jitter: bool = False) -> Headers:
    wait = random.randint(1, _LONGEST_RETRY_S) if jitter else min(3600, max(1, -(-seconds // 1)))  # noqa: S311  # so that not all come at once
    return [(b"retry-after", b"%d" % wait)]


def _problem(why: str) -> bytes:
    return _TEXT.encode({"error": why}) + b"\n"


def _close_unread(scope: Any) -> None:
    """Have the connection end with this answer, where the body of the request has not come whole."""
    protocol = scope.get("extensions", {}).get("tidemark.linger", {}).get("protocol")
    if protocol is not None:
        protocol.last(scope)


async def _send(send: Send, status: int, headers: Headers, body: bytes) -> None:
    if status != Status.NO_CONTENT:
        headers = [*headers, (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": int(status), "headers": headers})
    await send({"type": "http.response.body", "body": body})
