"""What comes over MQTT from the open internet, and from those who have a token: nothing takes the edge, or others, along."""

from __future__ import annotations

import contextlib
import random
import select
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.edge.house import MB, House, housed, reset
from tests.edge.wire_mqtt import (
    AUTH,
    CONNACK,
    DISCONNECT,
    PINGREQ,
    PINGRESP,
    PUBACK,
    PUBCOMP,
    PUBREC,
    PUBREL,
    SUBACK,
    SUBSCRIBE,
    TOPIC,
    UNSUBACK,
    UNSUBSCRIBE,
    V4,
    V5,
    Client,
    alias,
    codes,
    connect,
    connected,
    exchange,
    field,
    good,
    packet,
    publish,
    text,
    varint,
)
from tests.waiting import eventually
from tidemark.edge.tokens import line_of, new_token

TIMEOUT_S = 1.0
INFLIGHT = 16 * MB
RSS_BESIDE_MB = 150
ANSWERS = {CONNACK, PUBACK, PUBREC, PUBCOMP, SUBACK, UNSUBACK, PINGRESP, DISCONNECT}
PING, BYE = packet(PINGREQ << 4, b""), packet(DISCONNECT << 4, b"")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(
        tmp_path_factory.mktemp("mqtt"),
        client_timeout_s=str(TIMEOUT_S),
        inflight_bytes=str(INFLIGHT),
        access_log_share="0",
        mqtt_port="0",
    ) as made:
        yield made


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    yield shared
    shared.unharmed()
    assert good(shared) < 2
    eventually(lambda: shared.running.metric("connections") == 0)
    assert shared.rss_mb() < INFLIGHT / MB + RSS_BESIDE_MB


# who says nothing, or something else

HELLO = b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(500)


