"""Until when answers are complete, and what settled rows said before they were corrected."""

from __future__ import annotations

from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None

_HEARTBEATS = """
CREATE TABLE heartbeats (
    process text COLLATE "C" NOT NULL,
    job text NOT NULL,
    at timestamptz NOT NULL,
    idle boolean NOT NULL,
    written_publish_time timestamptz,
    watermark timestamptz,
    CONSTRAINT heartbeats_pkey PRIMARY KEY (process)
)"""
_CORRECTIONS = """
CREATE TABLE corrections (
    series_id integer NOT NULL,
    tier_s integer NOT NULL,
    window_start timestamptz NOT NULL,
    revision bigint NOT NULL,
    was_count bigint NOT NULL,
    was_sum double precision NOT NULL,
    was_min double precision NOT NULL,
    was_max double precision NOT NULL,
    is_count bigint NOT NULL,
    is_sum double precision NOT NULL,
    is_min double precision NOT NULL,
    is_max double precision NOT NULL,
    last_publish_time timestamptz NOT NULL,
    corrected_at timestamptz NOT NULL DEFAULT now(),
    CONSTRAINT corrections_pkey PRIMARY KEY (series_id, tier_s, window_start, revision)
)"""
_COMMENTS = {
    "written_publish_time": "what was published before it is stored, as far as this process knows; null: it knows nothing yet",
    "watermark": "of event time; null: the engine keeps it",
}
_INDEXES = (
    "CREATE INDEX corrections_corrected_at_idx ON corrections (corrected_at)",
    "CREATE INDEX IF NOT EXISTS series_project_metric_source_idx ON series (project, metric, source)",
)


def upgrade() -> None:
    for statement in (_HEARTBEATS, _CORRECTIONS, *_INDEXES):
        op.execute(statement)
    for column, text in _COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN heartbeats.{column} IS '{text}'")


def downgrade() -> None:
    op.execute("DROP INDEX series_project_metric_source_idx")
    op.execute("DROP TABLE corrections")
    op.execute("DROP TABLE heartbeats")
