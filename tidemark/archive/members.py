"""The members of packed files: each is one stream, or frame, that can be unpacked by itself.

A member is a generator of text that begins where the packed bytes are and leaves them behind its end. What it gives is
bounded: no step makes more than 256 KiB, whatever the bytes say.
"""

from __future__ import annotations

import bz2
import lzma
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple, Protocol, cast

import zstandard
from isal import igzip_lib

from tidemark.archive.packed import Packed

TEXT_STEP: Final = 1 << 18
_ZSTD: Final = b"\x28\xb5\x2f\xfd"
_SKIPPED: Final = range(0x184D2A50, 0x184D2A60)
"""Magic numbers of zstd's frames that hold nothing: RFC 8878, 3.1.2."""
_MAX_WINDOW: Final = 1 << 27
"""What zstd(1) reads without being asked to read more."""
_MAX_XZ_MEMORY: Final = 192 << 20
"""xz -9 needs 65 MiB; a dictionary of 128 MiB and what is around it."""
_BLOCKS: Final = 2
"""So many of zstd's blocks are unpacked at once, each of 128 KiB of text at most."""
_BLOCK_BYTES: Final = 1 << 17
_RLE: Final = 1
_RESERVED: Final = 3
_ISAL_ERROR: Final = cast("type[Exception]", igzip_lib.error)
_CUT: Final = "it was cut, or not finished"
_CRC_FLAG, _EXTRA_FLAG, _NAME_FLAG, _COMMENT_FLAG, _RESERVED_FLAGS = 2, 4, 8, 16, 0xE0


class BrokenError(Exception):
    """A member cannot be unpacked further.

    Args:
        why: The end of a sentence.
        at: The packed byte up to which it could be followed.
        cut: Nothing is wrong but that it ends too early.
        resume: Where another member may begin at the earliest, if that is known.
    """

    def __init__(self, why: str, at: int, *, cut: bool = False, resume: int | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.at = at
        self.cut = cut
        self.resume = resume


class Packing(NamedTuple):
    """How to unpack a member.

    Attributes:
        member: Gives its text.
        magic: The bytes with which one begins.
        held_bytes: Text of a member is to be held until so much more has come without complaint. bzip2 checks blocks of
            900,000 bytes, once it has given them; what it makes of a broken one may be longer, since runs are packed apart.
    """

    member: Callable[[Packed], Iterator[bytes]]
    magic: bytes
    held_bytes: int = 1 << 20


class _Stream(Protocol):
    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, /, max_length: int) -> bytes: ...


def _stream(packed: Packed, stream: _Stream, errors: tuple[type[Exception], ...]) -> Iterator[bytes]:
    while not stream.eof:
        at, some = packed.at, b""
        if stream.needs_input and not (some := packed.read()):
            raise BrokenError(_CUT, at, cut=True)
        try:
            text = stream.decompress(some, TEXT_STEP)
        except errors as error:
            raise BrokenError(f"it is corrupt ({error})", at) from None
        if text:
            yield text
    packed.at -= len(stream.unused_data)


def _gzip(packed: Packed) -> Iterator[bytes]:
    """RFC 1952. The checks are made here, so that it is known where the member ends when one of them fails."""
    _gzip_header(packed)
    stream, size = igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP_NO_HDR), 0
    for text in _stream(packed, stream, (_ISAL_ERROR,)):
        size += len(text)
        yield text
    trailer = packed.take(8)
    if len(trailer) < 8:
        raise BrokenError(_CUT, packed.at, cut=True)
    crc, stated = int.from_bytes(trailer[:4], "little"), int.from_bytes(trailer[4:], "little")
    if stated != size & 0xFFFFFFFF:
        raise BrokenError(f"the member that ends there has {size} bytes and says {stated}", packed.at)
    if crc != stream.crc:
        why = f"the checksum of the member that ends there is wrong, any of its {size} bytes may be"
        raise BrokenError(why, packed.at, resume=packed.at)


def _gzip_header(packed: Packed) -> None:
    begin = packed.at
    head = packed.take(10)
    if head[:3] != GZIP[: len(head)]:
        raise BrokenError("what is there is no gzip", begin)
    if len(head) < 10:
        raise BrokenError(_CUT, packed.at, cut=True)
    flags = head[3]
    if flags & _RESERVED_FLAGS:
        raise BrokenError("its header is corrupt", begin)
    if flags & _EXTRA_FLAG:
        packed.skip(int.from_bytes(packed.take(2), "little"))
    for flag in (_NAME_FLAG, _COMMENT_FLAG):
        if flags & flag and not packed.find(b"\0"):
            raise BrokenError(_CUT, packed.at, cut=True)
        packed.skip(1 if flags & flag else 0)
    packed.skip(2 if flags & _CRC_FLAG else 0)


