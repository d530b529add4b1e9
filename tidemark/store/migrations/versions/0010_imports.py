"""How far archives are loaded, and which marks are theirs."""

from __future__ import annotations

from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None

_IMPORTS = """
CREATE TABLE imports (
    id bigint GENERATED ALWAYS AS IDENTITY,
    file text COLLATE "C" NOT NULL,
    part bigint NOT NULL,
    fingerprint text NOT NULL,
    started_at timestamptz DEFAULT clock_timestamp() NOT NULL,
    finished_at timestamptz,
    done int8multirange DEFAULT '{}' NOT NULL,
    blocks bigint DEFAULT 0 NOT NULL,
    received bigint DEFAULT 0 NOT NULL,
    inserted bigint DEFAULT 0 NOT NULL,
    overwritten bigint DEFAULT 0 NOT NULL,
    ignored bigint DEFAULT 0 NOT NULL,
    dead_lettered bigint DEFAULT 0 NOT NULL,
    filtered bigint DEFAULT 0 NOT NULL,
    CONSTRAINT imports_pkey PRIMARY KEY (id),
    CONSTRAINT imports_file_part_key UNIQUE (file, part)
)"""
_COMMENTS = {
    "imports.part": "where in the file it begins, in bytes or groups of rows",
    "imports.fingerprint": "of the file with which it was begun",
    "imports.finished_at": "null: not yet",
    "imports.done": "places in the part whose points are stored",
    "imports.filtered": "values of which a mapping made nothing",
    "marks.import_id": "of an archive that is being loaded: due at once when it is",
}


def upgrade() -> None:
    op.execute(_IMPORTS)
    op.execute("ALTER TABLE marks ADD COLUMN import_id bigint")
    op.execute("CREATE INDEX marks_import_id_idx ON marks (import_id) WHERE import_id IS NOT NULL")
    for column, text in _COMMENTS.items():
        op.execute(f"COMMENT ON COLUMN {column} IS '{text}'")


def downgrade() -> None:
    op.execute("ALTER TABLE marks DROP COLUMN import_id")
    op.execute("DROP TABLE imports")
