"""Writes dead letters again: what was refused once may be good now.

A letter's points are written with the publish time that it has, so they never overwrite what was accepted later; in one
transaction with its removal, so that it may be stopped at any instant and begun again. What is still refused stays as it is,
with the new reason and one attempt more; good points beside it are written all the same, and change nothing the next time.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import islice
from typing import Final, NamedTuple, Protocol

import msgspec
import numpy as np
from sqlalchemy import Connection

from tidemark.errors import RefusedError, UnavailableError
from tidemark.retry import a_few_times
from tidemark.store.connection import transaction
from tidemark.store.fold import Range
from tidemark.store.letters import Chosen, Letter, batches, letters, whole
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
WRITE_RAW: Final = "write_raw"
"""The stage of letters whose data is a point as it was to be stored."""
_POINTS_TOGETHER: Final = 50_000
"""Of letters that are written in one transaction; one may have more itself."""
_MOST_REFUSED: Final = 100
"""Points of one letter; of one of which the database refuses more, no further ones are written."""
_UNPACKABLE: Final = frozenset({Reason.BAD_COMPRESSION, Reason.UNKNOWN_ENCODING})
_PACKED_ENCODING: Final = "content_encoding"
_REMOVE: Final = "DELETE FROM dead_letters WHERE id = ANY(CAST(%s AS bigint[]))"
_THERE: Final = "SELECT id FROM dead_letters WHERE id = ANY(CAST(%s AS bigint[]))"
_HOLD: Final = "SELECT 1 FROM dead_letters WHERE id = %s FOR UPDATE"
_STILL: Final = """
UPDATE dead_letters SET reason = %s, detail = %s, points = %s, attempts = attempts + 1 WHERE id = %s"""
_SERIES: Final = "SELECT series_id FROM series WHERE project = %s AND source = %s AND metric = %s"


class Decodes(Protocol):
    """Reads a message as the pipeline does without a mapping."""

    def decode(self, message: Message, into: Columns, now_us: int) -> object:
        """Append its points, and dead letters."""


class Maps(Protocol):
    """Reads one by a mapping."""

    def decode(self, message: Message, into: Columns, now_us: int) -> int:
        """Append its points, and dead letters; returns how many of its values have no output."""

    def again(self, message: Message, into: Columns, now_us: int) -> int:
        """The same of values that were cut out of a message once, and are not cut any further."""


_Decode = Callable[[Message, Columns, int], int]
"""Appends what is in a message; returns how many values were filtered."""


class Became(NamedTuple):
    """What became of letters.

    Attributes:
        letters: That are gone.
        points: That were written out of them and out of those that stay.
        filtered: Values of them for which the mapping has no output.
        still: Letters that are still refused.
        skipped: Letters that would need a mapping.
    """

    letters: int = 0
    points: int = 0
    filtered: int = 0
    still: int = 0
    skipped: int = 0

    def plus(self, other: Became) -> Became:
        """Both together."""
        return Became(*(one + two for one, two in zip(self, other, strict=True)))


class _RacedError(Exception):
    """Some of the letters are gone: another one has written or removed them."""


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
    filtered: int = 0


@dataclass(frozen=True)
class Redrive:
    """Writes letters again.

    Attributes:
        writer: Of the raw store, with the settings that the store has.
        tiers_s: Of these.
        decoder: With the limits of now.
        archived: The same of what was read from archives.
        mapped: By a mapping: those of the stage `mapping`, which are left without it, and what the decoder refuses of others.
    """

    writer: Writer
    tiers_s: tuple[int, ...]
    decoder: Decodes
    archived: Decodes
    mapped: Maps | None = None

    def run(self, chosen: Chosen, limit: int | None = None, *, dry: bool = False) -> Iterator[Became]:
        """Go through the letters that are chosen; what was yielded stands.

        Args:
            chosen: Which.
            limit: Most letters that are tried.
            dry: Read them, and write nothing.

        Raises:
            MisconfiguredError: the database has to be mended; the rest is as it was.
        """
        tried = _Tried(letters(self.writer.pool, chosen, 0), self._skips)
        for some in batches(islice(tried, limit if limit is None else min(limit, sys.maxsize))):
            yield self._look(some) if dry else self._redrive(some)
        yield Became(skipped=tried.skipped)

    def _look(self, some: Sequence[Letter]) -> Became:
        found = Became()
        for read in self._read_all(whole(self.writer.pool, some)):
            found = found.plus(_became(read))
        return found

    def _redrive(self, some: Sequence[Letter]) -> Became:
        """A page, in as few transactions as can be."""
        found, held, points = Became(), list[_Read](), 0
        for read in self._read_all(whole(self.writer.pool, some)):
            if held and points + len(read.columns.series) > _POINTS_TOGETHER:
                found = found.plus(self._write(held))
                held, points = [], 0
            held.append(read)
            points += len(read.columns.series)
        return found.plus(self._write(held))

    def _write(self, reads: Sequence[_Read]) -> Became:
        """Letters in one transaction; in halves where something is in the way of that."""
        while reads:
            try:
                return a_few_times(partial(self._write_together, reads))
            except _RacedError:
                there = self._there(reads)
                reads = [read for read in reads if read.letter.id in there]
            except (RefusedError, _TooMuchError):
                if len(reads) == 1:
                    return self._write_alone(reads[0])
                half = len(reads) // 2
                return self._write(reads[:half]).plus(self._write(reads[half:]))
        return Became()

    def _write_together(self, reads: Sequence[_Read]) -> Became:
        block = _together(reads)
        if len(self._spans(block)) > 1:
            raise _TooMuchError
        self._put(block, lambda connection, _: self._settle(connection, reads))
        found = Became()
        for read in reads:
            found = found.plus(_became(read))
        return found

    def _write_alone(self, read: _Read) -> Became:
        """One letter whose points are too much for a transaction, or refused in part: they, in several, and then it."""
        written, refused = 0, list[RefusedError]()
        left = self._spans(read.columns.block())
        try:
            while left and len(refused) < _MOST_REFUSED:
                block = left.pop()
                try:
                    a_few_times(partial(self._put, block, partial(_hold, read.letter)))
                    written += len(block.points)
                except (RefusedError, _TooMuchError) as error:
                    halves = in_halves(block)
                    if len(halves) > 1:
                        left += halves
                    elif isinstance(error, RefusedError):
                        refused.append(error)
                    else:
                        raise UnavailableError("A single point is too much for the database.") from None
            last = _refused(read, refused[0]) if refused else read
            a_few_times(partial(self._write_together, [last._replace(columns=Columns())]))
        except _RacedError:
            return Became()
        return _became(last)._replace(points=written)

    def _put(self, block: Block, also: Callable[[Connection, Written], None]) -> None:
        """One transaction."""
        try:
            self.writer.write_with(block, also, redriven=True)
        except UnavailableError as error:
            if error.too_much:
                raise _TooMuchError from None
            raise

    def _there(self, reads: Sequence[_Read]) -> set[int]:
        with transaction(self.writer.pool) as connection:
            found = connection.exec_driver_sql(_THERE, ([read.letter.id for read in reads],))
            return set(found.scalars())

    def _spans(self, block: Block) -> list[Block]:
        return in_spans(block, self.writer.reach_of.seconds(self.writer.pool))

    def _settle(self, connection: Connection, reads: Sequence[_Read]) -> None:
        """In the transaction of their points: what becomes of the letters."""
        gone = [read.letter.id for read in reads if read.refused is None]
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

    def _skips(self, letter: Letter) -> bool:
        return letter.stage == MAPPING and self.mapped is None

    def _read_all(self, some: Sequence[Letter]) -> Iterator[_Read]:
        now_us = time.time_ns() // 1000
        return (self._read(letter, now_us) for letter in some)

    def _read(self, letter: Letter, now_us: int) -> _Read:
        if letter.reason == Reason.REFUSED_BY_BIGQUERY:
            return _of_rollup(letter)
        if letter.stage == MAPPING and self.mapped is not None:
            return _read(letter, self.mapped.decode if letter.position < 0 else self.mapped.again, now_us)
        found = _read(letter, partial(self._plainly, letter), now_us)
        if found.refused is None or self.mapped is None or letter.stage == WRITE_RAW:
            return found
        mapped = _read(letter, self.mapped.decode, now_us)
        # what a mapping has nothing to say of, and was never meant for, is not dropped
        says = mapped.refused is not None or len(mapped.columns.series)
        return mapped if says else found

    def _plainly(self, letter: Letter, message: Message, into: Columns, now_us: int) -> int:
        archived = letter.stage != WRITE_RAW and is_archived(letter.message_id)
        (self.archived if archived else self.decoder).decode(message, into, now_us)
        return 0


class _Tried:
    """Letters without those that are skipped, which it counts."""

    def __init__(self, some: Iterator[Letter], skips: Callable[[Letter], bool]) -> None:
        self._some, self._skips = some, skips
        self.skipped = 0

    def __iter__(self) -> Iterator[Letter]:
        for letter in self._some:
            if self._skips(letter):
                self.skipped += 1
            else:
                yield letter


def _read(letter: Letter, decode: _Decode, now_us: int) -> _Read:
    attributes: dict[str, str] = msgspec.json.decode(letter.attributes)
    columns, filtered = _decoded(letter, attributes, decode, now_us)
    packed = _PACKED_ENCODING in attributes and letter.position >= 0
    if packed and {found.reason for found in columns.dead_letters} & _UNPACKABLE:
        # what was cut out of a packed message is not packed itself
        plain = {name: said for name, said in attributes.items() if name != _PACKED_ENCODING}
        columns, filtered = _decoded(letter, plain, decode, now_us)
    told, columns.dead_letters = columns.dead_letters, []
    refused = told[0]._replace(points=sum(one.points for one in told)) if told else None
    return _Read(letter, columns, refused, filtered=filtered)


def _decoded(letter: Letter, attributes: dict[str, str], decode: _Decode, now_us: int) -> tuple[Columns, int]:
    message = Message(letter.data, attributes, letter.publish_time, letter.message_id, event_time(attributes))
    columns = Columns()
    return columns, decode(message, columns, now_us)


def _became(read: _Read) -> Became:
    gone = int(read.refused is None)
    return Became(gone, len(read.columns.series), read.filtered, 1 - gone)


def _hold(letter: Letter, connection: Connection, _written: Written) -> None:
    """The letter is there still, and stays until the transaction ends: nobody removes it, and its points, meanwhile."""
    if connection.exec_driver_sql(_HOLD, (letter.id,)).one_or_none() is None:
        raise _RacedError


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
