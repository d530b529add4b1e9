"""What connections may do, and what they share."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

from tidemark.http.heads import Heads
from tidemark.net.peers import Peers


@dataclass(frozen=True)
class Bounds:
    """What a connection may do.

    Attributes:
        slow_s: From the connection, or the first byte of a further request, to the end of its head; from there to the end of
            its body, which has a second more for each `body_bytes_per_s`; and for leaving answers unread, of which it takes
            less than `taken_bytes`.
        body_bytes_per_s: See there.
        taken_bytes: See there.
        head_bytes: Of the request line and all headers.
        idle_s: Between two requests.
        ended_s: After the end of what a client sends, until its answers: it may be gone, and may be waiting for them.
    """

    slow_s: float = 10.0
    body_bytes_per_s: int = 16 << 10
    taken_bytes: int = 256 << 10
    head_bytes: int = 16 << 10
    idle_s: float = 75.0
    ended_s: float = math.inf


@dataclass
class Open:
    """What the connections of a server share.

    Attributes:
        peers: Of the process.
        by_status: How many answers were given that belong to no request.
        date: The header of that name, set once a second.
        heads: What was parsed before.
    """

    peers: Peers
    by_status: dict[int, int] = field(default_factory=dict)
    date: bytes = b""
    heads: Heads = field(default_factory=Heads)
