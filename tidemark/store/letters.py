"""Reads dead letters: which there are, by whatever is known of them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any, Final, NamedTuple

import msgspec
from sqlalchemy import Connection, Engine

from tidemark.store.connection import transaction
from tidemark.wire.message import microseconds, moment_s

GROUPS: Final = ("reason", "project", "stage")
PAGE: Final = 500
PAGE_BYTES: Final = 8 << 20
"""Of the data of letters that are in memory together; one may be as large itself."""
TOGETHER: Final = 1000
_ROW_BYTES: Final = 1000
"""Of a letter beside its data."""
_WHERE: Final = """
(CAST(%s AS timestamptz) IS NULL OR first_seen >= %s) AND (CAST(%s AS timestamptz) IS NULL OR first_seen < %s)
AND (CAST(%s AS text) IS NULL OR reason = %s) AND (CAST(%s AS text) IS NULL OR project = %s)
AND (CAST(%s AS text) IS NULL OR stage = %s)"""
_COLUMNS: Final = """id, message_id, position, attributes::text, stage, reason, detail, publish_time, first_seen, points, project,
attempts, length(data)"""
_LIST: Final = (
    f"SELECT {_COLUMNS}, substring(data FOR %s) FROM dead_letters WHERE id > %s AND {_WHERE} ORDER BY id LIMIT %s"
)
_SHOW: Final = f"SELECT {_COLUMNS}, data FROM dead_letters WHERE id = %s"
_DATA: Final = "SELECT id, data FROM dead_letters WHERE id = ANY(CAST(%s AS bigint[]))"


class Chosen(NamedTuple):
    """Which letters are meant; None: whatever it is.

    Attributes:
        start, end: When they were kept, in seconds since 1970, the end exclusive.
        reason, project, stage: As they stand in the table.
    """

    start: int | None = None
    end: int | None = None
    reason: str | None = None
    project: str | None = None
    stage: str | None = None

    def parameters(self) -> tuple[Any, ...]:
        """Of `_WHERE`."""
        times = [None if at is None else moment_s(at) for at in self[:2]]
        return tuple(value for value in (*times, *self[2:]) for _ in range(2))


class Letter(NamedTuple):
    """A dead letter as it is kept.

    Attributes:
        id: Its number.
        attributes: JSON.
        publish_time, first_seen: In microseconds since 1970.
        size: Bytes of its data.
        data: All of it, or its beginning.
        others: As of `tidemark.wire.block.DeadLetter`.
    """

    id: int
    message_id: str
    position: int
    attributes: str
    stage: str
    reason: str
    detail: str
    publish_time: int
    first_seen: int
    points: int
    project: str | None
    attempts: int
    size: int
    data: bytes


def letters(pool: Engine, chosen: Chosen, data_bytes: int, after: int = 0) -> Iterator[Letter]:
    """Those that are chosen, in the order they were kept, with so much of their data.

    Args:
        pool: The raw store.
        chosen: Which.
        data_bytes: Of the beginning of each one's data.
        after: A number: only those behind it.

    Raises:
        UnavailableError, MisconfiguredError: the database could not be asked.
    """
    while True:
        with transaction(pool) as connection:
            page = _page(connection, chosen, data_bytes, after)
        yield from page
        if len(page) < PAGE:
            return
        after = page[-1].id


def batches(some: Iterable[Letter]) -> Iterator[list[Letter]]:
    """So many together as `TOGETHER` and, of all their data, `PAGE_BYTES` let."""
    batch: list[Letter] = []
    size = 0
    for letter in some:
        if batch and (size + letter.size > PAGE_BYTES or len(batch) == TOGETHER):
            yield batch
            batch, size = [], 0
        batch.append(letter)
        size += letter.size + _ROW_BYTES
    if batch:
        yield batch


def _page(connection: Connection, chosen: Chosen, data_bytes: int, after: int) -> list[Letter]:
    rows = connection.exec_driver_sql(_LIST, (data_bytes, after, *chosen.parameters(), PAGE)).all()
    return [_letter(row) for row in rows]


def shown(pool: Engine, number: int) -> Letter | None:
    """The one of this number, whole; None: there is none."""
    with transaction(pool) as connection:
        row = connection.exec_driver_sql(_SHOW, (number,)).one_or_none()
    return None if row is None else _letter(row)


def whole(pool: Engine, some: Sequence[Letter]) -> list[Letter]:
    """The same with all of their data; those that are gone meanwhile are left out."""
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(_DATA, ([letter.id for letter in some],)).all()
    found = {number: bytes(data) for number, data in rows}
    return [letter._replace(data=found[letter.id]) for letter in some if letter.id in found]


def counts(pool: Engine, chosen: Chosen, by: Sequence[str]) -> list[tuple[Any, ...]]:
    """(…, letters, points) by what is asked, the most first.

    Args:
        pool: The raw store.
        chosen: Which.
        by: Of `GROUPS`.
    """
    names = ", ".join(name for name in GROUPS if name in by)
    group = f"GROUP BY {names}" if names else ""
    sql = f"""SELECT {names + ", " if names else ""}count(*), coalesce(sum(points), 0)::bigint FROM dead_letters WHERE {_WHERE}
              {group} ORDER BY count(*) DESC{", " + names if names else ""}"""
    with transaction(pool) as connection:
        return [tuple(row) for row in connection.exec_driver_sql(sql, chosen.parameters()).all()]


_OF_SENDER: Final = """
FROM dead_letters WHERE project = %s AND (CAST(%s AS bytea) IS NULL OR position(CAST(%s AS bytea) IN data) > 0)"""


def count_of(pool: Engine, project: str, source: str | None) -> int:
    """How many letters are of a project, as far as it could be read; with a source, those in whose data its name stands."""
    with transaction(pool) as connection:
        return int(
            connection.exec_driver_sql(f"SELECT count(*) {_OF_SENDER}", _of_sender(project, source)).scalar_one()
        )


def remove_of(pool: Engine, project: str, source: str | None) -> int:
    """Remove the same, whatever is in them."""
    with transaction(pool) as connection:
        return connection.exec_driver_sql(f"DELETE {_OF_SENDER}", _of_sender(project, source)).rowcount


def _of_sender(project: str, source: str | None) -> tuple[Any, ...]:
    name = None if source is None else msgspec.json.encode(source)
    return (project, name, name)


def _letter(row: Any) -> Letter:
    found = Letter(*row)
    return found._replace(
        publish_time=microseconds(row.publish_time), first_seen=microseconds(row.first_seen), data=bytes(found.data)
    )
