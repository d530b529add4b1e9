"""What tells this store from every other one."""

from __future__ import annotations

from alembic import op

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None

_IDENTITY = """
CREATE TABLE identity (
    only_row boolean NOT NULL DEFAULT true CONSTRAINT identity_only_row_check CHECK (only_row),
    id uuid NOT NULL DEFAULT gen_random_uuid(),
    CONSTRAINT identity_pkey PRIMARY KEY (only_row)
)"""
_COMMENT = "COMMENT ON COLUMN identity.id IS 'the dataset in BigQuery that takes the rollups bears it as a label'"


def upgrade() -> None:
    op.execute(_IDENTITY)
    op.execute(_COMMENT)
    op.execute("INSERT INTO identity DEFAULT VALUES")


def downgrade() -> None:
    op.execute("DROP TABLE identity")
