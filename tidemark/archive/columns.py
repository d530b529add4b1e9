"""Arrow's columns to JSON, a text a value.

Moments become RFC 3339 with a Z; those without a zone are taken for UTC. Integers, decimals and floats become numbers, and a
float that JSON does not know the string of its name (`"nan"`), which no value may be, so that its dead letter says what it
was. Binary becomes base64. Lists, structs and maps become what they are in JSON; `attributes` that are text become the
object that they are the JSON of. What is null is left out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable, Iterable
from datetime import UTC, date, datetime, time, timedelta
from decimal import Decimal
from json import dumps
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from tidemark.archive.objects import labels, quoted
from tidemark.errors import MisconfiguredError

_Column = Any
"""pa.Array"""


def texts_of(name: str, column: _Column) -> list[str]:
    """The JSON of each value of a column; empty for null.

    Raises:
        MisconfiguredError: JSON has nothing for its type.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    make = _maker(name, column.type)
    if kinds.is_timestamp(column.type):
        values: Iterable[Any] = _moments(column)
    elif make is _bytes_quoted or make is _bytes_labels:
        values = column.cast(pa.large_binary()).to_pylist()
    else:
        values = column.to_pylist()
    return ["" if value is None else make(value) for value in values]


def _maker(name: str, kind: Any) -> Callable[[Any], str]:
    if kinds.is_integer(kind):
        return str
    if kinds.is_floating(kind):
        return _float
    if _is_text(kind):
        return _bytes_labels if name == "attributes" else _bytes_quoted
    for known, make in _MAKERS:
        if known(kind):
            return make
    if not kinds.is_nested(kind):
        raise MisconfiguredError(f"The column {name[:100]!r} is of the type {kind}, which JSON has not; leave it out.")
    return _nested


def _is_text(kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _bytes_quoted(value: bytes) -> str:
    return quoted(value.decode("utf-8", "surrogateescape"))


def _bytes_labels(value: bytes) -> str:
    return labels(value.decode("utf-8", "surrogateescape"))


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'"{value}"'


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _binary(value: bytes) -> str:
    return f'"{base64.b64encode(value).decode()}"'


def _plain(value: date | time | timedelta) -> str:
    return f'"{value}"' if isinstance(value, timedelta) else f'"{value.isoformat()}"'


def _moments(column: _Column) -> list[str | None]:
    """In the column's own unit, so that no digit is lost."""
    unit = column.type.unit
    values = np.asarray(column.cast(pa.int64()).fill_null(0)).astype(f"datetime64[{unit}]")
    made: list[str] = np.datetime_as_string(values, unit=unit).tolist()
    nulls = column.is_null().to_pylist() if column.null_count else [False] * len(made)
    return [None if null else f"{value}Z" for value, null in zip(made, nulls, strict=True)]


def _is_binary(kind: Any) -> bool:
    return bool(
        kinds.is_binary(kind)
        or kinds.is_large_binary(kind)
        or kinds.is_binary_view(kind)
        or kinds.is_fixed_size_binary(kind)
    )


_MAKERS: Final[tuple[tuple[Callable[[Any], bool], Callable[[Any], str]], ...]] = (
    (kinds.is_timestamp, lambda value: f'"{value}"'),
    (kinds.is_boolean, _bool),
    (kinds.is_decimal, _decimal),
    (kinds.is_date, _plain),
    (kinds.is_time, _plain),
    (kinds.is_duration, _plain),
    (_is_binary, _binary),
    (kinds.is_null, str),
)


def _nested(value: Any) -> str:
    """A list, a struct, a map, or what is in one."""
    if isinstance(value, dict):
        return "{" + ",".join(f"{quoted(str(key))}:{_nested(some)}" for key, some in value.items()) + "}"
    if isinstance(value, list):
        if value and all(isinstance(some, tuple) for some in value):  # a map
            return _nested(dict(value))
        return "[" + ",".join(map(_nested, value)) + "]"
    for known, make in _INSIDE:
        if isinstance(value, known):
            return make(value)
    return dumps(value, ensure_ascii=False)


def _aware(value: datetime) -> str:
    moment = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return f'"{moment.isoformat().replace("+00:00", "Z")}"'


_INSIDE: Final[tuple[tuple[Any, Callable[[Any], str]], ...]] = (
    (float, _float),
    (datetime, _aware),
    (Decimal, _decimal),
    (bytes, _binary),
    ((date, time, timedelta), _plain),
)
