"""What the server must remember when it is killed: an append-only file, read and shortened at the start.

One write a request, no fsync: it survives the death of the process, not of the machine.
"""

from __future__ import annotations

import os
import struct
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

_HEAD: Final = struct.Struct("<cI")
_MESSAGE: Final = struct.Struct("<QI")
TOPIC: Final = b"T"
SUBSCRIPTION: Final = b"S"
DELETE_TOPIC: Final = b"t"
DELETE_SUBSCRIPTION: Final = b"s"
PUBLISH: Final = b"P"
RESTORE: Final = b"R"
ACKNOWLEDGE: Final = b"A"


@dataclass
class Remembered:
    """What a journal says: subscriptions as serialized, and what each still has to deliver, by message number."""

    topics: list[str] = field(default_factory=list)
    subscriptions: dict[str, bytes] = field(default_factory=dict)
    topic_of: dict[str, str] = field(default_factory=dict)
    pending: dict[str, dict[int, bytes]] = field(default_factory=dict)
    last_number: int = 0


class Journal:
    """Appends records; not safe between threads."""

    def __init__(self, path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        self._path = path
        self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)

    def name(self, kind: bytes, name: str, data: bytes = b"") -> None:
        """A topic or subscription was made or deleted."""
        encoded = name.encode()
        self._write(kind, struct.pack("<H", len(encoded)) + encoded + data)

    def publish(self, topic: str, messages: Iterable[tuple[int, bytes]]) -> None:
        """Messages of a topic, by number."""
        self.name(PUBLISH, topic, _packed(messages))

    def restore(self, subscription: str, messages: Iterable[tuple[int, bytes]]) -> None:
        """Messages that one subscription still has to deliver, by number."""
        self.name(RESTORE, subscription, _packed(messages))

    def acknowledge(self, subscription: str, numbers: Iterable[int]) -> None:
        """Messages a subscription need not deliver any more."""
        self.name(ACKNOWLEDGE, subscription, array("Q", numbers).tobytes())

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)

    def _write(self, kind: bytes, payload: bytes) -> None:
        record = memoryview(_HEAD.pack(kind, len(payload)) + payload)
        while record:
            record = record[os.write(self._file, record) :]


def _packed(messages: Iterable[tuple[int, bytes]]) -> bytes:
    parts: list[bytes] = []
    for number, raw in messages:
        parts += (_MESSAGE.pack(number, len(raw)), raw)
    return b"".join(parts)


def _records(path: Path) -> Iterator[tuple[bytes, str, memoryview]]:
    data = memoryview(path.read_bytes())
    at = 0
    while at + _HEAD.size <= len(data):
        kind, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size
        if at + size > len(data):
            return  # the last record was being written when the server was killed: nobody was told it was there
        (length,) = struct.unpack_from("<H", data, at)
        yield kind, str(data[at + 2 : at + 2 + length], "utf-8"), data[at + 2 + length : at + size]
        at += size


def remember(path: Path) -> Remembered:
    """Read a journal; the file need not exist."""
    found = Remembered()
    if not path.exists():
        return found
    for kind, name, data in _records(path):
        if kind == PUBLISH:
            listeners = [found.pending[s] for s, topic in found.topic_of.items() if topic == name]
            _remember_messages(found, listeners, data)
        elif kind == RESTORE:
            _remember_messages(found, [found.pending[name]], data)
        elif kind == ACKNOWLEDGE:
            pending = found.pending.get(name, {})
            for number in array("Q", bytes(data)):
                pending.pop(number, None)
        else:
            _remember_name(found, kind, name, bytes(data))
    return found


def _remember_name(found: Remembered, kind: bytes, name: str, data: bytes) -> None:
    if kind == TOPIC:
        found.topics.append(name)
    elif kind == DELETE_TOPIC:
        found.topics.remove(name)
    elif kind == SUBSCRIPTION:
        topic, _, serialized = data.partition(b"\0")
        found.subscriptions[name] = serialized
        found.topic_of[name] = topic.decode()
        found.pending[name] = {}
    elif kind == DELETE_SUBSCRIPTION:
        del found.subscriptions[name], found.topic_of[name], found.pending[name]


def _remember_messages(found: Remembered, listeners: list[dict[int, bytes]], data: memoryview) -> None:
    at = 0
    while at < len(data):
        number, size = _MESSAGE.unpack_from(data, at)
        at += _MESSAGE.size
        raw = bytes(data[at : at + size])
        at += size
        found.last_number = max(found.last_number, number)
        for pending in listeners:
            pending[number] = raw
