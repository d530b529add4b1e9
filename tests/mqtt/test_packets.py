"""Packets of clients are read as they were meant, however their bytes come."""

from __future__ import annotations

from typing import Any

import mqtt5
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mqtt.clients import AFTER_CONNECT, BINARY, CONNECT, completed, field, meant, of_paho, packet
from tests.mqtt.mutants import LONGEST, outcome
from tidemark.mqtt.fields import MqttError
from tidemark.mqtt.packets import V4, V5, Connect, Disconnect, Packet, Ping, Publish, Release, length, read


def only(data: bytes, version: int) -> Packet:
    """The one packet that bytes are."""
    found = read(data, 0, version, LONGEST)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


# what clients send


@given(CONNECT)
def test_connect_of_version_5_is_read_as_it_was_meant(sent: mqtt5.ConnectPacket) -> None:
    assert completed(only(sent.write(), 0)) == meant(sent)


@given(AFTER_CONNECT)
def test_packets_of_version_5_are_read_as_they_were_meant(sent: Any) -> None:
    assert completed(only(sent.write(), V5)) == meant(sent)


@given(of_paho())
def test_packets_of_3_1_1_are_read_as_they_were_meant(sent: tuple[bytes, Packet]) -> None:
    data, expected = sent
    assert only(data, 0 if isinstance(expected, Connect) else V4) == expected


@pytest.mark.parametrize("size", [0, 1, 120, 130, 16_370, 16_390, 2_097_140, 2_097_160, 300_000])
def test_packets_of_every_length_are_read(size: int) -> None:
    sent = mqtt5.PublishPacket("t", bytes(size), qos=mqtt5.QoS.EXACTLY_ONCE, packet_id=65_535)
    assert completed(only(sent.write(), V5)) == meant(sent)


@pytest.mark.parametrize(
    "text", ["ß" * 32_767, "\ufeff", "\ufeffa\ufeff", "\U0010ffff", "\x01\x7f\x85", "\ufdd0\uffff", "/"]
)
def test_strings_of_every_kind_are_read(text: str) -> None:
    assert only(mqtt5.PublishPacket(text, b"").write(), V5) == Publish(text, b"", 0, 0, False, False, {})
    connect = only(mqtt5.ConnectPacket("a", username=text[:4000]).write(), 0)
    assert isinstance(connect, Connect)
    assert connect.username == text[:4000]


@pytest.mark.parametrize("version", [V4, V5])
def test_a_disconnect_and_a_pubrel_may_end_early(version: int) -> None:
    assert only(b"\xe0\0", version) == Disconnect(0, {})
    assert only(b"\x62\2\0\7", version) == Release(7)
    assert only(b"\xc0\0", version) == Ping()
    assert only(b"\xe0\1\4", V5) == Disconnect(4, {})
    assert only(b"\xe0\2\4\0", V5) == Disconnect(4, {})
    assert only(b"\x62\3\0\7\x92", V5) == Release(7)
    assert only(b"\x62\4\0\7\x92\0", V5) == Release(7)


def test_3_1_1_does_not_demand_the_shortest_length() -> None:
    connect = b"\x10\x8d\x80\0\0\4MQTT\4\2\0\0\0\1a"
    assert outcome(connect + b"\xc0\x80\0", 0) == [Connect(V4, "a", True, 0, None, None, None, {}), Ping()]


def test_a_topic_that_was_looked_at_before_is_not_taken_for_another_one() -> None:
    for _ in range(3):
        for number in range(5000):
            topic = f"t/{number}"
            found = only(packet(0x30, field(topic.encode()), b"1"), V4)
            assert isinstance(found, Publish)
            assert found.topic == topic
        with pytest.raises(MqttError):
            only(packet(0x30, field(b"t/#"), b"1"), V4)


# however they are cut


@given(st.lists(AFTER_CONNECT, max_size=4), CONNECT, st.data())
def test_packets_are_the_same_wherever_their_bytes_are_cut(some: list[Any], first: Any, data: st.DataObject) -> None:
    sent = b"".join(one.write() for one in (first, *some))
    whole = outcome(sent, 0)
    assert [completed(one) for one in whole] == [meant(one) for one in (first, *some)]  # type: ignore[arg-type]
    cuts = data.draw(st.lists(st.integers(0, len(sent)), max_size=5))
    assert outcome(sent, 0, cuts=cuts) == whole
    assert outcome(sent, 0, cuts=range(len(sent))) == whole


@given(st.lists(of_paho(), min_size=1, max_size=4))
def test_packets_of_3_1_1_are_the_same_byte_by_byte(some: list[tuple[bytes, Packet]]) -> None:
    some = [one for one in some if not isinstance(one[1], Connect)]
    sent = b"".join(data for data, _ in some)
    assert outcome(sent, V4, cuts=range(len(sent))) == [expected for _, expected in some]


@given(AFTER_CONNECT | st.builds(lambda size: mqtt5.PublishPacket("t", bytes(size)), st.integers(0, 20_000)), BINARY)
def test_how_long_a_packet_is_is_known_from_its_head_on(sent: Any, before: bytes) -> None:
    data = sent.write()
    at, end = len(before), len(before) + len(data)
    known = [length(before + data[:have], at, V5) for have in range(min(len(data), 8) + 1)]
    begin = next(place for place in range(1, len(data)) if data[place] < 128) + 1
    assert known == [None if have < begin else (at + begin, end) for have in range(len(known))]
    assert length(bytearray(before + data), at, V5) == (at + begin, end)
    assert read(before + data[:-1], at, V5, LONGEST) is None
    found = read(before + data + before, at, V5, LONGEST)
    assert found is not None
    assert found[1] == end
