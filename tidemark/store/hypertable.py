"""Points in TimescaleDB's chunks: our table, and not another schema's of that name, in whatever schema the functions are."""

from __future__ import annotations

from datetime import datetime
from itertools import pairwise
from typing import Final, NamedTuple

from sqlalchemy import Connection

from tidemark.wire.message import moment

_EXTENSION: Final = """
SELECT quote_ident(n.nspname) FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = 'timescaledb'"""
_OURS: Final = """
JOIN pg_class c ON c.oid = CAST('points' AS regclass) JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE h.hypertable_schema = n.nspname AND h.hypertable_name = c.relname"""
_TABLE: Final = f"""
SELECT h.compression_enabled, d.time_interval, current_setting('timescaledb.license', true)
FROM timescaledb_information.hypertables h JOIN timescaledb_information.dimensions d
  ON (d.hypertable_schema, d.hypertable_name, d.dimension_number) = (h.hypertable_schema, h.hypertable_name, 1)
{_OURS}"""
_CHUNKS: Final = f"""
SELECT quote_ident(h.chunk_schema) || '.' || quote_ident(h.chunk_name), h.is_compressed, h.range_start, h.range_end
FROM timescaledb_information.chunks h {_OURS} AND h.range_end <= to_timestamp(%s) ORDER BY h.range_end"""
_POLICIES: Final = f"""
SELECT h.proc_name, coalesce(h.config::text, '') FROM timescaledb_information.jobs h {_OURS}
AND h.proc_name IN ('policy_retention', 'policy_compression') ORDER BY 1"""
_SET_COLUMNS: Final = """
ALTER TABLE points SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'event_time'
)"""


_LEFT: Final = """
SELECT pg_total_relation_size(CAST(%s AS regclass)), (
    SELECT quote_ident(h.schema_name) || '.' || quote_ident(h.table_name)
    FROM _timescaledb_catalog.chunk c JOIN _timescaledb_catalog.chunk h ON h.id = c.compressed_chunk_id
    WHERE to_regclass(quote_ident(c.schema_name) || '.' || quote_ident(c.table_name)) = CAST(%s AS regclass))"""
_LEFT_BYTES: Final = 128 << 10
"""What a chunk has beside its columns when there is nothing: empty indexes."""


_RANGES: Final = f"""
SELECT DISTINCT (extract(epoch FROM h.range_start) * 1000000)::bigint, (extract(epoch FROM h.range_end) * 1000000)::bigint
FROM timescaledb_information.chunks h {_OURS} ORDER BY 1"""
CHUNKS_A_TRANSACTION: Final = 32
"""A chunk that is read or written costs about five locks, of tables and their indexes, and one that is made some ten; a
server has 6,400 of them for all its transactions (`max_locks_per_transaction` times `max_connections`), by default."""


class Span(NamedTuple):
    """A range of event time in microseconds; None: without a bound."""

    start: int | None
    end: int | None

    def sql(self) -> str:
        """The condition on `event_time`, with its bounds in the text: chunks outside are not even looked at."""
        bounds = ((">=", self.start), ("<", self.end))
        return " AND ".join(["true", *(f"event_time {sign} {literal(at)}" for sign, at in bounds if at is not None)])


class Chunk(NamedTuple):
    """One chunk of points: its quoted name, whether it is columnar, and its range of event time."""

    name: str
    columnar: bool
    start: datetime
    end: datetime


class Hypertable(NamedTuple):
    """The table of points, where it is one.

    Attributes:
        schema: Of the extension's functions, quoted.
        columns: Chunks can be made columnar.
        chunk_s: Length of a chunk in seconds.
        licensed: The edition has columns; Apache's has not.
    """

    schema: str
    columns: bool
    chunk_s: float
    licensed: bool

    def chunks(self, connection: Connection, before_s: float) -> list[Chunk]:
        """Those that end by `before_s`, in seconds since 1970, the oldest first."""
        return [Chunk(*row) for row in connection.exec_driver_sql(_CHUNKS, (before_s,)).all()]

    def policies(self, connection: Connection) -> dict[str, str]:
        """TimescaleDB's own jobs that remove or compress points, with their settings as JSON."""
        return {name: config for name, config in connection.exec_driver_sql(_POLICIES).all()}  # noqa: C416  # rows are no pairs

    def drop(self, connection: Connection, chunk: Chunk) -> None:
        """Remove a chunk with its points."""
        connection.exec_driver_sql(
            f"SELECT {self.schema}.drop_chunks('points', newer_than => CAST(%s AS timestamptz),"
            " older_than => CAST(%s AS timestamptz))",
            (chunk.start, chunk.end),
        )

    def make_columnar(self, connection: Connection, chunk: Chunk) -> None:
        """Turn a chunk columnar, with what late points left beside its columns."""
        connection.exec_driver_sql(f"SELECT {self.schema}.compress_chunk(CAST(%s AS regclass), true)", (chunk.name,))


def swollen(connection: Connection, chunk: Chunk) -> list[str]:
    """Which tables of a columnar chunk have rows that are gone, or moved into columns, and still take their place.

    Of those beside its columns, when there are or were any, and of the columns, which were written anew.
    """
    left, columns = connection.exec_driver_sql(_LEFT, (chunk.name, chunk.name)).one()
    return [chunk.name, *([columns] if columns else [])] if chunk.columnar and left > _LEFT_BYTES else []


def literal(at_us: int) -> str:
    """A time as it stands in a statement's text."""
    return f"TIMESTAMPTZ '{moment(at_us).isoformat()}'"


def spans(connection: Connection, table: Hypertable | None) -> list[Span]:
    """Ranges of event time in their order, each of `CHUNKS_A_TRANSACTION` chunks at most; together everything."""
    if table is None:
        return [Span(None, None)]
    rows = connection.exec_driver_sql(_RANGES).all()
    starts: list[int | None] = [row[0] for row in rows[CHUNKS_A_TRANSACTION::CHUNKS_A_TRANSACTION]]
    return [Span(start, end) for start, end in pairwise([None, *starts, None])]


def extent(connection: Connection, table: Hypertable | None) -> tuple[datetime | None, datetime | None]:
    """Where points are: from the first to the last; of a hypertable the bounds of its chunks."""
    if table is None:
        first, last = connection.exec_driver_sql("SELECT min(event_time), max(event_time) FROM points").one()
        return first, last
    rows = connection.exec_driver_sql(_RANGES).all()
    return (moment(rows[0][0]), moment(rows[-1][1])) if rows else (None, None)


def hypertable(connection: Connection) -> Hypertable | None:
    """What our table is; None: a plain one."""
    schema = connection.exec_driver_sql(_EXTENSION).scalar()
    if schema is None:
        return None
    found = connection.exec_driver_sql(_TABLE).one_or_none()
    if found is None:
        return None
    columns, interval, license_ = found
    return Hypertable(schema, bool(columns), interval.total_seconds(), license_ == "timescale")


def enable_columns(connection: Connection) -> None:
    """Let chunks become columnar where they could not, and the edition allows it."""
    found = hypertable(connection)
    if found is not None and found.licensed and not found.columns:
        connection.exec_driver_sql(_SET_COLUMNS)
