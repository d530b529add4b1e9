"""From a message's bytes to columns of points, or to dead letters that keep the bytes.

A body is one JSON object, an array of them, or objects one after the other, one a line or not. An object is a point
`{"project","source","metric","event_time","value","attributes"?}` or a batch that shares its head
`{"project","source","points":[{"metric","event_time","value","attributes"?}, …]}`. Unknown fields are ignored.

What is right is read at once, by one call. Only where something is wrong the text is cut into its elements
(`tidemark.wire.cut`), each of which is then read by itself.
"""

from __future__ import annotations

import codecs
import re
import uuid
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Final

import msgspec

from tidemark.wire import advice
from tidemark.wire.block import Columns, DeadLetter, SeriesKey
from tidemark.wire.cut import AFTER_POINTS, Cutter, Piece, before_points
from tidemark.wire.limits import DEFAULT, MAX_VALUE, Limits, untimely
from tidemark.wire.message import LEAST_MS, Message, body, microseconds
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import Refused, whole

_MANY: Final = 8
"""Points of one body from which on columns pay."""
_LEAST_US: Final = LEAST_MS * 1000
_ADVISED_BYTES: Final = 32 << 10
_ADVICE_BYTES: Final = 1 << 10
"""Of malformed elements of so many bytes in all, each counting as the other at least, it is said in the sender's words what
is wrong."""
_A_BATCH: Final = 2
"""Elements as which a batch counts whose head cannot be read: finding its points takes its time."""

_EventTime = int | Annotated[datetime, msgspec.Meta(tz=True)]


class _Point(msgspec.Struct, gc=False):
    metric: str
    event_time: _EventTime
    value: float
    attributes: dict[str, Any] | None = None


class _NamedPoint(_Point, gc=False):
    """With what stands in a batch's head, or is a batch of its own."""

    project: str | msgspec.UnsetType = msgspec.UNSET
    source: str | msgspec.UnsetType = msgspec.UNSET
    points: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET


class _Body(msgspec.Struct):
    project: str
    source: str
    metric: str | msgspec.UnsetType = msgspec.UNSET
    event_time: _EventTime | msgspec.UnsetType = msgspec.UNSET
    value: float | msgspec.UnsetType = msgspec.UNSET
    attributes: dict[str, Any] | None = None
    points: list[_Point] | msgspec.UnsetType = msgspec.UNSET


_BODY: Final = msgspec.json.Decoder(_Body)
_BODIES: Final = msgspec.json.Decoder(list[_Body])
_POINT: Final = msgspec.json.Decoder(_NamedPoint)
_UNREADABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
_SHAPES: Final = frozenset({Reason.MISSING_FIELD, Reason.WRONG_SHAPE, Reason.EMPTY_MESSAGE})
"""Of what is no point at all."""
_HEAD_NAMES: Final = (b'"project"', b'"source"', b'"points"')
MISSING: Final = "a point needs metric, event_time and value"


