"""HTTP: from a request to the service and back; so many at once, others wait, and those beyond are told to come again."""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Final

from tidemark.edge.tokens import Grant, Tokens, bearer
from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.http.request import Headers, Request
from tidemark.logs import log
from tidemark.query.answers import Written, accepts, encoding, form, packed, written
from tidemark.query.beside import beside
from tidemark.query.counters import Counters
from tidemark.query.parameters import parsed
from tidemark.query.paths import HEALTH, OPENAPI, PATHS, READY, Path
from tidemark.query.problems import ProblemError
from tidemark.query.service import Service
from tidemark.query.static import File, Page

_METHODS: Final = (b"allow", b"GET, HEAD, OPTIONS")
_JSON: Final = (b"content-type", b"application/json")
_PROBLEM: Final = (b"content-type", b"application/problem+json")
_SHORT: Final = 1024
_LARGE_BYTES: Final = 1 << 20
MOST_UNREAD_BYTES: Final = 64 << 20
"""Of large answers that are written and not read yet."""
_access: Final = logging.getLogger("tidemark.access")
UNAUTHORIZED: Final = 401
NOT_ALLOWED: Final = 405
ANYBODY: Final = Grant("", frozenset({"read"}))
Key = tuple[str, str | None, str, bytes, str, str]


@lru_cache(maxsize=512)
def _remembered(path: str, query: bytes) -> dict[str, object]:
    """What is asked again and again is parsed once; nobody changes it."""
    return parsed(PATHS[path].parameters, query)


def _values(path: str, query: bytes) -> dict[str, object]:
    return _remembered(path, query) if len(query) < _SHORT else parsed(PATHS[path].parameters, query)


def has(request: Request, tag: bytes) -> bool:
    """Whether the client has what the tag is of."""
    asked = request.headers.get(b"if-none-match", b"").strip()
    return asked == b"*" or tag in (each.strip().removeprefix(b"W/") for each in asked.split(b","))


class _Running:
    """One execution, and how many wait for it."""

    def __init__(self, task: asyncio.Task[Written]) -> None:
        self.task, self.wanted = task, 0


