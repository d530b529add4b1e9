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
    text,
)
from sqlalchemy.dialects.postgresql import ARRAY, INT8MULTIRANGE, JSON, JSONB, TIMESTAMP, UUID

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
    Column("series_id", Integer, Identity(always=True), primary_key=True, doc="of the series, in all other tables"),
    Column("project", Text(collation="C"), nullable=False, doc="who owns it"),
    Column("source", Text(collation="C"), nullable=False, doc="which device or client sends it"),
    Column("metric", Text(collation="C"), nullable=False, doc="what it measures"),
    UniqueConstraint("project", "source", "metric"),
    Index("series_project_metric_source_idx", "project", "metric", "source"),
)

points: Final = Table(
    "points",
    metadata,
    Column("series_id", Integer, primary_key=True, autoincrement=False, doc="whose point it is"),
    Column("event_time", _Time, primary_key=True, doc="when it happened, by the sender's clock"),
    Column("value", Double, nullable=False, doc="what was measured"),
    Column(
        "publish_time",
        _Time,
        nullable=False,
        doc="when Pub/Sub accepted the message; of two points of the same series and event time the later published one is kept",
    ),
    Column("attributes", JSONB, doc="as sent, an object; null: none"),
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
    Column("series_id", Integer, primary_key=True, autoincrement=False, doc="whose rollup it is"),
    Column("tier_s", Integer, primary_key=True, autoincrement=False, doc="length of the window in seconds"),
    Column("window_start", _Time, primary_key=True, doc="aligned to UTC"),
    Column("count", BigInteger, nullable=False, doc="points; 0: there were some, and they are gone"),
    Column("sum", Double, nullable=False, doc="of the values"),
    Column("min", Double, nullable=False, doc="least value"),
    Column("max", Double, nullable=False, doc="greatest value"),
    Column("first", Double, nullable=False, doc="value of the earliest point"),
    Column("last", Double, nullable=False, doc="value of the latest point"),
    Column("m2", Double, nullable=False, doc="sum of squared deviations from the mean"),
    Column("first_publish_time", _Time, nullable=False, doc="least publish time"),
    Column("last_publish_time", _Time, nullable=False, doc="greatest publish time"),
    Column(
        "late_count",
        BigInteger,
        nullable=False,
        doc="points published after the end of their window of the smallest tier",
    ),
    Column("revision", BigInteger, nullable=False, doc="microseconds; the greater is the newer, here and in BigQuery"),
    Column("final", Boolean, nullable=False, doc="settled after the horizon"),
    Column("settled_at", _Time, nullable=False, server_default=func.now(), doc="when this row was written"),
    Column("bins", ARRAY(Integer), comment="of the sketch, in order; null: nobody asked for quantiles"),
    Column("bin_counts", ARRAY(BigInteger), comment="points in each of them"),
    Column("p50", Double, doc="median, within 1 %; null without --quantiles"),
    Column("p90", Double, doc="90th percentile, within 1 %"),
    Column("p99", Double, doc="99th percentile, within 1 %"),
    Index("rollups_tier_s_window_start_idx", "tier_s", "window_start"),
)

marks: Final = Table(
    "marks",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, doc="in the order of their making"),
    Column("tier_s", Integer, nullable=False, doc="of the windows"),
    Column("window_from", _Time, nullable=False, doc="start of the first window that is owed a settling"),
    Column("window_to", _Time, nullable=False, doc="end of the last"),
    Column("series_id", Integer, comment="null: every series"),
    Column("ready_at", _Time, nullable=False, doc="when it is due"),
    Column(
        "closing",
        Boolean,
        nullable=False,
        server_default="false",
        comment="owes a window that was settled early its last look, not a change of the points",
    ),
    Column("import_id", BigInteger, comment="of an archive that is being loaded: due at once when it is"),
    Index("marks_ready_at_idx", "ready_at"),
    Index("marks_tier_s_window_from_idx", "tier_s", "window_from"),
    Index("marks_import_id_idx", "import_id", postgresql_where=text("import_id IS NOT NULL")),
)

