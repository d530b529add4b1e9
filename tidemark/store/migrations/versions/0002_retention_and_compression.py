"""Where retention has cut, columnar chunks, and a vacuum that keeps up with the marks."""

from __future__ import annotations

from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None

_RETENTION = """
CREATE TABLE retention (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT retention_only_row_check CHECK (only_row),
    removed_before timestamptz NOT NULL,
    CONSTRAINT retention_pkey PRIMARY KEY (only_row)
)"""
_COMMENT = (
    "COMMENT ON COLUMN retention.removed_before IS 'points before it may be gone; rollups before it stay as they are'"
)

# Marks live for seconds: at the usual share of dead rows the index of due ones would be mostly dead.
_VACUUM = "ALTER TABLE marks SET (autovacuum_vacuum_scale_factor = 0, autovacuum_vacuum_threshold = 5000)"

_COLUMNAR = """
ALTER TABLE points SET (
    timescaledb.compress, timescaledb.compress_segmentby = 'series_id', timescaledb.compress_orderby = 'event_time'
)"""

_IS_HYPERTABLE = """
SELECT current_setting('timescaledb.license', true) = 'timescale' FROM pg_extension WHERE extname = 'timescaledb'
AND EXISTS (SELECT FROM timescaledb_information.hypertables WHERE hypertable_name = 'points')"""


def upgrade() -> None:
    op.execute(_RETENTION)
    op.execute(_COMMENT)
    op.execute("INSERT INTO retention (removed_before) VALUES ('-infinity')")
    op.execute(_VACUUM)
    connection = op.get_bind()
    extension = connection.exec_driver_sql("SELECT 1 FROM pg_extension WHERE extname = 'timescaledb'").scalar()
    if extension and connection.exec_driver_sql(_IS_HYPERTABLE).scalar():
        op.execute(_COLUMNAR)


def downgrade() -> None:
    op.execute("ALTER TABLE marks RESET (autovacuum_vacuum_scale_factor, autovacuum_vacuum_threshold)")
    op.execute("DROP TABLE retention")
