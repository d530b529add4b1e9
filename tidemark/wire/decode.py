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
from dataclasses import dataclass
from typing import Final

from msgspec import UNSET, DecodeError, ValidationError

from tidemark.wire.block import Columns, SeriesKey
from tidemark.wire.body import BODIES, BODY, MISSING, NO_PROJECT, UNREADABLE, Body, Point, check_head, named
from tidemark.wire.broken import OneByOne
from tidemark.wire.limits import DEFAULT, MAX_VALUE, Limits, untimely
from tidemark.wire.message import LEAST_MS, LEAST_US, Message, body, microseconds
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import whole

_MANY: Final = 8
"""Points of one body from which on columns pay."""


@dataclass(frozen=True)
class Decoder:
    """Fills columns from messages; never raises for what a message contains.

    Guarantee: the time is linear in the bytes, whatever they are; every element becomes points or is in a dead letter; all
    dead letters of a message are no more than about twice its size.
    """

    limits: Limits = DEFAULT

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
        if len(points) >= _MANY and self._accept_many(item, points, into, publish_time, earliest, latest):
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
                series = self._number(item, point.metric, metrics, into)
            into.attributes.append(attributes)
            into.series.append(series)
            into.event_time.append(micros)
            into.publish_time.append(publish_time)
            into.value.append(point.value)

    def _accept_many(
        self, item: Body, points: Sequence[Point], into: Columns, publish_time: int, earliest: int, latest: int
    ) -> bool:
        """Append all points column by column; False: one of them needs a closer look, and nothing was appended."""
        try:
            micros = [point.event_time * 1000 for point in points]  # type: ignore[operator]  # a datetime raises TypeError
            earliest = max(earliest, LEAST_US)
        except TypeError:
            stated = [point.event_time for point in points]
            micros = [at * 1000 if isinstance(at, int) else microseconds(at) for at in stated]
            if min((at for at in stated if isinstance(at, int)), default=LEAST_MS) < LEAST_MS:
                return False
        values = [point.value for point in points]
        if min(micros) < earliest or max(micros) > latest or min(values) < -MAX_VALUE or max(values) > MAX_VALUE:
            return False
        names = [point.metric for point in points]
        metrics = into.metrics_of(item.project, item.source)
        for name in dict.fromkeys(names):
            if name not in metrics:
                self._number(item, name, metrics, into)
        attributes = [point.attributes for point in points]
        if any(attributes):
            into.attributes += [self.limits.canonical(some) if some else None for some in attributes]
        else:
            into.attributes += [None] * len(points)
        into.series += map(metrics.__getitem__, names)
        into.event_time += micros
        into.publish_time += [publish_time] * len(points)
        into.value += values
        return True

    def _number(self, item: Body, metric: str, metrics: dict[str, int], into: Columns) -> int:
        """A number for a series whose name is good."""
        if not metrics:
            self.limits.check_name("project", item.project)
            self.limits.check_name("source", item.source)
        self.limits.check_name("metric", metric)
        return into.number(SeriesKey(item.project, item.source, metric), metrics)


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
