"""A message as Pub/Sub's protocol writes it, by hand: protobuf objects cost more than everything else about publishing."""

from __future__ import annotations

from functools import lru_cache
from typing import Final

_DATA: Final = b"\x0a"
_ATTRIBUTE: Final = b"\x12"
_MESSAGE: Final = b"\x12"
_KEY: Final = b"\x0a"
_VALUE: Final = b"\x12"
_TOPIC: Final = b"\x0a"
ENVELOPE_BYTES: Final = 16
"""Most that the protocol adds to a message beside its data and attributes."""


@lru_cache(maxsize=65536)
def varint(number: int) -> bytes:
    """A number as protobuf writes it."""
    result = bytearray()
    while number > 0x7F:
        result.append(number & 0x7F | 0x80)
        number >>= 7
    result.append(number)
    return bytes(result)


def _field(tag: bytes, content: bytes) -> bytes:
    return tag + varint(len(content)) + content


def attribute(name: str, value: str) -> bytes:
    """One attribute of a message; `message` takes them joined."""
    return _field(_ATTRIBUTE, _field(_KEY, name.encode()) + _field(_VALUE, value.encode()))


def message(data: bytes, attributes: bytes) -> bytes:
    """One message of a PublishRequest (google.pubsub.v1): its field `messages`, tag and length included."""
    return _field(_MESSAGE, _field(_DATA, data) + attributes)


def topic(name: str) -> bytes:
    """The field `topic` of a PublishRequest: with messages behind it, a whole request."""
    return _field(_TOPIC, name.encode())
