"""Binary COPY between numpy columns and PostgreSQL.

The format: https://www.postgresql.org/docs/current/sql-copy.html, "Binary Format".
"""

from __future__ import annotations

import io
from collections.abc import Collection
from typing import Final

import numpy as np
import numpy.typing as npt
from sqlalchemy import Connection

from tidemark.wire.quantiles import QUANTILES
from tidemark.wire.summary import ROLLUP, Points

EPOCH_2000: Final = 946_684_800_000_000
"""PostgreSQL counts microseconds from 2000-01-01 UTC."""
_HEAD: Final = b"PGCOPY\n\xff\r\n\0" + bytes(8)
_TAIL: Final = b"\xff\xff"
_JSONB_VERSION: Final = b"\x01"

_PLACE: Final = [("place_bytes", ">i4"), ("place", ">i4")]
_POINT_ROW: Final = np.dtype(
    [
        ("fields", ">i2"),
        ("series_id_bytes", ">i4"),
        ("series_id", ">i4"),
        ("event_time_bytes", ">i4"),
        ("event_time", ">i8"),
        ("value_bytes", ">i4"),
        ("value", ">f8"),
        ("publish_time_bytes", ">i4"),
        ("publish_time", ">i8"),
        ("attributes_bytes", ">i4"),
    ]
)
_PLACED_ROW: Final = np.dtype([_POINT_ROW.descr[0], *_PLACE, *_POINT_ROW.descr[1:]])
POINT_COLUMNS: Final = "series_id, event_time, value, publish_time, attributes"


def points_to_copy(points: Points, attributes: list[bytes | None] | None, *, places: bool = False) -> bytes:
    """The whole COPY stream of `points` (shape (n,), dtype `POINT`).

    The columns are those of `POINT_COLUMNS`, after the row's number from 0 on when `places`.
    """
    kind = _PLACED_ROW if places else _POINT_ROW
    rows = np.empty(len(points), kind)
    rows["fields"] = 5
    if places:
        rows["fields"] = 6
        rows["place_bytes"] = 4
        rows["place"] = np.arange(len(points))
    rows["series_id_bytes"] = 4
    rows["event_time_bytes"] = rows["value_bytes"] = rows["publish_time_bytes"] = 8
    rows["series_id"] = points["series_id"]
    rows["event_time"] = points["event_time"] - EPOCH_2000
    rows["value"] = points["value"]
    rows["publish_time"] = points["publish_time"] - EPOCH_2000
    rows["attributes_bytes"] = -1
    if attributes is None:
        return b"".join((_HEAD, rows.tobytes(), _TAIL))
    rows["attributes_bytes"] = [-1 if text is None else len(text) + 1 for text in attributes]
    fixed, size = rows.tobytes(), kind.itemsize
    parts = [_HEAD]
    for i, text in enumerate(attributes):
        parts.append(fixed[i * size : (i + 1) * size])
        if text is not None:
            parts += (_JSONB_VERSION, text)
    parts.append(_TAIL)
    return b"".join(parts)


TIMES: Final = frozenset({"window_start", "first_publish_time", "last_publish_time"})
ROLLUP_COLUMNS: Final = ", ".join(
    f"coalesce(p.{name}, 'NaN') AS {name}" if name in QUANTILES else f"p.{name}" for name in ROLLUP.names or ()
)
"""The columns of `ROLLUP` of a table or query p."""


def copy_in(connection: Connection, target: str, stream: bytes) -> None:
    """Run `COPY target FROM STDIN (FORMAT binary)`; the buffer is whole, since a source that raises kills the connection."""
    cursor = _cursor(connection)
    cursor.execute(f"COPY {target} FROM STDIN (FORMAT binary)", stream=io.BytesIO(stream))


def copy_out(
    connection: Connection, query: str, dtype: np.dtype[np.void], times: Collection[str] = TIMES
) -> npt.NDArray[np.void]:
    """The rows of `query`, whose columns are those of `dtype`, in its order and never null. Shape (n,).

    Much cheaper than fetching rows: nothing is made a Python object.
    """
    out = io.BytesIO()
    _cursor(connection).execute(f"COPY ({query}) TO STDOUT (FORMAT binary)", stream=out)
    names = dtype.names or ()
    fields: list[tuple[str, str]] = [("fields", ">i2")]
    for name in names:
        fields += [(f"{name}_bytes", ">i4"), (name, dtype[name].newbyteorder(">").str)]
    raw = np.frombuffer(out.getbuffer()[len(_HEAD) : -len(_TAIL)], np.dtype(fields))
    rows = np.empty(len(raw), dtype)
    for name in names:
        rows[name] = raw[name]
        if name in times:
            rows[name] += EPOCH_2000
    return rows


def _cursor(connection: Connection):  # type: ignore[no-untyped-def]  # noqa: ANN202  # pg8000 has no types
    return connection.connection.cursor()
