"""Points of an archive: their publish time is the one that they say, or else their event time.

So what came live wins over an archive, and an archive that is loaded once more changes nothing. A body is one of the contract
that may say `publish_time`, as its `event_time` is written; in a batch each point may. Nobody else's is believed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Final

import msgspec
import numpy as np
from msgspec import UNSET

from tidemark.wire.block import Columns
from tidemark.wire.body import NO_PROJECT, UNREADABLE, BatchPoint, Body, EventTime, named
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import LAST_EVENT_TIME, LEAST_MS, LEAST_US, Message, body, microseconds, to_the_second
from tidemark.wire.reasons import Reason, RejectedError
from tidemark.wire.refused import whole

ARCHIVE: Final = "archive:"
"""How the message ids of what is read from archives begin; those of Pub/Sub are numbers."""
_FIELD: Final = b'"publish_time"'


class _ArchivedPoint(BatchPoint, gc=False):
    """Of a batch in which no point says its own."""

    publish_time: None = None


class _Archived(Body, kw_only=True, gc=False):
    publish_time: EventTime | None = None
    points: list[_ArchivedPoint] | msgspec.UnsetType = UNSET  # type: ignore[assignment]  # with one field more


class _Says(msgspec.Struct, gc=False):
    """What a body says of its publish time."""

    publish_time: EventTime | None = None


_LINES: Final = msgspec.json.Decoder(_Archived)
_SAYS: Final = msgspec.json.Decoder(_Says)


def is_archived(message_id: str) -> bool:
    """Whether what bears this id was read from an archive."""
    return message_id.startswith(ARCHIVE)


def archived(
    file: str, part: int, begin: int, line: int | None, text: bytes, project: str | None, now_us: int
) -> Message:
    """JSON texts of an archive, one a line, as a message.

    Args:
        file: Its path or address.
        part: Which part of it.
        begin: Where in the part the text begins.
        line: Its first line's number in the file, if it is known.
        text: The lines.
        project: Whose points are that say none.
        now_us: When it is read, in microseconds since 1970.
    """
    attributes = {"file": file}
    if line is not None:
        attributes["line"] = str(line)
    if project is not None:
        attributes["project"] = project
    return Message(text, attributes, now_us, f"{ARCHIVE}{file}{f'#{part}' if part else ''}@{begin}")


def lines(message: Message) -> list[Message]:
    """Each line that is not blank as a message of its own, with its number where the first one's is known."""
    first = message.attributes.get("line")
    begin = None if first is None else int(first)
    made = []
    for place, text in enumerate(message.data.split(b"\n")):
        if text and not text.isspace():
            attributes = message.attributes if begin is None else {**message.attributes, "line": str(begin + place)}
            made.append(message._replace(data=text, attributes=attributes, message_id=f"{message.message_id}+{place}"))
    return made


