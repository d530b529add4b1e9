"""Answers are read by clients as they are meant: by mqtt5's reader in version 5, and by paho in both."""

from __future__ import annotations

from typing import Any, Final

import mqtt5
import paho.mqtt.client as paho
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.mqtt.clients import FOUR, NUMBER, TEXT, TWO, Paho
from tests.mqtt.mutants import LONGEST
from tidemark.mqtt import answers
from tidemark.mqtt.fields import Code, Fields, text
from tidemark.mqtt.packets import V4, V5, Connect, Packet, Ping, Publish, Release, Subscribe, read
from tidemark.mqtt.properties import Property

ANY_TEXT: Final = st.text(st.characters(), max_size=12) | st.sampled_from(("\ud800\0", "é\0" * 40_000, "a" * 65_535))
"""Also what may not be in a string of MQTT."""
SIZE: Final = st.integers(0, 40) | st.integers(0, 70_000)
FLAG: Final = st.integers(0, 1)
OFFERED: Final[dict[Property, tuple[str, st.SearchStrategy[int | str]]]] = {
    Property.RECEIVE_MAXIMUM: ("receive_max", NUMBER),
    Property.RETAIN_AVAILABLE: ("retain_available", FLAG),
    Property.MAXIMUM_PACKET: ("max_packet_size", FOUR.filter(bool)),
    Property.TOPIC_ALIAS_MAXIMUM: ("topic_alias_max", TWO),
    Property.WILDCARD_AVAILABLE: ("wildcard_subscription_available", FLAG),
    Property.SUBSCRIPTION_ID_AVAILABLE: ("subscription_id_available", FLAG),
    Property.SHARED_AVAILABLE: ("shared_subscription_available", FLAG),
    Property.SERVER_KEEP_ALIVE: ("server_keep_alive", TWO),
    Property.SESSION_EXPIRY: ("session_expiry_interval", FOUR),
    Property.ASSIGNED_CLIENT_ID: ("assigned_client_id", TEXT),
    Property.REASON: ("reason_str", TEXT),
}


def codes(of: Any, *more: Code) -> st.SearchStrategy[Code]:
    """Those that a packet of mqtt5's may have."""
    known = {one.value for one in vars(of).values() if isinstance(one, of)}
    return st.sampled_from([code for code in Code if code in known])


def answered(data: bytes) -> Any:
    """The packet of mqtt5's that an answer is."""
    found, size = mqtt5.read(data)
    assert size == len(data)
    return found


def said(why: str) -> str:
    """What can be said of it in a string of MQTT."""
    data = text(why)
    return Fields(data, 0, len(data)).text()


@given(ANY_TEXT)
def test_whatever_is_said_is_a_string_of_mqtt(why: str) -> None:
    assert len(text(why)) == 2 + len(said(why).encode()) <= 2 + 65_535
    assert all(one in (other, "?") for one, other in zip(said(why), why, strict=False))
    assert len(said(why)) == len(why) or len(text(why)) > 65_530


@given(
    codes(mqtt5.ConnAckReasonCode),
    st.booleans(),
    st.fixed_dictionaries({}, optional={number: values for number, (_, values) in OFFERED.items()}),
)
def test_connack_is_read_as_it_is_meant(code: Code, present: bool, offered: dict[Property, int | str]) -> None:
    named: dict[str, Any] = {OFFERED[number][0]: value for number, value in offered.items()}
    expected = mqtt5.ConnAckPacket(
        session_present=present,
        reason_code=mqtt5.ConnAckReasonCode(code),
        **{name: bool(value) if name.endswith("available") else value for name, value in named.items()},
    )
    assert answered(answers.connack(V5, code, present=present, properties=offered)) == expected


@given(NUMBER, codes(mqtt5.PubAckReasonCode), ANY_TEXT, SIZE)
def test_a_refusal_is_read_as_it_is_meant_and_never_longer_than_is_taken(
    number: int, code: Code, why: str, longest: int
) -> None:
    for kind, packet, reason in (
        (answers.PUBACK, mqtt5.PubAckPacket, mqtt5.PubAckReasonCode(code)),
        (answers.PUBREC, mqtt5.PubRecPacket, mqtt5.PubRecReasonCode(code)),
    ):
        made = answers.refused(kind, number, code, why, longest)
        whole = packet(number, reason_code=reason, reason_str=said(why) or None)
        bare = packet(number, reason_code=reason)
        assert answered(made) == (whole if len(whole.write()) <= longest else bare)
        assert len(made) <= max(longest, 5)


