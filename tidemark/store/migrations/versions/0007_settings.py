"""What every program that shares the store must run with; the first one that has it writes it."""

from __future__ import annotations

from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None

_SETTINGS = """
CREATE TABLE settings (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT settings_only_row_check CHECK (only_row),
    tiers_s integer[] NOT NULL,
    horizon_s double precision NOT NULL,
    debounce_s double precision NOT NULL,
    quantiles boolean NOT NULL,
    CONSTRAINT settings_pkey PRIMARY KEY (only_row)
)"""


def upgrade() -> None:
    op.execute(_SETTINGS)


def downgrade() -> None:
    op.execute("DROP TABLE settings")
