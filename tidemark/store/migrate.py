"""Brings the schema of the raw store to the newest revision."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection

from tidemark.errors import MisconfiguredError
from tidemark.store.connection import make_engine, transaction
from tidemark.store.ground import faults, revision
from tidemark.store.hypertable import enable_columns, hypertable

_LOCK: Final = 0x7469_6465  # "tide"
_SCRIPTS: Final = Path(__file__).with_name("migrations")


def newest() -> str:
    """The revision this version of Tidemark works with."""
    head = ScriptDirectory(str(_SCRIPTS)).get_current_head()
    if head is None:
        raise MisconfiguredError("This installation has no migrations: install Tidemark again.")
    return head


def revisions() -> frozenset[str]:
    """Every revision this version of Tidemark knows."""
    return frozenset(script.revision for script in ScriptDirectory(str(_SCRIPTS)).walk_revisions())


def migrate(database_url: str, chunk_days: int | None = None) -> tuple[str | None, str]:
    """Run the missing migrations in one transaction; two that run at once wait for each other.

    Args:
        database_url: Of the user who owns the tables, or is to.
        chunk_days: Length of a hypertable's chunks from now on; None: as it is.

    Returns:
        The revision before (None: an empty database) and after.

    Raises:
        UnavailableError, MisconfiguredError: nothing was changed.
    """
    pool = make_engine(database_url, pool_size=1, statement_timeout_s=3600)
    try:
        with transaction(pool) as connection:
            connection.exec_driver_sql("SELECT pg_advisory_xact_lock(%s)", (_LOCK,))
            for fault, remedy in faults(connection, revisions(), to_create=True):
                raise MisconfiguredError(f"Nothing was migrated: {fault}; {remedy}.")
            before = revision(connection)
            config = Config()
            config.set_main_option("script_location", str(_SCRIPTS))
            config.set_main_option("path_separator", "os")
            config.attributes["connection"] = connection
            command.upgrade(config, "head")
            enable_columns(connection)
            if chunk_days is not None:
                _set_chunk_days(connection, chunk_days)
            return before, newest()
    finally:
        pool.dispose()


def _set_chunk_days(connection: Connection, days: int) -> None:
    table = hypertable(connection)
    if table is None:
        raise MisconfiguredError("--chunk_days: the points are in a plain table, which has no chunks.")
    connection.exec_driver_sql(
        f"SELECT {table.schema}.set_chunk_time_interval('points', make_interval(days => %s))", (days,)
    )
