"""From a message's bytes to columns of points, or to dead letters that keep the bytes.

A body is one JSON object, an array of them, or objects one after the other, one a line or not. An object is a point
`{"project","source","metric","event_time","value","attributes"?}` or a batch that shares its head
`{"project","source","points":[{"metric","event_time","value","attributes"?}, …]}`. Unknown fields are ignored. A project that
is left out is the one of the message's attribute `project`.

What is right is read at once, by one call. Only where something is wrong the text is cut into its elements
(`tidemark.wire.cut`), each of which is then read by itself.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import Final

import numpy as np
from msgspec import UNSET, DecodeError, ValidationError

from tidemark.wire import broken
from tidemark.wire.append import Appender
from tidemark.wire.block import Columns
from tidemark.wire.body import BODIES, BODY, MISSING, NO_PROJECT, UNREADABLE, Body, Point, check_head, named
from tidemark.wire.broken import OneByOne
from tidemark.wire.limits import DEFAULT, MAX_VALUE, Limits, untimely
from tidemark.wire.message import LAST_EVENT_TIME, LEAST_US, Message, body, microseconds
from tidemark.wire.messages import Messages
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import whole

_LAST_MS: Final = LAST_EVENT_TIME // 1000
_MANY: Final = 8
"""Points of one body from which on columns pay."""


@dataclass(frozen=True)
class Decoder:
    """Fills columns from messages; never raises for what a message contains.

    Guarantee: the time is linear in the bytes, whatever they are; every element becomes points or is in a dead letter; all
    dead letters of a message are no more than about twice its size.
    """

    limits: Limits = DEFAULT
    columns: Appender = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", Appender(self.limits))

    def decode(self, message: Message, into: Columns, now_us: int) -> bool:
        """Append the points of `message` to `into`, and dead letters for all that cannot be one.

        Args:
            message: As delivered.
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.

        Returns:
            Whether all of it was read at once, by one call; if not, it may be right all the same.
        """
        try:
            text = body(message, self.limits.max_message_bytes)
            if self.at_once(message, text, into, now_us):
                return True
            OneByOne(self, message, text, into, now_us).decode()
        except RejectedError as rejected:
            into.dead_letters.append(whole(message, rejected))
        return False

    def decode_all(self, messages: Sequence[Message], into: Columns, now_us: int) -> None:
        """The same of many messages; those of one plain point or batch each become columns together, which costs half.

        Args:
            messages: As delivered; as columns at best.
            into: Filled in place; points of other messages come after those.
            now_us: The clock in microseconds, from which the retention is counted.
        """
        if len(messages) < _MANY:
            others: Sequence[Message] = messages
        else:
            columns = Messages.of(messages)
            others = [columns[place] for place in self._accept_plain(columns, into, now_us)]
        for message in others:
            self.decode(message, into, now_us)

    def _accept_plain(self, messages: Messages, into: Columns, now_us: int) -> Sequence[int]:
        """Append what is in messages that are one good point or batch each, or cannot be one; returns the others' places."""
        if max(map(len, messages.data)) > self.limits.max_message_bytes:
            return range(len(messages))
        items, unreadable = _read(messages.data)
        places: Sequence[int] = range(len(messages))
        others: list[int] = []
        if unreadable:
            readable = bytearray(b"\x01") * len(messages)
            for place, error in unreadable:
                readable[place] = 0
                self._refuse(messages[place], error, into, now_us)
            places = [*compress(places, readable)]
        is_point = [item.points is UNSET for item in items]
        if False in is_point:
            is_batch = [not one for one in is_point]
            batches, where = [*compress(items, is_batch)], [*compress(places, is_batch)]
            others += self._accept_batches(batches, messages, where, into, now_us)
            items, places = [*compress(items, is_point)], [*compress(places, is_point)]
        if items and not self._append_singles(items, messages, places, into, now_us):
            times = messages.publish_time.tolist()
            good = [
                place not in messages.packed and self._is_plain(item, times[place], now_us)
                for item, place in zip(items, places, strict=True)
            ]
            others += compress(places, [not one for one in good])
            items, places = [*compress(items, good)], [*compress(places, good)]
            if items and not self._append_singles(items, messages, places, into, now_us):
                others += places
        return others

    def _accept_batches(
        self, items: list[Body], messages: Messages, places: Sequence[int], into: Columns, now_us: int
    ) -> Sequence[int]:
        """Append the points of batches; returns the places of those that are not good, of which nothing is appended."""
        published = messages.publish_time[places]
        if messages.packed.isdisjoint(places) and self.columns.batches(items, published, into, now_us):
            return []
        return [
            place
            for at, (item, place) in enumerate(zip(items, places, strict=True))
            if place in messages.packed or not self.columns.batches([item], published[at : at + 1], into, now_us)
        ]

    def _refuse(self, message: Message, error: Exception, into: Columns, now_us: int) -> None:
        """Take a message that is no body; it may be several, or packed, all the same."""
        letter = None if "content_encoding" in message.attributes else broken.at_once(message, error)
        if letter is None:
            self.decode(message, into, now_us)
        else:
            into.dead_letters.append(letter)

    def _is_plain(self, item: Body, published: int, now_us: int) -> bool:
        """Whether it is a good point by itself, told by one of its own time and value as they are most of the time."""
        at, value = item.event_time, item.value
        if item.points is not UNSET or item.project is NO_PROJECT:
            return False
        if not isinstance(item.metric, str) or not isinstance(at, int) or not isinstance(value, float):
            return False
        earliest = max(now_us - self.limits.retention_us if self.limits.retention_us else 0, LEAST_US)
        return earliest <= at * 1000 <= published + self.limits.max_future_us and -MAX_VALUE <= value <= MAX_VALUE

    def _append_singles(
        self, items: list[Body], messages: Messages, places: Sequence[int], into: Columns, now_us: int
    ) -> bool:
        """Append points of a message each; False: one of them is no plain point, or not good, and nothing was appended."""
        if messages.packed and not messages.packed.isdisjoint(places):
            return False
        published = messages.publish_time if len(places) == len(messages) else messages.publish_time[places]
        return self.columns.points(items, published, into, now_us)

    def at_once(self, message: Message, text: bytes, into: Columns, now_us: int) -> bool:
        """Append the points of `message`, whose text this is, if all of it is right; False: it is not, and none is appended."""
        held = len(into.series)
        try:
            for item in _parse(text):
                if item.project is NO_PROJECT:
                    named(item, message.attributes.get("project"))
                self.accept(item, into, message.publish_time, now_us)
        except (RejectedError, *UNREADABLE):
            into.truncate(held)
            return False
        return len(into.series) > held

    def accept_lines(self, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        """Append points and batches, one a line.

        Raises:
            RejectedError, msgspec.DecodeError, UnicodeDecodeError, RecursionError: not all of it is right; some of it may
                have been appended.
        """
        for item in BODY.decode_lines(text):
            if item.project is NO_PROJECT:
                named(item, message.attributes.get("project"))
            self.accept(item, into, message.publish_time, now_us)

    def accept(self, item: Body, into: Columns, publish_time: int, now_us: int) -> None:
        """Append the point or points of one body."""
        points: Sequence[Point]
        if item.points is UNSET:
            if item.metric is UNSET or item.event_time is UNSET or item.value is UNSET:
                raise RejectedError(Reason.MISSING_FIELD, MISSING)
            points = [Point(item.metric, item.event_time, item.value, item.attributes)]
        else:
            check_head(item)
            points = item.points
            if not points:
                raise RejectedError(Reason.EMPTY_MESSAGE, "the batch has no points")
        self.accept_points(item, points, into, publish_time, now_us)

    def accept_points(self, item: Body, points: Sequence[Point], into: Columns, publish_time: int, now_us: int) -> None:
        """Append points of one project and source.

        Raises:
            RejectedError: one of them cannot be accepted; those before it are there.
        """
        latest = publish_time + self.limits.max_future_us
        earliest = now_us - self.limits.retention_us if self.limits.retention_us else 0
        if (
            len(points) >= _MANY
            and points is item.points
            and self.columns.batches([item], np.array([publish_time], np.int64), into, now_us)
        ):
            return
        metrics = into.metrics_of(item.project, item.source)
        for point in points:
            stated = point.event_time
            if isinstance(stated, int):
                micros = stated * 1000
                if not earliest <= micros <= latest or micros < LEAST_US:
                    raise untimely(stated, micros, earliest, latest)
            else:
                micros = microseconds(stated)
                if not earliest <= micros <= latest:
                    raise untimely(None, micros, earliest, latest)
            if not -MAX_VALUE <= point.value <= MAX_VALUE:
                raise RejectedError(Reason.BAD_VALUE, f"`value` {point.value!r} is beyond ±{MAX_VALUE:g}")
            attributes = self.limits.canonical(point.attributes) if point.attributes else None
            series = metrics.get(point.metric)
            if series is None:
                series = self.columns.number(item.project, item.source, point.metric, metrics, into)
            into.attributes.append(attributes)
            into.series.append(series)
            into.event_time.append(micros)
            into.publish_time.append(publish_time)
            into.value.append(point.value)


def _read(texts: Sequence[bytes]) -> tuple[list[Body], list[tuple[int, Exception]]]:
    """What each text says, if it is one body, and the places of those that are not, with the reason."""
    items: list[Body] = []
    unreadable: list[tuple[int, Exception]] = []
    bodies = map(BODY.decode, texts)
    while True:
        try:
            items.extend(bodies)  # keeps what came before an error, and goes on behind it
        except UNREADABLE as error:
            unreadable.append((len(items) + len(unreadable), error.with_traceback(None)))
        else:
            return items, unreadable


def _parse(text: bytes) -> list[Body]:
    """The bodies of a well-formed message, the fast way."""
    if text.lstrip()[:1] == b"[":
        return BODIES.decode(text)
    try:
        return [BODY.decode(text)]
    except ValidationError:
        raise
    except DecodeError:
        return BODY.decode_lines(text)
