"""Writes dead letters again: what was refused once may be good now.

A letter's points are written with the publish time that it has, so they never overwrite what was accepted later; in one
transaction with its removal, so that it may be stopped at any instant and begun again. What is still refused stays as it is,
with the new reason and one attempt more; good points beside it are written all the same, and change nothing the next time.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from sqlalchemy import Connection

from tidemark.errors import RefusedError, UnavailableError
from tidemark.retry import a_few_times
from tidemark.store.fold import Range
from tidemark.store.letters import PAGE_BYTES, Chosen, Letter, letters, whole
from tidemark.store.marks import insert_marks
from tidemark.store.reach import in_halves, in_spans
from tidemark.store.write import Writer, Written
from tidemark.wire.archived import is_archived
from tidemark.wire.block import Block, Columns, DeadLetter, SeriesKey
from tidemark.wire.message import Message, event_time
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import MICROSECONDS, POINT

MAPPING: Final = "mapping"
"""The stage of letters whose data is a value that a mapping was to map."""
_TOGETHER: Final = 1000
_PACKED_ENCODING: Final = "content_encoding"
_REMOVE: Final = "DELETE FROM dead_letters WHERE id = ANY(CAST(%s AS bigint[]))"
_STILL: Final = """
UPDATE dead_letters SET reason = %s, detail = %s, points = %s, attempts = attempts + 1 WHERE id = %s"""
_SERIES: Final = "SELECT series_id FROM series WHERE project = %s AND source = %s AND metric = %s"


class Decodes(Protocol):
    """Reads a message as the pipeline does, perhaps by a mapping."""

    def decode(self, message: Message, into: Columns, now_us: int) -> object:
        """Append its points, and dead letters."""


class Became(NamedTuple):
    """What became of letters.

    Attributes:
        letters: That are gone.
        points: That were written out of them and out of those that stay.
        still: Letters that are still refused.
        skipped: Letters that would need a mapping.
    """

    letters: int = 0
    points: int = 0
    still: int = 0
    skipped: int = 0

    def plus(self, other: Became) -> Became:
        """Both together."""
        return Became(*(one + two for one, two in zip(self, other, strict=True)))


class _RacedError(Exception):
    """Another one has taken some of the letters."""


class _Rollup(msgspec.Struct):
    """What is kept of a rollup row that BigQuery refused."""

    project: str
    source: str
    metric: str
    tier_s: int
    window_start: int


class _Read(NamedTuple):
    """A letter that was read again: its points, and why some of it is still refused."""

    letter: Letter
    columns: Columns
    refused: DeadLetter | None
    rollup: _Rollup | None = None


@dataclass(frozen=True)
class Redrive:
    """Writes letters again.

    Attributes:
        writer: Of the raw store, with the settings that the store has.
        tiers_s: Of these.
        decoder: With the limits of now.
        archived: The same of what was read from archives.
        mapped: By a mapping: of all that are no points of the contract yet; without it those of the stage `mapping` are left.
    """

    writer: Writer
    tiers_s: tuple[int, ...]
    decoder: Decodes
    archived: Decodes
    mapped: Decodes | None = None

    def run(self, chosen: Chosen, limit: int | None = None, *, dry: bool = False) -> Iterator[Became]:
        """Go through the letters that are chosen; what was yielded stands.

        Args:
            chosen: Which.
            limit: Most letters that are tried.
            dry: Read them, and write nothing.

        Raises:
            MisconfiguredError: the database has to be mended; the rest is as it was.
        """
        for some in _pages(self.writer, chosen, limit):
            yield self._look(some) if dry else self._redrive(some)

    def _look(self, some: Sequence[Letter]) -> Became:
        found = Became()
        for read in self._read_all(whole(self.writer.pool, some)):
            found = found.plus(self._became(read))
        return found

    def _redrive(self, some: Sequence[Letter]) -> Became:
        """A page, in one transaction; in halves where something is in the way of that."""
        while True:
            reads = self._read_all(whole(self.writer.pool, some))
            if not reads:
                return Became()
            try:
                return a_few_times(partial(self._write, reads))
            except _RacedError:
                continue
            except RefusedError as refused:
                if len(reads) == 1:
                    return self._write([_refused(reads[0], refused)])
            except _TooMuchError:
                if len(reads) == 1:
                    return self._write_in_parts(reads[0])
            half = len(some) // 2 or 1
            return self._redrive(some[:half]).plus(self._redrive(some[half:]))

    def _write(self, reads: Sequence[_Read]) -> Became:
        block = _together(reads)
        if len(self._spans(block)) > 1:
            raise _TooMuchError
        found = Became()
        for read in reads:
            found = found.plus(self._became(read))
        try:
            self.writer.write_with(block, lambda connection, _: self._settle(connection, reads), redriven=True)
        except UnavailableError as error:
            if error.too_much:
                raise _TooMuchError from None
            raise
        return found

    def _write_in_parts(self, read: _Read) -> Became:
        """One letter whose points are too much for a transaction: they, in several, and then it."""

        def nothing(_connection: Connection, _written: Written) -> None:
            """The letter stays until all is written."""

        left = self._spans(read.columns.block())
        while left:
            block = left.pop()
            try:
                self.writer.write_with(block, nothing, redriven=True)
            except UnavailableError as error:
                halves = in_halves(block) if error.too_much else [block]
                if len(halves) == 1:
                    raise
                left += halves
        empty = Columns()
        self._write([read._replace(columns=empty)])
        return self._became(read)

    def _spans(self, block: Block) -> list[Block]:
        return in_spans(block, self.writer.reach_of.seconds(self.writer.pool))

    def _settle(self, connection: Connection, reads: Sequence[_Read]) -> None:
        """In the transaction of their points: what becomes of the letters."""
        gone = [read.letter.id for read in reads if read.refused is None and not self._skips(read.letter)]
        if gone and connection.exec_driver_sql(_REMOVE, (gone,)).rowcount != len(gone):
            raise _RacedError
        for read in reads:
            if read.refused is not None:
                new = read.refused
                values = (new.reason.value, new.detail.replace("\x00", "\\0"), new.points, read.letter.id)
                if connection.exec_driver_sql(_STILL, values).rowcount != 1:
                    raise _RacedError
            elif read.rollup is not None:
                self._owe(connection, read.rollup)

    def _owe(self, connection: Connection, rollup: _Rollup) -> None:
        """A rollup that BigQuery refused is owed a settling, if it is one of the store's still."""
        names = (rollup.project, rollup.source, rollup.metric)
        number = connection.exec_driver_sql(_SERIES, names).scalar_one_or_none()
        if number is None or rollup.tier_s not in self.tiers_s:
            return
        start = rollup.window_start // MICROSECONDS
        insert_marks(connection, self.tiers_s, rollup.tier_s, [Range(start, start + rollup.tier_s, number)])

    def _became(self, read: _Read) -> Became:
        points = len(read.columns.series)
        if self._skips(read.letter):
            return Became(skipped=1)
        return Became(int(read.refused is None), points, int(read.refused is not None))

    def _skips(self, letter: Letter) -> bool:
        return letter.stage == MAPPING and self.mapped is None

    def _read_all(self, some: Sequence[Letter]) -> list[_Read]:
        now_us = time.time_ns() // 1000
        return [self._read(letter, now_us) for letter in some]

    def _read(self, letter: Letter, now_us: int) -> _Read:
        if self._skips(letter):
            return _Read(letter, Columns(), None)
        if letter.reason == Reason.REFUSED_BY_BIGQUERY:
            return _of_rollup(letter)
        attributes: dict[str, str] = msgspec.json.decode(letter.attributes)
        columns = self._decoded(letter, attributes, now_us)
        unpackable = {Reason.BAD_COMPRESSION, Reason.UNKNOWN_ENCODING}
        packed = _PACKED_ENCODING in attributes and letter.position >= 0
        if packed and {found.reason for found in columns.dead_letters} & unpackable:
            # what was cut out of a packed message is not packed itself
            plain = {name: said for name, said in attributes.items() if name != _PACKED_ENCODING}
            columns = self._decoded(letter, plain, now_us)
        told, columns.dead_letters = columns.dead_letters, []
        refused = told[0]._replace(points=sum(one.points for one in told)) if told else None
        return _Read(letter, columns, refused)

    def _decoded(self, letter: Letter, attributes: dict[str, str], now_us: int) -> Columns:
        message = Message(letter.data, attributes, letter.publish_time, letter.message_id, event_time(attributes))
        columns = Columns()
        if letter.stage == "write_raw":  # points already
            decoder = self.decoder
        elif self.mapped is not None:
            decoder = self.mapped
        else:
            decoder = self.archived if is_archived(letter.message_id) else self.decoder
        decoder.decode(message, columns, now_us)
        return columns


