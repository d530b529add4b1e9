"""Properties of MQTT 5's packets (its section 2.2.2): which there are, where each may stand, and what it may be."""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any, Final, NamedTuple

from tidemark.mqtt.fields import Code, Fields, MqttError, malformed

Properties = dict[int, Any]
NONE: Final[Properties] = {}


class Place(IntFlag):
    """The packets that a client sends, and its will."""

    CONNECT = 1
    WILL = 2
    PUBLISH = 4
    ANSWER = 8
    SUBSCRIBE = 16
    UNSUBSCRIBE = 32
    DISCONNECT = 64
    AUTH = 128
    ANY = 255


class Property(IntEnum):
    """Their numbers."""

    PAYLOAD_FORMAT = 0x01
    MESSAGE_EXPIRY = 0x02
    CONTENT_TYPE = 0x03
    RESPONSE_TOPIC = 0x08
    CORRELATION_DATA = 0x09
    SUBSCRIPTION_ID = 0x0B
    SESSION_EXPIRY = 0x11
    ASSIGNED_CLIENT_ID = 0x12
    SERVER_KEEP_ALIVE = 0x13
    AUTH_METHOD = 0x15
    AUTH_DATA = 0x16
    PROBLEM_INFORMATION = 0x17
    WILL_DELAY = 0x18
    RESPONSE_INFORMATION = 0x19
    REASON = 0x1F
    RECEIVE_MAXIMUM = 0x21
    TOPIC_ALIAS_MAXIMUM = 0x22
    TOPIC_ALIAS = 0x23
    RETAIN_AVAILABLE = 0x25
    USER = 0x26
    MAXIMUM_PACKET = 0x27
    WILDCARD_AVAILABLE = 0x28
    SUBSCRIPTION_ID_AVAILABLE = 0x29
    SHARED_AVAILABLE = 0x2A


class _Kind(NamedTuple):
    read: Any
    places: Place
    allowed: tuple[int, int] | None = None
    """The least and the most, where not every number will do."""


_FLAG: Final = (0, 1)
_KINDS: Final[dict[int, _Kind]] = {
    Property.PAYLOAD_FORMAT: _Kind(Fields.byte, Place.WILL | Place.PUBLISH, _FLAG),
    Property.MESSAGE_EXPIRY: _Kind(Fields.four, Place.WILL | Place.PUBLISH),
    Property.CONTENT_TYPE: _Kind(Fields.text, Place.WILL | Place.PUBLISH),
    Property.RESPONSE_TOPIC: _Kind(Fields.text, Place.WILL | Place.PUBLISH),
    Property.CORRELATION_DATA: _Kind(Fields.binary, Place.WILL | Place.PUBLISH),
    Property.SUBSCRIPTION_ID: _Kind(Fields.varint, Place.SUBSCRIBE, (1, (1 << 28) - 1)),
    Property.SESSION_EXPIRY: _Kind(Fields.four, Place.CONNECT | Place.DISCONNECT),
    Property.AUTH_METHOD: _Kind(Fields.text, Place.CONNECT | Place.AUTH),
    Property.AUTH_DATA: _Kind(Fields.binary, Place.CONNECT | Place.AUTH),
    Property.PROBLEM_INFORMATION: _Kind(Fields.byte, Place.CONNECT, _FLAG),
    Property.WILL_DELAY: _Kind(Fields.four, Place.WILL),
    Property.RESPONSE_INFORMATION: _Kind(Fields.byte, Place.CONNECT, _FLAG),
    Property.REASON: _Kind(Fields.text, Place.ANSWER | Place.DISCONNECT | Place.AUTH),
    Property.RECEIVE_MAXIMUM: _Kind(Fields.two, Place.CONNECT, (1, 65_535)),
    Property.TOPIC_ALIAS_MAXIMUM: _Kind(Fields.two, Place.CONNECT),
    Property.TOPIC_ALIAS: _Kind(Fields.two, Place.PUBLISH),
    Property.MAXIMUM_PACKET: _Kind(Fields.four, Place.CONNECT, (1, (1 << 32) - 1)),
}


def read(fields: Fields, place: Place) -> Properties:
    """The properties that stand next, by number; those of users are read and not kept.

    Raises:
        MqttError: they are not such as may stand there.
    """
    length = fields.varint()
    if not length:
        return NONE
    block, found = fields.nested(length), {}
    while block.left:
        number = block.varint()
        if number == Property.USER:
            block.text()
            block.text()
            continue
        kind = _KINDS.get(number)
        if kind is None:
            raise malformed(f"there is no property {number:#04x} that a client sends")
        if not kind.places & place:
            raise malformed(f"the property {number:#04x} has no place there")
        value = kind.read(block)
        if number in found:
            raise MqttError(Code.PROTOCOL_ERROR, f"the property {number:#04x} stands there twice")
        if kind.allowed is not None and not kind.allowed[0] <= value <= kind.allowed[1]:
            raise MqttError(Code.PROTOCOL_ERROR, f"the property {number:#04x} cannot be {value}")
        found[number] = value
    return found