@pytest.mark.parametrize(
    "data",
    [
        bytes(20_000),
        b"\xff" * 20_000,
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        HELLO,
        b"SSH-2.0-OpenSSH_9.6\r\n",
        publish(V5, b"1", 1),
        packet(PINGREQ << 4, b""),
        packet(DISCONNECT << 4, b""),
        packet(SUBSCRIBE << 4 | 2, b"\0\1" + field("#") + b"\0"),
        packet(AUTH << 4, b""),
        b"\x10\xff\xff\xff\x7f",
        b"\x10\x80\x80\x80\x80\x01",
        b"\x10\xff\xff\xff\xff\x7f",
        packet(0x11, connect(V5, "t")[2:]),
        packet(0x10, b""),
        packet(0x10, b"\0\4MQTT\5\2\0\0"),
        packet(0x10, b"\0\4MQTT\4\3\0\0\0\1a"),
        packet(0x10, b"\0\4MQTT\4\x42\0\0\0\1a\0\1p"),
        packet(0x10, b"\0\4MQTT\4\x1a\0\0\0\1a"),
        packet(0x10, b"\0\4MQTT\5\2\0\0\0\0\2\xff\xfe"),
        packet(0x10, b"\0\4MQTT\5\2\0\0\0\0\3a\0b"),
        packet(0x10, b"\0\4MQTT\5\2\0\0\6\x21\0\1\x21\0\1\0\1a"),
        packet(0x10, b"\0\4MQTT\5\2\0\0\3\x21\0\0\0\1a"),
        packet(0x10, b"\0\4MQTT\5\2\0\0\5\xff\xff\xff\xff\x7f\0\1a"),
        packet(0x10, b"\0\4MQTT\4\2\0\0\0\1a" + bytes(100)),
        connect(V5, "t" * 60_000),
        connect(V4, "t" * 60_000),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_what_is_no_connect_is_closed_at_once_without_a_word(shared: House, data: bytes) -> None:
    began = time.monotonic()
    assert exchange(shared, data) == []
    assert time.monotonic() - began < TIMEOUT_S


@pytest.mark.parametrize(("name", "level"), [(b"MQIsdp", 3), (b"MQTT", 3), (b"MQTT", 6), (b"MQTT", 0x83), (b"MQTT", 0)])
def test_another_version_is_told_so_as_3_1_1_tells_it(shared: House, name: bytes, level: int) -> None:
    answers = exchange(shared, packet(0x10, field(name) + bytes((level, 2, 0, 60)) + field("a")))
    assert answers == [(CONNACK, b"\0\1")]


@pytest.mark.parametrize("sent", [b"", b"\x10", connect(V5, "t")[:-1]])
def test_who_does_not_say_who_it_is_is_closed_in_time(shared: House, sent: bytes) -> None:
    began = time.monotonic()
    assert exchange(shared, sent) == []
    assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 1.5


def test_a_connect_may_come_byte_by_byte_but_not_for_ever(house: House) -> None:
    with Client(house) as quick, Client(house) as slow:
        began = time.monotonic()
        for byte in connect(V5, house.token, will=b"\0" + field("t") + field("w")):
            quick.send(bytes((byte,)))
        assert quick.told() == (CONNACK, 0)
        slow.socket.settimeout(0.02)
        for byte in connect(V5, house.token, "c" * 500):
            slow.send(bytes((byte,)))
            with contextlib.suppress(TimeoutError):
                assert slow.read() is None
                break
        assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 1.5


@pytest.mark.parametrize(
    ("token", "user"),
    [("tm_nobody", "cams"), ("tm_another", "cams"), ("T", "other"), (None, "cams"), ("", "cams"), ("T\0", "cams")],
)
def test_only_a_token_lets_in(shared: House, token: str | None, user: str) -> None:
    given = token and token.replace("T", shared.token)
    for version, code in ((V4, 5), (V5, 0x87)):
        answers = exchange(shared, connect(version, given, "me", user), publish(version, text(), 1))
        assert codes(answers) == [(CONNACK, code)]


def test_who_may_not_write_is_not_let_in(house: House) -> None:
    readers, source = new_token(), new_token()
    house.grant(line_of(readers, "cams", ["read"]), line_of(source, "cams", ["write"], source="s"))
    assert codes(exchange(house, connect(V5, readers))) == [(CONNACK, 0x87)]
    with Client(house) as client:
        client.send(
            connect(V5, source),
            publish(V5, text(), 1),
            publish(V5, text(source="s"), 2),
            publish(V5, b"1", 3, "tidemark/cams/s/m"),
            publish(V5, b"1", 4, "tidemark/cams/other/m"),
            publish(V5, text(), 5, "tidemark/cams/s"),
        )
        answers = [client.told() for _ in range(6)]
    assert answers == [(CONNACK, 0), *((PUBACK, code) for code in (0x87, 0, 0, 0x87, 0x87))]


@pytest.mark.parametrize(
    ("version", "client_id", "clean", "code"),
    [
        (V5, "c" * 256, True, 0),
        (V5, "c" * 257, True, 0x85),
        (V4, "ü" * 129, True, 2),
        (V4, "c" * 16_000, True, 2),
        (V4, "", True, 0),
        (V4, "", False, 2),
        (V5, "", False, 0),
    ],
)
def test_a_client_id_has_a_bound(shared: House, version: int, client_id: str, clean: bool, code: int) -> None:
    answers = exchange(shared, connect(version, shared.token, client_id, clean=clean), BYE)
    assert codes(answers) == [(CONNACK, code)]


@pytest.mark.parametrize("version", [V4, V5])
def test_a_client_that_connects_too_often_is_slowed_down_and_no_other(house: House, version: int) -> None:
    name = f"often-{version}"
    with contextlib.ExitStack() as ends:
        clients = [ends.enter_context(Client(house)) for _ in range(150)]
        for client in clients:  # at once, however slow the machine is
            client.send(connect(version, house.token, name))
        found = Counter(one.code for one in (client.read() for client in clients) if one is not None)
    refused = 0x9F if version == V5 else 3
    assert found.keys() == {0, refused}
    assert found[0] >= 100
    assert found[refused] >= 10
    for number in range(300):
        assert codes(exchange(house, connect(version, house.token, f"{name}-{number}"), BYE)) == [(CONNACK, 0)]
    for _ in range(300):
        assert len(exchange(house, connect(version, "tm_nobody", name))) == 1
    time.sleep(0.2)  # two more may connect
    assert codes(exchange(house, connect(version, house.token, name), BYE)) == [(CONNACK, 0)]


# packets that are none, or are not to be


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (publish(V5, b"1", 1, ""), (DISCONNECT, 0x82)),
        (publish(V5, b"1", 1, "#"), (DISCONNECT, 0x90)),
        (publish(V5, b"1", 1, "tidemark/cams/+/m"), (DISCONNECT, 0x90)),
        (publish(V5, b"1", 1, "tidemark/cams/s\0/m"), (DISCONNECT, 0x81)),
        (publish(V5, b"1", 1, b"tidemark/cams/\xff"), (DISCONNECT, 0x81)),
        (publish(V5, b"1", 1, b"tidemark/cams/s/\xed\xa0\x80"), (DISCONNECT, 0x81)),
        (publish(V5, b"1", 1, "$SYS/broker/clients"), (PUBACK, 0x90)),
        (publish(V5, b"1", 1, "tidemark"), (PUBACK, 0x90)),
        (publish(V5, b"1", 1, "tidemark/cams/"), (PUBACK, 0x90)),
        (publish(V5, b"1", 1, "tidemark/cams//m"), (PUBACK, 0x90)),
        (publish(V5, b"1", 1, "tidemark/cams/s/m//n"), (PUBACK, 0)),
        (publish(V5, b"1", 1, "tidemark/other/s/m"), (PUBACK, 0x87)),
        (publish(V5, b"1", 1, "tidemark/cams/s/" + "m" * 65_000), (PUBACK, 0x99)),
        (publish(V5, b"1", 1, "tidemark/" + "p" * 65_000), (PUBACK, 0x87)),
        (publish(V5, b"1", 1, "/" * 65_000), (PUBACK, 0x90)),
        (publish(V5, b"", 1), (PUBACK, 0x99)),
        (publish(V5, bytes(1000), 1), (PUBACK, 0x99)),
        (publish(V5, b"[" * 100_000, 1), (PUBACK, 0x99)),
        (publish(V5, b'{"a":' * 100_000, 1, "tidemark/cams/s"), (PUBACK, 0x99)),
        (publish(V5, text(project="other"), 1), (PUBACK, 0x87)),
        (publish(V5, text(), 1, qos=3), (DISCONNECT, 0x81)),
        (publish(V5, text(), 0, qos=1), (DISCONNECT, 0x81)),
        (publish(V5, text(), 0, again=True), (DISCONNECT, 0x81)),
        (publish(V5, text(), 1, retain=True), (DISCONNECT, 0x9A)),
        (publish(V5, text(), 1, qos=2), (PUBREC, 0)),
        (publish(V5, b"x", 1, qos=2), (PUBREC, 0x99)),
        (publish(V5, text(), 1, properties=alias(0)), (DISCONNECT, 0x94)),
        (publish(V5, text(), 1, properties=alias(17)), (DISCONNECT, 0x94)),
        (publish(V5, text(), 1, "", properties=alias(16)), (DISCONNECT, 0x82)),
        (publish(V5, text(), 1, properties=alias(1) + alias(1)), (DISCONNECT, 0x82)),
        (publish(V5, text(), 1, properties=b"\x11\0\0\0\1"), (DISCONNECT, 0x81)),
        (publish(V5, text(), 1, properties=b"\xfe\1"), (DISCONNECT, 0x81)),
        (publish(V5, text(), 1, properties=b"\x26\0\1k"), (DISCONNECT, 0x81)),
        (packet(0x32, field(TOPIC) + b"\0"), (DISCONNECT, 0x81)),
        (packet(0x32, b"\xff\xff"), (DISCONNECT, 0x81)),
        (packet(0x32, b""), (DISCONNECT, 0x81)),
        (packet(SUBSCRIBE << 4 | 2, b"\0\1\0" + (field("#") + b"\0") * 3), (SUBACK, 0x87)),
        (packet(SUBSCRIBE << 4 | 2, b"\0\1\0"), (DISCONNECT, 0x82)),
        (packet(SUBSCRIBE << 4, b"\0\1\0" + field("#") + b"\0"), (DISCONNECT, 0x81)),
        (packet(SUBSCRIBE << 4 | 2, b"\0\1\0" + field("#") + b"\xff"), (DISCONNECT, 0x81)),
        (packet(UNSUBSCRIBE << 4 | 2, b"\0\1\0" + field("#")), (UNSUBACK, 0x11)),
        (packet(PUBREL << 4 | 2, b"\0\1"), (PUBCOMP, 0)),
        (packet(PUBREL << 4 | 2, b"\0\1\x92"), (PUBCOMP, 0)),
        (packet(PUBREL << 4, b"\0\1"), (DISCONNECT, 0x81)),
        (packet(PUBREL << 4 | 2, b"\0\0"), (DISCONNECT, 0x81)),
        (packet(PUBACK << 4, b"\0\1"), (DISCONNECT, 0x82)),
        (packet(CONNACK << 4, b"\0\0"), (DISCONNECT, 0x82)),
        (packet(AUTH << 4, b""), (DISCONNECT, 0x82)),
        (packet(0, b""), (DISCONNECT, 0x82)),
        (packet(PINGREQ << 4, b"x"), (DISCONNECT, 0x81)),
        (connect(V5, "t"), (DISCONNECT, 0x82)),
        (packet(DISCONNECT << 4, b"\0\5\x11\0\0\0\1"), (DISCONNECT, 0x82)),
        (b"\x32\xff\xff\xff\x7f", (DISCONNECT, 0x95)),
        (b"\x32" + varint(MB), (DISCONNECT, 0x95)),
        (b"\x32\xff\xff\xff\xff\x7f", (DISCONNECT, 0x81)),
        (b"\x32\x80\x80\x80\x00", (DISCONNECT, 0x81)),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_a_wrong_packet_ends_the_connection_and_a_refused_message_does_not(
    shared: House, data: bytes, expected: tuple[int, int]
) -> None:
    with connected(shared) as client:
        client.send(data, PING)
        if expected[0] == DISCONNECT:
            assert codes(client.rest()) == [expected]
        else:
            assert {client.told(), client.told()} == {expected, (PINGRESP, 0)}


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (publish(V4, b"1", 1, ""), []),
        (publish(V4, b"1", 1, "#"), []),
        (publish(V4, b"1", 1, "a\0b"), []),
        (publish(V4, b"1", 1, "$SYS/broker/clients"), [(PUBACK, 0)]),
        (publish(V4, b"1", 1, "tidemark/other/s/m"), [(PUBACK, 0)]),
        (publish(V4, b"x", 1), [(PUBACK, 0)]),
        (publish(V4, b"x", 1, qos=2), [(PUBREC, 0)]),
        (publish(V4, text(), 1, retain=True), [(PUBACK, 0)]),
        (publish(V4, text(), 1, qos=3), []),
        (publish(V4, text(), 0, qos=1), []),
        (packet(SUBSCRIBE << 4 | 2, b"\0\1" + (field("#") + b"\0") * 3), [(SUBACK, 0x80)]),
        (packet(UNSUBSCRIBE << 4 | 2, b"\0\1" + field("#")), [(UNSUBACK, 0)]),
        (packet(PUBREL << 4 | 2, b"\0\1"), [(PUBCOMP, 0)]),
        (packet(AUTH << 4, b""), []),
        (connect(V4, "t"), []),
        (packet(DISCONNECT << 4, b"\0"), []),
        (b"\x32\xff\xff\xff\x7f", []),
    ],
    ids=lambda value: repr(value[:40]) if isinstance(value, bytes) else "",
)
def test_of_3_1_1_a_wrong_packet_is_closed_without_a_word(
    shared: House, data: bytes, expected: list[tuple[int, int]]
) -> None:
    with connected(shared, V4) as client:
        client.send(data, PING)
        if not expected:
            assert client.rest() == []
        else:
            assert {client.told(), client.told()} == {*expected, (PINGRESP, 0)}