imports: Final = Table(
    "imports",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, doc="of a part of an archive"),
    Column("file", Text(collation="C"), nullable=False, doc="its path or address"),
    Column("part", BigInteger, nullable=False, comment="where in the file it begins, in bytes or groups of rows"),
    Column("fingerprint", Text, nullable=False, comment="of the file with which it was begun"),
    Column("started_at", _Time, nullable=False, server_default=func.clock_timestamp(), doc="when it was begun"),
    Column("finished_at", _Time, comment="null: not yet"),
    Column(
        "done",
        INT8MULTIRANGE,
        nullable=False,
        server_default="{}",
        comment="places in the part whose points are stored",
    ),
    *(
        Column(name, BigInteger, nullable=False, server_default="0", doc=what)
        for name, what in (
            ("blocks", "transactions"),
            ("received", "points, dead letters included, as in the ledger, and so on"),
            ("inserted", "of these"),
            ("overwritten", "of these"),
            ("ignored", "of these"),
            ("dead_lettered", "of these"),
        )
    ),
    Column(
        "filtered", BigInteger, nullable=False, server_default="0", comment="values of which a mapping made nothing"
    ),
    UniqueConstraint("file", "part"),
)
"""How far archives are loaded; see `tidemark.store.imports`."""

dead_letters: Final = Table(
    "dead_letters",
    metadata,
    Column("message_id", Text, primary_key=True, doc="Pub/Sub's"),
    Column(
        "position", Integer, primary_key=True, autoincrement=False, comment="of the point in its message; -1: all of it"
    ),
    Column(
        "data",
        LargeBinary,
        nullable=False,
        doc="the message's body as it came, or the JSON of the point, or of several, one a line",
    ),
    Column("attributes", JSON, nullable=False, comment="json, not jsonb: kept as it was, NUL escapes included"),
    Column("stage", Text, nullable=False, doc="which refused it"),
    Column("reason", Text, nullable=False, doc="of the fixed list"),
    Column("detail", Text, nullable=False, doc="in words"),
    Column("publish_time", _Time, nullable=False, doc="when Pub/Sub accepted the message"),
    Column("first_seen", _Time, nullable=False, server_default=func.clock_timestamp(), doc="when it was kept"),
    Column("points", Integer, nullable=False, server_default="1", doc="as how many points it counts"),
    Column(
        "id", BigInteger, Identity(always=True), nullable=False, doc="by which `tidemark dead-letters show` finds it"
    ),
    Column(
        "project", Text, comment="as far as it can be read; null: it cannot, or the letter is older than this column"
    ),
    Column(
        "attempts",
        Integer,
        nullable=False,
        server_default="0",
        comment="how often `tidemark redrive` has tried it in vain",
    ),
    Index("dead_letters_id_idx", "id", unique=True),
)

ledger: Final = Table(
    "ledger",
    metadata,
    Column("id", BigInteger, Identity(always=True), primary_key=True, doc="in the order of the transactions"),
    Column("written_at", _Time, nullable=False, server_default=func.clock_timestamp(), doc="when"),
    Column(
        "received",
        BigInteger,
        nullable=False,
        server_default="0",
        doc="points that came, dead letters included; a message that could not be read counts one",
    ),
    Column("inserted", BigInteger, nullable=False, server_default="0", doc="stored, and not there before"),
    Column(
        "overwritten",
        BigInteger,
        nullable=False,
        server_default="0",
        doc="stored over an earlier one of the same series and event time",
    ),
    Column("ignored", BigInteger, nullable=False, server_default="0", doc="that changed nothing"),
    Column("dead_lettered", BigInteger, nullable=False, server_default="0", doc="that can never be accepted"),
    Column("removed", BigInteger, nullable=False, server_default="0", doc="by retention or `tidemark delete`"),
    Column(
        "redriven",
        BigInteger,
        nullable=False,
        server_default="0",
        comment="points that were written out of dead letters",
    ),
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
        doc="true: there is one row",
    ),
    Column(
        "removed_before",
        _Time,
        nullable=False,
        comment="points before it may be gone; rollups before it stay as they are",
    ),
)

