"""Rollup rows as the protocol buffers that Storage Write takes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final

import numpy as np
import numpy.typing as npt
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import MICROSECONDS, Rollups

_F: Final = descriptor_pb2.FieldDescriptorProto
_VARINT, _FIXED64 = 0, 1
"""Wire types."""
_TYPES: Final = {
    "project": _F.TYPE_STRING,
    "source": _F.TYPE_STRING,
    "metric": _F.TYPE_STRING,
    "tier_s": _F.TYPE_INT64,
    "window_start": _F.TYPE_INT64,
    "window_end": _F.TYPE_INT64,
    "count": _F.TYPE_INT64,
    "sum": _F.TYPE_DOUBLE,
    "min": _F.TYPE_DOUBLE,
    "max": _F.TYPE_DOUBLE,
    "first": _F.TYPE_DOUBLE,
    "last": _F.TYPE_DOUBLE,
    "m2": _F.TYPE_DOUBLE,
    "first_publish_time": _F.TYPE_INT64,
    "last_publish_time": _F.TYPE_INT64,
    "late_count": _F.TYPE_INT64,
    "pane": _F.TYPE_STRING,
    "revision": _F.TYPE_INT64,
    "final": _F.TYPE_BOOL,
    "emitted_at": _F.TYPE_INT64,
    "p50": _F.TYPE_DOUBLE,
    "p90": _F.TYPE_DOUBLE,
    "p99": _F.TYPE_DOUBLE,
}


def _descriptor() -> descriptor_pb2.DescriptorProto:
    message = descriptor_pb2.DescriptorProto(name="Rollup")
    for number, (name, kind) in enumerate(_TYPES.items(), start=1):
        message.field.add(name=name, number=number, type=kind, label=_F.LABEL_OPTIONAL)
    return message


DESCRIPTOR: Final = _descriptor()
"""A TIMESTAMP travels as microseconds since 1970 in an int64."""


def _message_class() -> Any:
    file = descriptor_pb2.FileDescriptorProto(name="tidemark_rollup.proto", syntax="proto2")
    file.message_type.add().CopyFrom(DESCRIPTOR)
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("Rollup"))


Row: Final = _message_class()


def serialize(
    rows: Rollups, names: Sequence[tuple[str, str, str]], panes: str | Sequence[str], emitted_at: int
) -> list[bytes]:
    """One serialized message a row, as the library makes it.

    Rows whose numbers take as many bytes as each other's are made together, as a table of bytes; an object of the library a
    row takes four times as long.

    Args:
        rows: Shape (n,), dtype `ROLLUP`.
        names: (project, source, metric) of each row.
        panes: Of all rows, or of each.
        emitted_at: Microseconds since 1970 UTC.
    """
    each = [panes] * len(rows) if isinstance(panes, str) else panes
    found: list[bytes] = [b""] * len(rows)
    columns = _columns(rows, emitted_at)
    for places in _alike(columns):
        if len(places) < FEW:
            made = [_one(rows[place], names[place], each[place], emitted_at) for place in places.tolist()]
        else:
            # between the names before them and the other numbers behind it stands the pane
            before, behind = (
                _table(columns, places, some)
                for some in (FIELDS[: FIELDS.index("pane")], FIELDS[FIELDS.index("pane") :])
            )
            made = [
                _names(names[place]) + head + _pane(each[place]) + tail
                for place, head, tail in zip(places.tolist(), before, behind, strict=True)
            ]
        for place, row in zip(places.tolist(), made, strict=True):
            found[place] = row
    return found


FIELDS: Final = (*_TYPES,)
FEW: Final = 16
"""So few rows are not worth a table."""
_TOP: Final = np.array([1 << 7 * k for k in range(1, 10)], np.uint64)
"""Numbers from each of these on take one byte more."""
Columns = dict[str, npt.NDArray[Any]]


def _columns(rows: Rollups, emitted_at: int) -> Columns:
    """What is no text, by its field; shape (n,)."""
    columns: Columns = {name: rows[name] for name in FIELDS if name in (rows.dtype.names or ())}
    columns["window_end"] = rows["window_start"] + rows["tier_s"].astype("i8") * MICROSECONDS
    columns["emitted_at"] = np.full(len(rows), emitted_at, np.int64)
    return {
        name: some.astype("<f8") if _TYPES[name] == _F.TYPE_DOUBLE else some.astype(np.int64).view(np.uint64)
        for name, some in columns.items()
    }


def _alike(columns: Columns) -> Iterator[npt.NDArray[np.intp]]:
    """The places of rows whose numbers take the same bytes; a quantile that is NaN is left out, and takes none."""
    key = np.zeros(len(columns["count"]), np.int64)
    for name, some in columns.items():
        if _TYPES[name] != _F.TYPE_DOUBLE:
            key = key * (len(_TOP) + 1) + np.searchsorted(_TOP, some, "right")
        elif name in QUANTILES:
            key = key * 2 + np.isnan(some)
    order = np.argsort(key, kind="stable")
    edges = np.flatnonzero(np.diff(key[order])) + 1
    yield from (some for some in np.split(order, edges) if len(some))


def _table(columns: Columns, places: npt.NDArray[np.intp], fields: Sequence[str]) -> list[bytes]:
    """The bytes of these fields of rows that are alike."""
    parts: list[npt.NDArray[np.uint8]] = []
    for name in fields:
        if name not in columns:
            continue
        some = columns[name][places]
        number = FIELDS.index(name) + 1
        if _TYPES[name] == _F.TYPE_DOUBLE:
            if name in QUANTILES and np.isnan(some[0]):
                continue
            tag, value = number << 3 | _FIXED64, some.view(np.uint8).reshape(len(some), 8)
        else:
            length = int(np.searchsorted(_TOP, some[0], "right")) + 1
            shifts = np.arange(0, 7 * length, 7, dtype=np.uint64)
            value = (some[:, None] >> shifts & np.uint64(0x7F)).astype(np.uint8)
            value[:, :-1] |= 0x80
            tag = number << 3 | _VARINT
        bytes_ = [tag] if tag < 0x80 else [tag & 0x7F | 0x80, tag >> 7]
        parts += [np.full((len(some), 1), byte, np.uint8) for byte in bytes_]
        parts.append(value)
    table = np.concatenate(parts, axis=1)
    text, size = table.tobytes(), table.shape[1]
    return [text[begin : begin + size] for begin in range(0, len(text), size)]


@lru_cache(maxsize=65536)
def _names(name: tuple[str, str, str]) -> bytes:
    project, source, metric = name
    made: bytes = Row(project=project, source=source, metric=metric).SerializeToString()
    return made


@lru_cache(maxsize=16)
def _pane(pane: str) -> bytes:
    made: bytes = Row(pane=pane).SerializeToString()
    return made


def _one(row: Any, name: tuple[str, str, str], pane: str, emitted_at: int) -> bytes:
    """By the library."""
    said = dict(zip(row.dtype.names, row.item(), strict=True))
    del said["series_id"]
    said["window_end"] = said["window_start"] + said["tier_s"] * MICROSECONDS
    for quantile in QUANTILES:
        if np.isnan(said[quantile]):
            del said[quantile]
    project, source, metric = name
    made: bytes = Row(
        project=project, source=source, metric=metric, pane=pane, emitted_at=emitted_at, **said
    ).SerializeToString()
    return made
