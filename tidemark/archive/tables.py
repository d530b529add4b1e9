"""Cuts Parquet into chunks of JSON objects, an object a row, row group by row group.

A position is a row of the part. A chunk is a batch of rows of one row group. Of a damaged row group the batches before
the damage are given; the next row group is where reading can go on.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, BinaryIO, Final, TypeVar

import pyarrow as pa
import pyarrow.parquet as pq

from tidemark.archive.chunk import HEAD_BYTES, Chunk, LongLine
from tidemark.archive.columns import cells_of
from tidemark.archive.damage import DamagedError
from tidemark.archive.objects import encoded, members, objects
from tidemark.archive.parts import Part
from tidemark.errors import MisconfiguredError

_MOST_ROWS: Final = 8192
_BUFFER_BYTES: Final = 1 << 20
"""Of a column, so that not all of it is held at once."""
T = TypeVar("T")


def row_group_bytes(file: BinaryIO) -> list[int]:
    """How long each row group is, before its pages are packed.

    Raises:
        DamagedError: there is no footer, or one that cannot be read.
    """
    table = _opened(file, 0).metadata
    return [table.row_group(group).total_byte_size for group in range(table.num_row_groups)]


def table_chunks(
    file: BinaryIO,
    part: Part,
    position: int,
    *,
    chunk_bytes: int,
    max_line_bytes: int,
    skip_damaged: bool,
    told: Callable[[DamagedError], None],
) -> Iterator[Chunk]:
    """The chunks of the part's row groups from row `position` on; the arguments are those of `chunks`.

    Raises:
        DamagedError: there is no footer; after the rows before the damage, when it is not skipped.
        MisconfiguredError: a column is of a type that JSON has not, a name is there twice, or the file cannot seek.
    """
    if not file.seekable():
        raise MisconfiguredError("Parquet is read from its end, which a pipe does not have: store it as a file first.")
    table = _opened(file, part.index)
    names = table.schema_arrow.names
    if len(set(names)) < len(names):
        raise MisconfiguredError("The Parquet has two columns of one name; name each once.")
    row, begin = 0, position
    for group in range(part.start, table.metadata.num_row_groups if part.end is None else part.end):
        stated = table.metadata.row_group(group)
        first, row = row, row + stated.num_rows
        if row <= position:
            continue
        try:
            for at, batch in _batches(table, group, first, _rows(stated, chunk_bytes)):
                end = at + batch.num_rows
                if end > position:
                    rest = batch.slice(max(0, position - at))
                    chunk = _read(partial(_chunk, rest, names, begin, end, max_line_bytes))
                    yield chunk
                    begin = end
        except _UnreadableError as error:
            pages = stated.column(0)
            offset = pages.dictionary_page_offset or pages.data_page_offset
            why = f"its row group {group} cannot be read ({error})"
            damaged = DamagedError(part.index, offset, begin, why)
            if not skip_damaged:
                raise damaged from None
            told(damaged)


class _UnreadableError(Exception):
    """Bytes that are not what they should be, in Arrow's words."""


def _batches(table: Any, group: int, first: int, rows: int) -> Iterator[tuple[int, Any]]:
    batches = _read(partial(table.iter_batches, rows, row_groups=[group], use_threads=False))
    while (batch := _read(partial(next, batches, None))) is not None:
        yield first, batch
        first += batch.num_rows


def _read(read: Callable[[], T]) -> T:
    """What is read; an error of the file itself stays what it is."""
    try:
        return read()
    except (pa.ArrowException, OSError, ValueError, OverflowError) as error:
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise _UnreadableError(str(error).partition("\n")[0][:200]) from None


def _opened(file: BinaryIO, part: int) -> Any:
    opened = partial(pq.ParquetFile, file, buffer_size=_BUFFER_BYTES, pre_buffer=False, page_checksum_verification=True)
    try:
        return _read(opened)
    except _UnreadableError as error:
        raise DamagedError(part, file.seek(0, 2), 0, f"its footer cannot be read ({error})") from None


def _rows(stated: Any, chunk_bytes: int) -> int:
    """So many rows have about `chunk_bytes`, by what the row group says of itself."""
    return int(max(1, min(_MOST_ROWS, chunk_bytes * stated.num_rows // max(1, stated.total_byte_size))))


def _chunk(batch: Any, names: list[str], begin: int, end: int, max_line_bytes: int) -> Chunk:
    columns = [members(name, cells_of(name, column)) for name, column in zip(names, batch.columns, strict=True)]
    lines = objects(columns)
    if max(map(len, lines), default=0) * 4 <= max_line_bytes:
        return Chunk(encoded(lines), begin, end, None)
    long, short = list[LongLine](), list[str]()
    for row, line in enumerate(lines, end - len(lines)):
        size = len(line.encode("utf-8", "surrogateescape"))
        if size > max_line_bytes:
            long.append(LongLine(row, size, line[:HEAD_BYTES].encode("utf-8", "surrogateescape")[:HEAD_BYTES]))
        else:
            short.append(line)
    return Chunk(encoded(short), begin, end, None, tuple(long))
