"""Sketches of rollups, and the quantiles that follow from them."""

from __future__ import annotations

from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None

_COLUMNS = {
    "bins": "integer[]",
    "bin_counts": "bigint[]",
    "p50": "float8",
    "p90": "float8",
    "p99": "float8",
}


def upgrade() -> None:
    op.execute(f"ALTER TABLE rollups {', '.join(f'ADD COLUMN {name} {kind}' for name, kind in _COLUMNS.items())}")
    op.execute("COMMENT ON COLUMN rollups.bins IS 'of the sketch, in order; null: nobody asked for quantiles'")
    op.execute("COMMENT ON COLUMN rollups.bin_counts IS 'points in each of them'")


def downgrade() -> None:
    op.execute(f"ALTER TABLE rollups {', '.join(f'DROP COLUMN {name}' for name in _COLUMNS)}")
