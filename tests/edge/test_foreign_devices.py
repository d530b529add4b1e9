"""Clients of MQTT that nobody here wrote: what they send is stored, and of what is refused those of version 5 are told."""

from __future__ import annotations

import asyncio
import json
import queue
from collections.abc import Callable, Iterator
from typing import Any, Self

import pytest

from tests.edge.conftest import point
from tests.edge.foreign import Shore, node_modules, run, series, shored, tool
from tests.waiting import eventually

paho = pytest.importorskip("paho.mqtt.client", reason="paho-mqtt is not installed")
gmqtt = pytest.importorskip("gmqtt", reason="gmqtt is not installed")
aiomqtt = pytest.importorskip("aiomqtt", reason="aiomqtt is not installed")

VERSIONS = pytest.mark.parametrize("version", [4, 5], ids=["3.1.1", "5"])


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shore]:
    with shored(tmp_path_factory.mktemp("devices")) as made:
        yield made


@pytest.fixture
def refused(shore: Shore) -> Callable[[], float]:
    """How many points are, from the beginning of the test on."""
    before = shore.house.running.metric("points_refused_total")
    return lambda: shore.house.running.metric("points_refused_total") - before


def mosquitto_pub(shore: Shore, version: int, *more: str, token: str = "", stdin: str = "", status: int = 0) -> str:
    """What it complains of."""
    where = ["-h", "127.0.0.1", "-p", str(shore.port("mqtt")), "-V", {4: "mqttv311", 5: "mqttv5"}[version]]
    who = ["-u", "cams", "-P", token or shore.house.token]
    return run(tool("mosquitto_pub"), *where, *who, *more, stdin=stdin, status=status, said_of="stderr")


@VERSIONS
def test_mosquitto_pub(shore: Shore, version: int) -> None:
    source = f"pub-{version}"
    for qos in "012":
        mosquitto_pub(shore, version, "-q", qos, "-t", f"tidemark/cams/{source}/room/{qos}", "-m", "24.5")
        mosquitto_pub(shore, version, "-q", qos, "-t", f"tidemark/cams/{source}", "-m", f'{{"flat{qos}":1,"on":"ON"}}')
        whole = json.dumps([point(source=source, metric=f"{name}{qos}", value=2) for name in ("one", "two")])
        mosquitto_pub(shore, version, "-q", qos, "-t", "tidemark/cams", "-m", whole)
    wanted = {"room/": 24.5, "flat": 1.0, "one": 2.0, "two": 2.0}
    found = [(name + qos, value) for name, value in wanted.items() for qos in "012"]
    shore.arrived.until_values(source, [*found, ("on", 1.0), ("on", 1.0), ("on", 1.0)])


@VERSIONS
def test_mosquitto_pub_by_lines(shore: Shore, version: int) -> None:
    for qos in "12":
        lines, wanted = series(f"lines-{version}-{qos}", 2000)
        mosquitto_pub(shore, version, "-q", qos, "-l", "-t", "tidemark/cams", stdin="\n".join(lines) + "\n")
        shore.arrived.until(f"lines-{version}-{qos}", wanted)


def test_mosquitto_pub_is_told_what_is_refused_in_version_5(shore: Shore, refused: Callable[[], float]) -> None:
    said = mosquitto_pub(shore, 5, "-q", "1", "-t", "tidemark/cams", "-m", "{")
    assert "Publish 1 failed: Payload format invalid" in said
    assert "not_json: " in said
    said = mosquitto_pub(shore, 5, "-q", "2", "-t", "tidemark/cams", "-m", "{")
    assert "Publish 1 failed: Payload format invalid" in said  # of QoS 2 it does not show the sentence
    said = mosquitto_pub(shore, 5, "-q", "1", "-t", "tidemark/other/a/b", "-m", "1")
    assert "Not authorized" in said
    assert "The token is for the project 'cams'." in said
    assert "Topic Name invalid" in mosquitto_pub(shore, 5, "-q", "1", "-t", "elsewhere", "-m", "1")
    assert refused() == 4
    assert "Not authorized" in mosquitto_pub(shore, 5, "-t", "tidemark/cams", "-m", "1", token="tm_no", status=0x87)