def test_each_of_many_filters_is_refused(house: House) -> None:
    filters = (field("#") + b"\0") * 1000
    answers = exchange(house, connect(V5, house.token), packet(SUBSCRIBE << 4 | 2, b"\0\1\0" + filters), BYE)
    assert answers[1] == (SUBACK, b"\0\1\0" + b"\x87" * 1000)


def test_a_will_is_taken_and_never_published(house: House) -> None:
    before = house.running.metric("wills_total")
    will = b"\0" + field(TOPIC) + field(text(metric="will"))
    with connected(house, will=will) as client:
        reset(client.socket)
    eventually(lambda: house.running.metric("wills_total") == before + 1)
    assert "will" not in {metric for metric, _ in house.kept()}


def test_an_alias_is_the_topic_that_it_was_last(house: House) -> None:
    def said(number: int, topic: str) -> bytes:
        return publish(V5, b"%d" % number, number, topic, properties=alias(1))

    with connected(house) as client:
        client.send(said(1, "tidemark/cams/s/a"), said(2, ""), said(3, "tidemark/cams/s/b"), said(4, ""), said(5, ""))
        assert client.acks(5) == [1, 2, 3, 4, 5]
    expected = [("a", 1.0), ("a", 2.0), ("b", 3.0), ("b", 4.0), ("b", 5.0)]
    assert sorted(one for one in house.kept() if one[0] in "ab") == expected