@given(NUMBER)
def test_acknowledgements_are_read_as_they_are_meant(number: int) -> None:
    assert answered(answers.acknowledged(answers.PUBACK, number)) == mqtt5.PubAckPacket(number)
    assert answered(answers.acknowledged(answers.PUBREC, number)) == mqtt5.PubRecPacket(number)
    assert answered(answers.acknowledged(answers.PUBCOMP, number)) == mqtt5.PubCompPacket(number)
    assert answered(answers.PINGRESP) == mqtt5.PingRespPacket()


@given(NUMBER, st.integers(1, 200))
def test_who_subscribes_is_told_that_it_cannot(number: int, filters: int) -> None:
    begun = answered(answers.subscribed(V5, number, filters, begins=True))
    assert begun == mqtt5.SubAckPacket(number, [mqtt5.SubAckReasonCode.NOT_AUTHORIZED] * filters)
    ended = answered(answers.subscribed(V5, number, filters, begins=False))
    assert ended == mqtt5.UnsubAckPacket(number, [mqtt5.UnsubAckReasonCode.NO_SUBSCRIPTION_EXISTED] * filters)


@given(codes(mqtt5.DisconnectReasonCode), ANY_TEXT, SIZE)
def test_disconnect_is_read_as_it_is_meant(code: Code, why: str, longest: int) -> None:
    made = answers.disconnect(code, why, longest)
    reason = mqtt5.DisconnectReasonCode(code)
    whole = mqtt5.DisconnectPacket(reason_code=reason, reason_str=said(why) or None)
    bare = mqtt5.DisconnectPacket(reason_code=reason)
    assert answered(made) == (whole if len(whole.write()) <= longest else bare)
    assert len(made) <= max(longest, 3)


# paho


def sent(client: Paho, version: int) -> Packet:
    """The one packet that it has sent."""
    data = client.sends()
    found = read(data, 0, version, LONGEST)
    assert found is not None
    assert found[1] == len(data)
    return found[0]


def heard(client: Paho) -> list[tuple[object, ...]]:
    """What it will be told, call by call."""
    calls: list[tuple[object, ...]] = []
    client.on_connect = lambda *told: calls.append(("connect", *told[2:]))
    client.on_disconnect = lambda *told: calls.append(("disconnect", *told[3:]))
    client.on_publish = lambda *told: calls.append(("publish", *told[2:]))
    client.on_subscribe = lambda *told: calls.append(("subscribe", *told[2:]))
    client.on_unsubscribe = lambda *told: calls.append(("unsubscribe", *told[2:]))
    return calls


def connected(version: int) -> Paho:
    client = Paho(version)
    client._send_connect(60)
    assert isinstance(sent(client, 0), Connect)
    assert client.reads(answers.connack(version, Code.SUCCESS)) == [0]
    return client


@pytest.mark.parametrize("version", [V4, V5])
@pytest.mark.parametrize("present", [False, True])
def test_paho_connects(version: int, present: bool) -> None:
    client = Paho(version)
    calls = heard(client)
    client._send_connect(60)
    assert isinstance(sent(client, 0), Connect)
    offered: dict[Property, int | str] = {Property.RECEIVE_MAXIMUM: 100, Property.ASSIGNED_CLIENT_ID: "auto-1"}
    assert client.reads(answers.connack(version, Code.SUCCESS, present=present, properties=offered)) == [0]
    ((name, flags, reason, properties),) = calls
    assert (name, flags.session_present, str(reason)) == ("connect", present, "Success")  # type: ignore[attr-defined]
    expected = {"ReceiveMaximum": 100, "AssignedClientIdentifier": "auto-1"} if version == V5 else {}
    assert {one: properties.json()[one] for one in properties.json()} == expected  # type: ignore[attr-defined]
    assert client.is_connected()


