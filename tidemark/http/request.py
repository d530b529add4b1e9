"""A request, and its answer."""

from __future__ import annotations

from http import HTTPStatus
from typing import Any, Final, Protocol

Headers = list[tuple[bytes, bytes]]
STATUS_LINES: Final = {
    status.value: b"HTTP/1.1 %d %b\r\n" % (status.value, status.phrase.encode()) for status in HTTPStatus
}
NO_CONTENT: Final = 204


class Answers(Protocol):
    """The connection that a request came by."""

    def answer(self, request: Request, status: int, headers: Headers, body: bytes) -> None:
        """Write it, unless the request is answered, or its sender gone."""


class Request:
    """One request.

    Attributes:
        method, path, query: Of the request line, as they came.
        headers: By name in small letters; of one that stands twice all values, between commas.
        size: Bytes of the body that have come.
        complete: All of it has.
        answered: Nothing more is to be done for it.
        keep_alive: Another may follow.
        began: When its head was complete, by the monotonic clock.
        work: The handler's own.
    """

    __slots__ = (
        "_connection",
        "_parts",
        "answered",
        "began",
        "complete",
        "headers",
        "keep_alive",
        "method",
        "path",
        "query",
        "size",
        "work",
    )

    def __init__(
        self, connection: Answers, method: str, path: str, query: bytes, headers: dict[bytes, bytes], began: float
    ) -> None:
        self._connection = connection
        self.method, self.path, self.query, self.headers, self.began = method, path, query, headers, began
        self._parts: list[bytes] = []
        self.size = 0
        self.complete = self.answered = False
        self.keep_alive = True
        self.work: Any = None

    def add(self, part: bytes) -> None:
        """A part of the body."""
        self._parts.append(part)
        self.size += len(part)

    def body(self) -> bytes:
        """The body as far as it has come, given away."""
        parts, self._parts = self._parts, []
        return parts[0] if len(parts) == 1 else b"".join(parts)

    def forget(self) -> None:
        """Let go of what has come of its body: its sender may stay for long, and no room is held for it any more."""
        self._parts = []

    def answer(self, status: int, headers: Headers, body: bytes) -> None:
        """Answer it, once; what is answered before its body has come is its connection's last."""
        self._connection.answer(self, status, headers, body)


class Handler(Protocol):
    """What requests are for. Each call answers, or leaves it to a later one; `gone` is the last where none did."""

    def head(self, request: Request) -> None:
        """The head has come: refuse it here, and nothing is read of its body."""

    def grew(self, request: Request) -> None:
        """A part of the body has come."""

    def whole(self, request: Request) -> None:
        """All of it has; `request.body()` gives it."""

    def gone(self, request: Request) -> None:
        """The sender is gone, was sent away, or is answered: give back what is held for it. Called once for each request."""
