"""Messages as the bytes they travel in: read once, stamped once, and put together to a response by concatenation.

Field numbers are those of google/pubsub/v1/pubsub.proto.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Any, Final, NamedTuple

from google.protobuf.message import DecodeError
from google.pubsub_v1 import types

from tidemark.bus.messages import varint
from tidemark.errors import RefusedError

PUBLISH_BYTES: Final = 10_000_000
PUBLISH_MESSAGES: Final = 1000
ATTRIBUTES: Final = 100
ATTRIBUTE_KEY_BYTES: Final = 256
ATTRIBUTE_VALUE_BYTES: Final = 1024
ORDERING_KEY_BYTES: Final = 1024
"""https://cloud.google.com/pubsub/quotas#resource_limits"""
_ACK_ID_BYTES: Final = 19
_ID_DIGITS: Final = 16
_NAME: Final = re.compile(r"projects/[^/\s]+/(topics|subscriptions)/(?!goog)[A-Za-z][A-Za-z0-9\-_.~+%]{2,254}")
_PROJECT: Final = re.compile(r"projects/[^/\s]+")

PublishRequest: Final = types.PublishRequest.pb()


class Message(NamedTuple):
    """A published message; the subscriptions of its topic share it."""

    number: int
    """Its message_id."""
    body: bytes
    """Field 2 of ReceivedMessage, tag and length included: the PubsubMessage with its id and publish time."""
    key: str
    """Its ordering key, empty without one."""
    published_ns: int


def parsed(kind: Any, request: bytes) -> Any:
    """A request from its bytes.

    Raises:
        RefusedError: it is not of that kind.
    """
    try:
        return kind.FromString(request)
    except DecodeError:
        raise RefusedError(f"This is not a {kind.DESCRIPTOR.name}.", code="INVALID_ARGUMENT") from None


def named(name: str, collection: str) -> str:
    """The name, when it is one of `topics` or `subscriptions`.

    Raises:
        RefusedError: it is not.
    """
    found = _NAME.fullmatch(name)
    if found is None or found[1] != collection:
        raise RefusedError(
            f"Invalid name {name!r}: it must be projects/PROJECT/{collection}/ID, with an ID of 3 to 255 letters, digits "
            "or -_.~+% that begins with a letter and not with goog.",
            code="INVALID_ARGUMENT",
        )
    return name


def project(name: str) -> str:
    """The name, when it is a project's.

    Raises:
        RefusedError: it is not.
    """
    if not _PROJECT.fullmatch(name):
        raise RefusedError(f"Invalid name {name!r}: it must be projects/PROJECT.", code="INVALID_ARGUMENT")
    return name


def check(request: Any, size: int) -> None:
    """Hold a publish request to Pub/Sub's limits.

    Raises:
        RefusedError: it is over one of them, or a message is empty.
    """
    if size > PUBLISH_BYTES:
        raise RefusedError(f"The request has {size} bytes, over the {PUBLISH_BYTES} allowed.", code="INVALID_ARGUMENT")
    count = len(request.messages)
    if not 1 <= count <= PUBLISH_MESSAGES:
        raise RefusedError(f"A request has 1 to {PUBLISH_MESSAGES} messages, not {count}.", code="INVALID_ARGUMENT")


def _check_message(message: Any) -> None:
    attributes = message.attributes
    if not (message.data or attributes):
        raise RefusedError("A message needs data or an attribute.", code="INVALID_ARGUMENT")
    if (
        len(attributes) > ATTRIBUTES
        or len(message.ordering_key.encode()) > ORDERING_KEY_BYTES
        or any(
            not 1 <= len(key.encode()) <= ATTRIBUTE_KEY_BYTES or len(value.encode()) > ATTRIBUTE_VALUE_BYTES
            for key, value in attributes.items()
        )
    ):
        raise RefusedError(
            f"A message has at most {ATTRIBUTES} attributes of {ATTRIBUTE_KEY_BYTES} bytes a key and "
            f"{ATTRIBUTE_VALUE_BYTES} a value, and an ordering key of at most {ORDERING_KEY_BYTES}.",
            code="INVALID_ARGUMENT",
        )


def stamped(messages: Iterable[Any], first: int, now_ns: int) -> list[Message]:
    """Give ids from `first` on, and the publish time.

    A field written twice has its last value, so the stamp is appended to what the publisher sent.

    Raises:
        RefusedError: a message is empty or over a limit.
    """
    seconds, nanos = divmod(now_ns, 1_000_000_000)
    time = b"\x08" + varint(seconds) + b"\x10" + varint(nanos)
    time = b"\x22" + varint(len(time)) + time
    stamp = 2 + _ID_DIGITS + len(time)
    result = []
    for number, message in enumerate(messages, first):
        raw = message.SerializeToString()
        if len(raw) - len(message.data) > ATTRIBUTE_KEY_BYTES or raw[:1] != b"\x0a":
            _check_message(message)  # a message that begins with data and has little else breaks no limit
        body = b"\x12%b%b\x1a\x10%d%b" % (varint(len(raw) + stamp), raw, number, time)
        result.append(Message(number, body, message.ordering_key, now_ns))
    return result


def restored(bodies: bytes) -> list[Message]:
    """The messages whose `body`s were concatenated: that is a publish request, since `messages` is its field 2 as well."""
    result = []
    for message in PublishRequest.FromString(bodies).messages:
        raw = message.SerializeToString()
        time = message.publish_time
        published_ns = time.seconds * 1_000_000_000 + time.nanos
        result.append(
            Message(int(message.message_id), b"\x12" + varint(len(raw)) + raw, message.ordering_key, published_ns)
        )
    return result


def as_published(message: Message) -> Any:
    """The PubsubMessage."""
    return PublishRequest.FromString(message.body).messages[0]


def published(messages: Sequence[Message]) -> bytes:
    """The PublishResponse."""
    return b"".join([b"\x0a\x10%d" % message.number for message in messages])


def ack_ids(batch: str, count: int) -> list[str]:
    """The ids of the deliveries of one response; `batch` has 16 characters."""
    return [batch + suffix for suffix in _SUFFIXES[:count]]


def received(batch: str, messages: Sequence[Message], attempts: Sequence[int] | None) -> bytes:
    """The PullResponse, or the field of the same number of a StreamingPullResponse.

    Args:
        batch: As for `ack_ids`.
        messages: What is delivered.
        attempts: The delivery attempt of each, when there is a dead-letter policy; Pub/Sub leaves it out otherwise.
    """
    prefix = batch.encode()
    if attempts is None:
        return b"".join(
            [
                _received_head(len(message.body)) + prefix + suffix + message.body
                for suffix, message in zip(_SUFFIX_BYTES, messages, strict=False)
            ]
        )
    parts: list[bytes] = []
    for suffix, message, attempt in zip(_SUFFIX_BYTES, messages, attempts, strict=False):
        tail = b"\x18" + varint(attempt)
        parts += (_received_head(len(message.body) + len(tail)), prefix, suffix, message.body, tail)
    return b"".join(parts)


@lru_cache(maxsize=65536)
def _received_head(size: int) -> bytes:
    return b"\x0a" + varint(2 + _ACK_ID_BYTES + size) + b"\x0a" + varint(_ACK_ID_BYTES)


_SUFFIXES: Final = [f"{index:03x}" for index in range(1000)]
_SUFFIX_BYTES: Final = [suffix.encode() for suffix in _SUFFIXES]