@pytest.mark.parametrize(
    ("code", "told"),
    [
        (Code.UNSUPPORTED_VERSION, "Unsupported protocol version"),
        (Code.CLIENT_ID, "Client identifier not valid"),
        (Code.UNAVAILABLE, "Server unavailable"),
        (Code.CONNECTION_RATE, "Server unavailable"),
        (Code.BAD_PASSWORD, "Bad user name or password"),
        (Code.NOT_AUTHORIZED, "Not authorized"),
        (Code.BAD_METHOD, "Not authorized"),
        (Code.MALFORMED, "Not authorized"),
    ],
)
def test_paho_is_told_of_a_refusal_in_3_1_1(code: Code, told: str) -> None:
    client = Paho(V4)
    calls = heard(client)
    client._send_connect(60)
    (result,) = client.reads(answers.connack(V4, code))
    assert result != 0
    assert not client.is_connected()
    if code is not Code.UNSUPPORTED_VERSION:  # of which it tells nobody
        assert [str(call[2]) for call in calls] == [told]


@pytest.mark.parametrize("version", [V4, V5])
@pytest.mark.parametrize("qos", [1, 2])
def test_paho_has_its_messages_acknowledged(version: int, qos: int) -> None:
    client = connected(version)
    calls = heard(client)
    told = client.publish("t", b"1", qos)
    assert sent(client, version) == Publish("t", b"1", qos, told.mid, False, False, {})
    if qos == 2:
        assert client.reads(answers.acknowledged(answers.PUBREC, told.mid)) == [0]
        assert sent(client, version) == Release(told.mid)
        assert not told.is_published()
    kind = answers.PUBACK if qos == 1 else answers.PUBCOMP
    assert client.reads(answers.acknowledged(kind, told.mid)) == [0]
    assert told.is_published()
    assert [call[:2] for call in calls] == [("publish", told.mid)]
    assert str(calls[0][2]) == "Success"


def test_paho_is_told_why_a_message_is_refused() -> None:
    client = connected(V5)
    calls = heard(client)
    for why in ("bad_value: größer", ""):
        told = client.publish("t", b"1", 1)
        assert client.reads(answers.refused(answers.PUBACK, told.mid, Code.PAYLOAD, why, 1000)) == [0]
        _, number, reason, properties = calls.pop()
        assert (number, reason) == (told.mid, Code.PAYLOAD)
        assert getattr(properties, "ReasonString", "") == why


@pytest.mark.parametrize("version", [V4, V5])
def test_paho_is_told_that_it_cannot_subscribe(version: int) -> None:
    client = connected(version)
    calls = heard(client)
    _, number = client.subscribe(
        [("a", 0), ("b", 2)] if version == V4 else [("a", paho.SubscribeOptions(1)), ("b", paho.SubscribeOptions(2))]
    )
    packet = sent(client, version)
    assert packet == Subscribe(number, 2, begins=True)
    assert client.reads(answers.subscribed(version, packet.number, packet.filters, begins=True)) == [0]
    assert [(call[1], call[2]) for call in calls] == [(number, [0x80 if version == V4 else 0x87] * 2)]
    calls.clear()
    _, number = client.unsubscribe(["a", "b", "c"])
    packet = sent(client, version)
    assert packet == Subscribe(number, 3, begins=False)
    assert client.reads(answers.subscribed(version, packet.number, packet.filters, begins=False)) == [0]
    assert [(call[1], call[2]) for call in calls] == [(number, [0x11] * 3 if version == V5 else [])]


@pytest.mark.parametrize("version", [V4, V5])
def test_paho_hears_its_pings_answered(version: int) -> None:
    client = connected(version)
    client._send_pingreq()
    assert client._ping_t > 0
    assert sent(client, version) == Ping()
    assert client.reads(answers.PINGRESP) == [0]
    assert client._ping_t == 0


@pytest.mark.parametrize("why", ["", "The token is not in force any more."])
def test_paho_is_told_why_it_is_disconnected(why: str) -> None:
    client = connected(V5)
    calls = heard(client)
    assert client.reads(answers.disconnect(Code.NOT_AUTHORIZED, why, 1000)) == [0]
    ((name, reason, properties),) = calls
    assert (name, reason) == ("disconnect", Code.NOT_AUTHORIZED)
    assert getattr(properties, "ReasonString", "") == why
