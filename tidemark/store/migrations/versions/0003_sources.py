"""When each source was last heard of, and how late it is."""

from __future__ import annotations

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None

_SOURCES = """
CREATE TABLE sources (
    project text COLLATE "C" NOT NULL,
    source text COLLATE "C" NOT NULL,
    first_seen timestamptz NOT NULL,
    last_seen timestamptz NOT NULL,
    last_event_time timestamptz NOT NULL,
    points bigint NOT NULL,
    after_window bigint NOT NULL,
    after_horizon bigint NOT NULL,
    most_late_s float8 NOT NULL,
    within_1s bigint NOT NULL,
    within_10s bigint NOT NULL,
    within_1m bigint NOT NULL,
    within_10m bigint NOT NULL,
    within_1h bigint NOT NULL,
    within_6h bigint NOT NULL,
    within_1d bigint NOT NULL,
    later bigint NOT NULL,
    CONSTRAINT sources_pkey PRIMARY KEY (project, source)
)"""


def upgrade() -> None:
    op.execute(_SOURCES)


def downgrade() -> None:
    op.execute("DROP TABLE sources")
