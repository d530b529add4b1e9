"""Tries a mapping on samples, and tells what becomes of each."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any, NamedTuple

import msgspec

from tidemark.errors import UsageError
from tidemark.mapping.mapped import MappedDecoder
from tidemark.mapping.program import Program, in_file
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.decode import Decoder
from tidemark.wire.encode import lines
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message, event_time, microseconds


class _Input(msgspec.Struct, forbid_unknown_fields=True):
    """A line that is a whole input."""

    body: msgspec.Raw
    attributes: dict[str, str] = {}
    publish_time: Annotated[datetime, msgspec.Meta(tz=True)] | None = None
    message_id: str | None = None


class Tried(NamedTuple):
    """What became of one line.

    Attributes:
        line: Its number, from 1 on.
        points: As the pipeline would store them.
        filtered: How many of its values have no output.
        refused: Its dead letters.
    """

    line: int
    points: list[dict[str, Any]]
    filtered: int
    refused: list[DeadLetter]


@dataclass
class Sum:
    """Of all lines.

    Attributes:
        lines, points, filtered, refused: Their numbers.
        seconds: That mapping and reading took.
        reasons: Of what was refused.
    """

    lines: int = 0
    points: int = 0
    filtered: int = 0
    refused: int = 0
    seconds: float = 0.0
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, tried: Tried) -> None:
        """One more."""
        self.lines += 1
        self.points += len(tried.points)
        self.filtered += tried.filtered
        for letter in tried.refused:
            self.refused += letter.points
            self.reasons[letter.reason] += letter.points

    @property
    def us_a_line(self) -> float:
        """Microseconds."""
        return self.seconds / self.lines * 1e6 if self.lines else 0.0


def messages(
    text: Iterable[bytes], attributes: Mapping[str, str], project: str, *, inputs: bool
) -> Iterator[tuple[int, Message]]:
    """A message for each line that is not blank, and the line's number.

    Args:
        text: Lines.
        attributes: Of all of them.
        project: Whose they are, where nothing says otherwise.
        inputs: A line is a whole input, as a mapping has it; otherwise a body.

    Raises:
        UsageError: a line is no input.
    """
    now = time.time_ns() // 1000
    for number, line in enumerate(text, 1):
        if not line.strip():
            continue
        said = {"project": project, **attributes}
        if inputs:
            yield number, _whole(number, line, said, now)
        else:
            yield number, Message(line, said, now, f"line-{number}", event_time(said))


def _whole(number: int, line: bytes, attributes: dict[str, str], now: int) -> Message:
    try:
        found = msgspec.json.decode(line, type=_Input)
        published = now if found.publish_time is None else microseconds(found.publish_time)
    except (msgspec.DecodeError, ValueError) as error:
        raise UsageError(f"Line {number} is no input of a mapping: {error}.") from None
    said = {**attributes, **found.attributes}
    return Message(bytes(found.body), said, published, found.message_id or f"line-{number}", event_time(said))


def tries(program: Program, limits: Limits, given: Iterable[tuple[int, Message]], total: Sum) -> Iterator[Tried]:
    """Map message after message; each as the pipeline would."""
    decoder = MappedDecoder(program, Decoder(limits))
    try:
        decoder.start()
        for number, message in given:
            into = Columns()
            began = time.perf_counter()
            filtered = decoder.decode([message], into, time.time_ns() // 1000)
            total.seconds += time.perf_counter() - began
            tried = Tried(number, _points(into), filtered, into.dead_letters)
            total.add(tried)
            yield tried
    finally:
        decoder.close()


def try_values(
    location: str, values: Iterable[Any], attributes: Mapping[str, str] | None = None, project: str = "example"
) -> list[Tried]:
    """Map values, for a test of a mapping.

    Args:
        location: Of the program.
        values: Bodies, as Python has them.
        attributes: Of the message of each.
        project: Whose they are, where nothing says otherwise.

    Returns:
        What became of each, in their order.

    Raises:
        UsageError: the program cannot be read or compiled.
    """
    given = messages([msgspec.json.encode(value) for value in values], attributes or {}, project, inputs=False)
    return list(tries(in_file(location), Limits(), given, Sum()))


def _points(columns: Columns) -> list[dict[str, Any]]:
    texts = lines(columns, range(len(columns.series)))
    projects = [columns.keys[series].project for series in columns.series]
    return [{"project": project, **msgspec.json.decode(text)} for project, text in zip(projects, texts, strict=True)]
