"""What comes as lines over TCP from the open internet, and from those who have a token: nothing takes the edge, or others, along."""

from __future__ import annotations

import contextlib
import json
import random
import select
import socket
import ssl
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, pem
from tests.edge.conftest import point
from tests.edge.house import MB, House, housed, reset, rest
from tests.waiting import eventually
from tidemark.edge.tokens import line_of, new_token
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import Message

TIMEOUT_S = 1.0
INFLIGHT = 16 * MB
RSS_BESIDE_MB = 150
Lines = list[dict[str, Any]]


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(
        tmp_path_factory.mktemp("tcp"),
        client_timeout_s=str(TIMEOUT_S),
        inflight_bytes=str(INFLIGHT),
        access_log_share="0",
        tcp_port="0",
    ) as made:
        yield made


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    yield shared
    shared.unharmed()
    assert good(shared) < 2
    eventually(lambda: shared.running.metric("connections") == 0)
    assert shared.rss_mb() < INFLIGHT / MB + RSS_BESIDE_MB


def connect(house: House, small: bool = False) -> socket.socket:
    made = socket.socket()
    if small:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    made.connect(("127.0.0.1", house.running.device_ports["tcp"][0]))
    made.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    made.settimeout(20)
    return made


def first(token: str, *, acks: bool = True) -> bytes:
    return json.dumps({"token": token, "acks": acks}).encode() + b"\n"


def line(value: float = 1, **more: Any) -> bytes:
    return json.dumps(point(value=value, **more)).encode() + b"\n"


def said(data: bytes) -> Lines:
    """The lines of an answer, each of which is whole."""
    assert not data or data.endswith(b"\n"), data[-200:]
    return [json.loads(one) for one in data.splitlines()]


def exchange(house: House, *parts: bytes, token: str | None = None, acks: bool = True) -> Lines:
    """All that is answered to a first line and to these parts."""
    with connect(house) as connection:
        with contextlib.suppress(ConnectionError):
            for part in (first(token or house.token, acks=acks), *parts):
                connection.sendall(part)
            connection.shutdown(socket.SHUT_WR)
        return said(rest(connection))


def answered(connection: socket.socket) -> Iterator[dict[str, Any]]:
    """Lines as they come."""
    with connection.makefile("rb") as file:
        for one in file:
            yield json.loads(one)


def good(house: House) -> float:
    """A good line is kept; how long it took, connecting not counted."""
    with connect(house) as connection:
        connection.sendall(first(house.token))
        began = time.monotonic()
        connection.sendall(line())
        assert next(answered(connection)) == {"line": 1, "accepted": 1}
        return time.monotonic() - began


# who says nothing, or something else


@pytest.mark.parametrize(
    "data",
    [
        b"\n",
        b"\r\n\r\n",
        line(),
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03" + bytes(5000),
        b"\x10\x10\0\4MQTT\4\2\0\0\0\4abcd\n",
        bytes(5000),
        b"[" * 4000 + b"\n",
        b'{"token":"' + b"t" * (10 * MB) + b'"}\n',
        b"{}\n",
        b"null\n",
        b'["tm_x"]\n',
        b'{"token":1}\n',
        b'{"token":null}\n',
        b'{"token":"tm_nobody"}\n',
        b'{"token":"\xff"}\n',
        b'{"token":"\\ud800"}\n',
        b'{"token":"tm_nobody"}',
        first("tm_another").replace(b"}", b',"project":"cams"}'),
    ],
    ids=lambda data: repr(data[:24]),
)
def test_who_does_not_say_who_it_is_is_told_and_closed(shared: House, data: bytes) -> None:
    began = time.monotonic()
    with connect(shared) as connection:
        with contextlib.suppress(ConnectionError):
            connection.sendall(data + line() * 3 if data.endswith(b"\n") else data)
            connection.shutdown(socket.SHUT_WR)
        found = said(rest(connection))
    assert [list(one) for one in found] == [["error"]]
    assert time.monotonic() - began < TIMEOUT_S


