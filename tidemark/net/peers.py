"""The connections that are open, over all listeners of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

READ_BYTES: Final = 64 << 10


class Peer(Protocol):
    """One connection."""

    @property
    def at_work(self) -> bool:
        """Something that came is not answered."""

    def sweep(self, now: float) -> None:
        """Close it if it is past a deadline; `now` is of the monotonic clock. Called once a second."""

    def shut_down(self) -> None:
        """Close it now, or once what came is answered."""

    def close(self) -> None:
        """Close it."""


@dataclass
class Peers:
    """All of them.

    Attributes:
        most: So many may be open at once.
        all: Those that are.
        buffer: What was read last; each takes out its own at once.
    """

    most: int
    all: set[Peer] = field(default_factory=set)
    buffer: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))

    def beyond(self) -> int:
        """How many more than may be."""
        return len(self.all) - self.most

    def at_work(self) -> bool:
        """Any of them has something that is not answered."""
        return any(peer.at_work for peer in self.all)
