"""What clients send: for version 5 as mqtt5 writes it, for 3.1.1 as paho does; and what has to be read of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any, Final

import mqtt5
import paho.mqtt.client as paho
from hypothesis import strategies as st

from tidemark.mqtt.fields import varint
from tidemark.mqtt.packets import V4, V5, Connect, Disconnect, Packet, Ping, Publish, Release, Subscribe, Will
from tidemark.mqtt.properties import Properties, Property

TEXT: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0"), max_size=12)
TOPIC: Final = st.text(st.characters(codec="utf-8", exclude_characters="\0+#"), min_size=1, max_size=12)
FILTER: Final = TOPIC | st.sampled_from(("#", "+", "+/a/#", "$share/g/a"))
BINARY: Final = st.binary(max_size=12)
NUMBER: Final = st.integers(1, 65_535)
TWO: Final = st.integers(0, 65_535)
FOUR: Final = st.integers(0, (1 << 32) - 1)
QOS: Final = st.sampled_from((mqtt5.QoS.AT_MOST_ONCE, mqtt5.QoS.AT_LEAST_ONCE, mqtt5.QoS.EXACTLY_ONCE))
USER: Final = st.lists(st.tuples(TEXT, TEXT), max_size=2)
MESSAGE: Final[dict[str, Any]] = {
    "payload_format_indicator": st.integers(0, 1),
    "message_expiry_interval": st.none() | FOUR,
    "content_type": st.none() | TEXT,
    "response_topic": st.none() | TOPIC,
    "correlation_data": st.none() | BINARY,
    "user_properties": USER,
}
WILL: Final = st.builds(
    mqtt5.Will,
    TOPIC,
    payload=st.none() | BINARY,
    qos=QOS,
    retain=st.booleans(),
    will_delay_interval=FOUR,
    **MESSAGE,
)


def packet(first: int, *parts: bytes) -> bytes:
    """A packet by its first byte and what follows its length."""
    body = b"".join(parts)
    return bytes((first,)) + varint(len(body)) + body


def field(data: bytes) -> bytes:
    """With its length."""
    return len(data).to_bytes(2, "big") + data


@st.composite
def _connect(draw: st.DrawFn) -> mqtt5.ConnectPacket:
    method = draw(st.none() | TEXT)
    return mqtt5.ConnectPacket(
        draw(TEXT),
        username=draw(st.none() | TEXT),
        password=draw(st.none() | BINARY),
        clean_start=draw(st.booleans()),
        will=draw(st.none() | WILL),
        keep_alive=draw(TWO),
        session_expiry_interval=draw(FOUR),
        authentication_method=method,
        authentication_data=None if method is None else draw(st.none() | BINARY),
        request_problem_info=draw(st.booleans()),
        request_response_info=draw(st.booleans()),
        receive_max=draw(NUMBER),
        topic_alias_max=draw(TWO),
        max_packet_size=draw(st.none() | st.integers(1, (1 << 32) - 1)),
        user_properties=draw(USER),
    )


@st.composite
def _publish(draw: st.DrawFn) -> mqtt5.PublishPacket:
    qos, alias = draw(QOS), draw(st.none() | NUMBER)
    return mqtt5.PublishPacket(
        draw(TOPIC if alias is None else st.just("") | TOPIC),
        draw(BINARY),
        qos=qos,
        packet_id=draw(NUMBER) if qos.value else None,
        duplicate=draw(st.booleans()) if qos.value else False,
        retain=draw(st.booleans()),
        topic_alias=alias,
        **{name: draw(values) for name, values in MESSAGE.items()},
    )


CONNECT: Final = _connect()
AFTER_CONNECT: Final = st.one_of(
    _publish(),
    st.builds(
        mqtt5.PubRelPacket,
        NUMBER,
        reason_code=st.sampled_from((mqtt5.PubRelReasonCode.SUCCESS, mqtt5.PubRelReasonCode.PACKET_ID_NOT_FOUND)),
        reason_str=st.none() | TEXT,
        user_properties=USER,
    ),
    st.builds(
        mqtt5.SubscribePacket,
        NUMBER,
        st.lists(
            st.builds(
                mqtt5.TopicFilter,
                FILTER,
                max_qos=QOS,
                no_local=st.booleans(),
                retain_as_published=st.booleans(),
                retain_handling=st.sampled_from(
                    (mqtt5.RetainHandling.SEND_ALWAYS, mqtt5.RetainHandling.SEND_NEVER),
                ),
            ),
            min_size=1,
            max_size=3,
        ),
        subscription_id=st.none() | st.integers(1, (1 << 28) - 1),
        user_properties=USER,
    ),
    st.builds(mqtt5.UnsubscribePacket, NUMBER, st.lists(FILTER, min_size=1, max_size=3), user_properties=USER),
    st.builds(mqtt5.PingReqPacket),
    st.builds(
        mqtt5.DisconnectPacket,
        reason_code=st.sampled_from(
            (
                mqtt5.DisconnectReasonCode.NORMAL_DISCONNECTION,
                mqtt5.DisconnectReasonCode.DISCONNECT_WITH_WILL_MESSAGE,
                mqtt5.DisconnectReasonCode.UNSPECIFIED_ERROR,
            )
        ),
        session_expiry_interval=st.none() | FOUR,
        reason_str=st.none() | TEXT,
        user_properties=USER,
    ),
)

_OF_A_MESSAGE: Final = {
    Property.PAYLOAD_FORMAT: "payload_format_indicator",
    Property.MESSAGE_EXPIRY: "message_expiry_interval",
    Property.CONTENT_TYPE: "content_type",
    Property.RESPONSE_TOPIC: "response_topic",
    Property.CORRELATION_DATA: "correlation_data",
}
_OF_A_WILL: Final = {**_OF_A_MESSAGE, Property.WILL_DELAY: "will_delay_interval"}
_OF_A_PUBLISH: Final = {**_OF_A_MESSAGE, Property.TOPIC_ALIAS: "topic_alias"}
_OF_A_DISCONNECT: Final = {Property.SESSION_EXPIRY: "session_expiry_interval", Property.REASON: "reason_str"}
_OF_A_CONNECT: Final = {
    Property.SESSION_EXPIRY: "session_expiry_interval",
    Property.AUTH_METHOD: "authentication_method",
    Property.AUTH_DATA: "authentication_data",
    Property.PROBLEM_INFORMATION: "request_problem_info",
    Property.RESPONSE_INFORMATION: "request_response_info",
    Property.RECEIVE_MAXIMUM: "receive_max",
    Property.TOPIC_ALIAS_MAXIMUM: "topic_alias_max",
    Property.MAXIMUM_PACKET: "max_packet_size",
}
_MESSAGE_DEFAULTS: Final[Properties] = {Property.PAYLOAD_FORMAT: 0}
_WILL_DEFAULTS: Final[Properties] = {Property.PAYLOAD_FORMAT: 0, Property.WILL_DELAY: 0}
_CONNECT_DEFAULTS: Final[Properties] = {
    Property.SESSION_EXPIRY: 0,
    Property.PROBLEM_INFORMATION: 1,
    Property.RESPONSE_INFORMATION: 0,
    Property.RECEIVE_MAXIMUM: 65_535,
    Property.TOPIC_ALIAS_MAXIMUM: 0,
}


def _properties(of: object, names: dict[Property, str]) -> Properties:
    found = {number: getattr(of, name) for number, name in names.items()}
    return {number: value for number, value in found.items() if value is not None}


def _connect_meant(packet: mqtt5.ConnectPacket) -> Connect:
    will = packet.will
    return Connect(
        V5,
        packet.client_id,
        packet.clean_start,
        packet.keep_alive,
        packet.username,
        packet.password,
        will and Will(will.topic, will.payload or b"", will.qos.value, will.retain, _properties(will, _OF_A_WILL)),
        _properties(packet, _OF_A_CONNECT),
    )


def _publish_meant(packet: mqtt5.PublishPacket) -> Publish:
    return Publish(
        packet.topic,
        packet.payload,
        packet.qos.value,
        packet.packet_id or 0,
        packet.duplicate,
        packet.retain,
        _properties(packet, _OF_A_PUBLISH),
    )


_MEANT: Final[dict[type, Callable[[Any], Packet]]] = {
    mqtt5.ConnectPacket: _connect_meant,
    mqtt5.PublishPacket: _publish_meant,
    mqtt5.PubRelPacket: lambda packet: Release(packet.packet_id),
    mqtt5.SubscribePacket: lambda packet: Subscribe(packet.packet_id, len(packet.topic_filters), begins=True),
    mqtt5.UnsubscribePacket: lambda packet: Subscribe(packet.packet_id, len(packet.patterns), begins=False),
    mqtt5.PingReqPacket: lambda _: Ping(),
    mqtt5.DisconnectPacket: lambda packet: Disconnect(packet.reason_code.value, _properties(packet, _OF_A_DISCONNECT)),
}


def meant(packet: object) -> Packet | None:
    """What has to be read of a packet of mqtt5's, with the values that properties have which are left out; None: no client
    sends it."""
    meaning = _MEANT.get(type(packet))
    return meaning and meaning(packet)


def completed(packet: Packet) -> Packet:
    """A packet of version 5 as it was read, with the values that properties have which are left out."""
    if isinstance(packet, Publish):
        return packet._replace(properties=_MESSAGE_DEFAULTS | packet.properties)
    if isinstance(packet, Connect) and packet.version == V5:
        will = packet.will and packet.will._replace(properties=_WILL_DEFAULTS | packet.will.properties)
        return replace(packet, will=will, properties=_CONNECT_DEFAULTS | packet.properties)
    return packet


class Wire:
    """In a socket's place: what paho sends, and what it is given to read."""

    def __init__(self) -> None:
        self.sent = self.given = b""

    def send(self, data: bytes) -> int:
        self.sent += data
        return len(data)

    def recv(self, number: int) -> bytes:
        if not self.given:
            raise BlockingIOError
        found, self.given = self.given[:number], self.given[number:]
        return found

    def close(self) -> None:
        self.given = b""


