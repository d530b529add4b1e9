"""What becomes of the elements of a message that cannot be accepted: dead letters, in all about as large as the message.

Each refused element is a dead letter of its own, with its own bytes, as long as all of them together, each with the
message's attributes, are no larger than the message; further ones are one dead letter together. A text in which more
elements are no points at all than `_MALFORMED` allows is not looked at to its end: its rest is in that letter as well.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator
from operator import itemgetter
from typing import Final

from tidemark.wire.block import DeadLetter
from tidemark.wire.cut import AFTER_POINTS
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason, RejectedError

STAGE: Final = "decode"
DETAIL_CHARACTERS: Final = 500
_FREE_BYTES: Final = 32 << 10
_ROW_BYTES: Final = 128
"""Of a dead letter beside its data, attributes and detail."""
_MALFORMED: Final = 100
_BYTES_A_MALFORMED: Final = 300
_FOR_EACH_GOOD: Final = 2
"""Elements that are no points: so many, one for so many bytes of text, and two for each point that was accepted."""


class Refused:
    """The refused elements of one message.

    Args:
        message: Which they are of.
        text: Its text; when the message was packed, its bytes are kept and not those of the rest.
        stage: Where it is refused.
    """

    def __init__(self, message: Message, text: bytes, stage: str = STAGE) -> None:
        self._message, self._stage = message, stage
        self._packed = text is not message.data and bool(message.attributes.get("content_encoding"))
        self._attributes = dict(message.attributes)
        self._attributes_bytes = sum(len(name) + len(value) for name, value in self._attributes.items())
        self._left = _FREE_BYTES + len(message.data) + self._attributes_bytes
        self._malformed_left = _MALFORMED + len(text) // _BYTES_A_MALFORMED
        self._letters: list[DeadLetter] = []
        self._others: list[tuple[bytes, bytes]] = []
        self._first_other = 0
        self._number_of_others = 0
        self._unread = b""

    def add(
        self, position: int, text: bytes, why: Callable[[], RejectedError], points: int = 1, before: bytes = b""
    ) -> None:
        """Keep an element.

        Args:
            position: Its place in the message.
            text: Its bytes.
            why: Asked only where there is room to say it.
            points: How many it counts as.
            before: Of a point of a batch: what makes a text of its own of it, with `AFTER_POINTS` behind it.
        """
        if self._left > 0:
            letter = self._letter(position, before + text + AFTER_POINTS if before else text, why(), points)
            self._left -= len(letter.data) + len(letter.detail) + self._attributes_bytes + _ROW_BYTES
            if self._left <= 0 and not self._letters and self._packed:
                letter = letter._replace(data=self._message.data)
            if self._left > 0 or not self._letters:
                self._letters.append(letter)
                return
        self._others_begin(position)
        if not self._packed:
            self._others.append((before, text))
        self._number_of_others += points

    def malformed(self, accepted: int, elements: int = 1) -> bool:
        """Count an element that is no point at all; whether the text is still worth to be looked at.

        Args:
            accepted: Points of the message that were accepted by now.
            elements: As how many it counts.
        """
        self._malformed_left -= elements
        return self._malformed_left + _FOR_EACH_GOOD * accepted > 0

    def rest(self, position: int, text: bytes) -> None:
        """Keep what was not looked at."""
        self._others_begin(position)
        self._unread = text
        self._number_of_others += 1

    def letters(self) -> list[DeadLetter]:
        """All of them."""
        if not self._number_of_others:
            return self._letters
        unread = f", and {len(self._unread)} bytes were not looked at" if self._unread else ""
        several = self._number_of_others - bool(self._unread)
        where = "they are in this whole message" if self._packed else "they are here together"
        rejected = RejectedError(
            Reason.TOO_MANY_REFUSED, f"{several} more points of the message were refused{unread}; {where}"
        )
        data = self._message.data if self._packed else b"\n".join(self._together())
        return [*self._letters, self._letter(self._first_other, data, rejected, self._number_of_others)]

    def _together(self) -> Iterator[bytes]:
        """The others as texts, those of one batch as a batch."""
        for before, some in itertools.groupby(self._others, key=itemgetter(0)):
            texts = [text for _, text in some]
            if before:
                yield before + b",".join(texts) + AFTER_POINTS
            else:
                yield from texts
        if self._unread:
            yield self._unread

    def _others_begin(self, position: int) -> None:
        if not self._number_of_others:
            self._first_other = position

    def _letter(self, position: int, data: bytes, rejected: RejectedError, points: int) -> DeadLetter:
        return DeadLetter(
            self._message.message_id,
            position,
            data,
            self._attributes,
            self._stage,
            rejected.reason,
            rejected.detail[:DETAIL_CHARACTERS],
            self._message.publish_time,
            points,
        )


def whole(message: Message, rejected: RejectedError, stage: str = STAGE) -> DeadLetter:
    """The dead letter of a message of which no element could be read."""
    return letter_of(message, -1, rejected.reason, rejected.detail, stage)


def letter_of(message: Message, position: int, reason: Reason, detail: str, stage: str = STAGE) -> DeadLetter:
    """The dead letter of a message with all its data."""
    return DeadLetter(
        message.message_id,
        position,
        message.data,
        dict(message.attributes),
        stage,
        reason,
        detail[:DETAIL_CHARACTERS],
        message.publish_time,
    )
