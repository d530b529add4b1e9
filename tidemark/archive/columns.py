"""What Arrow's columns are in JSON.

Moments become RFC 3339 with a Z; those without a zone are taken for UTC. Integers, decimals and floats become numbers, and a
float that JSON does not know the string of its name (`"nan"`), which no value may be, so that its dead letter says what it
was. Binary becomes base64. Lists, structs and maps become what they are in JSON; `attributes` that are text become the
object that they are the JSON of. What is null is left out.
"""

from __future__ import annotations

import base64
import math
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

import numpy as np
import pyarrow as pa
import pyarrow.types as kinds

from tidemark.archive.objects import Cells, labels, quoted
from tidemark.errors import MisconfiguredError

_Make = Callable[[Any], str]


def cells_of(name: str, column: Any) -> Cells:
    """The values of an array, and what makes their JSON.

    Raises:
        MisconfiguredError: JSON has nothing for its type.
    """
    if isinstance(column, pa.ExtensionArray):
        column = column.storage
    if kinds.is_dictionary(column.type):
        column = column.dictionary_decode()
    kind = column.type
    if kinds.is_timestamp(kind):
        return Cells(_moments(column), _as_it_is)
    if kinds.is_date(kind) or kinds.is_time(kind):
        return Cells(column.cast(pa.string()).to_pylist(), _as_it_is)
    if _is_text(kind):
        return Cells(_texts(column), labels if name == "attributes" else quoted, repeats=True)
    return Cells(column.to_pylist(), _maker(name, kind))


def _texts(column: Any) -> list[str | None]:
    """Bytes that are no UTF-8 are as they were when they are encoded again."""
    try:
        texts: list[str | None] = column.to_pylist()
    except UnicodeDecodeError:
        values = column.cast(pa.large_binary()).to_pylist()
        return [None if value is None else value.decode("utf-8", "surrogateescape") for value in values]
    return texts


def _moments(column: Any) -> list[str | None]:
    """In the column's own unit, so that no digit is lost."""
    unit = column.type.unit
    values = np.asarray(column.cast(pa.int64()).fill_null(0)).astype(f"datetime64[{unit}]")
    made: list[str] = np.datetime_as_string(values, unit=unit).tolist()
    nulls = column.is_null().to_pylist() if column.null_count else [False] * len(made)
    return [None if null else f"{value}Z" for value, null in zip(made, nulls, strict=True)]


def _maker(name: str, kind: Any) -> _Make:
    """What makes the JSON of Python's values of a type, also inside of others."""
    for known, make in _MAKERS:
        if known(kind):
            return make
    if kinds.is_map(kind):
        return _map_of(_or_null(_maker(name, kind.item_type)))
    if kinds.is_struct(kind):
        return _struct_of([(quoted(field.name), field.name, _or_null(_maker(name, field.type))) for field in kind])
    if kinds.is_list(kind) or kinds.is_large_list(kind) or kinds.is_fixed_size_list(kind):
        return _list_of(_or_null(_maker(name, kind.value_type)))
    if kinds.is_dictionary(kind):
        return _maker(name, kind.value_type)
    raise MisconfiguredError(f"The column {name[:100]!r} has the type {kind}, which is not read here; leave it out.")


def _or_null(make: _Make) -> _Make:
    return lambda value: "null" if value is None else make(value)


def _map_of(make: _Make) -> _Make:
    return lambda pairs: "{" + ",".join(f"{quoted(str(key))}:{make(value)}" for key, value in pairs) + "}"


def _struct_of(fields: list[tuple[str, str, _Make]]) -> _Make:
    return lambda value: "{" + ",".join(f"{named}:{make(value[field])}" for named, field, make in fields) + "}"


def _list_of(make: _Make) -> _Make:
    return lambda values: "[" + ",".join(map(make, values)) + "]"


def _as_it_is(value: str) -> str:
    return f'"{value}"'


def _float(value: float) -> str:
    return repr(value) if math.isfinite(value) else f'"{value}"'


def _bool(value: bool) -> str:
    return "true" if value else "false"


def _decimal(value: Decimal) -> str:
    return format(value, "f")


def _binary(value: bytes) -> str:
    return f'"{base64.b64encode(value).decode()}"'


def _moment(value: datetime) -> str:
    aware = value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
    return f'"{aware.isoformat().replace("+00:00", "Z")}"'


def _is_text(kind: Any) -> bool:
    return bool(kinds.is_string(kind) or kinds.is_large_string(kind) or kinds.is_string_view(kind))


def _is_binary(kind: Any) -> bool:
    return bool(kinds.is_binary(kind) or kinds.is_large_binary(kind) or kinds.is_fixed_size_binary(kind))


def _is_moment(kind: Any) -> bool:
    """Python's own have no nanoseconds, and Arrow refuses to cut them."""
    return bool(kinds.is_timestamp(kind) and kind.unit != "ns")


_MAKERS: Final[tuple[tuple[Callable[[Any], bool], _Make], ...]] = (
    (kinds.is_integer, str),
    (kinds.is_floating, _float),
    (_is_text, quoted),
    (kinds.is_boolean, _bool),
    (kinds.is_decimal, _decimal),
    (_is_binary, _binary),
    (_is_moment, _moment),
    (kinds.is_date, _as_it_is),
    (kinds.is_null, str),
)
