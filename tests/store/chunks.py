"""What tests must know of a hypertable, where the table of points is one."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from tidemark.store.connection import transaction
from tidemark.store.hypertable import CHUNKS_A_TRANSACTION, Hypertable, hypertable

_EVER_S: Final = 1e11


def has_chunks(pool: Engine) -> bool:
    """Whether the table of points is a hypertable."""
    return _table(pool) is not None


def drop_chunks(pool: Engine) -> None:
    """Remove all points of a hypertable: thousands of days cost one transaction more locks than a server has."""
    table = _table(pool)
    if table is None:
        return
    with transaction(pool) as connection:
        chunks = table.chunks(connection, _EVER_S)
    for at in range(0, len(chunks), CHUNKS_A_TRANSACTION):
        with transaction(pool) as connection:
            for chunk in chunks[at : at + CHUNKS_A_TRANSACTION]:
                table.drop(connection, chunk)


def _table(pool: Engine) -> Hypertable | None:
    with transaction(pool) as connection:
        return hypertable(connection)
