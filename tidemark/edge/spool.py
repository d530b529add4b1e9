"""Messages that the bus does not take, kept on this machine's disk until it does.

A directory of segments, written one after the other and read from the oldest on. A record has a length and a checksum, is
written with others in one write and synced before anybody is told, and is whole or not there: what was cut, or has a
flipped bit, costs itself alone, since reading goes on at the next whole one. A segment is removed when all of it is
confirmed; after a crash it is published again from its beginning, which `accepted_time` makes harmless.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import fcntl
import os
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Final, NamedTuple

from tidemark.errors import TidemarkError, UnavailableError, UsageError
from tidemark.failpoints import reach
from tidemark.logs import log

SEGMENT_BYTES: Final = 16 << 20
_MAGIC: Final = b"\xf5tmS"
_HEAD: Final = struct.Struct("<4sIIH")
"""Magic, bytes of the message, checksum of what follows it, bytes of the project's name."""
_CHECKED_FROM: Final = 12
_SUFFIX: Final = ".spool"
_DAMAGED: Final = ".damaged"


class Record(NamedTuple):
    """A message that is owed to the bus, as `tidemark.bus.messages` writes it."""

    project: str
    message: bytes


class FullError(TidemarkError):
    """The spool, or its disk, has no room: nothing of what was given is kept."""