# acknowledgements


@pytest.mark.parametrize("version", [V4, V5])
def test_what_is_sent_again_while_it_is_on_its_way_is_acknowledged_once(house: House, version: int) -> None:
    with connected(house, version) as client, house.bus.slow(0.5):
        client.send(publish(version, text(1, metric="again"), 1), publish(version, text(2, metric="again"), 2))
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
        client.send(publish(version, text(3, metric="again"), 1, again=True))
        client.send(publish(version, text(4, metric="again"), 1, again=True))
        assert client.acks(2) == [2, 1]
        assert sorted(value for metric, value in house.kept() if metric == "again") == [1, 2, 3, 4]
        client.send(publish(version, text(5), 1), PING)
        assert {client.told(), client.told()} == {(PUBACK, 0), (PINGRESP, 0)}


def test_a_number_that_is_in_use_is_no_other_messages(house: House) -> None:
    with house.bus.slow(0.5):
        with connected(house, V5) as client:
            client.send(publish(V5, text(), 1), publish(V5, text(), 2), publish(V5, text(), 1))
            assert codes(client.rest()) == [(DISCONNECT, 0x82)]
        with connected(house, V4) as client:
            client.send(publish(V4, text(), 1), publish(V4, text(), 2), publish(V4, text(), 1))
            assert client.acks(2) == [2, 1]


def test_acknowledgements_come_in_the_order_of_the_messages(house: House) -> None:
    expected: list[tuple[int, int, int]] = []
    with connected(house) as client:
        for number in range(1, 100):
            qos, wrong, other = 1 + number % 2, number % 7 == 0, number % 11 == 0
            topic = "tidemark/other" if other else TOPIC
            client.send(publish(V5, b"x" if wrong else text(number), number, topic, qos=qos))
            code = 0x87 if other else 0x99 if wrong else 0
            expected.append((PUBACK if qos == 1 else PUBREC, number, code))
        found = [client.read() for _ in expected]
    assert [(one.kind, one.number, one.code) for one in found if one is not None] == expected


