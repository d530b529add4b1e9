"""Decodes messages into blocks of columns, with the dead letters of what cannot be decoded; by a mapping, where there is one."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from tidemark.mapping.mapped import MappedDecoder
from tidemark.mapping.program import Program
from tidemark.wire.block import BLOCK_POINTS, Block, Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.messages import Messages, shares
from transforms import coders  # noqa: F401  # blocks and messages travel by them
from transforms.counters import count


@dataclass(eq=False)
class DecodeMessages(beam.PTransform):
    """Lists of messages to blocks of about 10,000 points, none of them held past the end of its bundle."""

    limits: Limits
    mapping: Program | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, messages: Any) -> Any:
        """One ParDo, of one name with a mapping or without: an update of a running job may bring one."""
        return messages | "ParDo(_Decode)" >> beam.ParDo(self._decoding()).with_output_types(Block)

    def _decoding(self) -> beam.DoFn:
        return _Decode(self.limits) if self.mapping is None else _Map(self.limits, self.mapping)


class _Gather(beam.DoFn):
    """Gathers points until they are a block; the names of their series are looked at once a process, not once a block."""

    def setup(self) -> None:
        self._columns = Columns()

    def start_bundle(self) -> None:
        self._columns = self._columns.following()  # what a bundle that failed has left is not in it

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if len(self._columns):
            yield WindowedValue(self._finish(), MIN_TIMESTAMP, [GlobalWindow()])

    def _finish(self) -> Block:
        block = self._columns.block()
        self._columns = self._columns.following()
        return block


class _Decode(_Gather):
    def __init__(self, limits: Limits) -> None:
        self._decoder = Decoder(limits)

    def process(self, messages: Sequence[Message]) -> Iterator[Block]:
        now_us = time.time_ns() // 1000
        for some in _parts(messages):
            self._decoder.decode_all(some, self._columns, now_us)
            if len(self._columns) >= BLOCK_POINTS:
                yield self._finish()


class _Map(_Gather):
    def __init__(self, limits: Limits, mapping: Program) -> None:
        self._limits, self._mapping = limits, mapping

    def setup(self) -> None:
        super().setup()
        self._decoder = MappedDecoder(self._mapping, Decoder(self._limits))

    def process(self, messages: Sequence[Message]) -> Iterator[Block]:
        now_us = time.time_ns() // 1000
        for some in _parts(messages):
            count("mapping_filtered", self._decoder.decode(some, self._columns, now_us))
            if len(self._columns) >= BLOCK_POINTS:
                yield self._finish()

    def teardown(self) -> None:
        self._decoder.close()


def _parts(messages: Sequence[Message]) -> Iterator[Sequence[Message]]:
    """What to decode together; of a single message, as Dataflow hands them, no columns are made."""
    if len(messages) == 1:
        count("event_time_attribute_missing", int(messages[0].stated is None))
        yield messages
    else:
        columns = Messages.of(messages)
        count("event_time_attribute_missing", columns.unstated())
        yield from shares(columns)