class Spool:
    """One directory; one process at a time."""

    def __init__(self, directory: Path, most_bytes: int, free_bytes: int = 0) -> None:
        """Open it; segments of an earlier process are there to be drained.

        Args:
            directory: Made where it is missing.
            most_bytes: Of all segments together.
            free_bytes: So much of the disk is left alone.

        Raises:
            UsageError: the directory cannot be used, or another process uses it.
        """
        self.directory, self._most, self._free = directory, most_bytes, free_bytes
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UsageError(f"Another edge uses the spool {directory}: give each its own --spool_dir.") from None
        except OSError as error:
            raise UsageError(f"The spool {directory} cannot be used: {error.strerror}.") from None
        self._segments = sorted(directory.glob(f"*{_SUFFIX}"))
        self._sizes = {path: path.stat().st_size for path in self._segments}
        self._next = int(self._segments[-1].name.partition(".")[0]) + 1 if self._segments else 1
        self._file: int | None = None
        self._thread = ThreadPoolExecutor(1, "spool")
        self._waiting: list[tuple[Record, asyncio.Future[None]]] = []
        self._writing: asyncio.Task[None] | None = None
        self.came = asyncio.Event()
        """Set while there is something to drain."""
        if self._segments:
            self.came.set()

    @property
    def size(self) -> int:
        """Bytes of all segments."""
        return sum(self._sizes.values())

    @property
    def empty(self) -> bool:
        """Nothing is owed to the bus."""
        return not self._segments and not self._waiting

    def keep(self, project: str, message: bytes) -> asyncio.Future[None]:
        """Keep a message; it is on the disk when this is done.

        Raises:
            FullError, UnavailableError: by the future; there is no room for it, or the disk does not take it.
        """
        loop = asyncio.get_running_loop()
        found: asyncio.Future[None] = loop.create_future()
        self._waiting.append((Record(project, message), found))
        if self._writing is None:
            self._writing = loop.create_task(self._write_waiting())
        return found

    async def drain(self, publish: Callable[[list[Record]], Awaitable[list[Record]]], *, for_ever: bool = True) -> None:
        """Give records to `publish` from the oldest on, a segment at a time, and remove what it has confirmed.

        Args:
            publish: Returns when all of them are confirmed, but for those that it returns: they are never taken, and are
                kept aside.
            for_ever: Wait for more; otherwise return when nothing is left.
        """
        loop = asyncio.get_running_loop()
        while for_ever or self._segments:
            await self.came.wait()
            path = self._segments[0]
            if self._file is not None and path == self._segments[-1]:
                await loop.run_in_executor(self._thread, self._end_segment)
            found, damaged = await loop.run_in_executor(None, read, path)
            refused = await publish(found)
            reach("spool.published")
            if refused:
                await loop.run_in_executor(self._thread, self._set_aside, refused)
            await loop.run_in_executor(self._thread, self._remove, path, damaged)
            if not self._segments:
                self.came.clear()

    def close(self) -> None:
        """Let another process have it."""
        self._thread.shutdown()
        if self._file is not None:
            self._end_segment()
        os.close(self._lock)

    async def _write_waiting(self) -> None:
        loop = asyncio.get_running_loop()
        try:
            while self._waiting:
                batch, self._waiting = self._waiting, []
                records = [record for record, _ in batch]
                try:
                    error = await loop.run_in_executor(self._thread, self._write, records)
                except Exception:  # noqa: BLE001  # whatever it is, who waits has to hear of it
                    log.exception("Writing the spool ended by an error that was not foreseen.")
                    error = UnavailableError(f"The spool {self.directory} cannot be written.")
                for _, found in batch:
                    if found.done():
                        continue  # who waited for it is gone
                    if error is None:
                        found.set_result(None)
                    else:
                        found.set_exception(error)
                if error is None:
                    self.came.set()
        finally:
            self._writing = None

    def _write(self, records: list[Record]) -> TidemarkError | None:
        """All of them in one write and one sync, or none; in the spool's thread."""
        data = b"".join(map(packed, records))
        if self.size + len(data) > self._most:
            return FullError(f"The spool {self.directory} has its {self._most:,} bytes.")
        try:
            found = os.statvfs(self.directory)
            if found.f_bavail * found.f_frsize < self._free + len(data):
                return FullError(f"The disk of the spool {self.directory} has less than {self._free:,} bytes free.")
            if self._file is None or self._sizes[self._segments[-1]] >= SEGMENT_BYTES:
                self._begin_segment()
            return self._append(data)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                return FullError(f"The disk of the spool {self.directory} is full.")
            return UnavailableError(f"The spool {self.directory} cannot be written: {error.strerror}.")

    def _append(self, data: bytes) -> TidemarkError | None:
        assert self._file is not None
        path = self._segments[-1]
        before = self._sizes[path]
        view = memoryview(data)
        try:
            while view:
                view = view[os.write(self._file, view) :]
            reach("spool.written")
            os.fdatasync(self._file)
        except OSError:
            with contextlib.suppress(OSError):  # what cannot be taken back is published once more
                os.ftruncate(self._file, before)
            self._sizes[path] = os.fstat(self._file).st_size
            self._end_segment()
            raise
        self._sizes[path] = before + len(data)
        return None

    def _begin_segment(self) -> None:
        self._end_segment()
        path = self.directory / f"{self._next:016d}{_SUFFIX}"
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._next += 1
        self._sizes[path] = 0
        self._segments.append(path)
        self._sync_directory()

    def _end_segment(self) -> None:
        if self._file is not None:
            os.close(self._file)
            self._file = None

    def _set_aside(self, refused: list[Record]) -> None:
        path = self.directory / "refused"
        with path.open("ab") as file:
            file.writelines(map(packed, refused))
        log.error(
            "%d messages in %s are refused by Pub/Sub for good: a person has to look at them.", len(refused), path
        )

    def _remove(self, path: Path, damaged: int) -> None:
        try:
            if damaged:
                log.error(
                    "%s had %d bytes that are no whole record: all others are published, and it is kept as *%s.",
                    path,
                    damaged,
                    _DAMAGED,
                )
                path.rename(path.with_suffix(_DAMAGED))
            else:
                path.unlink()
        except OSError as error:
            log.error(
                "%s cannot be removed: %s. It is published again after the next start.", path, error.strerror
            )  # it says all
        self._segments.remove(path)
        del self._sizes[path]

    def _sync_directory(self) -> None:
        handle = os.open(self.directory, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def packed(record: Record) -> bytes:
    """A record's bytes."""
    name = record.project.encode()
    checked = struct.pack("<H", len(name)) + name + record.message
    return _HEAD.pack(_MAGIC, len(record.message), zlib.crc32(checked), len(name)) + name + record.message


def read(path: Path) -> tuple[list[Record], int]:
    """The whole records of a segment, and how many bytes of it are in none.

    A file that cannot be read has none.
    """
    try:
        data = path.read_bytes()
    except OSError as error:
        log.error("%s cannot be read: %s.", path, error.strerror)  # it says all
        return [], 1
    found: list[Record] = []
    whole = 0
    for record, size in _records(data):
        found.append(record)
        whole += size
    return found, len(data) - whole


def _records(data: bytes) -> Iterator[tuple[Record, int]]:
    at = 0
    while (at := data.find(_MAGIC, at)) >= 0 and at + _HEAD.size <= len(data):
        _, size, check, name_size = _HEAD.unpack_from(data, at)
        begin = at + _HEAD.size
        end = begin + name_size + size
        if end <= len(data) and zlib.crc32(data[at + _CHECKED_FROM : end]) == check:
            name = data[begin : begin + name_size].decode("utf-8", "replace")
            yield Record(name, data[begin + name_size : end]), end - at
            at = end
        else:
            at += 1