def test_more_than_may_be_in_flight_wait(house: House) -> None:
    with house.bus.slow(0.7):
        for version in (V4, V5):
            with connected(house, version) as client:
                client.send(*(publish(version, text(), number) for number in range(1, 101)), PING)
                assert client.told() == (PINGRESP, 0)  # with as many as may be it is listened to
                client.send(*(publish(version, text(), number) for number in range(101, 301)))
                assert house.running.metric("inflight_bytes") < 110 * (len(text()) + 1500)
                assert client.acks(300) == list(range(1, 301))
    for again in range(3):
        with connected(house, V5) as client:
            client.send(*(publish(V5, b"x", number) for number in range(1, 101)))
            assert {client.told() for _ in range(100)} == {(PUBACK, 0x99)}, again


def test_an_acknowledgement_of_what_is_not_in_the_bus_is_none(house: House) -> None:
    house.kept()
    with house.bus.control() as control, connected(house) as client:
        for _ in range(20):
            control.fail("Publish", 1, applied=True)
            client.send(*(publish(V5, text(number, metric="kept"), number) for number in range(1, 50)))
            assert client.acks(49) == list(range(1, 50))
            assert {value for metric, value in house.kept() if metric == "kept"} == set(range(1, 50))


def test_who_goes_while_its_messages_are_on_their_way_leaves_nothing(house: House) -> None:
    with house.bus.slow(0.5):
        clients = [connected(house, version) for version in (V4, V5) * 20]
        for number, client in enumerate(clients):
            messages = [publish(V4 + number % 2, text(), one) for one in range(1, 2 + number * 5)]
            client.send(b"".join(messages)[: -1 if number % 3 else None])
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
        for number, client in enumerate(clients):
            reset(client.socket) if number % 2 else client.close()
        eventually(lambda: house.running.metric("inflight_bytes") == 0)
    eventually(lambda: house.running.metric("connections") == 0)


def test_every_end_of_a_conversation_leaves_nothing(house: House) -> None:
    said = connect(V5, house.token) + publish(V5, text(), 1) + publish(V5, b"x", 2) + PING + BYE
    for end in range(len(said) + 1):
        with Client(house) as client:
            client.send(said[:end])
            if end % 2:
                reset(client.socket)
    eventually(lambda: house.running.metric("connections") == 0, 60)


# memory, and others' time


def fills(client: Client, data: bytes) -> None:
    """Send it again and again until nothing more is taken."""
    client.socket.settimeout(0.5)
    with contextlib.suppress(TimeoutError, ConnectionError):
        while True:
            client.send(data)


REFUSED = b"".join(publish(V5, b"1", number, "x") for number in range(1, 51))
"""Each of them is answered at length."""


@pytest.mark.parametrize(
    ("version", "data"),
    [
        (V4, PING * 10_000),
        (V5, REFUSED * 20),
        (V5, packet(SUBSCRIBE << 4 | 2, b"\0\1\0" + (field("a") + b"\0") * 20_000)),
    ],
    ids=["pings", "refused", "filters"],
)
def test_who_never_reads_its_answers_costs_little_and_not_for_long(house: House, version: int, data: bytes) -> None:
    before = house.rss_mb()
    clients = [connected(house, version, small=True) for _ in range(3)]
    for client in clients:
        fills(client, data)
    assert house.rss_mb() - before < 30
    eventually(lambda: house.running.metric("connections") == 0)
    for client in clients:
        client.close()


def test_who_ends_without_reading_its_answers_is_not_kept(house: House) -> None:
    clients = []
    for number in range(5, 45):  # of some of them a little is left that the kernel does not take
        clients.append(connected(house, small=True))
        clients[-1].send(REFUSED * number)
        clients[-1].socket.shutdown(socket.SHUT_WR)
    eventually(lambda: house.running.metric("connections") == 0)
    for client in clients:
        client.close()


def test_who_is_sending_when_it_is_sent_away_hears_why(house: House) -> None:
    for _ in range(20):
        long = b"\x32\xff\xff\xff\x7f" + bytes(3 * MB)
        assert codes(exchange(house, connect(V5, house.token), long)) == [(CONNACK, 0), (DISCONNECT, 0x95)]
        assert codes(exchange(house, connect(V5, "tm_nobody"), publish(V5, text(), 1) * 20_000)) == [(CONNACK, 0x87)]


@pytest.mark.parametrize(
    "data",
    [PING * 32_000, publish(V4, b"{}", 1) * 4000, publish(V4, b"1", 1, "x") * 4000],
    ids=["pings", "no points", "no topics"],
)
def test_what_is_for_nothing_comes_by_thousands_and_others_have_their_turn(house: House, data: bytes) -> None:
    before, took = house.rss_mb(), []
    with contextlib.ExitStack() as ends:
        client = ends.enter_context(connected(house))
        floods = [ends.enter_context(connected(house, V4)).socket for _ in range(6)]
        left = dict.fromkeys(floods, memoryview(data))
        for flood in floods:
            flood.setblocking(False)
        for _ in range(8):
            began = time.monotonic()
            client.send(publish(V5, b"24.5", 7, "tidemark/cams/gateway-7/fps"))
            while not select.select([client.socket], [], [], 0)[0]:
                for flood in floods:
                    with contextlib.suppress(BlockingIOError):
                        flood.recv(1 << 20)
                    with contextlib.suppress(BlockingIOError):
                        left[flood] = left[flood][flood.send(left[flood]) :] or memoryview(data)
            assert client.acks(1) == [7]
            took.append(time.monotonic() - began)
        for flood in floods:
            reset(flood)
    print(f"a message took {sorted(took)[4] * 1000:.0f} ms, at most {max(took) * 1000:.0f} ms")
    assert sorted(took)[4] < 1.5
    assert house.rss_mb() - before < 30


