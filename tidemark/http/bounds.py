"""What connections may do, and those that are open."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Final

from tidemark.http.heads import Heads

if TYPE_CHECKING:
    from tidemark.http.connection import Connection

READ_BYTES: Final = 64 << 10


@dataclass(frozen=True)
class Bounds:
    """What a connection may do.

    Attributes:
        slow_s: From the connection, or the first byte of a further request, to the end of its head; from there to the end of
            its body, which has a second more for each `body_bytes_per_s`; and for leaving answers unread.
        body_bytes_per_s: See there.
        head_bytes: Of the request line and all headers.
        idle_s: Between two requests.
        connections: At once.
    """

    slow_s: float = 10.0
    body_bytes_per_s: int = 16 << 10
    head_bytes: int = 16 << 10
    idle_s: float = 75.0
    connections: int = 10_000


@dataclass
class Open:
    """The connections of a server.

    Attributes:
        all: Those that are open.
        by_status: How many answers were given that belong to no request.
        date: The header of that name, set once a second.
        heads: What was parsed before.
        buffer: What was read last; each takes out its own at once.
    """

    all: set[Connection] = field(default_factory=set)
    by_status: dict[int, int] = field(default_factory=dict)
    date: bytes = b""
    heads: Heads = field(default_factory=Heads)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))

    def at_work(self) -> bool:
        """Any of them has a request that is not answered."""
        return any(connection.at_work for connection in self.all)
