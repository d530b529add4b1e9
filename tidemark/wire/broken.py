"""The slow way to read a text: where something is wrong, it is cut into its elements, each of which is read by itself."""

from __future__ import annotations

import codecs
import re
import uuid
from functools import partial
from typing import Any, Final, Protocol

import msgspec

from tidemark.wire import advice
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.body import BODY, MISSING, POINT, UNREADABLE, Body, Point, check_head, named
from tidemark.wire.cut import AFTER_POINTS, Cutter, Piece, before_points
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import Refused, letter_of

_ADVISED_BYTES: Final = 32 << 10
_ADVICE_BYTES: Final = 1 << 10
"""Of malformed elements of so many bytes in all, each counting as the other at least, it is said in the sender's words what
is wrong."""
_A_BATCH: Final = 2
"""Elements as which a batch counts whose head cannot be read: finding its points takes its time."""
_SHAPES: Final = frozenset({Reason.MISSING_FIELD, Reason.WRONG_SHAPE, Reason.EMPTY_MESSAGE})
"""Of what is no point at all."""


class Accepts(Protocol):
    """Takes what could be read, or says why not."""

    def accept(self, item: Body, into: Columns, publish_time: int, now_us: int) -> None:
        """Append the point or points of one body."""

    def accept_points(self, item: Body, points: list[Point], into: Columns, publish_time: int, now_us: int) -> None:
        """Append points of one project and source."""