BIG = text(passed_over="x" * (MB - 300))
"""A message as long as one may be, nearly."""


def begun(house: House, size: int, **more: object) -> Client:
    """A client that has sent the beginning of a long message."""
    client = connected(house, **more)  # type: ignore[arg-type]
    client.socket.setblocking(False)
    with contextlib.suppress(BlockingIOError):
        client.socket.send(publish(V5, BIG, 1)[:size])
    return client


def test_long_messages_that_never_end_take_no_more_than_their_share(house: House) -> None:
    before = house.rss_mb()
    clients = [begun(house, 20_000) for _ in range(300)]
    most = 0.0
    with connected(house) as same, connected(house, user="other", given="tm_another") as other:
        until = time.monotonic() + TIMEOUT_S
        while time.monotonic() < until:
            assert good(house, same) < 2
            assert good(house, other, "tidemark/other/gateway-9/fps") < 2
            most = max(most, house.running.metric("inflight_bytes"))
    print(f"most bytes in flight {most:,.0f}; RSS {house.rss_mb() - before:+.0f} MB")
    assert 4 * MB < most <= INFLIGHT / 2 + MB
    assert house.rss_mb() - before < 40
    for client in clients[::2]:
        client.close()
    slow = clients[1::2][:4]
    for client in slow:
        client.socket.settimeout(20)
    assert [codes(client.rest()) for client in slow] == [[(DISCONNECT, 0x8D)]] * 4
    for client in clients:
        client.close()


def test_many_long_messages_come_through_however_little_room_there_is(house: House) -> None:
    failed: list[BaseException] = []

    def send() -> None:
        try:
            with connected(house) as client:
                data = publish(V5, BIG, 1)
                for at in range(0, len(data), 100_000):
                    client.send(data[at : at + 100_000])
                    time.sleep(0.02)
                assert client.acks(1) == [1]
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=send) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_who_waits_for_room_gets_it_though_those_before_it_are_gone(house: House) -> None:
    with house.bus.slow(1.0), contextlib.ExitStack() as ends:
        full = [ends.enter_context(connected(house)) for _ in range(9)]
        for client in full:
            client.send(publish(V5, BIG, 1))
        eventually(lambda: house.running.metric("inflight_bytes") > 7 * MB)
        gone = [begun(house, 100_000) for _ in range(120)]
        waiting = [ends.enter_context(connected(house)) for _ in range(3)]
        threads = [threading.Thread(target=client.send, args=(publish(V5, BIG, 2),)) for client in waiting]
        for thread in threads:
            thread.start()
        for client in gone:
            reset(client.socket)
        for client in (*full, *waiting):
            client.acks(1)
        for thread in threads:
            thread.join()


@pytest.mark.parametrize("number", [300, pytest.param(4000, marks=pytest.mark.long)])
def test_what_waits_for_the_bus_costs_no_more_than_it_may_however_many_send_it(tmp_path: Path, number: int) -> None:
    with housed(tmp_path, mqtt_port="0", inflight_bytes=str(4 * MB), publish_timeout_s="60") as house:
        clients = [connected(house, V4, str(one)) for one in range(number)]
        before = house.rss_mb()
        with house.bus.stopped():
            # the same point again and again, so that no two values of it are in one message
            same = text()
            data = b"".join(publish(V4, same, one) for one in range(1, 400))
            for client in clients:
                client.socket.setblocking(False)
                client.socket.send(data)
            eventually(lambda: house.running.metric("inflight_bytes") > 2 * MB)
            time.sleep(number / 1000)
            print(f"RSS {house.rss_mb() - before:+.0f} MB for {len(clients)} connections")
            assert house.rss_mb() - before < 20 + 15 * number / 1000
        for client in clients:
            reset(client.socket)
        eventually(lambda: house.running.metric("connections") == 0, 60)


def test_a_message_that_is_made_longer_than_all_room_is_refused_and_not_held(tmp_path: Path) -> None:
    with housed(tmp_path, mqtt_port="0", inflight_bytes=str(2 * MB)) as house, connected(house) as client:
        flat = b"{" + b",".join(b'"%x":1' % number for number in range(90_000)) + b"}"
        assert len(flat) < MB
        client.send(publish(V5, flat, 1, "tidemark/cams/s"))
        assert client.told()[0] == PUBACK
        assert good(house, client) < 2


# those who have a token, and its bounds


