"""What reading an archive gives."""

from __future__ import annotations

from typing import Final, NamedTuple

HEAD_BYTES: Final = 1000
"""So much of a line that is too long is kept."""


class LongLine(NamedTuple):
    """A line, or a row, that is longer than is read.

    Attributes:
        at: The position where it begins.
        size: Its bytes, without what ends it.
        head: The first 1,000 of them.
    """

    at: int
    size: int
    head: bytes


class Chunk(NamedTuple):
    """Lines that follow each other.

    Attributes:
        data: JSON texts, one a line, ending with a newline; empty when there is only a long line.
        begin: Where it begins; the `end` of the chunk before it.
        end: The position from which reading goes on with exactly what follows.
        line: The number of its first line in the file, from 1; None when that is not known.
        long: Lines between `begin` and `end` that are too long, and not in `data`.
    """

    data: bytes
    begin: int
    end: int
    line: int | None
    long: tuple[LongLine, ...] = ()
