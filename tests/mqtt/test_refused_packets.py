"""What a client may not send, and the reason that it is told."""

from __future__ import annotations

from typing import Final

import pytest

from tests.mqtt.clients import field, packet
from tidemark.mqtt.fields import Code, MqttError, varint
from tidemark.mqtt.packets import CONNECT_BYTES, V4, V5, Connect, UnsupportedError, read

CONNECT_4: Final = b"\0\4MQTT\4"
CONNECT_5: Final = b"\0\4MQTT\5"
RECEIVE: Final = b"\x21\0\1"
WILL: Final = field(b"t") + field(b"")
NUL: Final = field(b"a\0b")
SURROGATE: Final = field(b"\xed\xa0\x80")
OVERLONG: Final = field(b"\xc0\xaf")
TOPIC_T: Final = field(b"t")


def block(*properties: bytes) -> bytes:
    """Properties with their length."""
    whole = b"".join(properties)
    return varint(len(whole)) + whole


def connect_5(*properties: bytes, flags: int = 2, rest: bytes = b"\0\0") -> bytes:
    return packet(0x10, CONNECT_5, bytes((flags, 0, 0)), block(*properties), rest)


def connect_4(flags: int, rest: bytes) -> bytes:
    return packet(0x10, CONNECT_4, bytes((flags, 0, 0)), rest)


def publish_5(*properties: bytes, topic: bytes = TOPIC_T, payload: bytes = b"1") -> bytes:
    return packet(0x30, topic, block(*properties), payload)


