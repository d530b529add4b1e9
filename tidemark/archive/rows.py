"""Cuts CSV (RFC 4180) into chunks of JSON objects.

The first row names the fields. A cell that is empty is left out. The cell of `value` becomes a number when JSON knows it as
one, `event_time` and `publish_time` integers when they are digits, `attributes` an object when it is the JSON of one; every
other cell is a string. A row that has not as many cells as the first one becomes a JSON string of the whole row, which
is no point: so nothing is guessed, and its dead letter has it as it was.

Chunks are cut as lines are, but at the ends of rows. A row longer than a mebibyte is a long line: its quote was
never closed, most likely, and reading goes on at the line behind that mebibyte.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Callable, Iterator
from typing import Final, NamedTuple

from tidemark.archive.chunk import HEAD_BYTES, Chunk, LongLine
from tidemark.archive.damage import DamagedError
from tidemark.archive.objects import CELLS, Cells, encoded, members, objects, quoted
from tidemark.archive.text import BOM, Text
from tidemark.errors import MisconfiguredError

_ROW_BYTES: Final = 1 << 20
_CELL_CHARACTERS: Final = 1 << 21
"""More than a row may have, so that the parser's own limit, which is the whole process's, refuses none."""
_END: Final = "\0end"
"""A row that is put behind the others: it comes out as itself unless a quote is open."""
_DELIMITERS: Final = ",;\t"


class Header(NamedTuple):
    """The names of the fields, and what stands between cells."""

    names: list[str]
    delimiter: str


_Row = tuple[list[str] | None, int, int]
"""Its cells, None when the parser refused it; the first of its lines in the block, and the one behind its last."""


class _Block(NamedTuple):
    rows: list[_Row]
    lines: list[str]

    def text(self, first: int, end: int) -> str:
        return "".join(self.lines[first:end])

    def size(self, rows: int) -> int:
        """The bytes of the first rows."""
        return len(self.text(0, self.rows[rows - 1][2]).encode("utf-8", "surrogateescape"))


def header_of(text: Text) -> Header | None:
    """Takes the first row that is not blank from the beginning of `text`; None: there is none.

    Raises:
        MisconfiguredError: it names no fields, or one twice.
        DamagedError: it cannot be read, and so nothing can.
    """
    text.fill(_ROW_BYTES)
    if text.buffer.startswith(BOM):
        text.drop(len(BOM))
    while text.buffer:
        text.drop(len(text.buffer) - len(text.buffer.lstrip(b" \r\n")))
        text.fill(_ROW_BYTES)
        if not text.buffer[:1].isspace():
            break
    first = text.buffer.partition(b"\n")[0].decode("latin-1")
    delimiter = max(_DELIMITERS, key=first.count)
    block = _block(text, delimiter, 1, _ROW_BYTES)
    if block is None:
        raise MisconfiguredError("The CSV's first row, which names its fields, does not end; close its quotes.")
    if not block.rows:
        text.mend(skip_damaged=False, told=_untold)
        return None
    text.drop(block.size(1))
    names = [name.strip() for name in block.rows[0][0] or [""]]
    for name in names:
        if not name:
            raise MisconfiguredError("The CSV's first row has a column without a name; name each field.")
        if names.count(name) > 1:
            raise MisconfiguredError(f"The CSV's first row names {name[:100]!r} twice; name each field once.")
    return Header(names, delimiter)


def _untold(error: DamagedError) -> None:
    raise error


def row_chunks(
    text: Text,
    header: Header,
    begin: int,
    *,
    chunk_bytes: int,
    max_line_bytes: int,
    skip_damaged: bool,
    told: Callable[[DamagedError], None],
) -> Iterator[Chunk]:
    """Chunks of `text`, which is where a row begins; the arguments are those of `line_chunks`.

    Raises:
        DamagedError: after the rows before it, when it is not skipped.
    """
    limit = min(max_line_bytes, _ROW_BYTES)
    while True:
        line, block = text.line, _block(text, header.delimiter, min(chunk_bytes, limit), limit)
        if block is None:
            long = _drop_long(text, limit)
            yield Chunk(b"", begin, text.at, line, (long,))
            begin = text.at
        elif block.rows:
            text.drop(block.size(len(block.rows)))
            if data := encoded(_json(block, header.names)):
                yield Chunk(data, begin, text.at, line)
                begin = text.at
        elif not text.mend(skip_damaged=skip_damaged, told=told):
            return


def _block(text: Text, delimiter: str, window: int, limit: int) -> _Block | None:
    """The rows that end within `window` of the buffer, or within as much more as the first needs.

    None: it needs more than `limit`. There are no rows where none ends before a gap, and at the end.
    """
    size = window
    while True:
        text.fill(size + 1)  # so that it shows whether more follows, whatever was read before
        last = len(text.buffer) <= size
        end = len(text.buffer) if last and text.ended else text.buffer.rfind(b"\n", 0, size) + 1
        lines = io.StringIO(text.buffer[:end].decode("utf-8", "surrogateescape"), newline="\n").readlines()
        rows, is_open = _parsed(lines, delimiter)
        if is_open and not (last and text.ended):
            rows.pop()
        if rows or last:
            return _Block(rows, lines)
        if size >= limit:
            return None
        size = min(2 * size, limit)


def _parsed(lines: list[str], delimiter: str) -> tuple[list[_Row], bool]:
    """The rows of these lines, and whether a quote is open at the end of the last one."""
    csv.field_size_limit(max(csv.field_size_limit(), _CELL_CHARACTERS))
    left, rows, at = iter([*lines, _END]), list[_Row](), 0
    while at <= len(lines):
        reader, begin = csv.reader(left, delimiter=delimiter), at
        try:
            for cells in reader:
                end = begin + reader.line_num
                rows.append((cells, at, end))
                at = end
        except csv.Error:  # a carriage return in the middle of a line
            end = begin + reader.line_num
            rows.append((None, at, end))
            at = end
    _, first, _ = rows[-1]
    if first == len(lines):
        rows.pop()
        return rows, False
    rows[-1] = None, first, len(lines)
    return rows, True


def _json(block: _Block, names: list[str]) -> list[str]:
    """A line of JSON for each row that is not blank."""
    width = len(names)
    good = [cells for cells, _, _ in block.rows if cells is not None and len(cells) == width]
    columns = [
        members(name, Cells(column, CELLS.get(name, quoted), "", repeats=True))
        for name, column in zip(names, zip(*good, strict=True), strict=False)
    ]
    made = objects(columns)
    if len(made) == len(block.rows):
        return made
    left, lines = iter(made), list[str]()
    for cells, first, end in block.rows:
        if cells is not None and len(cells) == width:
            lines.append(next(left))
        elif as_it_is := block.text(first, end).strip(" \r\n"):
            lines.append(quoted(as_it_is))
    return lines


def _drop_long(text: Text, limit: int) -> LongLine:
    """Drops the row at the front, up to the first newline at the limit or behind it."""
    at, head = text.at, text.buffer[: min(HEAD_BYTES, limit)]
    text.drop(limit - 1)
    return LongLine(at, limit - 1 + text.drop_line(), head)
