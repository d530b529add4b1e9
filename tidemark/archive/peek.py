"""Looks at a file's first bytes without taking them, so that a pipe can be asked what it is."""

from __future__ import annotations

import io
from typing import BinaryIO, cast


def peeked(file: BinaryIO, size: int) -> tuple[bytes, BinaryIO]:
    """The first `size` bytes, or all when there are fewer, and the file as it was before.

    A file that can seek is given back itself, another one behind a reader that can not seek either.
    """
    head = exactly(file, size)
    if file.seekable():
        file.seek(-len(head), io.SEEK_CUR)
        return head, file
    return head, cast("BinaryIO", io.BufferedReader(_Rejoined(head, file)))


def exactly(file: BinaryIO, size: int) -> bytes:
    """`size` bytes, however few a pipe gives at once; fewer at the end only."""
    some = file.read(size)
    if len(some) == size or not some:
        return some
    parts, left = [some], size - len(some)
    while left and (some := file.read(left)):
        parts.append(some)
        left -= len(some)
    return b"".join(parts)


class _Rejoined(io.RawIOBase):
    """Bytes that were taken, and then the rest of the file."""

    def __init__(self, head: bytes, file: BinaryIO) -> None:
        self._head = memoryview(head)
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:  # type: ignore[override]  # what io.BufferedReader gives
        some = self._head[: len(buffer)] or self._file.read(len(buffer))
        self._head = self._head[len(some) :]
        buffer[: len(some)] = some
        return len(some)