def test_mosquitto_pub_is_told_nothing_in_3_1_1(shore: Shore, refused: Callable[[], float]) -> None:
    for qos in "12":
        assert mosquitto_pub(shore, 4, "-q", qos, "-t", "tidemark/cams", "-m", "{") == ""
    assert mosquitto_pub(shore, 4, "-q", "1", "-t", "tidemark/other/a/b", "-m", "1") == ""
    assert refused() == 3
    assert "not authorised" in mosquitto_pub(shore, 4, "-t", "tidemark/cams", "-m", "1", token="tm_no", status=5)


def test_retaining(shore: Shore) -> None:
    mosquitto_pub(shore, 4, "-r", "-q", "1", "-t", "tidemark/cams/retains/a", "-m", "1")
    mosquitto_pub(shore, 5, "-r", "-q", "1", "-t", "tidemark/cams/retains/b", "-m", "2")  # leaves the flag out, as told
    with Paho(shore, 5, "retains") as client:
        client.publish("tidemark/cams/retains/c", "3", qos=1, retain=True)
        reason, properties = client.ended.get(timeout=10)
    assert (reason.value, properties.ReasonString) == (0x9A, "nothing is retained here")
    shore.arrived.until_values("retains", [("a", 1.0), ("b", 2.0)])


class Paho(paho.Client):
    """Connected while in use; what it was told of each message, and when it was disconnected."""

    def __init__(self, shore: Shore, version: int, name: str, at_once: int = 20) -> None:
        super().__init__(paho.CallbackAPIVersion.VERSION2, name, protocol=version)
        self._where, self.ended = shore.port("mqtt"), queue.Queue[Any]()
        self.reasons: dict[int, tuple[Any, Any]] = {}
        self.max_inflight_messages_set(at_once)
        self.username_pw_set("cams", shore.house.token)
        self.on_publish = lambda _client, _data, number, *reason: self.reasons.update({number: reason})
        self.on_disconnect = lambda _client, _data, _flags, *reason: self.ended.put(reason)

    def __enter__(self) -> Self:
        self.connect("127.0.0.1", self._where)
        self.loop_start()
        return self

    def __exit__(self, *_: object) -> None:
        self.disconnect()
        self.loop_stop()


@pytest.mark.parametrize("at_once", [100, 0], ids=["as many as may be", "all of them"])
@VERSIONS
def test_paho_with_many_in_flight(shore: Shore, version: int, at_once: int) -> None:
    """It does not look at what it is told it may, and may be told to send everything."""
    name = f"paho-{version}-{at_once}"
    lines, wanted = series(name, 2000)
    with Paho(shore, version, name, at_once) as client:
        for at, line in enumerate(lines):
            client.publish("tidemark/cams", line, qos=1 + at % 2)
        eventually(lambda: len(client.reasons) == 2000 or not client.ended.empty())
        assert client.ended.empty()
        assert not any(code.is_failure for code, _ in client.reasons.values())
    shore.arrived.until(name, wanted)


def test_paho_is_told_why_in_version_5(shore: Shore, refused: Callable[[], float]) -> None:
    body = json.dumps([point(source="told", metric="kept", value=7), {"source": "told"}])
    with Paho(shore, 5, "told") as client:
        for topic, text in (
            ("tidemark/cams", body),
            ("tidemark/cams/told", "[]"),
            ("tidemark/no/a/b", "1"),
            ("a", "1"),
        ):
            client.publish(topic, text, qos=1).wait_for_publish(10)
        eventually(lambda: len(client.reasons) == 4)
        found = [(code.value, properties.ReasonString) for code, properties in client.reasons.values()]
    assert [code for code, _ in found] == [0x99, 0x99, 0x87, 0x90]
    assert found[0][1].startswith("missing_field: ")
    assert found[0][1].endswith("(1 points refused, 1 kept)")
    assert refused() == 4
    shore.arrived.until_values("told", [("kept", 7.0)])


