"""HTTP: from a request to the intake and back, in the order that takes nothing of what cannot be taken.

Method and path, token, media type, encoding, length, readiness, quota, room; only then the body. What is answered stands in
`tidemark.edge.contract`.
"""

from __future__ import annotations

import logging
import math
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import msgspec

from tidemark.edge import contract
from tidemark.edge.budget import Budget
from tidemark.edge.contract import Status
from tidemark.edge.counters import Counters
from tidemark.edge.intake import NOTHING, Intake, TooLargeError
from tidemark.edge.mapped import ForbiddenError
from tidemark.edge.spool import FullError
from tidemark.edge.tokens import Grant, Tokens, bearer
from tidemark.edge.verdict import Verdict, none_accepted
from tidemark.errors import RefusedError, TidemarkError
from tidemark.http.request import Headers, Request

_BELOW: Final = contract.POINTS.path + "/"
_GROWS: Final = 64 << 10
"""What is reserved for a body of unknown length, and again whenever it is used up."""
_JSON: Final = (b"content-type", b"application/json")
_SPOOLED: Final = (b"x-tidemark-durability", b"spool")
_TEXT: Final = msgspec.json.Encoder()
_LONGEST_RETRY_S: Final = 30
_LONGEST_WAIT_S: Final = 3600
_DIGITS: Final = {status: str(int(status)) for status in Status}
_access: Final = logging.getLogger("tidemark.access")


class _AnswerError(Exception):
    """An answer other than a verdict."""

    def __init__(self, status: Status, why: str, headers: Headers | None = None, wait_s: float = 0.0) -> None:
        super().__init__(why)
        self.status, self.why, self.headers = status, why, headers or []
        if status.later:
            # not all at once
            seconds = math.ceil(wait_s) or random.randint(1, _LONGEST_RETRY_S)  # noqa: S311  # no secret
            self.headers.append((b"retry-after", b"%d" % min(seconds, _LONGEST_WAIT_S)))


class _Work:
    """What is held for a request for points."""

    __slots__ = ("encoding", "grant", "reserved")

    def __init__(self, grant: Grant, encoding: str) -> None:
        self.grant, self.encoding = grant, encoding
        self.reserved = 0