def test_a_keep_alive_is_kept_and_what_is_not_read_does_not_count(house: House) -> None:
    began = time.monotonic()
    with contextlib.ExitStack() as ends:
        ends.enter_context(house.bus.slow(2.5))
        silent, alive = (ends.enter_context(connected(house, keep_alive_s=1)) for _ in range(2))
        busy = ends.enter_context(connected(house, V4, keep_alive_s=1))
        busy.send(*(publish(V4, text(), number) for number in range(1, 150)), PING)
        while not select.select([silent.socket], [], [], 0.4)[0]:
            alive.send(PING)
            assert alive.told() == (PINGRESP, 0)
        assert codes(silent.rest()) == [(DISCONNECT, 0x8D)]
        assert 1.5 <= time.monotonic() - began < 3
        assert busy.acks(101) == list(range(1, 102))  # it was not listened to for longer than its keep-alive


def test_a_client_that_connects_again_takes_over(house: House) -> None:
    with house.bus.slow(0.4):
        clients = []
        for number in range(4):
            clients.append(connected(house, V5, "me", clean=False, properties=b"\x11\0\0\1\0"))
            clients[-1].send(publish(V5, text(number, metric="taken over"), 1))
        with connected(house, V4, "me", clean=False):
            ends = [codes(client.rest()) for client in clients]
        assert {end[-1] for end in ends} == {(DISCONNECT, 0x8E)}
        eventually(lambda: house.running.metric("inflight_bytes") == 0)
    assert {value for metric, value in house.kept() if metric == "taken over"} == set(range(4))
    for client in clients:
        client.close()


def test_who_may_not_any_more_is_told_so(house: House) -> None:
    token = new_token()
    house.grant(line_of(token, "cams", ["write"]))
    with connected(house, V5, given=token) as five, connected(house, V4, given=token) as four:
        house.grant(line_of(token, "other", ["write"]))
        assert (codes(five.rest()), four.rest()) == ([(DISCONNECT, 0x87)], [])
    with connected(house, V5, user="other", given=token) as client:
        house.grant(line_of(token, "other", ["write"], source="s"))
        client.send(publish(V5, b"1", 1, "tidemark/other/s/m"), publish(V5, b"1", 2, "tidemark/other/t/m"))
        assert [client.told(), client.told()] == [(PUBACK, 0), (PUBACK, 0x87)]
        house.grant(line_of(new_token(), "cams", ["write"]))
        assert codes(client.rest()) == [(DISCONNECT, 0x87)]


def test_a_quota_slows_its_senders_down_and_nobody_else_and_loses_nothing(house: House) -> None:
    token = new_token()
    house.grant(line_of(token, "cams", ["write"], points_per_s=100))
    began = time.monotonic()
    with connected(house, V4, given=token) as one, connected(house, V4, given=token) as other:
        for client in (one, other):
            client.send(*(publish(V4, text(), number) for number in range(1, 201)))
        assert good(house) < 2
        assert one.acks(200) == other.acks(200) == list(range(1, 201))
        assert 1 < time.monotonic() - began < 6
        # a quota that is hardly any holds nobody for longer than it is in force
        house.grant(line_of(token, "cams", ["write"], points_per_s=0.01))
        one.send(*(publish(V4, text(), number) for number in range(1, 201)))
        one.acks(1)
        house.grant(line_of(token, "cams", ["write"], points_per_s=1000))
        one.acks(199)


def test_new_series_beyond_those_that_may_be_are_refused(house: House) -> None:
    token = new_token()
    house.grant(line_of(token, "few", ["write"], max_series=3))
    with connected(house, V5, user="few", given=token) as client:
        client.send(*(publish(V5, b"1", 1 + n, f"tidemark/few/s/{n % 5}") for n in range(10)))
        found = [client.told() for _ in range(10)]
    assert found == [(PUBACK, 0 if n % 5 < 3 else 0x97) for n in range(10)]


# the bus, and the end


def test_while_the_bus_stands_nothing_is_acknowledged_and_then_everything_or_the_end_is_told(tmp_path: Path) -> None:
    with housed(tmp_path, mqtt_port="0", publish_timeout_s="1.5") as house, contextlib.ExitStack() as ends:
        five, four, gone = (ends.enter_context(connected(house, version)) for version in (V5, V4, V5))
        with house.bus.stopped():
            for client, version in ((five, V5), (four, V4)):
                client.send(publish(version, text(), 1))
                client.socket.settimeout(0.4)
                with pytest.raises(TimeoutError):
                    client.read()
                client.socket.settimeout(20)
        assert (five.acks(1), four.acks(1)) == ([1], [1])
        house.bus.server.kill()
        began = time.monotonic()
        five.send(publish(V5, text(), 2), publish(V5, b"x", 3), PING)
        four.send(publish(V4, text(), 2), PING)
        assert codes(five.rest()) == [(PINGRESP, 0), (DISCONNECT, 0x89)]
        assert codes(four.rest()) == [(PINGRESP, 0)]
        assert 0.5 < time.monotonic() - began < 4
        gone.send(publish(V5, text(), 4))  # it is known now that the bus is away
        assert codes(gone.rest()) == [(DISCONNECT, 0x89)]
        house.bus.server.start()
        house.publishes_again()