REFUSED: Final = {
    "no connect": (0, b"\x30", Code.PROTOCOL_ERROR),
    "no connect but ping": (0, b"\xc0\0", Code.PROTOCOL_ERROR),
    "type 0 first": (0, b"\0", Code.PROTOCOL_ERROR),
    "connect again": (V5, connect_5(), Code.PROTOCOL_ERROR),
    "connect again in 3.1.1": (V4, connect_4(2, b"\0\1a"), Code.PROTOCOL_ERROR),
    "connect with flags": (0, b"\x11" + connect_5()[1:], Code.MALFORMED),
    "connect of nothing": (0, b"\x10\0", Code.MALFORMED),
    "a length that never ends": (0, b"\x10\xff\xff\xff\xff", Code.MALFORMED),
    "a length that never ends later": (V5, b"\x30\x80\x80\x80\x80", Code.MALFORMED),
    "a length that never ends in 3.1.1": (V4, b"\x30\x80\x80\x80\x80\0", Code.MALFORMED),
    "a longer length than needed": (V5, b"\xc0\x80\0", Code.MALFORMED),
    "a longer length than needed of connect": (0, b"\x10\x8d\0" + connect_5()[2:], Code.MALFORMED),
    "another protocol": (0, packet(0x10, field(b"HTTP"), b"\5\2\0\0\0\0\0"), Code.MALFORMED),
    "no protocol": (0, packet(0x10, field(b""), b"\5\2\0\0\0\0\0"), Code.MALFORMED),
    "version 3": (0, packet(0x10, field(b"MQIsdp"), b"\3\2\0\0\0\0"), Code.UNSUPPORTED_VERSION),
    "version 6": (0, packet(0x10, field(b"MQTT"), b"\6\2\0\0\0\0"), Code.UNSUPPORTED_VERSION),
    "a bridge of 3.1.1": (0, packet(0x10, field(b"MQTT"), b"\x84\2\0\0\0\0"), Code.UNSUPPORTED_VERSION),
    "the reserved flag": (0, connect_5(flags=3), Code.MALFORMED),
    "the reserved flag in 3.1.1": (0, connect_4(3, b"\0\1a"), Code.MALFORMED),
    "a will of QoS 3": (0, connect_5(flags=0x1E, rest=b"\0\0\0" + WILL), Code.MALFORMED),
    "QoS of no will": (0, connect_5(flags=0x0A), Code.MALFORMED),
    "no will to be retained": (0, connect_5(flags=0x22), Code.MALFORMED),
    "a password and no user in 3.1.1": (0, connect_4(0x42, b"\0\1a\0\1p"), Code.MALFORMED),
    "a will without a topic": (0, connect_5(flags=6, rest=b"\0\0\0\0\0\0\0"), Code.MALFORMED),
    "a will to many topics": (0, connect_5(flags=6, rest=b"\0\0\0" + field(b"+") + b"\0\0"), Code.TOPIC_NAME),
    "a will that is missing": (0, connect_5(flags=6), Code.MALFORMED),
    "a will's payload that is missing": (0, connect_5(flags=6, rest=b"\0\0\0\0\1t"), Code.MALFORMED),
    "a user that is missing": (0, connect_5(flags=0x82), Code.MALFORMED),
    "a password that is missing": (0, connect_5(flags=0x42), Code.MALFORMED),
    "a password that is cut": (0, connect_5(flags=0x42, rest=b"\0\0\0\5pass"), Code.MALFORMED),
    "more than a connect": (0, connect_5(rest=b"\0\0\0"), Code.MALFORMED),
    "more than a connect of 3.1.1": (0, connect_4(2, b"\0\1ab"), Code.MALFORMED),
    "a client with a NUL": (0, connect_5(rest=NUL), Code.MALFORMED),
    "a client with a surrogate": (0, connect_5(rest=SURROGATE), Code.MALFORMED),
    "a client with an overlong slash": (0, connect_5(rest=OVERLONG), Code.MALFORMED),
    "a user with a NUL in 3.1.1": (0, connect_4(0x82, b"\0\1a" + NUL), Code.MALFORMED),
    "a user with a surrogate in 3.1.1": (0, connect_4(0x82, b"\0\1a" + SURROGATE), Code.MALFORMED),
    "receive maximum 0": (0, connect_5(b"\x21\0\0"), Code.PROTOCOL_ERROR),
    "receive maximum twice": (0, connect_5(RECEIVE, RECEIVE), Code.PROTOCOL_ERROR),
    "maximum packet 0": (0, connect_5(b"\x27\0\0\0\0"), Code.PROTOCOL_ERROR),
    "problem information 2": (0, connect_5(b"\x17\2"), Code.PROTOCOL_ERROR),
    "response information 2": (0, connect_5(b"\x19\2"), Code.PROTOCOL_ERROR),
    "session expiry twice": (0, connect_5(b"\x11\0\0\0\1" * 2), Code.PROTOCOL_ERROR),
    "data and no method": (0, connect_5(b"\x16\0\1d"), Code.PROTOCOL_ERROR),
    "a topic alias in connect": (0, connect_5(b"\x23\0\1"), Code.MALFORMED),
    "a will's property in connect": (0, connect_5(b"\x18\0\0\0\1"), Code.MALFORMED),
    "a server's property in connect": (0, connect_5(b"\x12\0\1a"), Code.MALFORMED),
    "a connect's property in a will": (0, connect_5(flags=6, rest=b"\0\0" + block(RECEIVE) + WILL), Code.MALFORMED),
    "an unknown property": (0, connect_5(b"\x7f\0"), Code.MALFORMED),
    "property 0": (0, connect_5(b"\0\0"), Code.MALFORMED),
    "a property's number in two bytes": (0, connect_5(b"\xa1\0\0\1"), Code.MALFORMED),
    "a property that is cut": (0, connect_5(b"\x21\0"), Code.MALFORMED),
    "properties that are cut": (0, packet(0x10, CONNECT_5, b"\2\0\0\4", RECEIVE), Code.MALFORMED),
    "no properties": (0, packet(0x10, CONNECT_5, b"\2\0\0"), Code.MALFORMED),
    "a user property with a NUL": (0, connect_5(b"\x26", TOPIC_T, NUL), Code.MALFORMED),
    "a user property that is no UTF-8": (0, connect_5(b"\x26", field(b"\xff"), TOPIC_T), Code.MALFORMED),
    "half a user property": (0, connect_5(b"\x26", TOPIC_T), Code.MALFORMED),
    "properties whose length is too long": (0, packet(0x10, CONNECT_5, b"\2\0\0\x80\0\0\0"), Code.MALFORMED),
    "properties whose length never ends": (0, packet(0x10, CONNECT_5, b"\2\0\0\x80\x80\x80\x80\1\0\0"), Code.MALFORMED),
    "a first packet that is long": (0, b"\x10" + varint(CONNECT_BYTES - 2), Code.TOO_LARGE),
    "a packet that is long": (V5, b"\x30" + varint(999_997), Code.TOO_LARGE),
    "a packet that is long in 3.1.1": (V4, b"\x30" + varint(999_997), Code.TOO_LARGE),
    "the longest packet": (V5, b"\x30\xff\xff\xff\x7f", Code.TOO_LARGE),
    "a long packet that is none": (V5, b"\0\xff\xff\xff\x7f", Code.TOO_LARGE),
    "QoS 3": (V5, packet(0x36, TOPIC_T, b"\0\1\0"), Code.MALFORMED),
    "QoS 3 in 3.1.1": (V4, packet(0x36, TOPIC_T, b"\0\1"), Code.MALFORMED),
    "packet 0": (V5, packet(0x32, TOPIC_T, b"\0\0\0"), Code.MALFORMED),
    "packet 0 in 3.1.1": (V4, packet(0x34, TOPIC_T, b"\0\0"), Code.MALFORMED),
    "QoS 0 again": (V5, packet(0x38, TOPIC_T, b"\0"), Code.MALFORMED),
    "QoS 0 again in 3.1.1": (V4, packet(0x38, TOPIC_T), Code.MALFORMED),
    "a topic with #": (V5, publish_5(topic=field(b"a/#")), Code.TOPIC_NAME),
    "a topic with +": (V4, packet(0x30, field(b"a/+/b")), Code.TOPIC_NAME),
    "a long topic with +": (V4, packet(0x30, field(b"a" * 300 + b"+")), Code.TOPIC_NAME),
    "a topic with a NUL": (V5, publish_5(topic=NUL), Code.MALFORMED),
    "a topic with a NUL in 3.1.1": (V4, packet(0x30, NUL), Code.MALFORMED),
    "a topic with a surrogate": (V5, publish_5(topic=SURROGATE), Code.MALFORMED),
    "a topic with an overlong slash": (V4, packet(0x30, OVERLONG), Code.MALFORMED),
    "a topic beyond Unicode": (V4, packet(0x30, field(b"\xf4\x90\x80\x80")), Code.MALFORMED),
    "half a character": (V4, packet(0x30, field(b"\xc3")), Code.MALFORMED),
    "no topic": (V5, publish_5(topic=b"\0\0"), Code.PROTOCOL_ERROR),
    "no topic in 3.1.1": (V4, packet(0x30, b"\0\0", b"1"), Code.PROTOCOL_ERROR),
    "no room for a topic": (V5, b"\x30\1\0", Code.MALFORMED),
    "an empty publish": (V4, b"\x30\0", Code.MALFORMED),
    "a topic that is cut": (V4, packet(0x30, b"\0\2t"), Code.MALFORMED),
    "a topic that is cut, and another packet": (V4, packet(0x30, b"\0\3t") + b"#+", Code.MALFORMED),
    "a number that is cut": (V4, packet(0x32, TOPIC_T, b"\0"), Code.MALFORMED),
    "a publish without properties": (V5, packet(0x30, TOPIC_T), Code.MALFORMED),
    "an alias twice": (V5, publish_5(b"\x23\0\1\x23\0\1"), Code.PROTOCOL_ERROR),
    "a format that is none": (V5, publish_5(b"\1\2"), Code.PROTOCOL_ERROR),
    "a content type with a NUL": (V5, publish_5(b"\3", NUL), Code.MALFORMED),
    "a subscription in a publish": (V5, publish_5(b"\x0b\1"), Code.MALFORMED),
    "a connect's property in a publish": (V5, publish_5(RECEIVE), Code.MALFORMED),
    "a reason in a publish": (V5, publish_5(b"\x1f\0\0"), Code.MALFORMED),
    "a pubrel with other flags": (V5, b"\x60\2\0\1", Code.MALFORMED),
    "a pubrel of packet 0": (V4, b"\x62\2\0\0", Code.MALFORMED),
    "half a pubrel": (V5, b"\x62\1\0", Code.MALFORMED),
    "a pubrel with a reason in 3.1.1": (V4, b"\x62\3\0\1\0", Code.MALFORMED),
    "a pubrel with another property": (V5, packet(0x62, b"\0\1\0", block(RECEIVE)), Code.MALFORMED),
    "more than a pubrel": (V5, b"\x62\5\0\1\0\0\0", Code.MALFORMED),
    "a subscribe with other flags": (V5, packet(0x80, b"\0\1\0", TOPIC_T, b"\0"), Code.MALFORMED),
    "a subscribe with other flags in 3.1.1": (V4, packet(0x8A, b"\0\1", TOPIC_T, b"\0"), Code.MALFORMED),
    "a subscribe of packet 0": (V5, packet(0x82, b"\0\0\0", TOPIC_T, b"\0"), Code.MALFORMED),
    "a subscribe to nothing": (V5, packet(0x82, b"\0\1\0"), Code.PROTOCOL_ERROR),
    "a subscribe to nothing in 3.1.1": (V4, packet(0x82, b"\0\1"), Code.PROTOCOL_ERROR),
    "an empty filter": (V5, packet(0x82, b"\0\1\0\0\0\0"), Code.MALFORMED),
    "a filter without options": (V5, packet(0x82, b"\0\1\0", TOPIC_T), Code.MALFORMED),
    "a filter with a NUL": (V4, packet(0x82, b"\0\1", NUL, b"\0"), Code.MALFORMED),
    "a subscribe with QoS 3": (V5, packet(0x82, b"\0\1\0", TOPIC_T, b"\3"), Code.PROTOCOL_ERROR),
    "a subscribe with QoS 3 in 3.1.1": (V4, packet(0x82, b"\0\1", TOPIC_T, b"\3"), Code.PROTOCOL_ERROR),
    "retain handling 3": (V5, packet(0x82, b"\0\1\0", TOPIC_T, b"\x30"), Code.PROTOCOL_ERROR),
    "reserved options": (V5, packet(0x82, b"\0\1\0", TOPIC_T, b"\x40"), Code.MALFORMED),
    "options of 5 in 3.1.1": (V4, packet(0x82, b"\0\1", TOPIC_T, b"\4"), Code.MALFORMED),
    "subscription 0": (V5, packet(0x82, b"\0\1", block(b"\x0b\0"), TOPIC_T, b"\0"), Code.PROTOCOL_ERROR),
    "two subscriptions": (V5, packet(0x82, b"\0\1", block(b"\x0b\1\x0b\1"), TOPIC_T, b"\0"), Code.PROTOCOL_ERROR),
    "a subscription that never ends": (V5, packet(0x82, b"\0\1", block(b"\x0b\xff\xff\xff\xff\1")), Code.MALFORMED),
    "an unsubscribe with other flags": (V4, packet(0xA0, b"\0\1", TOPIC_T), Code.MALFORMED),
    "an unsubscribe from nothing": (V5, packet(0xA2, b"\0\1\0"), Code.PROTOCOL_ERROR),
    "an unsubscribe with a subscription": (V5, packet(0xA2, b"\0\1", block(b"\x0b\1"), TOPIC_T), Code.MALFORMED),
    "a ping with flags": (V5, b"\xc1\0", Code.MALFORMED),
    "a ping with something in it": (V4, b"\xc0\1\0", Code.MALFORMED),
    "a disconnect with flags": (V5, b"\xe1\0", Code.MALFORMED),
    "a disconnect with a reason in 3.1.1": (V4, b"\xe0\1\0", Code.MALFORMED),
    "more than a disconnect": (V5, b"\xe0\3\0\0\0", Code.MALFORMED),
    "a disconnect with a server's property": (V5, packet(0xE0, b"\0", block(b"\x1c", TOPIC_T)), Code.MALFORMED),
    "a disconnect with another property": (V5, packet(0xE0, b"\0", block(RECEIVE)), Code.MALFORMED),
    "type 0": (V5, b"\0\0", Code.PROTOCOL_ERROR),
    "connack": (V5, b"\x20\3\0\0\0", Code.PROTOCOL_ERROR),
    "puback": (V5, b"\x40\2\0\1", Code.PROTOCOL_ERROR),
    "pubrec in 3.1.1": (V4, b"\x50\2\0\1", Code.PROTOCOL_ERROR),
    "pubcomp": (V4, b"\x70\2\0\1", Code.PROTOCOL_ERROR),
    "suback": (V4, b"\x90\3\0\1\0", Code.PROTOCOL_ERROR),
    "unsuback": (V4, b"\xb0\2\0\1", Code.PROTOCOL_ERROR),
    "pingresp": (V4, b"\xd0\0", Code.PROTOCOL_ERROR),
    "auth": (V5, b"\xf0\0", Code.PROTOCOL_ERROR),
    "type 15 in 3.1.1": (V4, b"\xf0\0", Code.PROTOCOL_ERROR),
}
"""The version, 0 where none is told yet; the bytes; and what is wrong with them."""