@pytest.mark.parametrize("sent", [b"", b'{"token":'])
def test_who_says_nothing_is_closed_in_time(shared: House, sent: bytes) -> None:
    began = time.monotonic()
    with connect(shared) as connection:
        connection.sendall(sent)
        assert [one["error"] for one in said(rest(connection))] == ["nobody said who it is"]
    assert TIMEOUT_S <= time.monotonic() - began < TIMEOUT_S + 1.5


def test_a_first_line_may_come_byte_by_byte_and_not_for_ever(house: House) -> None:
    with connect(house) as quick, connect(house) as slow:
        for byte in first(house.token).replace(b"\n", b"\r\n"):
            quick.sendall(bytes((byte,)))
        quick.sendall(line())
        assert next(answered(quick)) == {"line": 1, "accepted": 1}
        began = time.monotonic()
        slow.settimeout(0.02)
        while True:
            slow.sendall(b"a")
            with contextlib.suppress(TimeoutError):
                assert b"nobody" in slow.recv(1000)
                break
        assert time.monotonic() - began < TIMEOUT_S + 1.5


def test_who_is_not_known_costs_no_more_than_a_first_line(house: House) -> None:
    before = house.rss_mb()
    connections = [connect(house) for _ in range(200)]
    for connection in connections:
        connection.sendall(b"{")
    time.sleep(0.1)  # so that it comes by itself
    for connection in connections:
        connection.setblocking(False)
        with contextlib.suppress(BlockingIOError, ConnectionError):
            connection.send(b" " * (MB - 1000))
    most = before
    until = time.monotonic() + TIMEOUT_S / 2
    while time.monotonic() < until:
        most = max(most, house.rss_mb())
    for connection in connections:
        connection.close()
    assert most - before < 30


def test_who_may_not_write_is_not_let_in(house: House) -> None:
    reader, source = new_token(), new_token()
    house.grant(line_of(reader, "cams", ["read"]), line_of(source, "cams", ["write"], source="s"))
    assert exchange(house, line(), token=reader) == [{"error": "The token may not write."}]
    found = exchange(house, line(), line(source="s"), line(project="other", source="s"), token=source)
    assert [one["line"] for one in found if one.get("reason") == "forbidden"] == [1, 3]
    assert found[-1] == {"line": 3, "accepted": 1, "refused": 2, "end": True}


def test_who_is_sending_when_it_is_sent_away_hears_why(house: House) -> None:
    for _ in range(20):
        assert [list(one) for one in exchange(house, line() * 30_000, token="tm_nobody")] == [["error"]]


