"""The edge as a process, before the Pub/Sub stand-in."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bus.standin import TOPIC, Bus
from tests.edge.conftest import Running, point
from tests.waiting import eventually
from tidemark.edge.tokens import line_of
from tidemark.local.pubsub.faults import Change
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder

Start = Callable[..., Running]


def post(
    running: Running, body: bytes, token: str | None, path: str = "/v1/points", **headers: str
) -> tuple[int, dict[str, str], dict]:
    connection = http.client.HTTPConnection("127.0.0.1", running.port, timeout=30)
    given = {"Authorization": f"Bearer {token}"} if token else {}
    connection.request("POST", path, body, {**given, **{k.replace("_", "-"): v for k, v in headers.items()}})
    answer = connection.getresponse()
    text = answer.read()
    connection.close()
    return answer.status, {k.lower(): v for k, v in answer.getheaders()}, json.loads(text or b"{}")


def raw(running: Running, data: bytes) -> bytes:
    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.sendall(data)
        found = b""
        while part := connection.recv(65536):
            found += part
    return found


def test_what_is_answered_200_is_in_the_bus_as_the_pipeline_reads_it(
    edge: Start, bus: Bus, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = edge()
    bodies = [
        json.dumps(point()).encode(),
        json.dumps([point(value=1), point(metric="temp", value=2)]).encode(),
        json.dumps(
            {"source": "b", "points": [{"metric": "m", "event_time": "2026-01-01T00:00:00.000001Z", "value": 3}]}
        ).encode(),
        json.dumps(point(value=4), indent=2).encode(),
    ]
    for body, accepted in zip(bodies, (1, 2, 1, 1), strict=True):
        status, _, answer = post(running, body, token)
        assert (status, answer) == (200, {"accepted": accepted, "rejected": []})
    assert post(running, gzip.compress(bodies[0]), token, Content_Encoding="GZIP")[0] == 200
    columns = Columns()
    for message in bus.messages(monkeypatch):
        assert message.stated is not None
        Decoder().decode(message, columns, time.time_ns() // 1000)
    assert columns.dead_letters == []
    assert {key.project for key in columns.keys} == {"cams"}
    assert sorted(columns.value) == [1, 2, 3, 4, 24.5, 24.5]
    assert running.stop()[0] == 0


def test_a_refused_point_is_told_and_its_neighbours_are_kept(
    edge: Start, bus: Bus, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = edge()
    status, _, answer = post(
        running, json.dumps([point(value=1), {"source": "a"}, point(value=1e200), point(value=2)]).encode(), token
    )
    assert (status, answer["accepted"], answer["more"]) == (400, 2, 0)
    assert [(one["index"], one["reason"]) for one in answer["rejected"]] == [(1, "missing_field"), (2, "bad_value")]
    columns = Columns()
    for message in bus.messages(monkeypatch):
        Decoder().decode(message, columns, time.time_ns() // 1000)
    assert (sorted(columns.value), columns.dead_letters) == ([1, 2], [])
    assert post(running, b"\x00\x01", token)[2]["accepted"] == 0


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({}, 401),
        ({"Authorization": "Bearer tm_wrong"}, 401),
        ({"Content_Type": "image/png", "token": "yes"}, 415),
        ({"Content_Encoding": "br", "token": "yes"}, 415),
        ({"Content_Length": "99999999", "token": "yes"}, 413),
        ({"Expect": "magic", "token": "yes"}, 417),
    ],
    ids=str,
)
def test_what_cannot_be_taken_is_told_by_its_head(
    edge: Start, token: str, headers: dict[str, str], status: int
) -> None:
    running = edge()
    given = dict(headers)
    known = token if given.pop("token", "") else None
    if status == 413:
        head = (
            f"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nContent-Length: 99999999\r\n\r\n"
        )
        assert raw(running, head.encode()).startswith(b"HTTP/1.1 413 ")
        return
    assert post(running, b"{}", known, **given)[0] == status


@pytest.mark.parametrize("size", [1025, 1500, 3000])
def test_a_body_of_unknown_length_is_held_to_the_same_bound(edge: Start, token: str, size: int) -> None:
    running = edge("--max_message_bytes=1024")
    head = f"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {token}\r\nTransfer-Encoding: chunked\r\n\r\n"
    chunks = b"".join(b"64\r\n" + b" " * 100 + b"\r\n" for _ in range(size // 100))
    last = b"%x\r\n" % (size % 100) + b" " * (size % 100) + b"\r\n" if size % 100 else b""
    assert raw(running, head.encode() + chunks + last + b"0\r\n\r\n").startswith(b"HTTP/1.1 413 ")


def test_paths_methods_and_other_projects(edge: Start, token: str) -> None:
    running = edge()
    assert post(running, b"{}", token, "/v1/nothing")[0] == 404
    assert post(running, b"{}", token, "/healthz")[0] == 405
    assert post(running, json.dumps(point(project="other")).encode(), token)[0] == 403
    assert raw(running, b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")


@pytest.mark.parametrize(
    ("data", "status"),
    [
        (b"POST /v1/points HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", 400),
        (
            b"POST /v1/points HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
            400,
        ),
        (b"GET /healthz HTTP/1.1\r\n\r\n", 400),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\nX: " + b"a" * 70_000 + b"\r\n\r\n", 431),
        (b"GET /healthz HTTP/1.1\r\nHost: x\r\n" + b"a: b\r\n" * 10_000 + b"\r\n", 431),
        (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", 400),
    ],
    ids=["two lengths", "length and chunks", "no host", "a long head", "many headers", "TLS"],
)
def test_what_is_no_request_is_refused(edge: Start, data: bytes, status: int) -> None:
    assert raw(edge(), data).startswith(b"HTTP/1.1 %d " % status)


def test_pipelined_requests_are_answered_in_order(edge: Start, token: str) -> None:
    body = json.dumps(point()).encode()
    one = b"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n%b" % (
        token.encode(),
        len(body),
        body,
    )
    last = b"GET /nothing HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    found = raw(edge(), one * 20 + last)
    assert found.count(b"HTTP/1.1 200 ") == 20
    assert found.rindex(b"HTTP/1.1 404 ") > found.rindex(b"HTTP/1.1 200 ")


def test_while_the_bus_is_away_senders_are_told_or_points_are_spooled_and_published_later(
    edge: Start, bus: Bus, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = edge("--publish_timeout_s=0.5")
    spooling = edge("--publish_timeout_s=0.5", f"--spool_dir={tmp_path / 'spool'}", "--spool_free_bytes=0")
    bus.server.kill()
    status, headers, _ = post(plain, json.dumps(point()).encode(), token)
    assert status == 503
    assert 1 <= int(headers["retry-after"]) <= 30
    for value in range(20):
        status, headers, answer = post(spooling, json.dumps(point(value=value)).encode(), token)
        assert (status, answer["accepted"], headers["x-tidemark-durability"]) == (202, 1, "spool")
    spooling.process.kill()
    spooling.process.communicate()
    bus.server.start()
    again = edge(f"--spool_dir={tmp_path / 'spool'}", "--spool_free_bytes=0")
    columns = Columns()
    until = time.monotonic() + 20
    while len(set(columns.value)) < 20 and time.monotonic() < until:
        for message in bus.messages(monkeypatch):
            Decoder().decode(message, columns, time.time_ns() // 1000)
    assert {*range(20)} <= set(columns.value)
    assert again.stop()[0] == 0


def test_a_signal_lets_what_is_in_flight_be_answered(edge: Start, bus: Bus, token: str) -> None:
    running = edge()
    with bus.control() as control:
        control.change(Change(delay_s={"Publish": 1.0}))
        found: list[int] = []
        thread = threading.Thread(target=lambda: found.append(post(running, json.dumps(point()).encode(), token)[0]))
        thread.start()
        eventually(lambda: running.metric("inflight_bytes") > 0)
        assert running.stop()[0] == 0
        thread.join(20)
    assert found == [200]


def test_it_does_not_go_on_without_what_has_to_go_on(edge: Start, bus: Bus, token: str, tmp_path: Path) -> None:
    flags = ("--publish_timeout_s=0.5", f"--spool_dir={tmp_path / 'spool'}", "--spool_free_bytes=0")
    running = edge(*flags, failpoints="spool.published=raise@1")
    bus.server.kill()
    assert post(running, json.dumps(point()).encode(), token)[0] == 202
    bus.server.start()
    _, err = running.process.communicate(timeout=40)
    assert running.process.returncode == 1
    assert "failpoint spool.published" in err


def test_a_quota_is_429_and_says_when(edge: Start, tokens: Path, token: str) -> None:
    line = json.loads(tokens.read_text())
    tokens.write_text(json.dumps({**line, "points_per_s": 1}) + "\n")
    running = edge()
    statuses = [post(running, json.dumps(point()).encode(), token)[0] for _ in range(6)]
    assert statuses[0] == 200
    assert 429 in statuses


def test_tokens_that_cannot_be_read_leave_the_old_ones_in_force(edge: Start, tokens: Path, token: str) -> None:
    running = edge()
    tokens.write_text("not a line\n")
    eventually(lambda: running.metric("tokens_stale") == 1)
    assert post(running, json.dumps(point()).encode(), token)[0] == 200
    status, err = running.stop()
    assert status == 0
    assert "stay in force" in err
    assert token not in err


def test_new_series_beyond_the_most_are_refused_by_point_and_known_ones_flow(
    edge: Start, bus: Bus, token: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    running = edge("--max_series=2")
    assert post(running, json.dumps([point(metric="a"), point(metric="b")]).encode(), token)[0] == 200
    body = [
        point(metric="a", value=1),
        {"source": "x"},
        point(metric="c"),
        point(metric="b", value=2),
        point(metric="d"),
    ]
    status, _, answer = post(running, json.dumps(body).encode(), token)
    assert (status, answer["accepted"]) == (400, 2)
    assert sorted((one["index"], one["reason"]) for one in answer["rejected"]) == [
        (1, "missing_field"),
        (2, "series_limit"),
        (4, "series_limit"),
    ]
    assert running.metric("points_refused_total") == 3
    columns = Columns()
    for message in bus.messages(monkeypatch):
        Decoder().decode(message, columns, time.time_ns() // 1000)
    assert {key.metric for key in columns.keys} == {"a", "b"}
    assert len(columns.series) == 4


def test_a_spool_without_room_is_507_and_says_when(edge: Start, bus: Bus, token: str, tmp_path: Path) -> None:
    running = edge("--publish_timeout_s=0.3", f"--spool_dir={tmp_path / 'spool'}", f"--spool_free_bytes={1 << 50}")
    bus.server.kill()
    status, headers, answer = post(running, json.dumps(point()).encode(), token)
    assert (status, headers["retry-after"]) == (507, "30")
    assert "free" in answer["error"]


@pytest.mark.parametrize("before", [True, False])
def test_the_spool_of_a_lost_node_is_flushed(
    edge: Start, bus: Bus, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, before: bool
) -> None:
    spool = tmp_path / "spool"
    running = edge("--publish_timeout_s=0.3", f"--spool_dir={spool}", "--spool_free_bytes=0")
    bus.server.kill()
    for value in range(5):
        assert post(running, json.dumps(point(value=value)).encode(), token)[0] == 202
    topic = f"--topic={TOPIC}"
    command = [sys.executable, "-m", "tidemark", "edge"]
    command += [topic, "flush", str(spool)] if before else ["flush", str(spool), topic]
    environment = {**os.environ, "PUBSUB_EMULATOR_HOST": bus.address}

    def flush() -> subprocess.CompletedProcess[str]:
        return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)

    done = flush()
    assert (done.returncode, "Another edge uses" in done.stderr) == (2, True)
    running.process.kill()
    running.process.communicate()
    bus.server.start()
    done = flush()
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["published"] >= 1
    columns = Columns()
    for message in bus.messages(monkeypatch):
        Decoder().decode(message, columns, time.time_ns() // 1000)
    assert {*columns.value} == {*range(5)}
    assert json.loads(flush().stdout) == {"published": 0}


def test_ready_is_false_while_the_bus_refuses_and_true_again(edge: Start, bus: Bus, token: str) -> None:
    def ready() -> int:
        return int(raw(running, b"GET /readyz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")[9:12])

    running = edge("--publish_timeout_s=0.5")
    assert ready() == 200
    bus.server.kill()
    assert post(running, json.dumps(point()).encode(), token)[0] == 503
    eventually(lambda: ready() == 503)
    began = time.monotonic()
    assert post(running, json.dumps(point()).encode(), token)[0] == 503
    assert time.monotonic() - began < 0.5, "nobody waits for what is known to be away"
    assert raw(running, b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").startswith(b"HTTP/1.1 200 ")
    bus.server.start()
    eventually(lambda: ready() == 200)
    assert post(running, json.dumps(point()).encode(), token)[0] == 200


def test_it_starts_in_less_than_a_second_and_imports_nothing_heavy() -> None:
    script = (
        "import sys; from tidemark import cli; cli.parser(['edge']); import tidemark.edge.server; "
        "print(*sorted(name for name in ('apache_beam', 'sqlalchemy', 'numpy.random', 'google.cloud.pubsub_v1', "
        "'google.cloud.bigquery', 'uvicorn') if name in sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_a_head_that_was_sent_before_means_what_it_did_however_it_comes(edge: Start, tokens: Path, token: str) -> None:
    running = edge()
    chance = random.Random(5)
    head = b"POST /v1/points HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer %b\r\nContent-Length: %d\r\n\r\n"

    def request(number: int) -> tuple[bytes, bytes]:
        good = json.dumps(point(metric=f"m{number % 7}", event_time=1_769_860_800_000 + number)).encode()
        body = good if number % 3 else b" " * (len(good) - 2) + b"{}"
        return head % (token.encode(), len(body)) + body, b"200" if number % 3 else b"400"

    with socket.create_connection(("127.0.0.1", running.port), timeout=20) as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        answers = connection.makefile("rb")
        number = 0
        while number < 300:
            together = [request(number + k) for k in range(chance.choice((1, 1, 1, 2, 3)))]
            number += len(together)
            text, at = b"".join(each for each, _ in together), 0
            while at < len(text):
                size = chance.choice((len(text), len(text), 1, 150, 400))
                connection.sendall(text[at : at + size])
                at += size
            for _, status in together:
                assert answers.readline().split(b" ")[1] == status
                length = 0
                while (line := answers.readline()) != b"\r\n":
                    name, _, value = line.partition(b": ")
                    length = int(value) if name.lower() == b"content-length" else length
                answers.read(length)
        tokens.write_text(line_of("tm_another", "cams", ["write"]) + "\n")
        eventually(lambda: post(running, b"{}", token)[0] == 401)
        connection.sendall(request(1)[0])
        assert answers.readline().startswith(b"HTTP/1.1 401 ")
    eventually(lambda: running.metric("inflight_bytes") == 0)
