"""Archives for tests, and how they are read there."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import random
from collections.abc import Callable
from typing import Any, BinaryIO, cast

import zstandard

from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import HEAD_BYTES, Kind, kind_of
from tidemark.archive.parts import Part
from tidemark.archive.reader import Chunk, chunks

WHOLE = Part(0, 0, None)
PACK: dict[str, Callable[[bytes], bytes]] = {
    "": lambda text: text,
    "gzip": lambda text: gzip.compress(text, 6, mtime=0),
    "bzip2": bz2.compress,
    "xz": lambda text: lzma.compress(text, preset=0),
    "zstd": zstandard.ZstdCompressor(write_checksum=True).compress,
}
PACKINGS = [name for name in PACK if name]


class Pipe(io.RawIOBase):
    """Cannot seek, and gives a few bytes at once."""

    def __init__(self, data: bytes, most: int = 1000) -> None:
        self._file = io.BytesIO(data)
        self._most = most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1) -> bytes:
        return self._file.read(self._most if size < 0 else min(size, self._most))


def points(count: int, seed: int = 1) -> bytes:
    rng = random.Random(seed)
    line = b'{"project":"p","source":"s%d","metric":"m","event_time":%d,"value":%d}\n'
    return b"".join(line % (rng.randrange(50), 1_769_860_800_000 + i, rng.randrange(10**6)) for i in range(count))


def read(
    data: bytes | BinaryIO | Pipe,
    position: int | None = None,
    *,
    part: Part = WHOLE,
    kind: Kind | None = None,
    name: str = "-",
    told: list[DamagedError] | None = None,
    **settings: Any,
) -> list[Chunk]:
    """All chunks; damage is skipped when there is a list for it."""
    kind = kind or kind_of(name, cast("bytes", data)[:HEAD_BYTES])
    file = io.BytesIO(data) if isinstance(data, bytes) else cast("BinaryIO", data)
    if told is not None:
        settings |= {"skip_damaged": True, "told": told.append}
    return list(chunks(file, kind, part, position, **({"told": refused} | settings)))


def until_damage(data: bytes, **settings: Any) -> tuple[bytes, DamagedError | None]:
    """The text before the damage."""
    found = bytearray()
    kind = settings.pop("kind", None) or kind_of("-", data[:HEAD_BYTES])
    try:
        for chunk in chunks(io.BytesIO(data), kind, WHOLE, None, told=refused, **settings):
            found += chunk.data
    except DamagedError as error:
        return bytes(found), error
    return bytes(found), None


def refused(error: DamagedError) -> None:
    raise AssertionError(error)


def joined(found: list[Chunk]) -> bytes:
    return b"".join(chunk.data for chunk in found)


def lines(text: bytes) -> list[bytes]:
    """Those that are not blank."""
    return [line for line in text.split(b"\n") if line.strip()]
