"""Decodes messages into blocks of columns, with the dead letters of what cannot be decoded."""

from __future__ import annotations

import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import apache_beam as beam
from apache_beam.transforms.window import GlobalWindow
from apache_beam.utils.timestamp import MIN_TIMESTAMP
from apache_beam.utils.windowed_value import WindowedValue

from tidemark.wire.block import BLOCK_POINTS, Block, Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from transforms import coders  # noqa: F401  # blocks and messages travel by them
from transforms.counters import count


@dataclass(eq=False)
class DecodeMessages(beam.PTransform):
    """Lists of messages to blocks of about 10,000 points, none of them held past the end of its bundle."""

    limits: Limits

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, messages: Any) -> Any:
        """One ParDo."""
        return messages | beam.ParDo(_Decode(self.limits)).with_output_types(Block)


class _Decode(beam.DoFn):
    def __init__(self, limits: Limits) -> None:
        self._decoder = Decoder(limits)

    def start_bundle(self) -> None:
        self._columns = Columns()

    def process(self, messages: list[Message]) -> Iterator[Block]:
        now_us = time.time_ns() // 1000
        unstated = 0
        for message in messages:
            self._decoder.decode(message, self._columns, now_us)
            unstated += message.stated is None
            if len(self._columns) >= BLOCK_POINTS:
                yield self._finish()
        count("event_time_attribute_missing", unstated)

    def finish_bundle(self) -> Iterator[WindowedValue]:
        if len(self._columns):
            yield WindowedValue(self._finish(), MIN_TIMESTAMP, [GlobalWindow()])

    def _finish(self) -> Block:
        block = self._columns.block()
        self._columns = Columns()
        return block
