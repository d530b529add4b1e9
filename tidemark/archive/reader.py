"""Reads a part of an archive as chunks of JSON lines, from any position where a chunk ended, in constant memory.

Positions are bytes of the text, after unpacking, for lines and CSV, and rows of the part for Parquet. Where chunks end follows
from the file, the part, `chunk_bytes` and `max_line_bytes` alone, however far reading got before: from `position=end` on
come exactly the chunks that followed. To get to a position, a file that is not packed seeks, a packed one is unpacked
again up to there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import BinaryIO

from tidemark.archive.chunk import Chunk, LongLine
from tidemark.archive.damage import DamagedError
from tidemark.archive.kinds import Kind
from tidemark.archive.lines import line_chunks
from tidemark.archive.parts import Part
from tidemark.archive.rows import header_of, row_chunks
from tidemark.archive.text import Text, packed_text, plain_text

__all__ = ["Chunk", "LongLine", "chunks"]


def chunks(
    file: BinaryIO,
    kind: Kind,
    part: Part,
    position: int | None,
    *,
    chunk_bytes: int = 1 << 20,
    max_line_bytes: int = 10_000_000,
    skip_damaged: bool = False,
    told: Callable[[DamagedError], None],
) -> Iterator[Chunk]:
    """The lines of a part.

    A byte order mark at the beginning is left out. A line may be anything: NUL, bytes that are no UTF-8, a last one
    without a newline. Zeros between members of a packed file and behind them are no damage.

    Args:
        file: From its beginning, if it cannot seek.
        kind: What it is.
        part: One that `parts_of` gave for it.
        position: The end of the last chunk that was read; None: the beginning of the part.
        chunk_bytes: About so much text has a chunk; a line is never cut.
        max_line_bytes: A line that is longer is a `LongLine`, of which only the head is kept.
        skip_damaged: Go on behind damage, where that can be. The lines that are broken by it are left out.
        told: Is called with damage that is skipped, before the chunk that follows it; not again from a position behind it.

    Raises:
        DamagedError: after every whole line before the damage, when it is not skipped.
        MisconfiguredError: the CSV has no usable header, or the Parquet has a column that JSON cannot have or is read
            from what cannot seek.
        OSError: what reading the file raises.
    """
    if kind.shape == "parquet":
        from tidemark.archive.tables import table_chunks  # noqa: PLC0415  # Arrow costs 0.2 s

        yield from table_chunks(
            file,
            part,
            position or 0,
            chunk_bytes=chunk_bytes,
            max_line_bytes=max_line_bytes,
            skip_damaged=skip_damaged,
            told=told,
        )
        return
    begin = part.start if position is None else position
    if kind.shape == "csv":
        text = _from_beginning(file, kind, part, skip_damaged=skip_damaged)
        header = header_of(text)
        if header is None:
            return
        if begin > text.at:
            text = _gone_to(text, file, kind, begin, skip_damaged=skip_damaged)
        yield from row_chunks(
            text,
            header,
            begin,
            chunk_bytes=chunk_bytes,
            max_line_bytes=max_line_bytes,
            skip_damaged=skip_damaged,
            told=told,
        )
        return
    if begin == part.start and begin > 0:
        text = plain_text(file, begin - 1)
        text.drop_line(part.end)
    elif kind.packing or not file.seekable():
        text = _from_beginning(file, kind, part, skip_damaged=skip_damaged)
        text.skip_to(begin, skip_damaged=skip_damaged)
    else:
        text = plain_text(file, begin)
    yield from line_chunks(
        text,
        begin,
        part.end,
        chunk_bytes=chunk_bytes,
        max_line_bytes=max_line_bytes,
        skip_damaged=skip_damaged,
        told=told,
    )


def _from_beginning(file: BinaryIO, kind: Kind, part: Part, *, skip_damaged: bool) -> Text:
    if kind.packing:
        return packed_text(file, kind.packing, part.index, skip_damaged=skip_damaged)
    return plain_text(file, 0)


def _gone_to(text: Text, file: BinaryIO, kind: Kind, position: int, *, skip_damaged: bool) -> Text:
    if not kind.packing and file.seekable():
        return plain_text(file, position)
    text.skip_to(position, skip_damaged=skip_damaged)
    return text
