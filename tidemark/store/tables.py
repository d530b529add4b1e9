"""The tables of the raw store, as the newest migration leaves them."""

from __future__ import annotations

from typing import Final

from sqlalchemy import (
    BigInteger,
    Boolean,
    CheckConstraint,
    Column,
    Double,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    func,
)
from sqlalchemy.dialects.postgresql import ARRAY, JSON, JSONB, TIMESTAMP, UUID

metadata: Final = MetaData(
    naming_convention={
        "pk": "%(table_name)s_pkey",
        "uq": "%(table_name)s_%(column_0_N_name)s_key",
        "ix": "%(table_name)s_%(column_0_N_name)s_idx",
        "fk": "%(table_name)s_%(column_0_name)s_fkey",
    }
)
_Time: Final = TIMESTAMP(timezone=True)

series: Final = Table(
    "series",
    metadata,
    Column("series_id", Integer, Identity(always=True), primary_key=True),
    Column("project", Text(collation="C"), nullable=False),
    Column("source", Text(collation="C"), nullable=False),
    Column("metric", Text(collation="C"), nullable=False),
    UniqueConstraint("project", "source", "metric"),
)

points: Final = Table(
    "points",
    metadata,
    Column("series_id", Integer, primary_key=True, autoincrement=False),
    Column("event_time", _Time, primary_key=True),
    Column("value", Double, nullable=False),
    Column("publish_time", _Time, nullable=False),
    Column("attributes", JSONB),
    Index(
        "points_event_time_idx",
        "event_time",
        postgresql_using="brin",
        postgresql_with={"pages_per_range": 32, "autosummarize": "on"},
    ),
)
"""A map of last-writer-wins registers: (series_id, event_time) holds the greatest (publish_time, value, attributes)."""

rollups: Final = Table(
    "rollups",
    metadata,
    Column("series_id", Integer, primary_key=True, autoincrement=False),
    Column("tier_s", Integer, primary_key=True, autoincrement=False),
    Column("window_start", _Time, primary_key=True),
    Column("count", BigInteger, nullable=False),
    Column("sum", Double, nullable=False),
    Column("min", Double, nullable=False),
    Column("max", Double, nullable=False),
    Column("first", Double, nullable=False),
    Column("last", Double, nullable=False),
    Column("m2", Double, nullable=False),
    Column("first_publish_time", _Time, nullable=False),
    Column("last_publish_time", _Time, nullable=False),
    Column("late_count", BigInteger, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("final", Boolean, nullable=False),
    Column("settled_at", _Time, nullable=False, server_default=func.now()),
    Column("bins", ARRAY(Integer), comment="of the sketch, in order; null: nobody asked for quantiles"),
    Column("bin_counts", ARRAY(BigInteger), comment="points in each of them"),
    Column("p50", Double),
    Column("p90", Double),
    Column("p99", Double),
    Index("rollups_tier_s_window_start_idx", "tier_s", "window_start"),
)

marks: Final = Table(
    "marks",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("tier_s", Integer, nullable=False),
    Column("window_from", _Time, nullable=False),
    Column("window_to", _Time, nullable=False),
    Column("series_id", Integer, comment="null: every series"),
    Column("ready_at", _Time, nullable=False),
    Column(
        "closing",
        Boolean,
        nullable=False,
        server_default="false",
        comment="owes a window that was settled early its last look, not a change of the points",
    ),
    Index("marks_ready_at_idx", "ready_at"),
    Index("marks_tier_s_window_from_idx", "tier_s", "window_from"),
)

dead_letters: Final = Table(
    "dead_letters",
    metadata,
    Column("message_id", Text, primary_key=True),
    Column(
        "position", Integer, primary_key=True, autoincrement=False, comment="of the point in its message; -1: all of it"
    ),
    Column("data", LargeBinary, nullable=False),
    Column("attributes", JSON, nullable=False, comment="json, not jsonb: kept as it was, NUL escapes included"),
    Column("stage", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("detail", Text, nullable=False),
    Column("publish_time", _Time, nullable=False),
    Column("first_seen", _Time, nullable=False, server_default=func.clock_timestamp()),
)

ledger: Final = Table(
    "ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True),
    Column("written_at", _Time, nullable=False, server_default=func.clock_timestamp()),
    Column("received", BigInteger, nullable=False, server_default="0"),
    Column("inserted", BigInteger, nullable=False, server_default="0"),
    Column("overwritten", BigInteger, nullable=False, server_default="0"),
    Column("ignored", BigInteger, nullable=False, server_default="0"),
    Column("dead_lettered", BigInteger, nullable=False, server_default="0"),
    Column("removed", BigInteger, nullable=False, server_default="0"),
)

retention: Final = Table(
    "retention",
    metadata,
    Column(
        "only_row",
        Boolean,
        CheckConstraint("only_row", name="retention_only_row_check"),
        primary_key=True,
        server_default="true",
    ),
    Column(
        "removed_before",
        _Time,
        nullable=False,
        comment="points before it may be gone; rollups before it stay as they are",
    ),
)

identity: Final = Table(
    "identity",
    metadata,
    Column(
        "only_row",
        Boolean,
        CheckConstraint("only_row", name="identity_only_row_check"),
        primary_key=True,
        server_default="true",
    ),
    Column(
        "id",
        UUID,
        nullable=False,
        server_default=func.gen_random_uuid(),
        comment="the dataset in BigQuery that takes the rollups bears it as a label",
    ),
)

sources: Final = Table(
    "sources",
    metadata,
    Column("project", Text(collation="C"), primary_key=True),
    Column("source", Text(collation="C"), primary_key=True),
    Column("first_seen", _Time, nullable=False),
    Column("last_seen", _Time, nullable=False),
    Column("last_event_time", _Time, nullable=False),
    Column("points", BigInteger, nullable=False),
    Column("after_window", BigInteger, nullable=False),
    Column("after_horizon", BigInteger, nullable=False),
    Column("most_late_s", Double, nullable=False),
    *(
        Column(name, BigInteger, nullable=False)
        for name in (
            "within_1s",
            "within_10s",
            "within_1m",
            "within_10m",
            "within_1h",
            "within_6h",
            "within_1d",
            "later",
        )
    ),
)
"""An observation, not an account; see `tidemark.store.sources`."""
