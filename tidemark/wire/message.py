"""A message as Pub/Sub delivered it, and what its attributes say."""

from __future__ import annotations

import zlib
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Final, NamedTuple

import zstandard

from tidemark.wire.reasons import Reason, RejectedError

EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
LAST_EVENT_TIME: Final = 253_402_300_799_999_999
"""The last microsecond of the year 9999."""
_MICROSECOND: Final = timedelta(microseconds=1)


class Message(NamedTuple):
    """One Pub/Sub message.

    Attributes:
        data: The body.
        attributes: As published.
        publish_time: When Pub/Sub accepted it, in microseconds since 1970 UTC.
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


def microseconds(moment: datetime) -> int:
    """Exact microseconds since 1970 UTC of an aware `moment`."""
    return (moment - EPOCH) // _MICROSECOND


def moment(microseconds: int) -> datetime:
    """The aware UTC datetime of `microseconds` since 1970."""
    return EPOCH + timedelta(microseconds=microseconds)


def moment_s(seconds: int) -> datetime:
    """The same of whole seconds."""
    return EPOCH + timedelta(seconds=seconds)


def event_time(attributes: Mapping[str, str]) -> int | None:
    """The earliest event time in the message, in microseconds, as its sender says; None when missing or unreadable.

    Accepts what Pub/Sub's `timestamp_attribute` accepts: milliseconds since 1970, or RFC 3339 with a zone.
    """
    text = attributes.get("event_time", "")
    if text.isascii() and text.isdigit() and len(text) <= 15:
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


def body(message: Message, max_bytes: int) -> bytes:
    """The message's JSON text: `data` without its `content_encoding` (gzip, zstd or none).

    Raises:
        RejectedError: empty, larger than `max_bytes` before or after decompression, or not what it says it is.
    """
    data = message.data
    encoding = message.attributes.get("content_encoding", "")
    if len(data) > max_bytes:
        raise RejectedError(Reason.MESSAGE_TOO_LARGE, f"{len(data)} bytes, at most {max_bytes} are taken")
    if encoding == "gzip":
        data = _gunzip(data, max_bytes)
    elif encoding == "zstd":
        data = _unzstd(data, max_bytes)
    elif encoding not in ("", "identity"):
        raise RejectedError(Reason.UNKNOWN_ENCODING, f"content_encoding {encoding[:100]!r}; gzip and zstd are known")
    if len(data) > max_bytes:
        raise RejectedError(Reason.MESSAGE_TOO_LARGE, f"more than {max_bytes} bytes after decompression")
    if not data or data.isspace():
        raise RejectedError(Reason.EMPTY_MESSAGE, "the body has no text")
    return data


def _gunzip(data: bytes, max_bytes: int) -> bytes:
    stream = zlib.decompressobj(wbits=31)
    try:
        plain = stream.decompress(data, max_bytes + 1)
    except zlib.error as error:
        raise RejectedError(Reason.BAD_COMPRESSION, str(error)) from None
    if len(plain) <= max_bytes and not stream.eof:
        raise RejectedError(Reason.BAD_COMPRESSION, "the gzip stream is cut short")
    if stream.unused_data:
        raise RejectedError(Reason.BAD_COMPRESSION, "something follows the gzip stream")
    return plain


def _unzstd(data: bytes, max_bytes: int) -> bytes:
    try:
        with zstandard.ZstdDecompressor(max_window_size=1 << 27).stream_reader(data, read_across_frames=True) as stream:
            return stream.read(max_bytes + 1)
    except zstandard.ZstdError as error:
        raise RejectedError(Reason.BAD_COMPRESSION, str(error)) from None
