"""Rollup rows as the protocol buffers that Storage Write takes."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import repeat
from typing import Any, Final

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import MICROSECONDS, Rollups

_F: Final = descriptor_pb2.FieldDescriptorProto
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
    """One serialized message a row.

    Args:
        rows: Shape (n,), dtype `ROLLUP`.
        names: (project, source, metric) of each row.
        panes: Of all rows, or of each.
        emitted_at: Microseconds since 1970 UTC.
    """
    ends = (rows["window_start"] + rows["tier_s"].astype("i8") * MICROSECONDS).tolist()
    # what is NaN here is null there
    quantiles = [[None if value != value else value for value in rows[name].tolist()] for name in QUANTILES]  # noqa: PLR0124  # NaN
    each = repeat(panes, len(rows)) if isinstance(panes, str) else panes
    return [
        Row(
            project=name[0],
            source=name[1],
            metric=name[2],
            tier_s=row[1],
            window_start=row[2],
            window_end=end,
            count=row[3],
            sum=row[4],
            min=row[5],
            max=row[6],
            first=row[7],
            last=row[8],
            m2=row[9],
            first_publish_time=row[10],
            last_publish_time=row[11],
            late_count=row[12],
            revision=row[13],
            final=row[14],
            pane=pane,
            emitted_at=emitted_at,
            p50=p50,
            p90=p90,
            p99=p99,
        ).SerializeToString()
        for row, name, pane, end, p50, p90, p99 in zip(rows.tolist(), names, each, ends, *quantiles, strict=True)
    ]