def _bzip2(packed: Packed) -> Iterator[bytes]:
    _begins(packed, BZIP2, "bzip2")
    yield from _stream(packed, bz2.BZ2Decompressor(), (OSError, ValueError))


def _xz(packed: Packed) -> Iterator[bytes]:
    _begins(packed, XZ, "xz")
    begin = packed.at
    try:
        yield from _stream(packed, lzma.LZMADecompressor(lzma.FORMAT_XZ, _MAX_XZ_MEMORY), (lzma.LZMAError,))
    except BrokenError as error:
        if "limit" in error.why:
            raise BrokenError(
                "it asks for a dictionary of more than 128 MiB; pack it by xz -9 or less", begin
            ) from None
        raise


def _begins(packed: Packed, magic: bytes, name: str) -> None:
    head = packed.peek(len(magic))
    if head != magic[: len(head)]:
        raise BrokenError(f"what is there is no {name}", packed.at)


def _zstd(packed: Packed) -> Iterator[bytes]:
    """RFC 8878, 3.1.1. The blocks are walked, since the library tells neither where a frame ends nor that it was cut."""
    begin = packed.at
    if int.from_bytes(packed.peek(4), "little") in _SKIPPED:
        size = int.from_bytes(packed.take(8)[4:], "little")
        if packed.at - begin < 8 or packed.skip(size) < size:
            raise BrokenError(_CUT, packed.at, cut=True)
        return
    _begins(packed, _ZSTD, "zstd")
    unpack, checksum = _zstd_header(packed)
    last, waiting = False, [packed.take(unpack.header)]
    while not last:
        at = packed.at
        head = packed.take(3)
        block = int.from_bytes(head, "little")
        last, kind, size = bool(block & 1), block >> 1 & 3, block >> 3
        if kind == _RESERVED or size > _BLOCK_BYTES:
            raise BrokenError("it is corrupt (a block of no known kind)", at)
        size = 1 if kind == _RLE else size
        body = packed.take(size)
        tail = packed.take(4) if last and checksum else b""
        if len(head) < 3 or len(body) < size or (last and checksum and len(tail) < 4):
            yield unpack.text(b"".join(waiting), begin)
            raise BrokenError(_CUT, packed.at, cut=True)
        waiting += (head, body, tail)
        if last or len(waiting) > 3 * _BLOCKS:
            if text := unpack.text(b"".join(waiting), begin):
                yield text
            waiting.clear()
            begin = packed.at
    if not unpack.ended:
        raise BrokenError("it is corrupt (the frame does not end)", packed.at)


class _Frame:
    def __init__(self, header: int) -> None:
        self.header = header
        self._stream = zstandard.ZstdDecompressor(max_window_size=_MAX_WINDOW).decompressobj()

    @property
    def ended(self) -> bool:
        return self._stream.eof

    def text(self, data: bytes, begin: int) -> bytes:
        try:
            return self._stream.decompress(data)
        except zstandard.ZstdError as error:
            raise BrokenError(f"it is corrupt ({error})", begin) from None


def _zstd_header(packed: Packed) -> tuple[_Frame, bool]:
    """What unpacks the frame, and whether a checksum ends it."""
    head = packed.peek(18)
    try:
        size = zstandard.frame_header_size(head)
        stated = zstandard.get_frame_parameters(head)
    except zstandard.ZstdError as error:
        if len(head) < 18:
            raise BrokenError(_CUT, packed.at, cut=True) from None
        raise BrokenError(f"its header is corrupt ({error})", packed.at) from None
    if stated.window_size > _MAX_WINDOW:
        window = (
            f"it asks for a window of {stated.window_size >> 20} MiB, more than 128; pack it by zstd --long=27 or less"
        )
        raise BrokenError(window, packed.at)
    if stated.dict_id:
        raise BrokenError("it was packed with a dictionary; pack it without one", packed.at)
    return _Frame(size), stated.has_checksum


GZIP: Final = b"\x1f\x8b\x08"
BZIP2: Final = b"BZh"
XZ: Final = b"\xfd7zXZ\0"
ZSTD: Final = _ZSTD
PACKINGS: Final = {
    "gzip": Packing(_gzip, GZIP),
    "bzip2": Packing(_bzip2, BZIP2, 4 << 20),
    "xz": Packing(_xz, XZ),
    "zstd": Packing(_zstd, ZSTD),
}
