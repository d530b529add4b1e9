"""What a server that takes messages answers, as bytes of MQTT 3.1.1 or 5."""

from __future__ import annotations

from typing import Final

from tidemark.mqtt.fields import Code, text, varint
from tidemark.mqtt.packets import V5
from tidemark.mqtt.properties import Property

PINGRESP: Final = b"\xd0\x00"
PUBACK: Final = 0x40
PUBREC: Final = 0x50
PUBCOMP: Final = 0x70
_SUBACK: Final = 0x90
_UNSUBACK: Final = 0xB0
_REFUSED_BY_4: Final = {
    Code.UNSUPPORTED_VERSION: 1,
    Code.CLIENT_ID: 2,
    Code.UNAVAILABLE: 3,
    Code.CONNECTION_RATE: 3,
    Code.BAD_PASSWORD: 4,
    Code.NOT_AUTHORIZED: 5,
}
_ONE_BYTE: Final = frozenset(
    (
        Property.RETAIN_AVAILABLE,
        Property.WILDCARD_AVAILABLE,
        Property.SUBSCRIPTION_ID_AVAILABLE,
        Property.SHARED_AVAILABLE,
    )
)
_TWO_BYTES: Final = frozenset((Property.RECEIVE_MAXIMUM, Property.TOPIC_ALIAS_MAXIMUM, Property.SERVER_KEEP_ALIVE))


def connack(
    version: int, code: Code, *, present: bool = False, properties: dict[Property, int | str] | None = None
) -> bytes:
    """CONNACK; a refusal that 3.1.1 has no number for is its 5, not authorized."""
    if version != V5:
        return b"\x20\x02%c%c" % (present, code and _REFUSED_BY_4.get(code, 5))
    block = b"".join(_property(number, value) for number, value in (properties or {}).items())
    body = b"%c%c" % (present, code) + varint(len(block)) + block
    return b"\x20" + varint(len(body)) + body


def acknowledged(kind: int, number: int) -> bytes:
    """PUBACK, PUBREC or PUBCOMP of a message that is kept, the same in both versions."""
    return b"%c\x02%c%c" % (kind, number >> 8, number & 255)


def refused(kind: int, number: int, code: Code, reason: str, longest: int) -> bytes:
    """PUBACK or PUBREC of version 5 that says why a message is not kept; without the reason where it would be too long."""
    head = b"%c%c%c" % (number >> 8, number & 255, code)
    block = b"%c" % Property.REASON + text(reason)
    body = head + varint(len(block)) + block
    made = b"%c" % kind + varint(len(body)) + body
    return made if reason and len(made) <= longest else b"%c\x03" % kind + head


def subscribed(version: int, number: int, filters: int, *, begins: bool) -> bytes:
    """SUBACK or UNSUBACK: nothing can be subscribed to."""
    codes = b"" if version != V5 else b"\x00"
    if begins:
        codes += (b"%c" % Code.NOT_AUTHORIZED if version == V5 else b"\x80") * filters
    elif version == V5:
        codes += b"\x11" * filters  # no subscription existed
    body = number.to_bytes(2, "big") + codes
    return b"%c" % (_SUBACK if begins else _UNSUBACK) + varint(len(body)) + body


def disconnect(code: Code, reason: str, longest: int) -> bytes:
    """DISCONNECT of version 5; 3.1.1 has none from a server."""
    block = b"%c" % Property.REASON + text(reason) if reason else b""
    body = b"%c" % code + varint(len(block)) + block
    made = b"\xe0" + varint(len(body)) + body
    return made if len(made) <= longest else b"\xe0\x01%c" % code


def _property(number: Property, value: int | str) -> bytes:
    if isinstance(value, str):
        return b"%c" % number + text(value)
    size = 1 if number in _ONE_BYTE else 2 if number in _TWO_BYTES else 4
    return b"%c" % number + value.to_bytes(size, "big")
