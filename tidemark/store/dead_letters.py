"""Keeps what can never be accepted, with its reason and its bytes: a row each, which is there once however often it is put."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

import msgspec
from sqlalchemy import Connection, Engine

from tidemark.errors import RefusedError
from tidemark.store.connection import transaction
from tidemark.wire.block import Block, DeadLetter, SeriesKey
from tidemark.wire.message import moment
from tidemark.wire.reasons import Reason

_INSERT: Final = """
INSERT INTO dead_letters (message_id, position, data, attributes, stage, reason, detail, publish_time, points, project)
VALUES {rows}
ON CONFLICT DO NOTHING"""
_ROW: Final = "(%s, %s, %s, CAST(%s AS json), %s, %s, %s, %s, %s, %s)"
_PROJECT: Final = re.compile(rb'"project"\s*+:\s*+("[^"\\\n]*+(?:\\.[^"\\\n]*+)*+")')
_LOOKED_AT_BYTES: Final = 4 << 10
_LONGEST_NAME: Final = 800
LETTERS_AT_ONCE: Final = 500
BYTES_AT_ONCE: Final = 8 << 20
"""In one statement: a round trip for each of a flood of them would slow every good point down. But each is kept whole,
and may be megabytes."""


def keep(pool: Engine, letters: list[DeadLetter]) -> None:
    """Keep dead letters that are no points; one that is there already stays as it is.

    Raises:
        UnavailableError, MisconfiguredError: none of them is kept.
    """
    with transaction(pool) as connection:
        put(connection, letters)


def put(connection: Connection, letters: list[DeadLetter]) -> None:
    """The same in a transaction that is open."""
    for some in _at_once(letters):
        statement = _INSERT.format(rows=", ".join([_ROW] * len(some)))
        connection.exec_driver_sql(statement, tuple(value for letter in some for value in _values(letter)))


def _at_once(letters: list[DeadLetter]) -> Iterator[list[DeadLetter]]:
    some: list[DeadLetter] = []
    size = 0
    for letter in letters:
        own = len(letter.data) + sum(len(name) + len(value) for name, value in letter.attributes.items())
        if some and (len(some) == LETTERS_AT_ONCE or size + own > BYTES_AT_ONCE):
            yield some
            some, size = [], 0
        some.append(letter)
        size += own
    if some:
        yield some


def _values(letter: DeadLetter) -> tuple[object, ...]:
    return (
        letter.message_id,
        letter.position,
        letter.data,
        msgspec.json.encode(letter.attributes).decode(),
        letter.stage,
        letter.reason.value,
        letter.detail.replace("\x00", "\\0"),
        moment(letter.publish_time),
        letter.points,
        project_of(letter),
    )


def project_of(letter: DeadLetter) -> str | None:
    """Whose it is, as far as that can be read without reading all of it."""
    name = letter.attributes.get("project")
    if name is None:
        found = _PROJECT.search(letter.data, 0, _LOOKED_AT_BYTES)
        try:
            name = None if found is None else msgspec.json.decode(found[1], type=str)
        except (msgspec.DecodeError, UnicodeDecodeError):
            name = None
    return None if name is None or "\x00" in name or len(name) > _LONGEST_NAME else name


def of_refused(block: Block, refused: RefusedError) -> DeadLetter:
    """The dead letter of the one point of `block`, written out again, since its bytes are not kept this far."""
    point = block.points[0]
    key = SeriesKey(*block.keys[int(point["series_id"])])
    attributes = block.attributes[0] if block.attributes else None
    body = {
        "project": key.project,
        "source": key.source,
        "metric": key.metric,
        "event_time": moment(int(point["event_time"])),
        "value": float(point["value"]),
    }
    if attributes is not None:
        body["attributes"] = msgspec.Raw(attributes)
    data = msgspec.json.encode(body)
    identity = f"{key.project}/{key.source}/{key.metric}@{int(point['event_time'])}/{int(point['publish_time'])}"
    return DeadLetter(
        identity, 0, data, {}, "write_raw", Reason.REFUSED_BY_DATABASE, str(refused), int(point["publish_time"])
    )