@dataclass(frozen=True)
class Decoder:
    """Fills columns from messages; never raises for what a message contains.

    Guarantee: the time is linear in the bytes, whatever they are; every element becomes points or is in a dead letter; all
    dead letters of a message are no more than about twice its size.
    """

    limits: Limits = DEFAULT

    def decode(self, message: Message, into: Columns, now_us: int) -> None:
        """Append the points of `message` to `into`, and dead letters for all that cannot be one.

        Args:
            message: As delivered.
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.
        """
        held = len(into.series)
        try:
            text = body(message, self.limits.max_message_bytes)
            try:
                items = _parse(text)
                _refuse_misplaced(items, text)
                for item in items:
                    self._accept(item, into, message.publish_time, now_us)
                if len(into.series) == held:
                    raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no points")
            except (RejectedError, *_UNREADABLE):
                into.truncate(held)
                _OneByOne(self, message, text, into, now_us).decode()
        except RejectedError as rejected:
            into.dead_letters.append(whole(message, rejected))

    def _accept(self, item: _Body, into: Columns, publish_time: int, now_us: int) -> None:
        """Append the point or points of one body."""
        if item.points is msgspec.UNSET:
            if item.metric is msgspec.UNSET or item.event_time is msgspec.UNSET or item.value is msgspec.UNSET:
                raise RejectedError(Reason.MISSING_FIELD, MISSING)
            points = [_Point(item.metric, item.event_time, item.value, item.attributes)]
        else:
            _check_head(item)
            points = item.points
            if not points:
                raise RejectedError(Reason.EMPTY_MESSAGE, "the batch has no points")
        self.accept_points(item, points, into, publish_time, now_us)

    def accept_points(self, item: _Body, points: list[_Point], into: Columns, publish_time: int, now_us: int) -> None:
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
                if not max(earliest, _LEAST_US) <= micros <= latest:
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
        self, item: _Body, points: list[_Point], into: Columns, publish_time: int, earliest: int, latest: int
    ) -> bool:
        """Append all points column by column; False: one of them needs a closer look, and nothing was appended."""
        stated = [point.event_time for point in points]
        values = [point.value for point in points]
        try:
            micros = [at * 1000 for at in stated]  # type: ignore[operator]  # a datetime raises TypeError
            earliest = max(earliest, _LEAST_US)
        except TypeError:
            micros = [at * 1000 if isinstance(at, int) else microseconds(at) for at in stated]
            if min((at for at in stated if isinstance(at, int)), default=LEAST_MS) < LEAST_MS:
                return False
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
        into.attributes += [self.limits.canonical(some) if some else None for some in attributes]
        into.series += series  # type: ignore[arg-type]  # none of them is None
        into.event_time += micros
        into.publish_time += [publish_time] * len(points)
        into.value += values
        return True

    def _number(self, item: _Body, metric: str, metrics: dict[str, int], into: Columns) -> int:
        """A number for a series whose name is good."""
        if not metrics:
            self.limits.check_name("project", item.project)
            self.limits.check_name("source", item.source)
        self.limits.check_name("metric", metric)
        return into.number(SeriesKey(item.project, item.source, metric), metrics)


def _check_head(item: _Body) -> None:
    """Refuse what is a batch and a point at once: nobody could say what is meant."""
    for name in ("metric", "event_time", "value"):
        if getattr(item, name) is not msgspec.UNSET:
            raise RejectedError(Reason.WRONG_SHAPE, f"it has `points` and `{name}`: it is a batch or a point, not both")
    if item.attributes:
        raise RejectedError(Reason.WRONG_SHAPE, "a batch's attributes stand in each of its points")


def _refuse_misplaced(items: list[_Body], text: bytes) -> None:
    """Have batches looked at point by point where the names of their heads may stand in points as well.

    Raises:
        RejectedError: they may.
    """
    if any(text.count(name) > len(items) for name in _HEAD_NAMES) and any(i.points is not msgspec.UNSET for i in items):
        raise RejectedError(Reason.WRONG_SHAPE, "")


