"""The identity of a raw store: made once, by the migration, and the same wherever its data goes."""

from __future__ import annotations

from sqlalchemy import Connection

from tidemark.wire.identity import StoreIdentity


def identity(connection: Connection) -> StoreIdentity:
    """Of the store that this connection leads to."""
    found = connection.exec_driver_sql("SELECT replace(id::text, '-', ''), current_database() FROM identity").one()
    return StoreIdentity(str(found[0]), str(found[1]))
