"""Runs a statement in a local database and shows its rows, where there is no psql."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

from tidemark.errors import UsageError
from tidemark.store.connection import make_engine, transaction
from tidemark.store.errors import DRIVER_ERRORS, said

STATEMENT_TIMEOUT_S = 600


def table(url: str, statement: str) -> Iterator[str]:
    """The lines of a table: names of columns, rows, their number.

    Raises:
        UsageError: the database does not take the statement.
        UnavailableError: the database does not answer.
    """
    pool = make_engine(url, 1, STATEMENT_TIMEOUT_S)
    try:
        with transaction(pool) as connection:
            try:
                result = connection.exec_driver_sql(statement)
                rows = [tuple(map(_shown, row)) for row in result] if result.returns_rows else None
                names = tuple(result.keys()) if result.returns_rows else ()
            except DRIVER_ERRORS as error:
                raise UsageError(f"The database does not take this: {said(error)}.") from error
    finally:
        pool.dispose()
    if rows is None:
        yield "done" if result.rowcount < 0 else f"({result.rowcount} rows)"
        return
    widths = [max(map(len, column)) for column in zip(names, *rows, strict=True)]
    for row in (names, tuple("-" * width for width in widths), *rows):
        yield "  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip()
    yield f"({len(rows)} row{'' if len(rows) == 1 else 's'})"


def _shown(value: Any) -> str:
    if isinstance(value, datetime):
        return value.astimezone(UTC).isoformat(sep=" ")
    return "" if value is None else str(value)