class _TooMuchError(Exception):
    """The points are too many, or of too many chunks, for one transaction."""


def _of_rollup(letter: Letter) -> _Read:
    try:
        return _Read(letter, Columns(), None, msgspec.json.decode(letter.data, type=_Rollup))
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        told = DeadLetter(
            letter.message_id,
            letter.position,
            b"",
            {},
            letter.stage,
            Reason.REFUSED_BY_BIGQUERY,
            f"it cannot be read: {error}",
            letter.publish_time,
            letter.points,
        )
        return _Read(letter, Columns(), told)


def _refused(read: _Read, refused: RefusedError) -> _Read:
    """The same, but that the database refuses its points."""
    letter = read.letter
    data = DeadLetter(
        letter.message_id,
        letter.position,
        b"",
        {},
        letter.stage,
        Reason.REFUSED_BY_DATABASE,
        str(refused),
        letter.publish_time,
        letter.points,
    )
    return read._replace(columns=Columns(), refused=data)


def _together(reads: Sequence[_Read]) -> Block:
    """The points of all of them."""
    blocks = [read.columns.block() for read in reads if len(read.columns.series)]
    if not blocks:
        return Block([], np.zeros(0, POINT), None, [])
    keys: dict[tuple[str, str, str], int] = {}
    parts = []
    for block in blocks:
        numbers = np.array([keys.setdefault(key, len(keys)) for key in block.keys], np.int32)
        points = block.points.copy()
        points["series_id"] = numbers[points["series_id"]]
        parts.append(points)
    attributes: list[bytes | None] | None = None
    if any(block.attributes is not None for block in blocks):
        attributes = [one for block in blocks for one in block.attributes or [None] * len(block.points)]
    return Block([*map(_key, keys)], np.concatenate(parts), attributes, [])


def _key(names: tuple[str, str, str]) -> SeriesKey:
    return SeriesKey(*names)


def _pages(writer: Writer, chosen: Chosen, limit: int | None) -> Iterator[list[Letter]]:
    """Letters without their data, so many together as that is no more than `PAGE_BYTES`."""
    some: list[Letter] = []
    size = 0
    for number, letter in enumerate(letters(writer.pool, chosen, 0)):
        if number == limit:
            break
        if some and size + letter.size > PAGE_BYTES:
            yield some
            some, size = [], 0
        some.append(letter)
        size += letter.size + 1000
        if len(some) == _TOGETHER:
            yield some
            some, size = [], 0
    if some:
        yield some
