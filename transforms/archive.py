"""What travels between the stages that load archives, and what a process that loads one knows of it."""

from __future__ import annotations

import io
import select
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO, Final, Self, TypeVar, cast

from apache_beam.coders import PickleCoder, registry
from apache_beam.io.filesystem import BeamIOError, CompressionTypes
from apache_beam.io.filesystems import FileSystems

from tidemark.archive.chunk import LongLine
from tidemark.archive.kinds import Kind
from tidemark.archive.parts import Part
from tidemark.archive.peek import peeked
from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError, UsageError
from tidemark.logs import log
from tidemark.retry import until_done
from tidemark.wire.block import Block
from transforms.counters import count

Result = TypeVar("Result")
STANDARD_INPUT: Final = "-"
_LOOK_S: Final = 0.2
"""So often it is looked whether to go on waiting for more of standard input."""


@dataclass(frozen=True)
class ArchivePart:
    """A part of a file that is to be loaded.

    Attributes:
        file: Its path or address; `-`: standard input.
        name: By which it is remembered.
        fingerprint: Of the file.
        kind: What it is.
        part: Which part.
        size: Bytes of the part, as stored; None: not known.
    """

    file: str
    name: str
    fingerprint: str
    kind: Kind
    part: Part
    size: int | None


@dataclass(frozen=True)
class ArchiveText:
    """Lines of a part, or what was the last of it.

    Attributes:
        of: The part.
        data: JSON texts, one a line.
        begin, end: Where in the part they stand.
        line: The number of the first, if it is known.
        long: Lines there that are too long.
        through: Nothing follows; False: something does, or it could not be read.
        last: No more comes of the part.
    """

    of: ArchivePart
    data: bytes
    begin: int
    end: int
    line: int | None = None
    long: tuple[LongLine, ...] = ()
    through: bool = False
    last: bool = False


@dataclass(frozen=True)
class ArchiveBlock:
    """Points of a part, and where they stood; the others as in `ArchiveText`."""

    of: ArchivePart
    block: Block
    begin: int
    end: int
    filtered: int = 0
    through: bool = False
    last: bool = False


for _kind in (ArchivePart, ArchiveText, ArchiveBlock):
    registry.register_coder(_kind, PickleCoder)


@dataclass
class Loading:
    """What this process loads; safe between threads.

    Attributes:
        stopping: No more is read; what was read is stored.
        damage: Sentences, of each place in a file that could not be read.
        read: Bytes of files that were read, as stored.
    """

    stopping: threading.Event = field(default_factory=threading.Event)
    damage: list[str] = field(default_factory=list)
    read: int = 0
    _allowed: float = 0.0
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def begin(self) -> None:
        """Forget what was loaded before."""
        self.stopping.clear()
        self.damage.clear()
        self.read = 0

    def pace(self, points: int, a_second: float) -> None:
        """Wait as long as `points` take at most so many a second, over all of this process."""
        if not a_second:
            return
        with self._lock:
            now = time.monotonic()
            self._allowed = max(now, self._allowed) + points / a_second
            wait = self._allowed - points / a_second - now
        if wait > 0:
            self.stopping.wait(wait)


LOADING: Final = Loading()


def until_stopped(attempt: Callable[[], Result], counted: Callable[[str], None] = lambda _name: None) -> Result | None:
    """What an attempt gives, which is waited for while a service is away or wrong; None: the load is to stop, and it was left.

    Leaving is no error: what is not noted as done is done the next time.
    """
    try:
        return until_done(attempt, count=counted, give_up=LOADING.stopping)
    except (UnavailableError, MisconfiguredError):
        return None


def tell_damage(of: ArchivePart, error: TidemarkError, then: str = "What comes before it is stored.") -> None:
    """Say once that a part cannot be read, or not be loaded, to its end; other parts go on."""
    told = f"{of.file}: {error}".removesuffix(".")
    if told not in LOADING.damage:
        count("archive_damages")
        LOADING.damage.append(told)
        log.error("%s. %s", told, then)


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
