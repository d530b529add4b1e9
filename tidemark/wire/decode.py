"""From a message's bytes to columns of points, or to dead letters that keep the bytes.

A body is one JSON object, an array of them, or JSON lines. An object is a point
`{"project","source","metric","event_time","value","attributes"?}` or a batch that shares its head
`{"project","source","points":[{"metric","event_time","value","attributes"?}, …]}`. Unknown fields are ignored.
"""

from __future__ import annotations

import codecs
import re
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final

import msgspec

from tidemark.settings import DAY_S, Values
from tidemark.wire import advice
from tidemark.wire.block import Columns, DeadLetter, SeriesKey
from tidemark.wire.message import LAST_EVENT_TIME, Message, body, microseconds
from tidemark.wire.reasons import Reason, RejectedError

MAX_VALUE: Final = 1e150
"""So that no sum of points and no sum of squares can overflow."""
STAGE: Final = "decode"
MISSING: Final = "a point needs metric, event_time and value"
_MANY: Final = 8
"""Points of one body from which on columns pay."""

_EventTime = int | Annotated[datetime, msgspec.Meta(tz=True)]


class _Point(msgspec.Struct, gc=False):
    metric: str
    event_time: _EventTime
    value: float
    attributes: dict[str, Any] | None = None


class _Body(msgspec.Struct):
    project: str
    source: str
    metric: str | msgspec.UnsetType = msgspec.UNSET
    event_time: _EventTime | msgspec.UnsetType = msgspec.UNSET
    value: float | msgspec.UnsetType = msgspec.UNSET
    attributes: dict[str, Any] | None = None
    points: list[_Point] | msgspec.UnsetType = msgspec.UNSET


class _RawBatch(msgspec.Struct):
    points: list[msgspec.Raw]
    project: msgspec.Raw = msgspec.Raw()
    source: msgspec.Raw = msgspec.Raw()


_BODY: Final = msgspec.json.Decoder(_Body)
_BODIES: Final = msgspec.json.Decoder(list[_Body])
_RAW: Final = msgspec.json.Decoder(msgspec.Raw)
_RAWS: Final = msgspec.json.Decoder(list[msgspec.Raw])
_RAW_BATCH: Final = msgspec.json.Decoder(_RawBatch)
_CANONICAL: Final = msgspec.json.Encoder(order="sorted")
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)


@dataclass(frozen=True)
class Limits:
    """The bounds of the contract; see `tidemark.settings.LIMITS`."""

    max_name_bytes: int = 256
    max_attributes_bytes: int = 8192
    max_attributes_depth: int = 8
    max_message_bytes: int = 8 << 20
    max_future_us: int = 600_000_000
    retention_us: int = 0

    @classmethod
    def of(cls, values: Values) -> Limits:
        """The bounds that settings give."""
        return cls(
            max_name_bytes=values.max_name_bytes,
            max_attributes_bytes=values.max_attributes_bytes,
            max_attributes_depth=values.max_attributes_depth,
            max_message_bytes=values.max_message_bytes,
            max_future_us=round(values.max_future_s * 1e6),
            retention_us=values.retention_days * DAY_S * 1_000_000,
        )