class _OneByOne:
    """The slow way: every element as a body of its own, so that a bad one does not take its neighbours along."""

    def __init__(self, decoder: Decoder, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        self._decoder, self._message, self._into, self._now_us = decoder, message, into, now_us
        self._text = _as_utf8(text)
        self._refused = Refused(message, self._text)
        self._held = len(into.series)
        self._position = 0
        self._values = 0
        """Elements that begin with a bracket."""
        self._advised_left = _ADVISED_BYTES
        self._stopped_in_batch: tuple[int, bytes] | tuple[()] = ()
        """Behind which of its points, and its head."""

    def decode(self) -> None:
        """Append points and dead letters.

        Raises:
            RejectedError: there is nothing in the text, or nothing that could be an element.
        """
        cutter = Cutter(self._text)
        for piece in cutter:
            if piece.rest:
                self._refused.rest(self._position, piece.text)
                break
            self._values += piece.text[:1] in (b"{", b"[")
            go_on = self._take_batch(piece) if piece.head is not None else self._take(piece.text)
            if not go_on:
                left = cutter.rest(*self._stopped_in_batch)
                if left:
                    self._refused.rest(self._position, left)
                break
        letters = self._refused.letters()
        if len(self._into.series) == self._held:
            self._nothing_was_accepted(letters)
        self._into.dead_letters += letters

    def _nothing_was_accepted(self, letters: list[DeadLetter]) -> None:
        """Refuse a message as a whole of which there is no more to say than of its whole text."""
        if not letters:
            raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no points")
        if len(letters) == 1 and letters[0].reason is Reason.NOT_JSON:
            raise RejectedError(Reason.NOT_JSON, letters[0].detail)
        texts = all(letter.reason in (Reason.NOT_JSON, Reason.TOO_MANY_REFUSED) for letter in letters)
        if not self._position or (self._position > 1 and not self._values and texts):
            said = "no point begins anywhere in it" if self._position else "it is hardly anything but brackets"
            raise RejectedError(Reason.NOT_JSON, advice.of_text(self._text, said))

    def _take(self, text: bytes) -> bool:
        """One element that is no batch whose points could be found; whether to go on."""
        position = self._position
        self._position += 1
        held = len(self._into.series)
        try:
            item = _BODY.decode(text)
            self._decoder._accept(item, self._into, self._message.publish_time, self._now_us)  # noqa: SLF001
        except RejectedError as rejected:
            self._into.truncate(held)
            if rejected.reason in _SHAPES:
                return self._unreadable(position, text, rejected)
            self._refused.add(position, text, partial(_itself, rejected))
        except _UNREADABLE as error:
            return self._unreadable(position, text, error)
        return True

    def _take_batch(self, piece: Piece) -> bool:
        """The points of a batch, each by itself; a head that cannot be read is told once. Whether to go on."""
        assert piece.head is not None
        if not piece.points:
            return self._take(piece.text)
        try:
            item = _BODY.decode(piece.head)
            _check_head(item)
            if item.points:
                raise RejectedError(Reason.WRONG_SHAPE, "it has `points` twice")
        except RejectedError as rejected:
            self._add_batch(piece, partial(_itself, rejected))
            return True
        except _UNREADABLE as error:
            self._add_batch(piece, partial(_why_unreadable, piece.text, error))
            return self._refused.malformed(len(self._into.series) - self._held, _A_BATCH)
        before = before_points(piece.head)
        for at in range(0, len(piece.points), 2):
            start, end = piece.points[at : at + 2]
            if not self._take_point(item, self._text[start:end].rstrip(), before):
                self._stopped_in_batch = (end, piece.head)
                return False
        return True

    def _add_batch(self, piece: Piece, why: Any) -> None:
        number = len(piece.points) // 2
        self._refused.add(self._position, piece.text, why, number)
        self._position += number

    def _take_point(self, item: _Body, text: bytes, before: bytes) -> bool:
        position = self._position
        self._position += 1
        held = len(self._into.series)
        try:
            point = _POINT.decode(text)
            for name in ("project", "source"):
                if getattr(point, name) not in (msgspec.UNSET, getattr(item, name)):
                    raise RejectedError(
                        Reason.WRONG_SHAPE,
                        f"a batch's {name} stands in its head, and this point of it says another one",
                    )
            if point.points is not msgspec.UNSET:
                raise RejectedError(Reason.WRONG_SHAPE, "a point of a batch has `points` itself")
            self._decoder.accept_points(item, [point], self._into, self._message.publish_time, self._now_us)
        except RejectedError as rejected:
            self._into.truncate(held)
            self._refused.add(position, text, partial(_itself, rejected), before=before)
        except _UNREADABLE as error:
            return self._unreadable(position, text, error, before)
        return True

    def _unreadable(self, position: int, text: bytes, error: Exception, before: bytes = b"") -> bool:
        self._advised_left -= max(len(text), _ADVICE_BYTES)
        if self._advised_left >= 0:
            why = partial(_why_unreadable, before + text + AFTER_POINTS if before else text, error)
        else:
            why = partial(_rejection, text, error)
        self._refused.add(position, text, why, before=before)
        return self._refused.malformed(len(self._into.series) - self._held)


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
        plain = text.decode(encoding).encode()
    except UnicodeError:
        return text
    is_mark = not plain.strip() or b"{" in plain or b"[" in plain  # and not two bytes of rubbish
    return plain if is_mark else text


def _mask_constants(text: bytes) -> tuple[bytes, bytes]:
    """Make JSON of text with NaN and Infinity, which many senders write: each stands in quotes with a token around it.

    Returns:
        The text, and the token, which the text did not have.
    """
    token = uuid.uuid4().hex.encode()
    if b"NaN" not in text and b"Infinity" not in text:
        return text, token

    def mask(match: re.Match[bytes]) -> bytes:
        found = match[0]
        return found if found.startswith(b'"') else b'"%b%b%b"' % (token, found, token)

    return _STRING_OR_CONSTANT.sub(mask, text), token


def _why_unreadable(piece: bytes, error: Exception) -> RejectedError:
    """The reason for a body of one point; a NaN is a bad value and not a broken text."""
    if isinstance(error, RejectedError):
        return RejectedError(error.reason, advice.of_shape(piece, error.detail)) if error.detail == MISSING else error
    masked, token = _mask_constants(piece)
    if masked == piece:
        return _advised(piece, error)
    try:
        _BODY.decode(masked)
    except _UNREADABLE as closer:
        found = _advised(masked, closer)
        if token.decode() in found.detail:
            return RejectedError(found.reason, "NaN and Infinity are no numbers that JSON knows; leave it out")
        return found
    return RejectedError(Reason.BAD_ATTRIBUTES, "NaN and Infinity are no numbers that JSON knows; leave them out")


_MARKS: Final = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_STRING_OR_CONSTANT: Final = re.compile(rb'"[^"\\]*+(?:\\[\x00-\xff][^"\\]*+)*+(?:"|\Z)|-?Infinity\b|\bNaN\b')
_FIELD_REASONS: Final = {
    "event_time": Reason.BAD_EVENT_TIME,
    "value": Reason.BAD_VALUE,
    "attributes": Reason.BAD_ATTRIBUTES,
    "project": Reason.BAD_NAME,
    "source": Reason.BAD_NAME,
    "metric": Reason.BAD_NAME,
}


def _rejection(_piece: bytes, error: Exception) -> RejectedError:
    """Why one body could not be read, in the decoder's words."""
    if isinstance(error, RejectedError):
        return error
    text = str(error)
    if isinstance(error, RecursionError):
        return RejectedError(Reason.ATTRIBUTES_TOO_DEEP, "it is nested too deeply")
    if not isinstance(error, msgspec.ValidationError):
        return RejectedError(Reason.NOT_JSON, text)
    if "missing required field" in text:
        return RejectedError(Reason.MISSING_FIELD, text)
    path = text.rpartition("`$")[2].rstrip("`")
    for name in reversed(path.replace("[...]", "").split(".")):
        if name in _FIELD_REASONS:
            return RejectedError(_FIELD_REASONS[name], text)
    return RejectedError(Reason.WRONG_SHAPE, text)


def _advised(piece: bytes, error: Exception) -> RejectedError:
    """The same in the sender's words."""
    found = _rejection(piece, error)
    say = advice.of_text if found.reason is Reason.NOT_JSON else advice.of_shape
    return RejectedError(found.reason, say(piece, found.detail))


def _itself(rejected: RejectedError) -> RejectedError:
    return rejected
