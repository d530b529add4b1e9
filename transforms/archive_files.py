"""Opens archives: files here or in a bucket as they are stored, and standard input, which is read once."""

from __future__ import annotations

import io
import select
import sys
from typing import Any, BinaryIO, Final, Self, cast

from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tidemark.archive.peek import peeked
from tidemark.errors import UsageError
from transforms.loading import LOADING

STANDARD_INPUT: Final = "-"
_LOOK_S: Final = 0.2
"""So often it is looked whether to go on waiting for more of standard input."""


class _Counted:
    """A file of which it is counted how much was read."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        some = self._file.read(size)
        LOADING.read += len(some)
        return some

    def readinto(self, buffer: Any) -> int:
        number = self._file.readinto(buffer)  # type: ignore[attr-defined]  # of those that have it
        LOADING.read += number or 0
        return int(number or 0)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()


class _Interruptible:
    """What comes in; once the load is to stop, a read that waits for more raises."""

    def __init__(self, file: io.FileIO) -> None:
        self._file = file

    def read(self, size: int = -1) -> bytes:
        while not select.select([self._file], [], [], _LOOK_S)[0]:
            if LOADING.stopping.is_set():
                raise StoppingError
        return self._file.read(size)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


class StoppingError(Exception):
    """Nothing more comes of what is read, since the load is to stop."""


class StandardInput:
    """What comes in, of which the beginning is looked at first, and all is read once."""

    def __init__(self) -> None:
        self._file: BinaryIO | None = None
        self._is_read = False

    def head(self) -> bytes:
        """The first MiB, or all when that is less.

        Raises:
            UsageError: it is closed, or a person's keyboard.
        """
        if sys.stdin is None or sys.stdin.closed:
            raise UsageError("Standard input is closed: pipe an archive into it, or give a file instead of -.")
        if sys.stdin.isatty():
            raise UsageError("Standard input is a terminal: pipe an archive into it, or give a file instead of -.")
        file = self._file or cast("BinaryIO", _Interruptible(cast("Any", sys.stdin.buffer).raw))
        head, self._file = peeked(file, 1 << 20)
        return head

    def open(self) -> BinaryIO:
        """All of it.

        Raises:
            UsageError: it was read before.
        """
        if self._is_read:
            raise UsageError("Standard input was read, and cannot be read again: run the same command once more.")
        self._is_read = True
        if self._file is None:
            self.head()
        return cast("BinaryIO", self._file)


STANDARD: Final = StandardInput()


def opened(file: str, *, counted: bool = True) -> BinaryIO:
    """A file here or in a bucket, as it is stored; used as a context it is closed.

    Args:
        file: Its path or address, or `-`.
        counted: What is read of it counts as how far the load is.

    Raises:
        UsageError: it is not there, or cannot be read.
    """
    if file == STANDARD_INPUT:
        return cast("BinaryIO", _Counted(STANDARD.open()))
    try:
        made = FileSystems.open(file, compression_type=CompressionTypes.UNCOMPRESSED)
    except (BeamIOError, OSError) as error:
        raise UsageError(f"{file} cannot be read: {getattr(error, 'strerror', None) or error}.") from None
    return cast("BinaryIO", _Counted(made) if counted else made)