class Paho(paho.Client):
    """paho's client without a network."""

    def __init__(self, version: int = V4, client_id: str = "me", *, clean: bool = True) -> None:
        self.wire = Wire()
        super().__init__(
            paho.CallbackAPIVersion.VERSION2,
            client_id,
            clean_session=clean if version == V4 else None,
            protocol=paho.MQTTProtocolVersion(version),
            reconnect_on_failure=False,
        )
        self._sock = self.wire  # type: ignore[assignment]

    def sends(self) -> bytes:
        """All that was sent since it was asked last."""
        found, self.wire.sent = self.wire.sent, b""
        return found

    def reads(self, data: bytes) -> list[int]:
        """Give it an answer; what it makes of each packet: 0 is good."""
        self.wire.given, found = data, []
        while self.wire.given:
            found.append(int(self._packet_read()))
        return found


@st.composite
def of_paho(draw: st.DrawFn) -> tuple[bytes, Packet]:
    """A packet of 3.1.1 as paho writes it, and what has to be read of it."""
    kind = draw(st.integers(0, 6))
    if kind == 0:
        return _connect_of_paho(draw)
    client, number = Paho(), draw(NUMBER)
    packet: Packet
    if kind == 1:
        qos, again, retain = draw(st.integers(0, 2)), draw(st.booleans()), draw(st.booleans())
        packet = Publish(draw(TOPIC), draw(BINARY), qos, number if qos else 0, again and qos > 0, retain, {})
        client._send_publish(
            number,
            packet.topic.encode(),
            packet.payload,
            qos,
            retain,
            packet.duplicate,
            paho.MQTTMessageInfo(number),
        )
    elif kind == 2:
        client._send_pubrel(number)
        packet = Release(number)
    elif kind == 3:
        filters = draw(st.lists(st.tuples(FILTER.map(str.encode), st.integers(0, 2)), min_size=1, max_size=3))
        packet = Subscribe(client._send_subscribe(dup=0, topics=filters)[1], len(filters), begins=True)
    elif kind == 4:
        names = draw(st.lists(FILTER.map(str.encode), min_size=1, max_size=3))
        packet = Subscribe(client._send_unsubscribe(dup=0, topics=names)[1], len(names), begins=False)
    elif kind == 5:
        client._send_pingreq()
        packet = Ping()
    else:
        client._send_disconnect()
        packet = Disconnect(0, {})
    return client.sends(), packet


def _connect_of_paho(draw: st.DrawFn) -> tuple[bytes, Packet]:
    clean, keep_alive_s = draw(st.booleans()), draw(TWO)
    name = draw(TEXT if clean else TEXT.filter(bool))
    user = draw(st.none() | TEXT)
    password = None if user is None else draw(st.none() | TEXT)
    will = draw(st.none() | st.builds(Will, TOPIC, BINARY, st.integers(0, 2), st.booleans(), st.just({})))
    client = Paho(client_id=name, clean=clean)
    client.username_pw_set(user, password)
    if will is not None:
        client.will_set(will.topic, will.payload, will.qos, will.retain)
    client._send_connect(keep_alive_s)
    secret = None if password is None else password.encode()
    return client.sends(), Connect(V4, name, clean, keep_alive_s, user, secret, will, {})