@dataclass(frozen=True)
class Decoder:
    """Fills columns from messages; never raises for what a message contains."""

    limits: Limits = Limits()

    def decode(self, message: Message, into: Columns, now_us: int) -> None:
        """Append the points of `message` to `into`, and a dead letter for all that cannot be one.

        Args:
            message: As delivered.
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.
        """
        held = len(into.series)
        try:
            text = body(message, self.limits.max_message_bytes)
            try:
                for item in _parse(text):
                    self._accept(item, into, message.publish_time, now_us)
                if len(into.series) == held:
                    raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no points")
            except (RejectedError, *_UNREADABLE):
                into.truncate(held)
                self._one_by_one(message, text, into, now_us)
        except RejectedError as rejected:
            into.dead_letters.append(_dead(message, -1, message.data, rejected))

    def _one_by_one(self, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        """The slow way: every point as a body of its own, so that a bad one does not take its neighbours along."""
        pieces = list(_pieces(_as_utf8(text)))
        if not pieces:
            raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no points")
        for position, piece in enumerate(pieces):
            held = len(into.series)
            try:
                self._accept(_BODY.decode(piece), into, message.publish_time, now_us)
            except RejectedError as rejected:
                into.truncate(held)
                into.dead_letters.append(_dead(message, position, piece, _in_their_words(piece, rejected)))
            except _UNREADABLE as error:
                into.dead_letters.append(_dead(message, position, piece, _why_unreadable(piece, error)))

    def _accept(self, item: _Body, into: Columns, publish_time: int, now_us: int) -> None:
        """Append the point or points of one body."""
        if item.points is msgspec.UNSET:
            if item.metric is msgspec.UNSET or item.event_time is msgspec.UNSET or item.value is msgspec.UNSET:
                raise RejectedError(Reason.MISSING_FIELD, MISSING)
            points = [_Point(item.metric, item.event_time, item.value, item.attributes)]
        else:
            points = item.points
            if not points:
                raise RejectedError(Reason.EMPTY_MESSAGE, "the batch has no points")
        metrics = into.metrics_of(item.project, item.source)
        latest = publish_time + self.limits.max_future_us
        earliest = now_us - self.limits.retention_us if self.limits.retention_us else 0
        if len(points) >= _MANY and self._accept_many(item, points, into, publish_time, earliest, latest):
            return
        for point in points:
            series = metrics.get(point.metric)
            if series is None:
                series = self._number(item, point.metric, metrics, into)
            stated = point.event_time
            micros = stated * 1000 if isinstance(stated, int) else microseconds(stated)
            if not earliest <= micros <= latest:
                raise _untimely(micros, earliest, latest)
            if not -MAX_VALUE <= point.value <= MAX_VALUE:
                raise RejectedError(Reason.BAD_VALUE, f"{point.value!r} is beyond ±{MAX_VALUE:g}")
            into.attributes.append(self._canonical(point.attributes) if point.attributes else None)
            into.series.append(series)
            into.event_time.append(micros)
            into.publish_time.append(publish_time)
            into.value.append(point.value)

    def _accept_many(
        self, item: _Body, points: list[_Point], into: Columns, publish_time: int, earliest: int, latest: int
    ) -> bool:
        """Append all points column by column; False: one of them needs a closer look, and nothing was appended."""
        stated = [point.event_time for point in points]
        values = [point.value for point in points]
        try:
            micros = [at * 1000 for at in stated]  # type: ignore[operator]  # a datetime raises TypeError
        except TypeError:
            micros = [at * 1000 if isinstance(at, int) else microseconds(at) for at in stated]
        if min(micros) < earliest or max(micros) > latest or min(values) < -MAX_VALUE or max(values) > MAX_VALUE:
            return False
        metrics = into.metrics_of(item.project, item.source)
        series = [metrics.get(point.metric) for point in points]
        if None in series:
            series = [
                metrics[point.metric] if point.metric in metrics else self._number(item, point.metric, metrics, into)
                for point in points
            ]
        attributes = [point.attributes for point in points]
        into.attributes += [self._canonical(some) if some else None for some in attributes]
        into.series += series  # type: ignore[arg-type]  # none of them is None
        into.event_time += micros
        into.publish_time += [publish_time] * len(points)
        into.value += values
        return True

    def _number(self, item: _Body, metric: str, metrics: dict[str, int], into: Columns) -> int:
        """A number for a series whose name is good."""
        if not metrics:
            self._check_name(item.project)
            self._check_name(item.source)
        self._check_name(metric)
        return into.number(SeriesKey(item.project, item.source, metric), metrics)

    def _check_name(self, name: str) -> None:
        if name.isascii() and name.isprintable() and 1 <= len(name) <= self.limits.max_name_bytes:
            return
        size = len(name.encode())
        if not 1 <= size <= self.limits.max_name_bytes:
            raise RejectedError(
                Reason.BAD_NAME, f"a name has {size} bytes; 1 to {self.limits.max_name_bytes} are taken"
            )
        if not name.isprintable() and any(c < " " or "\x7f" <= c <= "\x9f" for c in name):
            raise RejectedError(Reason.BAD_NAME, f"{name!r} has a control character")

    def _canonical(self, attributes: dict[str, Any]) -> bytes:
        _check_attributes(attributes, self.limits.max_attributes_depth)
        text = _CANONICAL.encode(attributes)
        if len(text) > self.limits.max_attributes_bytes:
            raise RejectedError(
                Reason.ATTRIBUTES_TOO_LARGE, f"{len(text)} bytes, at most {self.limits.max_attributes_bytes} are taken"
            )
        return text


def _parse(text: bytes) -> list[_Body]:
    """The bodies of a well-formed message, the fast way."""
    if text.lstrip()[:1] == b"[":
        return _BODIES.decode(text)
    try:
        return [_BODY.decode(text)]
    except msgspec.ValidationError:
        raise
    except msgspec.DecodeError:
        return _BODY.decode_lines(text)


def _as_utf8(text: bytes) -> bytes:
    """Text without its byte order mark; some senders write one, and some of them UTF-16 or UTF-32 after it."""
    encoding = next((name for mark, name in _MARKS.items() if text.startswith(mark)), None)
    if encoding is None:
        return text
    try:
        return text.decode(encoding).encode()
    except UnicodeError:
        return text


def _pieces(text: bytes) -> Iterator[bytes]:
    """Cut a body into bodies of one point each, byte for byte as they were sent.

    Raises:
        RejectedError: the text is not JSON in any of the forms.
    """
    try:
        _RAW.decode(text)
    except _UNREADABLE as error:
        lines = [line.strip() for line in text.split(b"\n")]
        lines = [line for line in lines if line]
        if len(lines) > 1 and all(line.startswith(b"{") for line in lines):
            for line in lines:
                yield from _pieces_of_line(line)
            return
        masked, token = _mask_constants(text)
        try:
            _RAW.decode(masked)
        except _UNREADABLE:
            raise RejectedError(Reason.NOT_JSON, advice.of_text(text, str(error))) from None
        for piece in _pieces_of_value(masked.strip()):
            yield piece.replace(b'"' + token, b"").replace(token + b'"', b"")
    else:
        yield from _pieces_of_value(text.strip())


def _pieces_of_value(value: bytes) -> Iterator[bytes]:
    if value[:1] == b"[":
        for element in _RAWS.decode(value):
            yield from _batch_pieces(bytes(element))
    else:
        yield from _batch_pieces(value)


def _pieces_of_line(line: bytes) -> Iterator[bytes]:
    try:
        _RAW.decode(line)
    except _UNREADABLE:
        yield line
    else:
        yield from _batch_pieces(line)


def _batch_pieces(item: bytes) -> Iterator[bytes]:
    """A batch as batches of one; anything else as it is."""
    try:
        batch = _RAW_BATCH.decode(item)
    except _UNREADABLE:
        yield item
        return
    if not batch.points:
        yield item
    head = ((b"project", bytes(batch.project)), (b"source", bytes(batch.source)))
    start = b"".join(b'"%b":%b,' % (name, value) for name, value in head if value)
    for point in batch.points:
        yield b'{%b"points":[%b]}' % (start, bytes(point))


def _mask_constants(text: bytes) -> tuple[bytes, bytes]:
    """Make JSON of text with NaN and Infinity, which many senders write: each stands in quotes with a token around it.

    Returns:
        The text, and the token, which the text did not have.
    """
    token = uuid.uuid4().hex.encode()

    def mask(match: re.Match[bytes]) -> bytes:
        found = match[0]
        return found if found.startswith(b'"') else b'"%b%b%b"' % (token, found, token)

    return _STRING_OR_CONSTANT.sub(mask, text), token


def _why_unreadable(piece: bytes, error: Exception) -> RejectedError:
    """The reason for a body of one point; a NaN is a bad value and not a broken text."""
    masked, token = _mask_constants(piece)
    if masked == piece:
        return _rejection(piece, error)
    try:
        _BODY.decode(masked)
    except _UNREADABLE as closer:
        found = _rejection(masked, closer)
        if token.decode() in found.detail:
            return RejectedError(found.reason, "NaN and Infinity are no numbers that JSON knows; leave the point out")
        return found
    return RejectedError(Reason.BAD_ATTRIBUTES, "the attributes have a number that JSON does not know: NaN or Infinity")


def _check_attributes(value: Any, depth: int) -> None:
    if isinstance(value, str):
        if "\x00" in value:
            raise RejectedError(Reason.BAD_ATTRIBUTES, "a text in the attributes has a NUL, which the database refuses")
    elif isinstance(value, dict | list):
        if depth == 0:
            raise RejectedError(Reason.ATTRIBUTES_TOO_DEEP, "the attributes are nested too deeply")
        for child in value.values() if isinstance(value, dict) else value:
            _check_attributes(child, depth - 1)
        if isinstance(value, dict):
            for name in value:
                _check_attributes(name, depth)


def _untimely(micros: int, earliest: int, latest: int) -> RejectedError:
    if micros > LAST_EVENT_TIME or micros < 0:
        return RejectedError(Reason.BAD_EVENT_TIME, "the event time lies before 1970 or after 9999")
    if micros > latest:
        return RejectedError(
            Reason.EVENT_TIME_IN_FUTURE, f"the event time is {(micros - latest) / 1e6:.3f} s past what is allowed"
        )
    return RejectedError(
        Reason.OLDER_THAN_RETENTION, f"the event time is {(earliest - micros) / 1e6:.3f} s older than the retention"
    )


_MARKS: Final = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_STRING_OR_CONSTANT: Final = re.compile(rb'"(?:[^"\\]|\\.)*"|-?Infinity|NaN', re.DOTALL)
_FIELD_REASONS: Final = {
    "event_time": Reason.BAD_EVENT_TIME,
    "value": Reason.BAD_VALUE,
    "attributes": Reason.BAD_ATTRIBUTES,
    "project": Reason.BAD_NAME,
    "source": Reason.BAD_NAME,
    "metric": Reason.BAD_NAME,
}


def _rejection(piece: bytes, error: Exception) -> RejectedError:
    """Why one body could not be read."""
    text = str(error)
    if not isinstance(error, msgspec.ValidationError):
        return RejectedError(Reason.NOT_JSON, advice.of_text(piece, text))
    told = advice.of_shape(piece, text)
    if "missing required field" in text:
        return RejectedError(Reason.MISSING_FIELD, told)
    path = text.rpartition("`$")[2].rstrip("`")
    for name in reversed(path.replace("[...]", "").split(".")):
        if name in _FIELD_REASONS:
            return RejectedError(_FIELD_REASONS[name], told)
    return RejectedError(Reason.WRONG_SHAPE, told)


def _in_their_words(piece: bytes, rejected: RejectedError) -> RejectedError:
    if rejected.detail != MISSING:
        return rejected
    return RejectedError(rejected.reason, advice.of_shape(piece, rejected.detail))


def _dead(message: Message, position: int, data: bytes, rejected: RejectedError) -> DeadLetter:
    return DeadLetter(
        message.message_id,
        position,
        data,
        dict(message.attributes),
        STAGE,
        rejected.reason,
        rejected.detail[:1000],
        message.publish_time,
    )