@pytest.mark.parametrize(("version", "data", "code"), REFUSED.values(), ids=REFUSED)
def test_what_is_no_packet_is_refused(version: int, data: bytes, code: Code) -> None:
    for more in (b"", b"#\xff" * 10):
        with pytest.raises(MqttError) as caught:
            read(data + more, 0, version, 1_000_000)
        assert caught.value.code == code
        assert isinstance(caught.value, UnsupportedError) == (code is Code.UNSUPPORTED_VERSION)
        assert str(caught.value)


def test_a_packet_may_be_as_long_as_is_allowed() -> None:
    will = b"\0\0\0" + field(b"t") + field(bytes(CONNECT_BYTES - 22))
    first = connect_5(flags=6, rest=will)
    assert len(first) == CONNECT_BYTES
    found = read(first, 0, 0, CONNECT_BYTES)
    assert found is not None
    assert isinstance(found[0], Connect)
    assert read(first[:3], 0, 0, CONNECT_BYTES) is None
    for longest in (CONNECT_BYTES - 1, 100):
        with pytest.raises(MqttError, match="16384 bytes is too long"):
            read(first[:3], 0, 0, longest)
    data = packet(0x30, TOPIC_T, b"\0", bytes(1000))
    assert read(data, 0, V5, len(data)) is not None
    with pytest.raises(MqttError, match="too long"):
        read(data[:3], 0, V5, len(data) - 1)
