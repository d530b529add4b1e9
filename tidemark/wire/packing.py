"""Unpacks bodies: whole streams, one after the other, into a bounded number of bytes."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from typing import Final

import zstandard

from tidemark.wire import advice
from tidemark.wire.reasons import Reason, RejectedError

_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPED: Final = range(0x184D2A50, 0x184D2A60)
"""Magic numbers of frames that hold nothing: RFC 8878, 3.1.2."""
_MAX_WINDOW: Final = 1 << 27
_RLE: Final = 1
_RESERVED: Final = 3
_FIRST_CHUNK: Final = 512
_FREE: Final = 1000
_BYTES_A_STREAM: Final = 1024
_BYTES_A_BLOCK: Final = 32
"""So many streams and blocks are taken, and one more for each of so many bytes."""


def unpacked(data: bytes, encoding: str, max_bytes: int) -> bytes:
    """The text in `data`.

    Args:
        data: One or more complete streams of the encoding.
        encoding: gzip, x-gzip, zstd, identity or empty, in any case.
        max_bytes: A longer text is refused, and not made.

    Raises:
        RejectedError: an unknown encoding, a stream that is not complete, or a text that is too long.
    """
    name = encoding.strip().lower()
    if name in ("", "identity"):
        return data
    unpack = _UNPACK.get(name)
    if unpack is None:
        raise RejectedError(Reason.UNKNOWN_ENCODING, f"content_encoding {encoding[:100]!r}; gzip and zstd are known")
    if not data:
        raise RejectedError(Reason.BAD_COMPRESSION, f"there are no bytes, and so no {name}")
    text = unpack(data, max_bytes)
    if len(text) > max_bytes:
        raise RejectedError(Reason.MESSAGE_TOO_LARGE, f"more than {max_bytes} bytes after decompression")
    return text


def _gunzip(data: bytes, max_bytes: int) -> bytes:
    """Members in a row, as RFC 1952 allows, and zeros behind them, as tar writes."""
    parts: list[bytes] = []
    size, at = 0, 0
    members = _Count(data, "members", _BYTES_A_STREAM)
    while at < len(data) and size <= max_bytes:
        members.more()
        stream = zlib.decompressobj(wbits=31)
        chunk = _FIRST_CHUNK  # what is behind a member is copied with it: so little at first, and then ever more
        while not stream.eof and at < len(data) and size <= max_bytes:
            some = data[at : at + chunk]
            try:
                plain = stream.decompress(some, max_bytes + 1 - size)
            except zlib.error as error:
                if parts and not data[at:].strip(b"\0"):
                    return b"".join(parts)
                said = "something that is no gzip follows it" if parts else advice.of_packed(data, "gzip", str(error))
                raise RejectedError(Reason.BAD_COMPRESSION, said) from None
            at += len(some) - len(stream.unused_data)
            parts.append(plain)
            size += len(plain)
            chunk *= 2
        if not stream.eof and size <= max_bytes:
            raise RejectedError(Reason.BAD_COMPRESSION, "the gzip ends too early: it was cut, or not finished")
    return b"".join(parts)


def _unzstd(data: bytes, max_bytes: int) -> bytes:
    """Frames in a row. The library takes a frame that was cut for a whole one, so its blocks are counted first."""
    at = 0
    frames, blocks = _Count(data, "frames", _BYTES_A_STREAM), _Count(data, "blocks", _BYTES_A_BLOCK)
    while at < len(data):
        frames.more()
        at = _after_frame(data, at, blocks)
    try:
        with zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).stream_reader(
            data, read_across_frames=True
        ) as stream:
            return stream.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise RejectedError(Reason.BAD_COMPRESSION, advice.of_packed(data, "zstd", str(error))) from None


class _Count:
    """How many parts there may be: each costs a step in Python, and may be a few bytes short."""

    def __init__(self, data: bytes, what: str, bytes_each: int) -> None:
        self._what = what
        self._left = _FREE + len(data) // bytes_each

    def more(self) -> None:
        self._left -= 1
        if self._left < 0:
            raise RejectedError(Reason.BAD_COMPRESSION, f"it has too many {self._what}; pack more at once")


def _after_frame(data: bytes, start: int, blocks: _Count) -> int:
    """Where the frame that begins at `start` ends: RFC 8878, 3.1.1."""
    cut = RejectedError(Reason.BAD_COMPRESSION, "the zstd ends too early: it was cut, or not finished")
    if int.from_bytes(data[start : start + 4], "little") in _SKIPPED:
        at = start + 8 + int.from_bytes(data[start + 4 : start + 8], "little")
        if at > len(data):
            raise cut
        return at
    if not data.startswith(_ZSTD, start):
        if len(data) - start < len(_ZSTD) and _ZSTD.startswith(data[start:]):
            raise cut
        said = (
            advice.of_packed(data, "zstd", "it begins otherwise")
            if not start
            else "something that is no zstd follows it"
        )
        raise RejectedError(Reason.BAD_COMPRESSION, said)
    header = data[start : start + 18]
    try:
        at = start + zstandard.frame_header_size(header)
        checksum = zstandard.get_frame_parameters(header).has_checksum
    except zstandard.ZstdError:
        raise cut from None
    last = False
    while not last:
        blocks.more()
        block = int.from_bytes(data[at : at + 3], "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == _RESERVED:
            raise RejectedError(Reason.BAD_COMPRESSION, "the zstd is damaged: it has a block of no known kind")
        at += 3 + (1 if kind == _RLE else size)
        if at > len(data):
            raise cut
    at += 4 * checksum
    if at > len(data):
        raise cut
    return at


_UNPACK: Final[dict[str, Callable[[bytes, int], bytes]]] = {"gzip": _gunzip, "x-gzip": _gunzip, "zstd": _unzstd}
