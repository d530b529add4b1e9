"""Heads that were parsed before, byte for byte: a client that stays sends nearly the same one with each request."""

from __future__ import annotations

from typing import Final, NamedTuple

from tidemark.http.request import Request

HEAD_BYTES: Final = 1024
"""Of a longer head nothing is remembered."""
HEADS: Final = 4096
_END: Final = b"\r\n\r\n"


class Head(NamedTuple):
    """What the parser made of a head whose body has this many bytes."""

    method: str
    path: str
    query: bytes
    headers: dict[bytes, bytes]
    length: int


class Heads:
    """Those of requests that were whole in one read, of HTTP/1.1, with a length, and not refused by their head."""

    def __init__(self) -> None:
        self._known: dict[bytes, Head] = {}

    def known(self, data: bytes) -> tuple[Head, bytes] | None:
        """The head and the body of what was read, if it is one whole request whose head was parsed before."""
        end = data.find(_END, 0, HEAD_BYTES) + len(_END)
        head = self._known.get(data[:end])
        return (head, data[end:]) if head is not None and len(data) == end + head.length else None

    def learn(self, data: bytes, request: Request) -> None:
        """Remember the head of a request that is all that was read, and that keeps its connection."""
        end = data.find(_END, 0, HEAD_BYTES) + len(_END)
        headers = request.headers
        if (
            len(data) == end + request.size
            and headers.get(b"content-length") == b"%d" % request.size
            and b"transfer-encoding" not in headers
            and b"expect" not in headers
        ):
            if len(self._known) >= HEADS:
                self._known.clear()
            self._known[data[:end]] = Head(request.method, request.path, request.query, headers, request.size)