@dataclass
class Desk:
    """Handles requests.

    Attributes:
        service: Answers.
        tokens: Of those who may read; None: everybody may, on this machine.
        counters: Told of every answer.
        ready: Why nothing is answered just now; empty: it is.
        openapi: The document.
        page: Its files.
        unread: How many bytes of large answers are written and not read yet, if there is one more with this body.
        turns: As many as are executed at once.
        most: So many are executed, or wait for their turn.
        timeout_s: For an answer.
        logged: Share of the requests that are logged.
        cors_origins: Origins whose pages may ask, or `*`; empty: none.
    """

    service: Service
    tokens: Tokens | None
    counters: Counters
    ready: Callable[[], str]
    openapi: bytes
    page: Page
    unread: Callable[[bytes], int]
    turns: asyncio.Semaphore
    most: int = 72
    timeout_s: float = 10.0
    logged: float = 0.0
    cors_origins: frozenset[bytes] = frozenset()
    running: dict[Key, _Running] = field(default_factory=dict)

    def head(self, request: Request) -> None:
        """Refuse what cannot be answered; see `tidemark.http.request.Handler`."""
        try:
            if request.headers.get(b"content-length", b"0") != b"0" or b"transfer-encoding" in request.headers:
                raise ProblemError("body-not-allowed", "A request has no body here.")
            known = request.path in PATHS or request.path in self.page.files
            if not known and request.path not in (HEALTH, READY, OPENAPI):
                raise ProblemError("no-such-path", f"There are {', '.join(PATHS)} and {OPENAPI}.")
            if request.method not in ("GET", "HEAD", "OPTIONS"):
                raise ProblemError("method-not-allowed", "Paths have GET, HEAD and OPTIONS.")
        except ProblemError as problem:
            self._refuse(request, problem)

    def grew(self, request: Request) -> None:
        """There are no bodies."""

    def whole(self, request: Request) -> None:
        """Answer it, at once or when it is known."""
        path = PATHS.get(request.path)
        try:
            if request.method == "OPTIONS":
                self._answer(request, 204, [_METHODS], b"")
            elif (file := self.page.files.get(request.path)) is not None:
                self._file(request, file)
            elif request.path == OPENAPI:
                self._answer(request, 200, [_JSON], self.openapi)
            elif path is None:
                why = self.ready() if request.path == READY else ""
                if why:
                    raise ProblemError("unavailable", why, retry_s=1)
                self._answer(request, 200, [_JSON], b"{}\n")
            else:
                self._begin(request, path)
        except ProblemError as problem:
            self._refuse(request, problem)

    def gone(self, request: Request) -> None:
        """Nobody waits for it any more."""
        key: Key | None = request.work
        request.work = None
        running = None if key is None else self.running.get(key)
        if key is not None and running is not None:
            running.wanted -= 1
            if not running.wanted:
                del self.running[key]  # who asks from now on does not want one that was given up
                running.task.cancel()

    def _over(self, key: Key, task: asyncio.Task[Written]) -> None:
        running = self.running.get(key)
        if running is not None and running.task is task:
            del self.running[key]

    def _begin(self, request: Request, path: Path) -> None:
        grant = self._granted(request.headers.get(b"authorization", b""))
        values = _values(path.path, request.query)
        as_form = form(request.headers.get(b"accept", b"").decode("latin-1"))
        as_packed = encoding(request.headers.get(b"accept-encoding", b"").decode("latin-1"))
        key = (grant.project, grant.source, path.path, request.query, as_form, as_packed)
        running = self.running.get(key)
        if running is None:
            if len(self.running) >= self.most:
                raise ProblemError("too-many-requests", "Too many requests wait for their turn.", retry_s=1)
            task = asyncio.get_running_loop().create_task(self._executed(path, values, grant, as_form, as_packed))
            running = self.running[key] = _Running(task)
            task.add_done_callback(lambda task: self._over(key, task))
        running.wanted += 1
        request.work = key
        running.task.add_done_callback(lambda task: self._done(request, task))

    async def _executed(
        self, path: Path, values: dict[str, object], grant: Grant, as_form: str, as_packed: str
    ) -> Written:
        try:
            async with asyncio.timeout(self.timeout_s), self.turns:
                connections = self.service.store.database.connections
                before = connections.server
                answer = await path.call(self.service, values, grant, time.time_ns() // 1000)
                if connections.server != before:  # what one has said does not fit to what the other has
                    answer = await path.call(self.service, values, grant, time.time_ns() // 1000)
                return await beside(answer.size, lambda: packed(written(answer, as_form), as_packed))
        except TimeoutError:
            raise ProblemError(
                "too-slow", f"It took longer than {self.timeout_s:g} s: ask for less of it.", retry_s=5
            ) from None

    def _done(self, request: Request, task: asyncio.Task[Written]) -> None:
        if request.answered or request.work is None:  # or nobody is there any more
            return
        request.work = None
        try:
            found = task.result()
        except ProblemError as problem:
            self._refuse(request, problem)
        except asyncio.CancelledError:
            self._refuse(request, ProblemError("unavailable", "This service is about to stop.", retry_s=1))
        except (UnavailableError, MisconfiguredError) as error:
            self._refuse(request, ProblemError("unavailable", str(error), retry_s=2))
        except Exception:  # noqa: BLE001  # of whatever kind: it must not take the others along
            log.exception("A query could not be answered.")
            self._refuse(request, ProblemError("failed", "It is not the request's fault."))
        else:
            self._found(request, found)

    def _file(self, request: Request, file: File) -> None:
        headers = [(b"etag", file.tag), *self.page.headers]
        if has(request, file.tag):
            self._answer(request, 304, headers, b"")
        elif accepts(request.headers.get(b"accept-encoding", b"").decode("latin-1"), "gzip"):
            headers += [(b"content-type", file.media_type), (b"content-encoding", b"gzip")]
            self._answer(request, 200, headers, file.packed)
        else:
            self._answer(request, 200, [*headers, (b"content-type", file.media_type)], file.body)

    def _found(self, request: Request, found: Written) -> None:
        tag = f'"{found.tag}{"-" + found.encoding if found.encoding else ""}"'.encode()
        headers = [
            (b"etag", tag),
            (b"cache-control", b"private, no-cache"),
            (b"vary", b"accept, accept-encoding, authorization"),
        ]
        if has(request, tag):
            self._answer(request, 304, headers, b"")
            return
        if len(found.body) > _LARGE_BYTES and self.unread(found.body) > MOST_UNREAD_BYTES:
            self._refuse(request, ProblemError("too-many-requests", "Too many large answers are unread.", retry_s=5))
            return
        headers.append((b"content-type", found.media_type.encode()))
        if found.encoding:
            headers.append((b"content-encoding", found.encoding.encode()))
        self._answer(request, 200, headers, found.body)

    def _granted(self, authorization: bytes) -> Grant:
        if self.tokens is None:
            return ANYBODY
        grant = self.tokens.remembered(authorization)
        if grant is None:
            token = bearer(authorization)
            grant = self.tokens.grant(token) if token else None
            if grant is None:
                raise ProblemError(
                    "unauthorized", "The token is not known." if token else "Authorization: Bearer TOKEN"
                )
            self.tokens.remember(authorization, grant)
        if "read" not in grant.may:
            raise ProblemError("forbidden", "The token may not read.")
        return grant

    def _refuse(self, request: Request, problem: ProblemError) -> None:
        headers: Headers = [_PROBLEM]
        if problem.retry_s:
            headers.append((b"retry-after", b"%d" % problem.retry_s))
        if problem.status == UNAUTHORIZED:
            headers.append((b"www-authenticate", b'Bearer realm="tidemark"'))
        if problem.status == NOT_ALLOWED:
            headers.append(_METHODS)
        self._answer(request, problem.status, headers, problem.body())

    def _answer(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        path = request.path if request.path in PATHS else "other"
        took_s = time.monotonic() - request.began
        self.counters.count("requests", 1, path, str(status))
        if path != "other":
            self.counters.took(took_s)
        if self.logged and random.random() < self.logged:  # noqa: S311  # a sample
            _access.info("%s %.200s %d %.1f ms", request.method, path, status, took_s * 1000)
        request.answer(status, [*headers, *self._cors(request)], body)

    def _cors(self, request: Request) -> Headers:
        origin = request.headers.get(b"origin")
        if not origin or not self.cors_origins & {origin, b"*"}:
            return []
        allowed = b"*" if b"*" in self.cors_origins else origin
        return [
            (b"access-control-allow-origin", allowed),
            (b"access-control-allow-headers", b"authorization, if-none-match"),
            (b"access-control-expose-headers", b"etag, retry-after"),
            (b"access-control-max-age", b"600"),
        ]