@dataclass(frozen=True)
class ArchiveDecoder:
    """Fills columns from texts of archives; never raises for what they contain.

    Attributes:
        limits: The bounds of the contract. A publish time may be no later than when it is read, but for `max_future_us`.
    """

    limits: Limits
    _decoder: Decoder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_decoder", Decoder(self.limits))

    def decode(self, message: Message, into: Columns, now_us: int) -> bool:
        """Append the points of `message` to `into`, and dead letters for all that cannot be one.

        Args:
            message: Of one line or many; its publish time is when it is read.
            into: Filled in place.
            now_us: The clock in microseconds, from which the retention is counted.

        Returns:
            Whether all of it was read at once.
        """
        held = len(into.series)
        try:
            self.accept_lines(message, body(message, self.limits.max_message_bytes), into, now_us)
        except (RejectedError, *UNREADABLE):
            into.truncate(held)
        else:
            if len(into.series) > held:
                return True
        if b"\n" in message.data:
            self._decode_lines(lines(message), into, now_us)
        else:
            self._decode_one(message, into, now_us)
        return False

    def accept_lines(self, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        """Append points and batches, one a line.

        Raises:
            RejectedError, msgspec.DecodeError, UnicodeDecodeError, RecursionError: not all of it is right; some of it may
                have been appended.
        """
        items = _LINES.decode_lines(text)
        project = message.attributes.get("project")
        for item in items:
            if item.project is NO_PROJECT:
                named(item, project)
        if _FIELD in text:
            stated = [item.publish_time for item in items]
            published = np.array([self._published(one, message) for one in stated], np.int64)
        else:
            stated = [None] * len(items)
            published = np.full(len(items), message.publish_time, np.int64)
        held = len(into.series)
        if items and self._decoder.columns.points(items, published, into, now_us):
            _stamp(into, held, [one is None for one in stated] if any(stated) else None)
            return
        for item, said, at in zip(items, stated, published.tolist(), strict=True):
            begin = len(into.series)
            self._decoder.accept(item, into, at, now_us)
            if said is None:
                _stamp(into, begin)

    def _published(self, said: Any, message: Message) -> int:
        """A stated publish time in microseconds; that of the message where none is.

        Raises:
            RejectedError: it cannot be one.
        """
        if said is None:
            return message.publish_time
        if isinstance(said, datetime):
            micros = microseconds(said)
        elif said < LEAST_MS:
            raise RejectedError(
                Reason.BAD_PUBLISH_TIME, f"`publish_time` {said} looks like seconds; milliseconds are wanted, or a text"
            )
        else:
            micros = said * 1000
        latest = message.publish_time + self.limits.max_future_us
        if not LEAST_US <= micros <= min(latest, LAST_EVENT_TIME):
            shown = to_the_second(micros) if 0 <= micros <= LAST_EVENT_TIME else said
            raise RejectedError(
                Reason.BAD_PUBLISH_TIME,
                f"`publish_time` {shown} is not between 1973 and {to_the_second(latest)}, when it was read",
            )
        return micros

    def _decode_lines(self, messages: Sequence[Message], into: Columns, now_us: int) -> None:
        held = len(into.series)
        self._decoder.decode_all([one for one in messages if _FIELD not in one.data], into, now_us)
        _stamp(into, held)
        for one in messages:
            if _FIELD in one.data:
                self._decode_one(one, into, now_us)

    def _decode_one(self, message: Message, into: Columns, now_us: int) -> None:
        """One line; where points of a batch say their own publish times, each of them by itself."""
        parts = _apart(message)
        if parts:
            for place, one in enumerate(parts):
                begin = len(into.dead_letters)
                self._decode_one(one, into, now_us)
                into.dead_letters[begin:] = [letter._replace(position=place) for letter in into.dead_letters[begin:]]
            return
        at, says = message.publish_time, None
        try:
            if _FIELD in message.data:
                says = _SAYS.decode(message.data).publish_time
                at = self._published(says, message)
        except RejectedError as rejected:
            into.dead_letters.append(whole(message, rejected))
            return
        except UNREADABLE as error:
            if "`$.publish_time`" in str(error):
                told = "`publish_time` is a number of milliseconds or a text like 2026-01-31T12:00:00Z"
                into.dead_letters.append(whole(message, RejectedError(Reason.BAD_PUBLISH_TIME, told)))
                return
        held = len(into.series)
        self._decoder.decode(message._replace(publish_time=at), into, now_us)
        if says is None:
            _stamp(into, held)


@dataclass(frozen=True)
class AsItCame:
    """Reads a message as the one by whom it was read first, which its id tells: an archive's, or one that came live."""

    limits: Limits
    _live: Decoder = field(init=False)
    _archived: ArchiveDecoder = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_live", Decoder(self.limits))
        object.__setattr__(self, "_archived", ArchiveDecoder(self.limits))

    def accept_lines(self, message: Message, text: bytes, into: Columns, now_us: int) -> None:
        """Append points and batches, one a line, or raise."""
        self._of(message).accept_lines(message, text, into, now_us)

    def decode(self, message: Message, into: Columns, now_us: int) -> bool:
        """Append points, and dead letters."""
        return self._of(message).decode(message, into, now_us)

    def _of(self, message: Message) -> Decoder | ArchiveDecoder:
        return self._archived if is_archived(message.message_id) else self._live


def _apart(message: Message) -> list[Message]:
    """The points of a batch of which one says its own publish time, as bodies of their own, which say what its head does."""
    if b'"points"' not in message.data or _FIELD not in message.data:
        return []
    try:
        found = msgspec.json.decode(message.data)
    except UNREADABLE:
        return []
    points = found.get("points") if isinstance(found, dict) else None
    if not isinstance(points, list) or not any(isinstance(one, dict) and "publish_time" in one for one in points):
        return []
    head = {name: said for name, said in found.items() if name != "points"}
    parts = [{**head, **one} if isinstance(one, dict) else one for one in points]
    return [message._replace(data=msgspec.json.encode(one)) for one in parts]


def _stamp(into: Columns, begin: int, which: Sequence[bool] | None = None) -> None:
    """Publish points when they happened: all from `begin` on, or those of `which`."""
    if which is None:
        into.publish_time[begin:] = into.event_time[begin:]
    else:
        for place, says_nothing in enumerate(which, begin):
            if says_nothing:
                into.publish_time[place] = into.event_time[place]
