"""How many points a dead letter is of: of a message of which many are refused, some are kept together."""

from __future__ import annotations

from alembic import op

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.execute("ALTER TABLE dead_letters ADD COLUMN points integer NOT NULL DEFAULT 1")


def downgrade() -> None:
    op.execute("ALTER TABLE dead_letters DROP COLUMN points")
