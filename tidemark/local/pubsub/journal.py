"""What happened, on disk: an append-only file, written before a request is answered and rewritten when mostly dead.

A record is in the file when `append` returns, so it survives the process (`kill -9`). Nothing is synced: it does not
survive a power cut. A record cut short by the end of the process was never answered and is dropped.
"""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from collections.abc import Iterable, Iterator
from enum import IntEnum
from pathlib import Path
from typing import Final

from tidemark.errors import LocalError, UnavailableError

SMALLEST_REWRITE_BYTES: Final = 256_000_000
GROWTH: Final = 4
"""The file is rewritten when it is this many times what it was after the last time."""
_HEAD: Final = struct.Struct("<IBI")


class Kind(IntEnum):
    """What a record says, and what its payload is."""

    TOPIC = 1  # Topic
    TOPIC_GONE = 2  # its name
    SUBSCRIPTION = 3  # Subscription
    SUBSCRIPTION_GONE = 4  # its name
    PUBLISHED = 5  # first number, publish time in ns, then the PublishRequest as it came
    ACKED = 6  # subscription, numbers
    KEPT = 7  # only in a rewritten file: bodies of messages
    HELD = 8  # only in a rewritten file: subscription, numbers of the KEPT that it has not acknowledged


class Journal:
    """The file of one server; a second server on the same directory is refused."""

    def __init__(self, directory: Path) -> None:
        """Open or begin it.

        Raises:
            LocalError: the directory cannot be used.
        """
        self._path = directory / "journal"
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_CREAT | os.O_RDWR, 0o644)
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            self._file = os.open(self._path, os.O_CREAT | os.O_RDWR | os.O_APPEND, 0o644)
            self._size = os.fstat(self._file).st_size
        except BlockingIOError:
            raise LocalError(f"Another Pub/Sub stand-in uses {directory}: stop it, or give another --state.") from None
        except OSError as error:
            raise LocalError(f"The state directory {directory} cannot be written: {error.strerror}.") from None
        self._rewrite_at = SMALLEST_REWRITE_BYTES

    def read(self) -> Iterator[tuple[Kind, bytes]]:
        """The records from the first on, up to one that is not whole."""
        with self._path.open("rb", buffering=1 << 20) as file:
            while len(head := file.read(_HEAD.size)) == _HEAD.size:
                size, kind, check = _HEAD.unpack(head)
                payload = file.read(size)
                if len(payload) < size or zlib.crc32(payload) != check:
                    return
                yield Kind(kind), payload

    def append(self, kind: Kind, payload: bytes) -> None:
        """Add a record in one write.

        Raises:
            UnavailableError: the disk does not take it; the file is as before.
        """
        record = _record(kind, payload)
        try:
            written = os.write(self._file, record)
        except OSError as error:
            raise UnavailableError(f"The journal cannot be written: {error.strerror}.") from None
        if written < len(record):
            os.ftruncate(self._file, self._size)
            raise UnavailableError("The journal cannot be written: the disk is full.")
        self._size += written

    @property
    def wants_rewrite(self) -> bool:
        """It is large, and most of it is likely dead."""
        return self._size > self._rewrite_at

    def rewrite(self, records: Iterable[tuple[Kind, bytes]]) -> None:
        """Put what still counts in the place of all that happened, whole or not at all.

        Raises:
            LocalError: the disk does not take it; the file is as before.
        """
        fresh = self._path.with_suffix(".new")
        try:
            with fresh.open("wb", buffering=1 << 20) as file:
                file.writelines(_record(kind, payload) for kind, payload in records)
            fresh.rename(self._path)
            previous, self._file = self._file, os.open(self._path, os.O_RDWR | os.O_APPEND)
        except OSError as error:
            self._rewrite_at = GROWTH * self._size
            raise LocalError(f"The journal {self._path} cannot be written: {error.strerror}.") from None
        os.close(previous)
        self._size = os.fstat(self._file).st_size
        self._rewrite_at = max(SMALLEST_REWRITE_BYTES, GROWTH * self._size)

    def close(self) -> None:
        """Let another server have the directory."""
        os.close(self._file)
        os.close(self._lock)


def _record(kind: Kind, payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), kind, zlib.crc32(payload)) + payload
