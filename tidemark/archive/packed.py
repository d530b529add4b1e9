"""The bytes of a packed file, read once from front to back, the last few of which can be gone back to."""

from __future__ import annotations

from collections import deque
from typing import BinaryIO, Final

from tidemark.archive.peek import exactly

STEP_BYTES: Final = 1 << 16
_KEPT_STEPS: Final = 64
"""4 MiB: more than a block of any packing, so that a member that turns out to be none can be gone back behind."""


class Packed:
    """A file in steps of 64 KiB that begin at multiples of it, however few bytes a read gives.

    Args:
        file: At its beginning, if it cannot seek.

    Attributes:
        at: The next byte that is read.
    """

    def __init__(self, file: BinaryIO) -> None:
        if file.seekable():
            file.seek(0)
        self._file = file
        self._steps: deque[bytes] = deque(maxlen=_KEPT_STEPS)
        self._taken = 0
        """Steps that were read from the file, of which the last are kept."""
        self.at = 0

    def read(self) -> bytes:
        """The rest of the step; empty at the end of the file."""
        step = self._step()
        some = step[self.at % STEP_BYTES :] if step else step
        self.at += len(some)
        return some

    def take(self, size: int) -> bytes:
        """`size` bytes; fewer at the end of the file only."""
        offset = self.at % STEP_BYTES
        some = self._step()[offset : offset + size]
        self.at += len(some)
        if len(some) == size or not some:
            return some
        parts, left = [some], size - len(some)
        while left and (some := self._step()[:left]):
            parts.append(some)
            self.at += len(some)
            left -= len(some)
        return b"".join(parts)

    def peek(self, size: int) -> bytes:
        """The same without taking them."""
        some = self.take(size)
        self.at -= len(some)
        return some

    def skip(self, size: int) -> int:
        """Goes `size` bytes on, or to the end; gives how many it were."""
        begin = self.at
        while (left := begin + size - self.at) and (some := self._step()):
            self.at += min(left, len(some) - self.at % STEP_BYTES)
        return self.at - begin

    def skip_zeros(self) -> None:
        """Goes on to what is not zero."""
        while some := self.read():
            if left := some.lstrip(b"\0"):
                self.at -= len(left)
                return

    def back(self, to: int) -> None:
        """Goes back to `to`, or as far as the bytes are kept."""
        self.at = max(to, (self._taken - len(self._steps)) * STEP_BYTES)

    def find(self, magic: bytes) -> bool:
        """Goes on to the next `magic`; False: to the end, there is none."""
        tail = b""
        while some := self.read():
            joined = tail + some
            found = joined.find(magic)
            if found >= 0:
                self.at += found - len(joined)
                return True
            tail = joined[len(joined) - len(magic) + 1 :]
        return False

    def _step(self) -> bytes:
        """The step in which `at` is; empty at the end of the file."""
        index = self.at // STEP_BYTES
        while index >= self._taken:
            if self._steps and len(self._steps[-1]) < STEP_BYTES:
                return b""
            step = exactly(self._file, STEP_BYTES)
            if not step:
                return b""
            self._steps.append(step)
            self._taken += 1
        step = self._steps[index - self._taken]
        return step if self.at % STEP_BYTES < len(step) else b""