def test_what_is_acknowledged_until_the_end_is_in_the_bus(tmp_path: Path) -> None:
    acked: list[set[int]] = []
    last: list[tuple[int, int] | None] = []
    failed: list[BaseException] = []
    with housed(tmp_path, mqtt_port="0", inflight_bytes=str(INFLIGHT)) as house:
        began = threading.Barrier(9)

        def pump(number: int) -> None:
            """Half of them leave as many in flight as may be; the others send as fast as they are read."""
            version = V5 if number % 2 else V4
            kept: set[int] = set()
            try:
                with connected(house, version) as client:
                    sent = 0
                    began.wait()
                    answer = (0, 0)
                    while True:
                        for _ in range(90 if not sent else 1 if version == V5 or answer[0] == PUBACK else 20):
                            sent += 1
                            value = number * 100_000 + sent
                            client.send(publish(version, text(value, metric="end"), sent))
                        found = client.read()
                        if found is None or found.kind == DISCONNECT:
                            last.append(None if found is None else (found.kind, found.code))
                            break
                        kept.add(number * 100_000 + found.number)
            except ConnectionError:
                last.append((DISCONNECT, 0x8B) if version == V5 else None)
            except BaseException as error:
                failed.append(error)
                raise
            acked.append(kept)

        threads = [threading.Thread(target=pump, args=(number,)) for number in range(8)]
        for thread in threads:
            thread.start()
        began.wait()
        with house.bus.slow(0.05):
            eventually(lambda: house.running.metric("published_total") > 50)
            stopping = time.monotonic()
            assert "Traceback" not in house.stopped()
        assert time.monotonic() - stopping < 8
        for thread in threads:
            thread.join()
        assert not failed
        assert len(set().union(*acked)) > 500
        assert set().union(*acked) <= {value for metric, value in house.kept() if metric == "end"}
        assert last.count((DISCONNECT, 0x8B)) == 4
        assert last.count(None) == 4


# anything


def mutated(data: bytes, chance: random.Random) -> bytes:
    made = bytearray(data)
    for _ in range(chance.choice((1, 1, 2, 3, 8))):
        at = chance.randrange(len(made) + 1)
        end = min(len(made), at + chance.choice((1, 2, 8, 64)))
        kind = chance.randrange(5)
        if kind == 0:
            made[at:end] = chance.randbytes(end - at)
        elif kind == 1:
            del made[at:end]
        elif kind == 2:
            made[at:at] = made[at:end] * chance.choice((1, 2, 50))
        elif kind == 3:
            made[at:at] = chance.choice(
                (b"\0", b"\xff", b"\x80\x80\x80\x80", b"\x32", b"\xe0\0", b"\xc0\0", b"{", b"#")
            )
        elif made:
            made[chance.randrange(len(made))] ^= 1 << chance.randrange(8)
    return bytes(made)


def _fuzz(house: House, seed: int, number: int) -> None:
    chance = random.Random(seed)
    said = {
        version: [
            publish(version, text(), 1),
            publish(version, b"21.5", 2, "tidemark/cams/s/m", qos=2),
            publish(version, b'{"a":1,"b":"on","event_time":1}', 0, "tidemark/cams/s"),
            publish(version, b"[" + text() + b"," + text() + b"]", 3),
            packet(SUBSCRIBE << 4 | 2, b"\0\1" + b"\0" * (version == V5) + field("#") + b"\0"),
            packet(UNSUBSCRIBE << 4 | 2, b"\0\2" + b"\0" * (version == V5) + field("#")),
            packet(PUBREL << 4 | 2, b"\0\1"),
            PING,
        ]
        for version in (V4, V5)
    }
    said[V5] += [publish(V5, b"1", 4, "tidemark/cams/s/m", properties=alias(1) + b"\x26\0\1k\0\1v\x01\1")]
    for turn in range(number):
        version = chance.choice((V4, V5))
        first = connect(version, house.token, "fuzz" * (turn % 2), keep_alive_s=turn % 3)
        rest = b"".join(chance.choices(said[version], k=chance.randrange(1, 6)))
        parts = (mutated(first + rest, chance),) if chance.random() < 0.3 else (first, mutated(rest, chance))
        with Client(house) as client:
            with contextlib.suppress(ConnectionError):
                client.send(*parts, BYE)
                client.socket.shutdown(1)
            assert {one.kind for one in client.rest()} <= ANSWERS, (seed, turn, parts)
        if turn % 500 == 0:
            assert good(house) < 2


@pytest.mark.parametrize("seed", [1])
def test_whatever_is_sent_it_takes_good_messages_afterwards(house: House, seed: int) -> None:
    _fuzz(house, seed, 1000)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(2, 12))
def test_whatever_is_sent_for_longer_it_takes_good_messages_afterwards(house: House, seed: int) -> None:
    _fuzz(house, seed, 10_000)
