"""Texts of many requests as one message: those of one project whose points lie in one base window."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import Final

import zstandard

from tidemark.bus.messages import ENVELOPE_BYTES, attribute, message
from tidemark.errors import RefusedError, TidemarkError

PACK_BYTES: Final = 1 << 20
"""Most text of a pack of several requests."""
COMPRESSED_FROM: Final = 4096
"""From so many bytes on a message is compressed, which makes it 13 to 22 times smaller; a smaller one is not worth it."""
_ATTRIBUTES_BYTES: Final = 128
_ZSTD: Final = attribute("content_encoding", "zstd")
Told = Callable[[bool | TidemarkError], None]
"""Told of what is kept whether it is on the disk instead of in the bus, or the error."""
_compressor: Final = zstandard.ZstdCompressor(level=1)


class Clock:
    """The wall clock in microseconds, that never goes back and never says the same twice."""

    def __init__(self) -> None:
        self._last = 0

    def now(self) -> int:
        """Microseconds since 1970."""
        self._last = max(self._last + 1, time.time_ns() // 1000)
        return self._last


class Pack:
    """An open message; an `Item` of the publisher, which closes it when it goes out.

    Attributes:
        project: Of all its points.
        accepted: When it was begun, in microseconds since 1970: its `accepted_time`.
        message: Its bytes, once it is closed.
        size: About its bytes.
    """

    __slots__ = (
        "_bytes",
        "_closed",
        "_earliest",
        "_future_us",
        "_known",
        "_most_bytes",
        "_otherwise",
        "_points",
        "_texts",
        "_told",
        "accepted",
        "message",
        "project",
        "size",
    )

    def __init__(
        self,
        project: str,
        accepted: int,
        future_us: int,
        most_bytes: int,
        closed: Callable[[Pack], None],
        otherwise: Callable[[Pack], None] | None,
    ) -> None:
        """Empty.

        Args:
            project: Of all points that will be added.
            accepted: The clock.
            future_us: How far a point may lie ahead of it.
            most_bytes: Of its text.
            closed: Told when nothing can be added any more.
            otherwise: Asked to keep it, and to say so, when the bus does not take it; None: that is the outcome.
        """
        self.project, self.accepted, self._closed, self._otherwise = project, accepted, closed, otherwise
        self._future_us, self._most_bytes, self._bytes = future_us, most_bytes, 0
        self._told: list[Told] = []
        self._known: bool | TidemarkError | None = None
        self.size = ENVELOPE_BYTES + _ATTRIBUTES_BYTES + len(project)
        self.message = b""
        self._texts: list[bytes] = []
        self._points: set[int] = set()
        self._earliest = 1 << 62

    def takes(self, text: bytes, latest: int, points: Sequence[int]) -> bool:
        """Whether a text can be added.

        All of a message is accepted at one time, the earliest of it: what lies too far ahead of that is not taken, nor a
        point that is there already, since of two values accepted together the greater one is kept and not the later.

        Args:
            text: A line.
            latest: The latest event time in it, in microseconds since 1970.
            points: A number for each of its points, the same for the same series and event time.
        """
        fits = self._bytes + len(text) < self._most_bytes and latest <= self.accepted + self._future_us
        return fits and not self.message and self._points.isdisjoint(points)

    def add(self, text: bytes, earliest: int, points: Sequence[int]) -> None:
        """Add a text whose points' earliest event time is this, in microseconds since 1970."""
        self._texts.append(text)
        self._points.update(points)
        self._bytes += len(text) + 1
        self.size += len(text) + 1
        self._earliest = min(earliest, self._earliest)

    def close(self) -> bytes:
        """The message: its texts as lines, compressed where that pays."""
        data = b"\n".join(self._texts)
        attributes = (
            attribute("project", self.project)
            + attribute("event_time", str(self._earliest // 1000))
            + attribute("accepted_time", str(self.accepted))
        )
        if len(data) >= COMPRESSED_FROM:
            data = _compressor.compress(data)
            attributes += _ZSTD
        self.message = message(data, attributes)
        self._texts = []
        self._points = set()
        self._closed(self)
        return self.message

    def done(self, error: TidemarkError | None) -> None:
        """What became of it."""
        if error is None:
            self.kept(spooled=False)
        elif self._otherwise is None or isinstance(error, RefusedError):
            self.fail(error)
        else:
            self._otherwise(self)

    def then(self, told: Told) -> None:
        """Have it told whether this is on the disk instead of in the bus, once it is in one of them; or the error."""
        self._told.append(told)
        if self._known is not None:
            self._tell()

    def kept(self, *, spooled: bool) -> None:
        """It is in the bus, or in the spool."""
        self._known = spooled
        self._tell()

    def fail(self, error: TidemarkError) -> None:
        """It is nowhere."""
        self._known = error
        self._tell()

    def _tell(self) -> None:
        told, self._told = self._told, []
        assert self._known is not None
        for call in told:
            call(self._known)


class Together:
    """Packs with the points of one request."""

    def __init__(self, packs: list[Pack]) -> None:
        self._packs = packs

    def then(self, told: Told) -> None:
        """Have it told once all are kept, or known not to be: then the error of one of them."""
        outcomes: list[bool | TidemarkError] = []

        def one(outcome: bool | TidemarkError) -> None:
            outcomes.append(outcome)
            if len(outcomes) == len(self._packs):
                told(next((known for known in outcomes if isinstance(known, TidemarkError)), any(outcomes)))

        for pack in self._packs:
            pack.then(one)
