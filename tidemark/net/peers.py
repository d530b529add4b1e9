"""The connections that are open, over all listeners of a process."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Final, Protocol

READ_BYTES: Final = 64 << 10
_LEAST_BYTES: Final = 4 << 10
_UNREAD_BYTES: Final = 32 << 20
"""Of all connections together that were read and have to wait, at most, as long as there are no more than can share it."""


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
    buffer: memoryview = field(init=False)
    _whole: memoryview = field(default_factory=lambda: memoryview(bytearray(READ_BYTES)))

    def __post_init__(self) -> None:
        self.buffer = self._whole

    def fit(self) -> None:
        """Read less at once where there are many, each of which may have to keep what was read."""
        self.buffer = self._whole[: max(_LEAST_BYTES, min(READ_BYTES, _UNREAD_BYTES // max(1, len(self.all))))]

    def beyond(self) -> int:
        """How many more than may be."""
        return len(self.all) - self.most

    def at_work(self) -> bool:
        """Any of them has something that is not answered."""
        return any(peer.at_work for peer in self.all)