async def _gmqtt(shore: Shore, version: int, lines: list[str]) -> None:
    client = gmqtt.Client(f"gmqtt-{version}")
    client.set_auth_credentials("cams", shore.house.token)
    await client.connect("127.0.0.1", shore.port("mqtt"), version=version)
    for at, line in enumerate([*lines, "{"]):
        if at % 90 == 0:  # it raises for more than the edge has told it
            await asyncio.wait_for(client._persistent_storage.wait_empty(), 20)
        client.publish("tidemark/cams", line, qos=1 + at % 2)
    await asyncio.wait_for(client._persistent_storage.wait_empty(), 20)
    await client.disconnect()


@VERSIONS
def test_gmqtt(shore: Shore, version: int, refused: Callable[[], float]) -> None:
    lines, wanted = series(f"gmqtt-{version}", 500)
    asyncio.run(_gmqtt(shore, version, lines))
    shore.arrived.until(f"gmqtt-{version}", wanted)
    assert refused() == 1


async def _aiomqtt(shore: Shore, version: int, lines: list[str]) -> None:
    how = {"username": "cams", "password": shore.house.token, "protocol": aiomqtt.ProtocolVersion(version)}
    async with aiomqtt.Client("127.0.0.1", shore.port("mqtt"), **how) as client:
        for at in range(0, len(lines), 10):
            some = [
                client.publish("tidemark/cams", line, qos=1 + number % 2) for number, line in enumerate(lines[at:][:10])
            ]
            await asyncio.gather(*some)
    with pytest.raises(aiomqtt.MqttError):
        async with aiomqtt.Client("127.0.0.1", shore.port("mqtt"), **how | {"password": "tm_no"}):
            pass


@VERSIONS
def test_aiomqtt(shore: Shore, version: int) -> None:
    lines, wanted = series(f"aiomqtt-{version}", 200)
    asyncio.run(_aiomqtt(shore, version, lines))
    shore.arrived.until(f"aiomqtt-{version}", wanted)


MQTT_JS = """
const [port, token, version] = process.argv.slice(1).map(String)
const client = require("mqtt").connect({
  host: "127.0.0.1", port: Number(port), username: "cams", password: token, protocolVersion: Number(version) })
const told = []
client.on("disconnect", (packet) => told.push(packet.reasonCode))
const send = (topic, text, qos) => client.publishAsync(topic, text, { qos }).then(
  () => told.push(0), (error) => told.push(error.code))
client.once("connect", async () => {
  for (const qos of [1, 2]) {
    await send(`tidemark/cams/js-${version}/m${qos}`, "1.5", qos)
    await send("tidemark/cams", "{", qos)
    await send("tidemark/other/a/b", "1", qos)
  }
  const time = Date.now()
  const many = Array.from({ length: 1000 }, (_, at) => JSON.stringify(
    { source: `js-${version}`, metric: "many", event_time: time + at, value: at }))
  await Promise.all(many.map((line) => client.publishAsync("tidemark/cams", line, { qos: 1 })))
  console.log(JSON.stringify(told))
  client.end()
})
"""


@VERSIONS
def test_mqtt_js(shore: Shore, version: int, monkeypatch: pytest.MonkeyPatch) -> None:
    found = node_modules()
    if found is None:
        pytest.skip("MQTT.js is not installed (NODE_PATH says where, if it is elsewhere)")
    monkeypatch.setenv("NODE_PATH", found)
    told = run(tool("node"), "-e", MQTT_JS, str(shore.port("mqtt")), shore.house.token, str(version))
    assert json.loads(told) == ([0, 0x99, 0x87] * 2 if version == 5 else [0] * 6)
    many = [("many", float(value)) for value in range(1000)]
    shore.arrived.until_values(f"js-{version}", [("m1", 1.5), ("m2", 1.5), *many])
