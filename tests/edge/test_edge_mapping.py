"""An edge with a mapping: devices send what they like, over every listener, and are answered for what came of it."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import paho.mqtt.client as paho
import pytest
from paho.mqtt.enums import CallbackAPIVersion

from tests.edge.house import House, housed, statuses
from tests.edge.test_edge import post
from tests.waiting import eventually

MAPPING = """
.attributes as $about | .body as $body
| if $body.kind == "log" then empty else . end
| if $body.metric then $body else
(if $body.spin then (def f: f; f) else . end
| if $body.wrong then error("a device of kind \\($body.wrong) is not known") else . end) |
{
    source: ($about.topic // $about.path // "line"),
    metric: (.body.values | keys[] as $name | {n: $name}).n,
    event_time: .body.at,
    value: 0
  } as $point
| $point + {value: .body.values[$point.metric]}
| if $body.project then . + {project: $body.project} else . end
end
"""


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    directory = tmp_path_factory.mktemp("mapped")
    mapping = directory / "device.jq"
    mapping.write_text(MAPPING)
    with housed(
        directory,
        mapping=str(mapping),
        mapping_cpu_s="0.5",
        mqtt_port="0",
        tcp_port="0",
        udp_ports="0=cams",
        access_log_share="0",
    ) as made:
        yield made


def body(**more: Any) -> bytes:
    return json.dumps({"at": time.time_ns() // 1_000_000, "values": {"a": 1.5}, **more}).encode()


def sources(house: House) -> list[tuple[str, str, float]]:
    columns = house.columns()
    keys = [columns.keys[series] for series in columns.series]
    assert {key.project for key in keys} <= {"cams"}
    return sorted((key.source, key.metric, value) for key, value in zip(keys, columns.value, strict=True))


def test_over_http_what_comes_of_a_body_is_answered_and_published(house: House) -> None:
    status, _, told = post(house.running, body(values={"a": 1, "b": 2}), house.token, "/v1/points/up/dev-1")
    assert (status, told) == (200, {"accepted": 2, "rejected": []})
    status, _, told = post(house.running, b"[%b,%b]" % (body(), body(kind="log")), house.token)
    assert (status, told) == (200, {"accepted": 1, "rejected": []})
    assert sources(house) == [
        ("/v1/points", "a", 1.5),
        ("/v1/points/up/dev-1", "a", 1),
        ("/v1/points/up/dev-1", "b", 2),
    ]
    assert house.running.metric("values_filtered_total") >= 1


def test_over_http_what_cannot_be_mapped_is_told_and_the_rest_is_kept(house: House) -> None:
    mixed = b"\n".join([body(), body(wrong="x"), b"nonsense", body(values={"a": "high", "b": 3})])
    status, _, told = post(house.running, mixed, house.token)
    assert (status, told["accepted"]) == (400, 2)
    assert [(one["index"], one["reason"]) for one in told["rejected"]] == [
        (2, "not_json"),
        (1, "mapping_failed"),
        (3, "bad_value"),
    ]
    assert told["rejected"][1]["detail"] == "a device of kind x is not known"
    assert len(sources(house)) == 2


@pytest.mark.parametrize(
    ("sent", "status"),
    [({"project": "other"}, 403), (b"", 400), (b"{", 400), (b"[]", 400), ({"kind": "log"}, 200)],
)
def test_over_http_what_is_none_is_answered_as_without_a_mapping(house: House, sent: Any, status: int) -> None:
    given = sent if isinstance(sent, bytes) else body(**sent)
    assert post(house.running, given, house.token)[0] == status
    assert not sources(house)


def test_one_that_does_not_end_does_not_hold_up_the_loop(house: House) -> None:
    found: list[int] = []
    spins = [
        threading.Thread(target=lambda: found.append(post(house.running, body(spin=True), house.token)[0]))
        for _ in range(3)
    ]
    for thread in spins:
        thread.start()
    waited = 0.0
    while any(thread.is_alive() for thread in spins):
        began = time.monotonic()
        with house.connect() as connection:
            connection.sendall(b"GET /healthz HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
            assert statuses(connection.recv(4096)) == [200]
        waited = max(waited, time.monotonic() - began)
    assert found == [400] * 3
    assert waited < 0.4
    assert post(house.running, body(), house.token)[0] == 200
    assert len(sources(house)) == 1


@pytest.mark.parametrize("version", [paho.MQTTv311, paho.MQTTv5])
def test_over_mqtt_any_topic_is_the_mappings(house: House, version: Any) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, f"device-{version}", protocol=version)
    client.username_pw_set("cams", house.token)
    reasons: dict[int, str] = {}
    client.on_publish = lambda _c, _u, mid, reason, _p: reasons.__setitem__(mid, str(reason))
    client.connect("127.0.0.1", house.running.device_ports["mqtt"][0])
    client.loop_start()
    sent = [
        client.publish("zigbee/kitchen/window", body(), qos=1),
        client.publish("zigbee/kitchen/window", body(wrong="x"), qos=1),
        client.publish("$SYS/x", body(values={"b": 2}), qos=2),
        client.publish("y" * 5000, body(), qos=1),
        client.publish("z", body(project="other"), qos=1),
    ]
    for one in sent:
        one.wait_for_publish(20)
    eventually(lambda: len(reasons) == len(sent))
    client.disconnect()
    client.loop_stop()
    assert sources(house) == [("$SYS/x", "b", 2), ("zigbee/kitchen/window", "a", 1.5)]
    if version == paho.MQTTv5:
        told = [reasons[one.mid] for one in sent]
        assert told[0] == told[2] == "Success"
        assert "Success" not in (told[1], told[3], told[4])


def test_over_tcp_lines_are_mapped_and_acknowledged_in_order(house: House) -> None:
    number = 300
    with socket.create_connection(("127.0.0.1", house.running.device_ports["tcp"][0]), timeout=20) as connection:
        first = json.dumps({"token": house.token, "acks": True}).encode()
        lines = [body(values={"a": n}) if n % 100 else body(wrong=str(n)) for n in range(number)]
        connection.sendall(b"\n".join([first, *lines, b""]))
        connection.shutdown(socket.SHUT_WR)
        told = [json.loads(line) for line in connection.makefile()]
    assert [one["detail"] for one in told if "detail" in one] == [
        f"a device of kind {n} is not known" for n in range(0, number, 100)
    ]
    assert told[-1] == {"line": number, "accepted": number - 3, "refused": 3, "end": True}
    assert [value for _, _, value in sources(house)] == [float(n) for n in range(number) if n % 100]


def test_over_udp_each_datagram_is_counted_once(house: House) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sender:
        for n in range(50):
            sender.sendto(
                body(values={"a": n}) if n % 10 else body(wrong="x"),
                ("127.0.0.1", house.running.device_ports["udp"][0]),
            )
    eventually(lambda: house.running.metric("datagrams_total") == 50)
    assert len(sources(house)) == 45


def test_points_of_one_device_keep_their_order(house: House) -> None:
    """The later of two values of one point is accepted later, so that it is the one that is kept."""
    at = time.time_ns() // 1_000_000
    for value in (9.0, 3.0, 7.0, 1.0):
        assert post(house.running, body(at=at, values={"a": value}), house.token, "/v1/points/same")[0] == 200
    columns = house.columns()
    newest = max(range(len(columns.series)), key=lambda n: columns.publish_time[n])
    assert columns.value[newest] == 1.0


def test_a_mapping_that_is_none_is_refused_at_once(tmp_path: Path) -> None:
    (tmp_path / "bad.jq").write_text("{a: ")
    with pytest.raises(AssertionError, match="line 1, column 4"), housed(tmp_path, mapping=str(tmp_path / "bad.jq")):
        pass