class OneByOne:
    """The slow way: every element as a body of its own, so that a bad one does not take its neighbours along."""

    def __init__(self, accepts: Accepts, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        self._accepts, self._message, self._into, self._now_us = accepts, message, into, now_us
        self._project = message.attributes.get("project")
        self._text = as_utf8(text)
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
            item = named(BODY.decode(text), self._project)
            self._accepts.accept(item, self._into, self._message.publish_time, self._now_us)
        except RejectedError as rejected:
            self._into.truncate(held)
            if rejected.reason in _SHAPES:
                return self._unreadable(position, text, rejected)
            self._refused.add(position, text, partial(_itself, rejected))
        except UNREADABLE as error:
            return self._unreadable(position, text, error)
        return True

    def _take_batch(self, piece: Piece) -> bool:
        """The points of a batch, each by itself; a head that cannot be read is told once. Whether to go on."""
        assert piece.head is not None
        if not piece.points:
            return self._take(piece.text)
        try:
            item = named(BODY.decode(piece.head), self._project)
            check_head(item)
            if item.points:
                raise RejectedError(Reason.WRONG_SHAPE, "it has `points` twice")
        except RejectedError as rejected:
            self._add_batch(piece, partial(_itself, rejected))
            return True
        except UNREADABLE as error:
            self._add_batch(piece, partial(_why_unreadable, piece.text, error, self._project))
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

    def _take_point(self, item: Body, text: bytes, before: bytes) -> bool:
        position = self._position
        self._position += 1
        held = len(self._into.series)
        try:
            point = POINT.decode(text)
            for name in ("project", "source"):
                if getattr(point, name) not in (msgspec.UNSET, getattr(item, name)):
                    raise RejectedError(
                        Reason.WRONG_SHAPE,
                        f"a batch's {name} stands in its head, and this point of it says another one",
                    )
            if point.points is not msgspec.UNSET:
                raise RejectedError(Reason.WRONG_SHAPE, "a point of a batch has `points` itself")
            self._accepts.accept_points(item, [point], self._into, self._message.publish_time, self._now_us)
        except RejectedError as rejected:
            self._into.truncate(held)
            self._refused.add(position, text, partial(_itself, rejected), before=before)
        except UNREADABLE as error:
            return self._unreadable(position, text, error, before)
        return True

    def _unreadable(self, position: int, text: bytes, error: Exception, before: bytes = b"") -> bool:
        self._advised_left -= max(len(text), _ADVICE_BYTES)
        if self._advised_left >= 0:
            why = partial(_why_unreadable, before + text + AFTER_POINTS if before else text, error, self._project)
        else:
            why = partial(rejection, error)
        self._refused.add(position, text, why, before=before)
        return self._refused.malformed(len(self._into.series) - self._held)


def at_once(message: Message, error: Exception) -> DeadLetter | None:
    """The dead letter of a message whose text is one broken object for sure; None: it needs a closer look.

    The same that `OneByOne` makes of it, in a fifth of the time.

    Args:
        message: Whose data is its text.
        error: Why it is no body.
    """
    text = message.data
    if (
        text[:1] != b"{"
        or text[-1:] != b"}"
        or len(text) > _ADVISED_BYTES
        or text.translate(None, _NO_BRACKETS) != b"{}"
    ):
        return None
    if type(error) is msgspec.DecodeError and b"NaN" not in text and b"Infinity" not in text:
        return letter_of(message, -1, Reason.NOT_JSON, advice.of_text(text, str(error)))
    rejected = _why_unreadable(text, error, message.attributes.get("project"))
    return letter_of(message, -1 if rejected.reason is Reason.NOT_JSON else 0, rejected.reason, rejected.detail)


def as_utf8(text: bytes) -> bytes:
    """Text without its byte order mark; some senders write one, and some of them UTF-16 or UTF-32 after it."""
    if text[:1] == b"{":
        return text
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
    if b"NaN" not in text and b"Infinity" not in text:
        return text, b""
    token = uuid.uuid4().hex.encode()

    def mask(match: re.Match[bytes]) -> bytes:
        found = match[0]
        return found if found.startswith(b'"') else b'"%b%b%b"' % (token, found, token)

    return _STRING_OR_CONSTANT.sub(mask, text), token


def _why_unreadable(piece: bytes, error: Exception, project: str | None) -> RejectedError:
    """The reason for a body of one point, with the message's project; a NaN is a bad value and not a broken text."""
    if isinstance(error, RejectedError):
        if error.detail != MISSING:
            return error
        return RejectedError(error.reason, advice.of_shape(_with_project(piece, project), error.detail))
    masked, token = _mask_constants(piece)
    if masked is piece:
        return _advised(piece, error, project)
    try:
        BODY.decode(masked)
    except UNREADABLE as closer:
        found = _advised(masked, closer, project)
        if token.decode() in found.detail:
            return RejectedError(found.reason, "NaN and Infinity are no numbers that JSON knows; leave it out")
        return found
    return RejectedError(Reason.BAD_ATTRIBUTES, "NaN and Infinity are no numbers that JSON knows; leave them out")


def _with_project(text: bytes, project: str | None) -> bytes:
    """An object with the message's project, which is not what is wrong with it; its own comes later, and counts."""
    if project is None or not text.startswith(b"{") or text[1:].lstrip().startswith(b"}"):
        return text
    return b'{"project":%b,%b' % (msgspec.json.encode(project), text[1:])


_MARKS: Final = {  # the longer first: UTF-32's begins with UTF-16's
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
    codecs.BOM_UTF8: "utf-8-sig",
}
_STRING_OR_CONSTANT: Final = re.compile(rb'"[^"\\]*+(?:\\[\x00-\xff][^"\\]*+)*+(?:"|\Z)|-?Infinity\b|\bNaN\b')
_NO_BRACKETS: Final = bytes(sorted({*range(256)} - {*b"{}[]\n"}))
_FIELD_REASONS: Final = {
    "event_time": Reason.BAD_EVENT_TIME,
    "value": Reason.BAD_VALUE,
    "attributes": Reason.BAD_ATTRIBUTES,
    "project": Reason.BAD_NAME,
    "source": Reason.BAD_NAME,
    "metric": Reason.BAD_NAME,
}


def rejection(error: Exception) -> RejectedError:
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


def _advised(piece: bytes, error: Exception, project: str | None) -> RejectedError:
    """The same in the sender's words."""
    found = rejection(error)
    if found.reason is Reason.NOT_JSON:
        return RejectedError(found.reason, advice.of_text(piece, found.detail))
    return RejectedError(found.reason, advice.of_shape(_with_project(piece, project), found.detail))


def _itself(rejected: RejectedError) -> RejectedError:
    return rejected
