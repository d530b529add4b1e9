"""Dead letters are found by a number and by their project, and may be written again; the ledger says how many points were."""

from __future__ import annotations

from alembic import op

revision = "0009"
down_revision = "0008"
branch_labels = None
depends_on = None

_COMMENTS = {
    "dead_letters.project": "as far as it can be read; null: it cannot, or the letter is older than this column",
    "dead_letters.attempts": "how often `tidemark redrive` has tried it in vain",
    "ledger.redriven": "points that were written out of dead letters",
}


def upgrade() -> None:
    op.execute("ALTER TABLE dead_letters ADD COLUMN id bigint GENERATED ALWAYS AS IDENTITY")
    op.execute("ALTER TABLE dead_letters ADD COLUMN project text")
    op.execute("ALTER TABLE dead_letters ADD COLUMN attempts integer NOT NULL DEFAULT 0")
    op.execute("CREATE UNIQUE INDEX dead_letters_id_idx ON dead_letters (id)")
    op.execute("ALTER TABLE ledger ADD COLUMN redriven bigint NOT NULL DEFAULT 0")
    for column, text in _COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN {column} IS '{text}'")


def downgrade() -> None:
    op.execute("ALTER TABLE ledger DROP COLUMN redriven")
    for column in ("attempts", "project", "id"):
        op.execute(f"ALTER TABLE dead_letters DROP COLUMN {column}")