def test_who_has_a_certificate_need_not_say_anything(tmp_path: Path) -> None:
    authority = Authority("ours")
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    for name in ("server", "cams"):
        authority.issue(name, tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    flags = {
        "tls_certificate": str(tmp_path / "server.pem"),
        "tls_key": str(tmp_path / "server.key"),
        "tls_client_ca": str(tmp_path / "ca.pem"),
        "tls_client_projects": "true",
    }
    context = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
    context.load_cert_chain(tmp_path / "cams.pem", tmp_path / "cams.key")
    with housed(tmp_path, tcp_port="0", client_timeout_s="1", **flags) as house, contextlib.ExitStack() as ends:
        began = time.monotonic()
        secured = [
            ends.enter_context(context.wrap_socket(connect(house), server_hostname="localhost")) for _ in range(3)
        ]
        plain = [ends.enter_context(connect(house)) for _ in range(3)]
        for one, data in zip(plain, (b"", b"\x16\x03\x01", line()), strict=True):
            one.sendall(data)
        assert [rest(one) for one in plain] == [b""] * 3
        assert time.monotonic() - began < TIMEOUT_S + 2
        time.sleep(max(0.0, began + TIMEOUT_S + 1.5 - time.monotonic()))  # it has nothing to say for so long
        quiet, told, other = secured
        long = line(passed_over="x" * 10_000)
        for at in range(0, len(long), 3000):
            quiet.sendall(long[at : at + 3000])
        quiet.sendall(b"x\n")
        told.sendall(b'{"acks":true}\n' + line() * 2)
        assert next(answered(told)) == {"line": 2, "accepted": 2}
        eventually(lambda: house.running.metric("points_accepted_total") == 3)
        eventually(lambda: house.running.metric("points_refused_total") == 1)
        other.sendall(b'{"token":"tm_nobody"}\n')
        assert said(rest(other)) == [{"error": "The token is not known."}]


# lines


@pytest.mark.parametrize("size", [1, 2, 3, 7, 64, 1000])
def test_lines_may_be_cut_anywhere(house: House, size: int) -> None:
    texts = [
        line(1, attributes={"a": "ü€😀"}),
        b"\n",
        line(2).replace(b"\n", b"\r\n"),
        b"x\n",
        b"\r\n",
        "ü\n".encode(),
        b"[" + line(3).strip() + b"," + line(4).strip() + b"]\n",
        b'{"source":"s"}\n',
        line(5),
    ]
    data = b"".join(texts)
    found = exchange(house, *(data[at : at + size] for at in range(0, len(data), size)))
    assert [(one["line"], one["reason"]) for one in found if "reason" in one] == [
        (4, "not_json"),
        (6, "not_json"),
        (8, "missing_field"),
    ]
    assert found[-1] == {"line": 9, "accepted": 5, "refused": 3, "end": True}


def test_a_last_line_without_an_end_is_not_taken_and_that_is_told(house: House) -> None:
    before = house.running.metric("partial_lines_total")
    for acks in (True, False):
        found = exchange(house, line(), line(), line()[:-1], acks=acks)
        assert found[-1] == {"line": 2, "accepted": 2, "refused": 0, "partial": True, "end": True}
    assert exchange(house)[-1] == {"line": 0, "accepted": 0, "refused": 0, "end": True}
    assert house.running.metric("partial_lines_total") == before + 2


@pytest.mark.parametrize("size", [10_000, 1 << 20])
def test_a_line_that_is_too_long_is_refused_by_its_number_and_the_rest_flows(house: House, size: int) -> None:
    long = line(passed_over="x" * (10 * MB))
    data = line(1) + long + line(2) + b"\n" + long + long + line(3)
    before = house.rss_mb()
    found = exchange(house, *(data[at : at + size] for at in range(0, len(data), size)))
    assert [(one["line"], one["reason"]) for one in found if "reason" in one] == [
        (number, "message_too_large") for number in (2, 5, 6)
    ]
    assert found[-1] == {"line": 7, "accepted": 3, "refused": 3, "end": True}
    assert house.rss_mb() - before < 20
    assert exchange(house, long[:-1])[-1] == {"line": 1, "accepted": 0, "refused": 1, "partial": True, "end": True}


def test_lines_of_every_length_up_to_the_bound_are_taken(tmp_path: Path) -> None:
    with housed(tmp_path, tcp_port="0", max_packet_bytes="1024") as house:
        lines = [line(passed_over="x" * number) for number in range(800, 960)]
        found = exchange(house, b"".join(lines))
        long = [number for number, one in enumerate(lines, 1) if len(one) - 1 > 1024]
        assert 20 < len(long) < 100
        assert [one["line"] for one in found if "reason" in one] == long
        assert found[-1] == {"line": 160, "accepted": 160 - len(long), "refused": len(long), "end": True}


def test_what_is_json_only_over_several_lines_is_none(house: House) -> None:
    pretty = json.dumps(point(), indent=1).encode() + b"\n"
    found = exchange(house, pretty)
    assert [one["line"] for one in found if "reason" in one] == list(range(1, pretty.count(b"\n") + 1))
    halves = [
        b'{"a":{}\n',
        line(1),
        b'{"a":{}\n',
        line(2)[:-2] + b"\n",
        b"}\n",
        line(3),
        b'{"a":"}\n',
        b'{"}\n',
        line(4),
    ]
    found = exchange(house, b"".join(halves))
    assert [one["line"] for one in found if "reason" in one] == [1, 3, 4, 5, 7, 8]
    assert found[-1] == {"line": 9, "accepted": 3, "refused": 6, "end": True}


def test_of_two_values_of_a_point_that_come_together_the_later_one_stays(house: House) -> None:
    house.kept()
    at = int(time.time() * 1000)
    lines = [line(value, metric=f"m{value % 7}", event_time=at) for value in range(1000, 0, -1)]
    assert exchange(house, b"".join(lines))[-1]["accepted"] == 1000
    columns = house.columns()
    winners: dict[str, tuple[int, float]] = {}
    for series, accepted, value in zip(columns.series, columns.publish_time, columns.value, strict=True):
        metric = columns.keys[series].metric
        winners[metric] = max(winners.get(metric, (0, 0.0)), (accepted, value))
    assert {metric: value for metric, (_, value) in winners.items()} == {f"m{n % 7}": n for n in range(1, 8)}


def _texts(chance: random.Random) -> bytes:
    return chance.choice(
        (
            line(chance.random(), metric=f"m{chance.randrange(5)}"),
            line(1, project="other"),
            b"[" + line(1).strip() + b',{"source":"s"}]\n',
            b"x" * chance.randrange(100) + b"\n",
            b"{}\n",
            b"\n",
            b"\r\n",
            b"  \n",
            line(1)[: chance.randrange(80)] + b"\n",
            b'{"a":{}\n',
            line(1).replace(b"\n", b"\r\n"),
            chance.randbytes(30).replace(b"\n", b"") + b"\n",
            b"\xef\xbb\xbf" + line(2),
        )
    )


@pytest.mark.parametrize("seed", [1, pytest.param(2, marks=pytest.mark.long), pytest.param(3, marks=pytest.mark.long)])
def test_each_line_is_what_the_pipeline_makes_of_it_by_itself(house: House, seed: int) -> None:
    chance = random.Random(seed)
    for turn in range(30):
        good_only = chance.random() < 2
        texts = [_texts(chance) if chance.random() < 0.3 and not good_only else line(number) for number in range(300)]
        accepted = refused = 0
        wrong = []
        for number, text in enumerate(texts, 1):
            body, columns, now_us = text.rstrip(b"\r\n"), Columns(), time.time_ns() // 1000
            if not body:
                continue
            Decoder().decode(Message(body, {"project": "cams"}, now_us, ""), columns, now_us)
            other = any(key.project != "cams" for key in columns.keys)
            accepted += 0 if other else len(columns.series)
            refused += 1 if other else sum(letter.points for letter in columns.dead_letters)
            if other or columns.dead_letters:
                wrong.append(number)
        data, size = b"".join(texts), chance.choice((50, 1000, 10_000, 100_000))
        found = exchange(house, *(data[at : at + size] for at in range(0, len(data), size)))
        assert [one["line"] for one in found if "reason" in one] == wrong, (seed, turn)
        assert (found[-1]["accepted"], found[-1]["refused"]) == (accepted, refused), (seed, turn)
        kept = [one["line"] for one in found if set(one) == {"line", "accepted"}]
        assert kept == sorted(kept)


# memory, and others' time


@pytest.mark.parametrize("data", [b"x\n" * 30_000, b"{}\n" * 20_000], ids=["no points", "empty"])
def test_who_never_reads_its_answers_costs_little_and_not_for_long(house: House, data: bytes) -> None:
    before = house.rss_mb()
    connections = [connect(house, small=True) for _ in range(3)]
    for connection in connections:
        connection.sendall(first(house.token))
        connection.settimeout(1)
        with contextlib.suppress(TimeoutError, ConnectionError):
            while True:
                connection.sendall(data)
    assert house.rss_mb() - before < 30
    eventually(lambda: house.running.metric("connections") == 0)
    for connection in connections:
        connection.close()


@pytest.mark.parametrize("data", [b"x\n" * 32_000, b"{}\n" * 20_000, line().replace(b"1}", b'"a"}') * 500])
def test_bad_lines_come_by_thousands_and_others_have_their_turn(house: House, data: bytes) -> None:
    took = []
    with contextlib.ExitStack() as ends:
        client = ends.enter_context(connect(house))
        client.sendall(first(house.token))
        answers = answered(client)
        floods = [ends.enter_context(connect(house)) for _ in range(6)]
        left = {}
        for flood in floods:
            flood.sendall(first(house.token))
            flood.setblocking(False)
            left[flood] = memoryview(data)
        for number in range(1, 9):
            began = time.monotonic()
            client.sendall(line())
            while not select.select([client], [], [], 0)[0]:
                for flood in floods:
                    with contextlib.suppress(BlockingIOError):
                        flood.recv(1 << 20)
                    with contextlib.suppress(BlockingIOError):
                        left[flood] = left[flood][flood.send(left[flood]) :] or memoryview(data)
            assert next(answers) == {"line": number, "accepted": number}
            took.append(time.monotonic() - began)
        for flood in floods:
            reset(flood)
    print(f"a line took {sorted(took)[4] * 1000:.0f} ms, at most {max(took) * 1000:.0f} ms")
    assert sorted(took)[4] < 1.5


def test_refusals_are_counted_and_named_however_many_they_are(house: House) -> None:
    before = house.running.metric("points_refused_total")
    found = exchange(house, b"x\n" * 5000 + line() + b"{}\n" * 5000)
    named = [one["line"] for one in found if "reason" in one]
    assert named == [*range(1, 5001), *range(5002, 10_002)]
    assert found[-1] == {"line": 10_001, "accepted": 1, "refused": 10_000, "end": True}
    assert house.running.metric("points_refused_total") == before + 10_000


def test_a_line_that_never_ends_takes_its_share_and_its_time(house: House) -> None:
    before = house.rss_mb()
    with contextlib.ExitStack() as ends:
        connections = [ends.enter_context(connect(house)) for _ in range(200)]
        for connection in connections:
            connection.sendall(first(house.token))
            connection.setblocking(False)
            with contextlib.suppress(BlockingIOError):
                connection.send(line(passed_over="x" * MB)[:20_000])
        began = time.monotonic()
        most = 0.0
        while time.monotonic() - began < TIMEOUT_S:
            most = max(most, house.running.metric("inflight_bytes"))
            assert good(house) < 2
        assert 2 * MB < most <= INFLIGHT / 2 + MB
        assert house.rss_mb() - before < 40
        for connection in connections:
            connection.settimeout(20)
        ends_said = [said(rest(connection))[-1]["error"] for connection in connections[:5]]
        assert ends_said == ["a message took too long to come"] * 5


def test_many_long_lines_come_through_however_little_room_there_is(house: House) -> None:
    failed: list[BaseException] = []

    def send() -> None:
        try:
            with connect(house) as connection:
                data = first(house.token) + line(passed_over="x" * (MB - 300)) * 2
                for at in range(0, len(data), 100_000):
                    connection.sendall(data[at : at + 100_000])
                    time.sleep(0.01)
                connection.shutdown(socket.SHUT_WR)
                assert said(rest(connection))[-1] == {"line": 2, "accepted": 2, "refused": 0, "end": True}
        except BaseException as error:
            failed.append(error)
            raise

    threads = [threading.Thread(target=send) for _ in range(40)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed


def test_every_end_of_a_conversation_leaves_nothing(house: House) -> None:
    data = first(house.token) + line() + b"x\n" + line(passed_over="x" * 100)
    for end in range(len(data) + 1):
        with connect(house) as connection:
            connection.sendall(data[:end])
            if end % 3 == 1:
                connection.shutdown(socket.SHUT_WR)
            if end % 3:
                reset(connection)


def test_who_goes_while_its_lines_are_on_their_way_leaves_nothing(house: House) -> None:
    with house.bus.slow(0.5):
        connections = [connect(house) for _ in range(40)]
        for number, connection in enumerate(connections):
            connection.sendall(first(house.token) + (line() * (1 + number * 20))[: -1 if number % 3 else None])
        eventually(lambda: house.running.metric("inflight_bytes") > 0)
        for number, connection in enumerate(connections):
            if number % 3 == 2:
                connection.shutdown(socket.SHUT_WR)
            reset(connection) if number % 2 else connection.close()
        eventually(lambda: house.running.metric("inflight_bytes") == 0)


def test_more_connections_than_may_be_are_closed_and_the_next_ones_are_served(tmp_path: Path) -> None:
    with housed(tmp_path, tcp_port="0", mqtt_port="0", max_connections="20") as house:
        ones = [connect(house) for _ in range(20)]
        eventually(lambda: house.running.metric("connections") == 20)
        beyond = [connect(house) for _ in range(1000)]
        assert [rest(connection) for connection in beyond] == [b""] * 1000
        ones[0].sendall(first(house.token) + line())
        assert next(answered(ones[0])) == {"line": 1, "accepted": 1}
        for connection in (*ones, *beyond):
            connection.close()
        eventually(lambda: house.running.metric("connections") == 0)
        assert good(house) < 2


# those who have a token, and its bounds; the bus, and the end


def test_who_may_not_any_more_is_told_so_and_how_far_it_came(house: House) -> None:
    token = new_token()
    house.grant(line_of(token, "cams", ["write"]))
    with connect(house) as connection:
        connection.sendall(first(token) + line() * 3)
        eventually(lambda: select.select([connection], [], [], 0)[0] != [])
        house.grant(line_of(new_token(), "cams", ["write"]))
        connection.settimeout(3)
        error = "The token is not in force any more."
        assert said(rest(connection))[-1] == {"line": 3, "accepted": 3, "refused": 0, "error": error}


def test_a_quota_slows_its_senders_down_and_loses_nothing(house: House) -> None:
    token = new_token()
    house.grant(line_of(token, "cams", ["write"], points_per_s=4000))
    began = time.monotonic()
    data = b"".join(line(value) for value in range(9000))
    found: list[Lines] = []
    threads = [threading.Thread(target=lambda: found.append(exchange(house, data, token=token))) for _ in range(2)]
    for thread in threads:
        thread.start()
    assert good(house) < 2
    for thread in threads:
        thread.join()
    assert [one[-1] for one in found] == [{"line": 9000, "accepted": 9000, "refused": 0, "end": True}] * 2
    assert time.monotonic() - began > 1.5


def test_who_does_not_know_what_is_kept_is_told_where_it_ends(tmp_path: Path) -> None:
    with housed(tmp_path, tcp_port="0", publish_timeout_s="1") as house:
        with connect(house) as connection:
            connection.sendall(first(house.token, acks=False) + line() * 5)
            eventually(lambda: house.running.metric("points_accepted_total") == 5)
            house.bus.server.kill()
            connection.sendall(line() * 5 + b"x\n" + line())
            found = said(rest(connection))
            assert len(found) == 1
            assert (found[0]["line"], found[0]["accepted"]) == (5, 5)
            assert "Pub/Sub" in found[0]["error"]
        house.bus.server.start()
        house.publishes_again()
        with connect(house) as connection:
            connection.sendall(first(house.token))
            with house.bus.stopped():
                connection.sendall(line())
                assert select.select([connection], [], [], 0.4)[0] == []
            assert next(answered(connection)) == {"line": 1, "accepted": 1}


def test_what_was_said_to_be_kept_until_the_end_is_in_the_bus(tmp_path: Path) -> None:
    ends: list[tuple[int, Lines]] = []
    failed: list[BaseException] = []
    with housed(tmp_path, tcp_port="0", inflight_bytes=str(INFLIGHT)) as house:

        def pump(number: int) -> None:
            """Half of them want to know meanwhile what is kept; none ends by itself."""
            found = b""
            try:
                with connect(house) as connection:
                    connection.sendall(first(house.token, acks=number % 2 == 0))
                    sent = 0
                    while True:
                        ready, writable, _ = select.select([connection], [connection], [], 5)
                        if ready:
                            part = connection.recv(1 << 16)
                            if not part:
                                break
                            found += part
                        elif writable:
                            part = b"".join(line(number * 1_000_000 + sent + n) for n in range(1, 21))
                            with contextlib.suppress(ConnectionError):
                                connection.sendall(part)
                            sent += 20
                    ends.append((number, said(found)))
            except BaseException as error:
                failed.append(error)
                raise

        threads = [threading.Thread(target=pump, args=(number,)) for number in range(4)]
        for thread in threads:
            thread.start()
        with house.bus.slow(0.05):
            eventually(lambda: house.running.metric("published_total") > 20)
            began = time.monotonic()
            assert "Traceback" not in house.stopped()
        assert time.monotonic() - began < 8
        for thread in threads:
            thread.join()
        assert not failed
        kept = {value for _, value in house.kept()}
        for number, lines in ends:
            last = lines[-1]
            assert last["error"] == "This edge is about to stop: come again, to another."
            assert last["line"] == last["accepted"] > 0
            assert set(range(number * 1_000_000 + 1, number * 1_000_000 + 1 + last["line"])) <= kept
        assert len(ends) == 4
