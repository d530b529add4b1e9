"""Columns of cells to JSON objects, one a line.

Each column is made into JSON at once, and the rows are put together from these: no Python runs for a cell that is text.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Sequence
from json.encoder import encode_basestring
from typing import Any, Final, NamedTuple

import msgspec

quoted: Final[Callable[[str], str]] = encode_basestring
"""A text as a JSON string, which escapes only what it must."""
_is_number: Final = re.compile(r"-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][+-]?[0-9]+)?").fullmatch
_is_digits: Final = re.compile(r"[0-9]+").fullmatch
_LINES: Final = str.maketrans("\r\n", "  ")
"""Outside of strings, where alone JSON allows them, both are blanks."""
_OBJECT: Final = msgspec.json.Decoder(dict[str, Any])


def number(cell: str) -> str:
    """The JSON of a `value`: a number as it is, when JSON knows it as one; else a string."""
    return cell if _is_number(cell) else quoted(cell)


def moment(cell: str) -> str:
    """The JSON of an `event_time` or `publish_time`: an integer, when all are digits; else a string."""
    return cell.lstrip("0") or "0" if _is_digits(cell) else quoted(cell)


def labels(cell: str) -> str:
    """The JSON of `attributes`: an object as it is, when it is JSON of one; else a string."""
    try:
        _OBJECT.decode(cell)
    except (msgspec.DecodeError, UnicodeError, RecursionError):
        return quoted(cell)
    return cell.translate(_LINES)


CELLS: Final[dict[str, Callable[[str], str]]] = {
    "value": number,
    "event_time": moment,
    "publish_time": moment,
    "attributes": labels,
}
"""How cells of text become JSON, by the column's name; every other one is a string."""


class Cells(NamedTuple):
    """A column.

    Attributes:
        values: A value a row.
        make: What makes the JSON of a value.
        absent: A value that is left out.
        repeats: The values are hashable, equal only if they are the same, and perhaps few: each is made once.
    """

    values: Sequence[Any]
    make: Callable[[Any], str]
    absent: str | None = None
    repeats: bool = False


def members(name: str, cells: Cells) -> list[str]:
    """Each value as a member of an object; empty where it is left out."""
    values, make, absent, repeats = cells
    named = quoted(name) + ":"
    distinct = set(values) if repeats else values
    if not repeats or 2 * len(distinct) > len(values):
        return ["" if value == absent else named + make(value) for value in values]
    made = {value: "" if value == absent else named + make(value) for value in distinct}
    return [*map(made.__getitem__, values)]


def objects(columns: Sequence[Sequence[str]]) -> list[str]:
    """The rows of columns that `members` made."""
    rows = zip(*columns, strict=True)
    if all(map(all, columns)):
        return ["{" + members + "}" for members in map(",".join, rows)]
    return ["{" + ",".join(filter(None, row)) + "}" for row in rows]


def encoded(lines: Iterable[str]) -> bytes:
    """Lines as bytes, each with its newline; bytes that were no UTF-8 are as they were."""
    text = "\n".join(lines)
    return (text + "\n").encode("utf-8", "surrogateescape") if text else b""
