"""Decodes texts of archives into blocks; by a mapping, where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from tidemark.mapping.mapped import MappedDecoder
from tidemark.mapping.program import Program
from tidemark.wire.archived import ArchiveDecoder, archived, lines
from tidemark.wire.block import BLOCK_POINTS, Columns
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import whole
from transforms.archive import ArchiveBlock, ArchivePart, ArchiveText
from transforms.counters import count


@dataclass(eq=False)
class DecodeArchives(beam.PTransform):
    """Texts to blocks of about 10,000 points, each of a place of one part."""

    limits: Limits
    mapping: Program | None = None
    project: str | None = None
    """Whose points are that say none."""

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, texts: Any) -> Any:
        """One ParDo."""
        return texts | beam.ParDo(_Decode(self)).with_output_types(ArchiveBlock)


class Gathering:
    """Points of a place of a part, until they are a block.

    Args:
        limits: Of points.
        mapping: By which points are made, if there is one.
        project: Whose points are that say none.
    """

    def __init__(self, limits: Limits, mapping: Program | None, project: str | None) -> None:
        self._decoder = ArchiveDecoder(limits)
        self._mapped = None if mapping is None else MappedDecoder(mapping, self._decoder)
        self._project = project
        self._of: ArchivePart | None = None
        self._begin = self._end = self._filtered = 0
        self._columns = Columns()

    def take(self, text: ArchiveText) -> Iterator[ArchiveBlock]:
        """The blocks that are finished by a text."""
        if self._of != text.of or self._end != text.begin:
            yield from self.finish()
            self._start(text.of, text.begin)
        now_us = time.time_ns() // 1000
        of = text.of
        if text.data:
            message = archived(of.name, of.part.start, text.begin, text.line, text.data, self._project, now_us)
            self._decode(message, now_us)
        for long in text.long:
            told = RejectedError(
                Reason.MESSAGE_TOO_LARGE, f"the line has {long.size} bytes; these are the first of them"
            )
            message = archived(of.name, of.part.start, long.at, None, long.head, self._project, now_us)
            self._columns.dead_letters.append(whole(message, told))
        self._end = text.end
        if text.last:
            yield from self.finish(through=text.through, last=True)
        elif len(self._columns) >= BLOCK_POINTS:
            yield from self.finish()

    def finish(self, *, through: bool = False, last: bool = False) -> Iterator[ArchiveBlock]:
        """What was gathered, if it is anything."""
        if self._of is not None and (last or self._end > self._begin):
            block = self._columns.block()
            yield ArchiveBlock(self._of, block, self._begin, self._end, self._filtered, through, last)
        self._start(None if last else self._of, self._end)

    def close(self) -> None:
        """End the mapping's process."""
        if self._mapped is not None:
            self._mapped.close()

    def _start(self, of: ArchivePart | None, begin: int) -> None:
        self._of, self._begin, self._end = of, begin, begin
        self._columns = self._columns.following()
        self._filtered = 0

    def _decode(self, message: Message, now_us: int) -> None:
        if self._mapped is None:
            self._decoder.decode(message, self._columns, now_us)
        else:
            self._filtered += self._mapped.decode(lines(message), self._columns, now_us)


class _Decode(beam.DoFn):
    def __init__(self, config: DecodeArchives) -> None:
        self._config = config

    def setup(self) -> None:
        self._gathering = Gathering(self._config.limits, self._config.mapping, self._config.project)

    def process(self, text: ArchiveText) -> Iterator[ArchiveBlock]:
        for block in self._gathering.take(text):
            count("mapping_filtered", block.filtered)
            yield block

    def finish_bundle(self) -> Iterator[WindowedValue]:
        for block in self._gathering.finish():
            count("mapping_filtered", block.filtered)
            yield WindowedValue(block, MIN_TIMESTAMP, [GlobalWindow()])

    def teardown(self) -> None:
        self._gathering.close()
