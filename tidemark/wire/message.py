"""A message as Pub/Sub delivered it, and what its attributes say."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

from tidemark.wire.packing import unpacked
from tidemark.wire.reasons import Reason, RejectedError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_EVENT_TIME: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""
LEAST_MS: Final = 10**11
"""An event time that is a number is at least this, in March 1973: what is less are seconds, written since January 1970."""
LEAST_US: Final = LEAST_MS * 1000
_MICROSECOND_DIGITS: Final = 18
_MICROSECOND: Final = timedelta(microseconds=1)


class Message(NamedTuple):
    """One Pub/Sub message.

    Attributes:
        data: The body.
        attributes: As published.
        publish_time: When Pub/Sub accepted it, or the earlier `accepted_time` that its publisher states, in microseconds
            since 1970 UTC.
        message_id: Pub/Sub's own.
        stated: What the `event_time` attribute says, in microseconds; None when it is missing or unreadable.
    """

    data: bytes
    attributes: Mapping[str, str]
    publish_time: int
    message_id: str
    stated: int | None = None

    @property
    def earliest(self) -> int:
        """The element's timestamp: the stated event time, else the publish time."""
        return self.publish_time if self.stated is None else self.stated


def delivered(data: bytes, attributes: Mapping[str, str], published: int, message_id: str) -> Message:
    """A message as it came.

    Args:
        data: The body.
        attributes: As published.
        published: When Pub/Sub accepted it, in microseconds since 1970.
        message_id: Pub/Sub's own.
    """
    accepted = accepted_time(attributes)
    taken = published if accepted is None else min(accepted, published)
    return Message(data, attributes, taken, message_id, event_time(attributes))


def microseconds(moment: datetime) -> int:
    """Exact microseconds since 1970 UTC of an aware `moment`."""
    return (moment - EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The aware UTC datetime of `microseconds` since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)


def to_the_second(us: int | None) -> str | None:
    """A moment in microseconds since 1970 as RFC 3339, for people."""
    return None if us is None else moment(us).isoformat(timespec="seconds").replace("+00:00", "Z")


def moment_s(seconds: int) -> datetime:
    """The same of whole seconds."""
    return EPOCH + timedelta(seconds=seconds)


def event_time(attributes: Mapping[str, str]) -> int | None:
    """The earliest event time in the message, in microseconds, as its sender says; None when missing or unreadable.

    Accepts what Pub/Sub's `timestamp_attribute` accepts: milliseconds since 1970, or RFC 3339 with a zone.
    """
    text = attributes.get("event_time", "")
    if text.isascii() and text.isdigit() and len(text) <= 15:
        if int(text) < LEAST_MS:
            return None  # seconds: taken for milliseconds they would hold the watermark in 1970
        micros = int(text) * 1000
    else:
        try:
            parsed = datetime.fromisoformat(text)
        except ValueError:
            return None
        if parsed.tzinfo is None:
            return None
        micros = microseconds(parsed)
    return micros if 0 <= micros <= LAST_EVENT_TIME else None


def accepted_time(attributes: Mapping[str, str]) -> int | None:
    """When the publisher took responsibility for the message, in microseconds since 1970, as it says; None: it does not.

    What is too small to be microseconds is none: taken for 1970 it would lose against everything.
    """
    text = attributes.get("accepted_time", "")
    if not text.isascii() or not text.isdigit() or len(text) > _MICROSECOND_DIGITS:
        return None
    micros = int(text)
    return micros if micros >= LEAST_US else None


def body(message: Message, max_bytes: int) -> bytes:
    """The message's JSON text: `data` without its `content_encoding`.

    Raises:
        RejectedError: empty, larger than `max_bytes` before or after decompression, or not what it says it is.
    """
    if len(message.data) > max_bytes:
        raise RejectedError(Reason.MESSAGE_TOO_LARGE, f"{len(message.data)} bytes, at most {max_bytes} are taken")
    encoding = message.attributes.get("content_encoding")
    text = unpacked(message.data, encoding, max_bytes) if encoding else message.data
    if not text or text.isspace():
        raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no text")
    return text
