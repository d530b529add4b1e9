"""What a database must be for Tidemark's tables to be in it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from alembic.migration import MigrationContext
from sqlalchemy import Connection

TABLES: Final = ("points", "rollups", "marks", "series", "dead_letters", "ledger")
"""Of the first revision."""

_GROUND: Final = """
SELECT current_setting('server_encoding'), current_schema(), current_setting('search_path'),
       has_schema_privilege(current_schema(), 'CREATE'),
       (SELECT n.nspname FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace WHERE extname = 'timescaledb'),
       EXISTS (SELECT FROM pg_proc WHERE proname = 'create_hypertable' AND pg_function_is_visible(oid))"""
_OTHERS: Final = """
SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = current_schema() AND c.relname = ANY(CAST(%s AS name[])) ORDER BY c.relname LIMIT 1"""


def revision(connection: Connection) -> str | None:
    """What alembic says the schema is at; of several, all of them; None: nothing."""
    heads = MigrationContext.configure(connection).get_current_heads()
    return " and ".join(sorted(heads)) or None


def faults(connection: Connection, known: frozenset[str], *, to_create: bool) -> Iterator[tuple[str, str]]:
    """What is in the way, and what to do about it; a part of a sentence each.

    Args:
        connection: Of the user who works with the tables.
        known: The revisions that this version knows.
        to_create: This user is to create what is missing.
    """
    encoding, schema, path, may_create, extension, visible = connection.exec_driver_sql(_GROUND).one()
    if encoding != "UTF8":
        yield (
            f"the database's encoding is {encoding}, and names are UTF-8",
            "create another one WITH ENCODING 'UTF8' TEMPLATE template0",
        )
    if schema is None:
        yield (
            f"this user's search_path, {path!r}, leads to no schema",
            "ALTER ROLE … SET search_path to the schema of Tidemark's tables",
        )
        return
    found = revision(connection)
    if found is not None and found not in known:
        yield (
            f"the table alembic_version says revision {found}: of another program, or of a newer Tidemark",
            "give Tidemark a database or a schema of its own, or install that version",
        )
    if not to_create:
        return
    other = None if found else connection.exec_driver_sql(_OTHERS, (list(TABLES),)).scalar()
    if other is not None:
        yield (
            f"schema {schema} has a table {other} of another program",
            "give Tidemark a database or a schema of its own",
        )
    if found is None and not may_create:
        yield (f"this user may not create tables in schema {schema}", f"GRANT CREATE ON SCHEMA {schema} to it")
    if extension is not None and not visible:
        yield (
            f"TimescaleDB's functions are in schema {extension}, which is not in this user's search_path, {path!r}",
            f"ALTER ROLE … SET search_path to {schema}, {extension}",
        )
