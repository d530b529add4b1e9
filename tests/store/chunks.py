"""What tests must know of a hypertable, where the table of points is one."""

from __future__ import annotations

from typing import Final

from sqlalchemy import Engine

from tidemark.store.connection import transaction
from tidemark.store.hypertable import hypertable

_AT_ONCE: Final = 50
_EVER_S: Final = 1e11


def has_chunks(pool: Engine) -> bool:
    """Whether the table of points is a hypertable."""
    with transaction(pool) as connection:
        return hypertable(connection) is not None


def drop_chunks(pool: Engine) -> None:
    """Remove all points of a hypertable: thousands of days cost one transaction more locks than a server has."""
    left = True
    while left:
        with transaction(pool) as connection:
            table = hypertable(connection)
            chunks = [] if table is None else table.chunks(connection, _EVER_S)
            for chunk in chunks[:_AT_ONCE]:
                assert table is not None
                table.drop(connection, chunk)
        left = len(chunks) > _AT_ONCE