settings: Final = Table(
    "settings",
    metadata,
    Column(
        "only_row",
        Boolean,
        CheckConstraint("only_row", name="settings_only_row_check"),
        primary_key=True,
        server_default="true",
        doc="always true: the table has one row, once a program has stored points",
    ),
    Column("tiers_s", ARRAY(Integer), nullable=False, doc="lengths of the windows"),
    Column("horizon_s", Double, nullable=False, doc="how long after its end a window is first settled"),
    Column("debounce_s", Double, nullable=False, doc="how long late points are gathered"),
    Column("quantiles", Boolean, nullable=False, doc="rollups have quantiles"),
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
        doc="true: there is one row",
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
    Column("project", Text(collation="C"), primary_key=True, doc="who owns it"),
    Column("source", Text(collation="C"), primary_key=True, doc="which device or client sends"),
    Column("first_seen", _Time, nullable=False, doc="when its first point came"),
    Column("last_seen", _Time, nullable=False, doc="when its last point came"),
    Column("last_event_time", _Time, nullable=False, doc="greatest event time of its points"),
    Column("points", BigInteger, nullable=False, doc="delivered, repetitions included"),
    Column("after_window", BigInteger, nullable=False, doc="of these, published after the end of their window"),
    Column("after_horizon", BigInteger, nullable=False, doc="of these, published after its horizon"),
    Column("most_late_s", Double, nullable=False, doc="greatest publish time less event time, in seconds"),
    *(
        Column(name, BigInteger, nullable=False, doc=f"of these, with a lateness {name.replace('_', ' ')}")
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

heartbeats: Final = Table(
    "heartbeats",
    metadata,
    Column("process", Text(collation="C"), primary_key=True, doc="which reads: host, number and start"),
    Column("job", Text, nullable=False, doc="whose it is"),
    Column("at", _Time, nullable=False, doc="when this was written, every few seconds"),
    Column("idle", Boolean, nullable=False, doc="nothing was held, and nothing came"),
    Column(
        "written_publish_time",
        _Time,
        comment="what was published before it is stored, as far as this process knows; null: it knows nothing yet",
    ),
    Column("watermark", _Time, comment="of event time; null: the engine keeps it"),
)
"""A belief, not an account; see `tidemark.store.heartbeats`."""

_SAID: Final = (("was", "before"), ("is", "since"))
corrections: Final = Table(
    "corrections",
    metadata,
    Column("series_id", Integer, primary_key=True, autoincrement=False, doc="whose rollup it is"),
    Column("tier_s", Integer, primary_key=True, autoincrement=False, doc="length of the window in seconds"),
    Column("window_start", _Time, primary_key=True, doc="aligned to UTC"),
    Column("revision", BigInteger, primary_key=True, autoincrement=False, doc="of the row that says it since"),
    *(
        Column(f"{name}_{column}", kind, nullable=False, doc=f"{what} of the window {when}{note}")
        for name, when in _SAID
        for column, kind, what, note in (
            ("count", BigInteger, "points", "; 0: it had none"),
            ("sum", Double, "sum", ""),
            ("min", Double, "least value", ""),
            ("max", Double, "greatest value", ""),
        )
    ),
    Column("last_publish_time", _Time, nullable=False, doc="greatest publish time of its points since"),
    Column("corrected_at", _Time, nullable=False, server_default=func.now(), doc="when"),
    Index("corrections_corrected_at_idx", "corrected_at"),
)
"""What a final rollup said, and what the one says that replaced it."""
