"""The text of an archive as a buffer that is filled from blocks and taken from at its front."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO, Final

import numpy as np

from tidemark.archive.chunk import HEAD_BYTES, LongLine
from tidemark.archive.damage import DamagedError
from tidemark.archive.unpack import texts

_BLOCK_BYTES: Final = 1 << 20
_NEWLINE: Final = 10
BOM: Final = b"\xef\xbb\xbf"


class Text:
    """Text from some position on.

    Args:
        blocks: Of text; an error is a place where something is missing between two of them, or at the end.
        at: The position of the first block.
        line: The number of the line that begins there, from 1, if known.

    Attributes:
        buffer: What was read and not dropped.
        at: The position of the first byte in `buffer`.
        line: The number of the line in which that is.
        ended: Nothing follows `buffer`, ever.
    """

    def __init__(self, blocks: Iterator[bytes | DamagedError], at: int, line: int | None) -> None:
        self._blocks = blocks
        self._gap: DamagedError | None = None
        self.ended = False
        self.buffer = b""
        self.at = at
        self.line = line

    @property
    def stopped(self) -> bool:
        """Nothing follows `buffer` for now: here is the end, or a gap."""
        return self.ended or self._gap is not None

    def fill(self, size: int) -> None:
        """Reads until the buffer has `size` bytes, or nothing follows it."""
        have = len(self.buffer)
        if have >= size or self.stopped:
            return
        parts = [self.buffer] if have else []
        while have < size and not self.stopped:
            block = next(self._blocks, None)
            if block is None:
                self.ended = True
            elif isinstance(block, DamagedError):
                self._gap = block
            else:
                parts.append(block)
                have += len(block)
        self.buffer = b"".join(parts) if len(parts) != 1 else parts[0]

    def drop(self, size: int) -> bytes:
        """Takes the first bytes of the buffer."""
        some, self.buffer = self.buffer[:size], self.buffer[size:]
        self.at += size
        if self.line is not None:
            self.line += int(np.count_nonzero(np.frombuffer(some, np.uint8) == _NEWLINE))
        return some

    def drop_line(self, stop: int | None = None) -> int:
        """Drops the rest of a line with its newline, or all before a gap, the end or `stop`.

        Returns:
            How many bytes it were, without the newline.
        """
        begin = self.at
        while stop is None or self.at < stop:
            self.fill(1)
            end = self.buffer.find(b"\n") + 1
            self.drop(end or len(self.buffer))
            if end:
                return self.at - begin - 1
            if self.stopped:
                break
        return self.at - begin

    def drop_long(self) -> LongLine:
        """Drops the line at the front, and keeps its head."""
        self.fill(HEAD_BYTES)
        at, head = self.at, self.buffer[:HEAD_BYTES].partition(b"\n")[0]
        return LongLine(at, self.drop_line(), head)

    def mend(self, *, skip_damaged: bool, told: Callable[[DamagedError], None]) -> bool:
        """Goes over the gap that follows the buffer, which has no whole line; gives False at the end.

        Raises:
            DamagedError: of that gap, when damage is not to be skipped.
        """
        gap = self._gap
        if gap is None:
            return False
        before = len(self.buffer)
        self.drop(before)
        if not skip_damaged:
            raise gap.losing(before, 0)
        self._gap = None
        self.line = None
        told(gap.losing(before, self.drop_line()))
        return True

    def skip_to(self, position: int, *, skip_damaged: bool) -> None:
        """Drops what is before `position`, with the gaps there, which were told before.

        Raises:
            DamagedError: of such a gap, when damage is not to be skipped.
        """
        while self.at < position:
            self.fill(1)
            if self.buffer:
                self.drop(min(len(self.buffer), position - self.at))
            elif self._gap is None:
                return
            elif not skip_damaged:
                raise self._gap
            else:
                self._gap = None
                self.line = None


def packed_text(file: BinaryIO, packing: str, part: int, *, skip_damaged: bool) -> Text:
    """The text of a packed file, from its beginning."""
    return Text(texts(file, packing, part, skip_damaged=skip_damaged), 0, 1)


def plain_text(file: BinaryIO, at: int) -> Text:
    """The text of a file as it is, from byte `at` on, which only a file that can seek has if it is not 0."""
    if file.seekable():
        file.seek(at)
    return Text(_blocks(file), at, 1 if at == 0 else None)


def _blocks(file: BinaryIO) -> Iterator[bytes]:
    while block := file.read(_BLOCK_BYTES):
        yield block