@dataclass
class Door:
    """Handles requests.

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

    def head(self, request: Request) -> None:
        """Refuse what cannot be taken, before its body is read; see `tidemark.http.request.Handler`."""
        try:
            path = self._path(request.path)
            if path is None:
                raise _AnswerError(Status.NOT_FOUND, "There is no such path.")
            if request.method not in path.methods:
                allowed = ", ".join(path.methods)
                raise _AnswerError(Status.METHOD, f"{path.path} takes {allowed}.", [(b"allow", allowed.encode())])
            if path is contract.POINTS and request.method == "POST":
                self._points(request)
            elif path is contract.POINTS:
                self._answer(request, Status.NO_CONTENT, b"", [])
            elif path is contract.READY and (why := self.ready()):
                raise _AnswerError(Status.UNAVAILABLE, why)
            else:
                self._answer(request, Status.OK, b"{}\n", [_JSON])
        except _AnswerError as answer:
            self._refuse(request, answer)

    def grew(self, request: Request) -> None:
        """Hold a body to its bound, and find room for it."""
        work: _Work | None = request.work
        if work is None:
            return
        try:
            if request.size > self.max_body_bytes:
                raise _AnswerError(Status.TOO_LARGE, f"A body may have {self.max_body_bytes} bytes.")
            if request.size > work.reserved:
                self._reserve(work, max(_GROWS, request.size))
        except _AnswerError as answer:
            self._refuse(request, answer)

    def whole(self, request: Request) -> None:
        """Take a body; it is answered when its points are kept."""
        work: _Work | None = request.work
        if work is None:
            return
        project = work.grant.project
        try:
            body = request.body()
            self.counters.count("body_bytes", len(body), project)
            text = self._text(body, work)
            if isinstance(text, Verdict):
                self._verdict(request, text)
                return
            verdict, pack = self.intake.take(text, work.grant, self._about(request))
        except ForbiddenError as error:
            self._refuse(request, _AnswerError(Status.FORBIDDEN, str(error)))
        except TooLargeError as error:
            self._refuse(request, _AnswerError(Status.TOO_LARGE, str(error)))
        except _AnswerError as answer:
            self._refuse(request, answer)
        else:
            if pack is None:
                self._verdict(request, verdict)
            else:
                pack.then(lambda spooled: self._kept(request, verdict, spooled))

    def gone(self, request: Request) -> None:
        """Give back what is held for it."""
        work: _Work | None = request.work
        if work is not None and work.reserved:
            self.budget.give_back(work.grant.project, work.reserved)
            work.reserved = 0

    def _path(self, path: str) -> contract.Path | None:
        """The path that is meant; with a mapping, which sees it, whatever is below that for points is that."""
        below = self.intake.mapper is not None and path.startswith(_BELOW)
        return contract.POINTS if below else contract.PATHS.get(path)

    def _about(self, request: Request) -> Mapping[str, str]:
        """What a mapping sees of a request."""
        if self.intake.mapper is None:
            return NOTHING
        query = {"query": request.query.decode("latin-1")} if request.query else {}
        return {"path": request.path, **query}

    def _points(self, request: Request) -> None:
        """Everything that can be said of a request for points by its head."""
        headers = request.headers
        grant = self._grant(headers.get(b"authorization", b""))
        encoding = self._check_head(headers)
        why = self.ready()
        if why:
            raise _AnswerError(Status.UNAVAILABLE, why)
        wait_s = grant.wait_s(request.began)
        if wait_s:
            why = f"The token's quota of {grant.points_per_s:g} points a second is used up."
            raise _AnswerError(Status.QUOTA, why, wait_s=wait_s)
        request.work = work = _Work(grant, encoding)
        length = headers.get(b"content-length")
        self._reserve(work, int(length) if length else _GROWS)

    def _grant(self, authorization: bytes) -> Grant:
        known = self.tokens.remembered(authorization)
        if known is not None:
            return known
        token = bearer(authorization)
        grant = self.tokens.grant(token) if token else None
        if grant is None:
            why = "The token is not known." if token else "A token is needed: Authorization: Bearer TOKEN."
            raise _AnswerError(Status.UNAUTHORIZED, why, [(b"www-authenticate", b'Bearer realm="tidemark"')])
        if "write" not in grant.may:
            raise _AnswerError(Status.FORBIDDEN, "The token may not write.")
        self.tokens.remember(authorization, grant)
        return grant

    def _check_head(self, headers: dict[bytes, bytes]) -> str:
        """Refuse a body by what is said of it; returns its encoding."""
        media_type = headers.get(b"content-type", b"").partition(b";")[0].strip().lower().decode("latin-1")
        if media_type and media_type not in contract.MEDIA_TYPES:
            raise _AnswerError(Status.MEDIA_TYPE, "The body is JSON: Content-Type: application/json.")
        encoding = headers.get(b"content-encoding", b"").strip().lower().decode("latin-1")
        if encoding and encoding not in (*contract.ENCODINGS, "x-gzip"):
            accepted = ", ".join(contract.ENCODINGS).encode()
            known = "gzip and zstd are known as Content-Encoding."
            raise _AnswerError(Status.MEDIA_TYPE, known, [(b"accept-encoding", accepted)])
        expect = headers.get(b"expect")
        if expect and expect.lower() != b"100-continue":
            raise _AnswerError(Status.EXPECTATION, "Only 100-continue can be expected.")
        length = headers.get(b"content-length")
        if length and int(length) > self.max_body_bytes:
            raise _AnswerError(Status.TOO_LARGE, f"A body may have {self.max_body_bytes} bytes.")
        return encoding

    def _reserve(self, work: _Work, size: int) -> None:
        if not self.budget.take(work.grant.project, size):
            raise _AnswerError(Status.UNAVAILABLE, "There is no room for it just now: come again.")
        work.reserved += size

    def _text(self, body: bytes, work: _Work) -> bytes | Verdict:
        if not work.encoding or work.encoding == "identity":
            return body
        text = self.intake.unpack(body, work.encoding)
        if not isinstance(text, Verdict):
            self._reserve(work, len(text))
        return text

    def _kept(self, request: Request, verdict: Verdict, spooled: bool | TidemarkError) -> None:
        if isinstance(spooled, ForbiddenError):
            self._refuse(request, _AnswerError(Status.FORBIDDEN, str(spooled)))
        elif isinstance(spooled, FullError):
            self._refuse(request, _AnswerError(Status.FULL, str(spooled), wait_s=_LONGEST_RETRY_S))
        elif isinstance(spooled, RefusedError):
            self._verdict(request, none_accepted(contract.REFUSED_BY_BUS, str(spooled)))
        elif isinstance(spooled, TidemarkError):
            self._refuse(request, _AnswerError(Status.UNAVAILABLE, str(spooled)))
        else:
            verdict.spooled = spooled
            self.counters.kept(time.monotonic() - request.began)
            self._verdict(request, verdict)

    def _verdict(self, request: Request, verdict: Verdict) -> None:
        project = request.work.grant.project
        if verdict.accepted:
            self.counters.count("points_accepted", verdict.accepted, project, "spool" if verdict.spooled else "bus")
        headers = [_JSON, _SPOOLED] if verdict.spooled else [_JSON]
        if not verdict.refused:
            status = Status.SPOOLED if verdict.spooled else Status.OK
            self._answer(request, status, b'{"accepted":%d,"rejected":[]}\n' % verdict.accepted, headers)
            return
        listed = [{"index": one.at, "reason": one.reason, "detail": one.detail} for one in verdict.rejected]
        for reason, number in verdict.refused.items():
            self.counters.count("points_refused", number, project, reason)
        more = max(0, sum(verdict.refused.values()) - len(listed))
        answer = {"accepted": verdict.accepted, "rejected": listed, "more": more}
        self._answer(request, Status.REFUSED, _TEXT.encode(answer) + b"\n", headers)

    def _refuse(self, request: Request, answer: _AnswerError) -> None:
        self._answer(request, answer.status, _problem(answer.why), [_JSON, *answer.headers])

    def _answer(self, request: Request, status: Status, body: bytes, headers: Headers) -> None:
        if self.cors_origins:
            headers = [*headers, *self._cors(request)]
        found = self._path(request.path)
        path = "other" if found is None else found.path
        self.counters.count("requests", 1, path, _DIGITS[status])
        if self.logged and random.random() < self.logged:  # noqa: S311  # a sample
            project = request.work.grant.project if request.work else "-"
            took_ms = (time.monotonic() - request.began) * 1000
            _access.info("%s %.200s %d project=%s %.1f ms", request.method, path, status, project, took_ms)
        request.answer(status, headers, body)

    def _cors(self, request: Request) -> Headers:
        origin = request.headers.get(b"origin")
        if not origin or not self.cors_origins & {origin, b"*"}:
            return []
        allowed = b"*" if b"*" in self.cors_origins else origin
        headers = [(b"access-control-allow-origin", allowed), (b"vary", b"origin")]
        if request.method == "OPTIONS":
            return [
                *headers,
                (b"access-control-allow-methods", b"POST"),
                (b"access-control-allow-headers", b"authorization, content-type, content-encoding"),
                (b"access-control-max-age", b"600"),
            ]
        return [*headers, (b"access-control-expose-headers", b"retry-after, x-tidemark-durability")]


def _problem(why: str) -> bytes:
    return _TEXT.encode({"error": why}) + b"\n"
