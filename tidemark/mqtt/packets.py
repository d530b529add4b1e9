"""From bytes to the packets that a client of MQTT 3.1.1 or 5 sends.

Nothing but `MqttError` leaves `read`, whatever the bytes are; no more is read of a packet that is too long than its head.
The texts: MQTT 3.1.1 and MQTT 5.0, OASIS standards.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache
from typing import Final, NamedTuple

from tidemark.mqtt.fields import Code, Fields, MqttError, malformed, utf8
from tidemark.mqtt.properties import NONE, Place, Properties, Property
from tidemark.mqtt.properties import read as properties

V4: Final = 4
"""The level of MQTT 3.1.1."""
V5: Final = 5
CONNECT_BYTES: Final = 16 << 10
"""Of a first packet: who sends it is not known yet. A will may be as long as a message, and has to fit in all the same."""


class Kind(IntEnum):
    """Types of packets."""

    CONNECT = 1
    PUBLISH = 3
    PUBACK = 4
    PUBREC = 5
    PUBREL = 6
    PUBCOMP = 7
    SUBSCRIBE = 8
    UNSUBSCRIBE = 10
    PINGREQ = 12
    DISCONNECT = 14
    AUTH = 15


class UnsupportedError(MqttError):
    """A version that is not spoken here: its sender is told so as 3.1.1 tells it."""

    def __init__(self, level: int) -> None:
        super().__init__(Code.UNSUPPORTED_VERSION, f"MQTT 3.1.1 and 5 are spoken here, and no level {level}")


class Will(NamedTuple):
    """What is to be published when a client is lost."""

    topic: str
    payload: bytes
    qos: int
    retain: bool
    properties: Properties


@dataclass(frozen=True, slots=True)
class Connect:
    """The first packet."""

    version: int
    client_id: str
    clean: bool
    keep_alive_s: int
    username: str | None
    password: bytes | None
    will: Will | None
    properties: Properties


class Publish(NamedTuple):
    """A message. `topic` is empty where only an alias is said (version 5)."""

    topic: str
    payload: bytes
    qos: int
    number: int
    duplicate: bool
    retain: bool
    properties: Properties


class Release(NamedTuple):
    """PUBREL: its sender is done with a message of QoS 2."""

    number: int


class Subscribe(NamedTuple):
    """SUBSCRIBE or UNSUBSCRIBE, and how many filters it has."""

    number: int
    filters: int
    begins: bool


class Ping(NamedTuple):
    """PINGREQ."""


class Disconnect(NamedTuple):
    """The last packet; `code` and `properties` are of version 5."""

    code: int
    properties: Properties


_KNOWN_BYTES: Final = 256
"""Longer topics are looked at each time: as many as are remembered would take much room."""
_SHORT: Final = "a packet is shorter than what it holds"
Packet = Connect | Publish | Release | Subscribe | Ping | Disconnect
Found = tuple[Packet, int]


def length(data: bytes | bytearray, at: int, version: int) -> tuple[int, int] | None:
    """Where the packet that begins at `at` has its body, and where it ends; None: that is not there yet.

    Raises:
        MqttError: its length is none.
    """
    found = 0
    for place in range(1, min(5, len(data) - at)):
        byte = data[at + place]
        found |= (byte & 0x7F) << 7 * (place - 1)
        if byte < 0x80:  # it goes on
            if place > 1 and not byte and version == V5:
                raise malformed("its length is longer than it needs to be")
            begin = at + 1 + place
            return begin, begin + found
    if len(data) - at > 4:  # bytes that a length may have
        raise malformed("its length never ends")
    return None


def read(data: bytes, at: int, version: int, longest: int) -> Found | None:
    """The packet that begins at `at`, and where it ends; None: it is not all there.

    Args:
        data: What has come.
        at: Where the packet begins.
        version: That of the connection; 0: its first packet is expected.
        longest: Most bytes that a packet may have.

    Raises:
        MqttError: it cannot be read, and so nothing that comes after it can.
    """
    have = len(data) - at
    if have < 1:
        return None
    first = data[at]
    kind = first >> 4
    if version == 0 and kind != 1:
        raise MqttError(Code.PROTOCOL_ERROR, "the first packet has to be CONNECT")
    if have > 1 and data[at + 1] < 0x80:  # as most are
        begin, end = at + 2, at + 2 + data[at + 1]
    elif found := length(data, at, version):
        begin, end = found
    else:
        return None
    if end - at > (longest if version else min(longest, CONNECT_BYTES)):
        raise MqttError(Code.TOO_LARGE, f"a packet of {end - at} bytes is too long")
    if end > len(data):
        return None
    if kind == 3:
        return _publish(data, begin, end, first, version), end
    packet = _other(Fields(data, begin, end), first, version)
    if type(packet) is Connect and packet.version == V5:
        length(data, at, V5)  # by which it is held to what 3.1.1 does not demand
    return packet, end


def _other(fields: Fields, first: int, version: int) -> Packet:
    kind = first >> 4
    if kind == Kind.CONNECT and version:
        raise MqttError(Code.PROTOCOL_ERROR, "there is one CONNECT a connection")
    reader = _READERS.get(kind)
    if reader is None:
        raise MqttError(Code.PROTOCOL_ERROR, f"a client sends no packet of type {kind}")
    if first & 0x0F != _FLAGS.get(kind, 0):
        raise malformed("a packet's flags are not those of its type")
    packet = reader(fields, version)
    fields.end()
    return packet


def _publish(data: bytes, at: int, end: int, first: int, version: int) -> Publish:
    qos = first >> 1 & 3
    if end - at < 2:
        raise malformed(_SHORT)
    after = at + 2 + (data[at] << 8 | data[at + 1])
    if after > end:
        raise malformed(_SHORT)
    topic = (_known_topic if after - at < _KNOWN_BYTES else _topic)(data[at + 2 : after])
    number = 0
    if qos:
        at, after = after, after + 2
        if after > end:
            raise malformed(_SHORT)
        number = data[at] << 8 | data[at + 1]
        if not number or qos == 3:
            raise malformed("there is no packet 0, and no QoS 3")
    elif first & 8:
        raise malformed("a message of QoS 0 is never sent again")
    found = NONE
    if version == V5:
        after, found = (after + 1, NONE) if after < end and not data[after] else _publish_properties(data, after, end)
    if not topic and Property.TOPIC_ALIAS not in found:
        raise MqttError(Code.PROTOCOL_ERROR, "a message has no topic")
    return Publish(topic, data[after:end], qos, number, first & 8 != 0, first & 1 != 0, found)


def _publish_properties(data: bytes, at: int, end: int) -> tuple[int, Properties]:
    fields = Fields(data, at, end)
    found = properties(fields, Place.PUBLISH)
    return end - fields.left, found


def _topic(text: bytes) -> str:
    """The topic of a message."""
    topic = utf8(text)
    if "#" in topic or "+" in topic:
        raise MqttError(Code.TOPIC_NAME, "a message's topic has no wildcards")
    return topic


_known_topic: Final = lru_cache(maxsize=4096)(_topic)


def _connect(fields: Fields, _version: int) -> Connect:
    name, level = fields.binary(), fields.byte()
    if name not in (b"MQTT", b"MQIsdp"):
        raise malformed("this is no MQTT")
    if name != b"MQTT" or level not in (V4, V5):
        raise UnsupportedError(level)
    flags, keep_alive_s = fields.byte(), fields.two()
    will_qos = flags >> 3 & 3
    if flags & 1 or will_qos == 3 or (not flags & 4 and flags & 0x38):
        raise malformed("the flags of CONNECT are contradictory")
    if level == V4 and flags & 0x40 and not flags & 0x80:
        raise malformed("there is a password and no user")
    found = properties(fields, Place.CONNECT) if level == V5 else NONE
    if Property.AUTH_DATA in found and Property.AUTH_METHOD not in found:
        raise MqttError(Code.PROTOCOL_ERROR, "there are authentication data and no method")
    client_id = fields.text()
    will = None
    if flags & 4:
        will_properties = properties(fields, Place.WILL) if level == V5 else NONE
        topic = _topic(fields.binary())
        if not topic:
            raise malformed("a will has no topic")
        will = Will(topic, fields.binary(), will_qos, bool(flags & 0x20), will_properties)
    username = fields.text() if flags & 0x80 else None
    password = fields.binary() if flags & 0x40 else None
    return Connect(level, client_id, bool(flags & 2), keep_alive_s, username, password, will, found)


def _release(fields: Fields, version: int) -> Release:
    number = _number(fields)
    if version == V5 and fields.left:
        fields.byte()
        if fields.left:
            properties(fields, Place.ANSWER)
    return Release(number)


def _subscribe(fields: Fields, version: int) -> Subscribe:
    number = _number(fields)
    if version == V5:
        properties(fields, Place.SUBSCRIBE)
    filters = 0
    while fields.left:
        _filter(fields)
        options = fields.byte()
        if options & (0xC0 if version == V5 else 0xFC):
            raise malformed("the options of a subscription are none")
        if options & 3 == 3 or options >> 4 & 3 == 3:
            raise MqttError(Code.PROTOCOL_ERROR, "there is no QoS 3, and no way 3 to handle what is retained")
        filters += 1
    if not filters:
        raise MqttError(Code.PROTOCOL_ERROR, "a subscription is to nothing")
    return Subscribe(number, filters, begins=True)


def _unsubscribe(fields: Fields, version: int) -> Subscribe:
    number = _number(fields)
    if version == V5:
        properties(fields, Place.UNSUBSCRIBE)
    filters = 0
    while fields.left:
        _filter(fields)
        filters += 1
    if not filters:
        raise MqttError(Code.PROTOCOL_ERROR, "a subscription is to nothing")
    return Subscribe(number, filters, begins=False)


def _filter(fields: Fields) -> None:
    if not fields.text():
        raise malformed("a filter is empty")


def _number(fields: Fields) -> int:
    number = fields.two()
    if not number:
        raise malformed("there is no packet 0")
    return number


def _ping(_fields: Fields, _version: int) -> Ping:
    return Ping()


def _disconnect(fields: Fields, version: int) -> Disconnect:
    code, found = 0, NONE
    if version == V5 and fields.left:
        code = fields.byte()
        if fields.left:
            found = properties(fields, Place.DISCONNECT)
    return Disconnect(code, found)


_READERS: Final[dict[int, Callable[[Fields, int], Packet]]] = {
    Kind.CONNECT: _connect,
    Kind.PUBREL: _release,
    Kind.SUBSCRIBE: _subscribe,
    Kind.UNSUBSCRIBE: _unsubscribe,
    Kind.PINGREQ: _ping,
    Kind.DISCONNECT: _disconnect,
}
_FLAGS: Final[dict[int, int]] = {Kind.PUBREL: 2, Kind.SUBSCRIBE: 2, Kind.UNSUBSCRIBE: 2}
