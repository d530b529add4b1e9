"""Telegraf, ncat and bash, over MQTT, TCP and UDP."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.certificates import Authority, pem
from tests.edge.conftest import Running
from tests.edge.foreign import Points, Shore, run, series, shored, tool
from tests.waiting import eventually
from tidemark.edge.tokens import line_of


@pytest.fixture(scope="module")
def shore(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shore]:
    with shored(tmp_path_factory.mktemp("lines")) as made:
        yield made


@pytest.fixture
def refused(shore: Shore) -> Callable[[], float]:
    """How many points are, from the beginning of the test on."""
    before = shore.house.running.metric("points_refused_total")
    return lambda: shore.house.running.metric("points_refused_total") - before


def telegraf(directory: Path, *outputs: str) -> str:
    """Run it once, over three metrics; what it says."""
    given, config = directory / "metrics.influx", directory / "telegraf.conf"
    given.write_text(
        "weather,host=gw-1 temperature=21.5,humidity=40i 1769860800000000000\n"
        'weather,host=gw-2 temperature=19.25,sky="clear" 1769860801000000000\n'
        "weather,host=gw-1 temperature=21.75,humidity=41i 1769860860000000000\n"
    )
    config.write_text(TELEGRAF % given + "".join(outputs))
    return run(os.environ.get("TELEGRAF") or tool("telegraf"), "--config", str(config), "--once", said_of="stderr")


def mqtt_output(shore: Shore, version: str, topic: str, more: str = "") -> str:
    return MQTT_OUTPUT % (shore.port("mqtt"), shore.house.token, version, topic) + more


def weather(name: Callable[[str], str]) -> dict[str, Points]:
    """What is stored of the metrics, by host."""
    temperature, humidity, at = name("temperature"), name("humidity"), 1_769_860_800_000_000
    first, second = {(temperature, at): 21.5, (humidity, at): 40.0}, {(temperature, at): 21.75, (humidity, at): 41.0}
    return {
        "gw-1": first | {(metric, at + 60_000_000): value for (metric, _), value in second.items()},
        "gw-2": {(temperature, at + 1_000_000): 19.25},
    }


TELEGRAF = """
[agent]
  omit_hostname = true
  skip_processors_after_aggregators = true
[[inputs.file]]
  files = ["%s"]
  data_format = "influx"
"""
MQTT_OUTPUT = """
[[outputs.mqtt]]
  servers = ["tcp://127.0.0.1:%s"]
  username = "cams"
  password = "%s"
  qos = 1
  protocol = "%s"
  topic = '%s'
"""
POINTS = """
  data_format = "json"
  json_timestamp_units = "1ms"
  json_transformation = '''
    {"source": tags.host & "%s", "points": [
      $each($sift(fields, function($v) {$type($v) = "number"}), function($v, $k) {
        {"metric": name & "_" & $k, "event_time": timestamp, "value": $v}
      })
    ]}
  '''
"""
FLAT = """
  data_format = "json"
  json_timestamp_units = "1ms"
  json_transformation = '$merge([$sift(fields, function($v) {$type($v) != "string"}), {"event_time": timestamp}])'
"""


@pytest.mark.parametrize("version", ["3.1.1", "5"])
def test_telegraf(shore: Shore, version: str, tmp_path: Path) -> None:
    said = telegraf(
        tmp_path,
        mqtt_output(shore, version, "tidemark/cams", POINTS % f"-points-{version}"),
        mqtt_output(shore, version, f'tidemark/cams/{{{{ .Tag "host" }}}}-flat-{version}', FLAT),
        mqtt_output(
            shore,
            version,
            f'tidemark/cams/{{{{ .Tag "host" }}}}-value-{version}/{{{{ .PluginName }}}}',
            '  layout = "field"',
        ),
    )
    assert said.count("Could not publish") == (version == "5")  # of the text among the values, where it can be told
    for host, points in weather(lambda field: f"weather_{field}").items():
        shore.arrived.until(f"{host}-points-{version}", points)
    for host, points in weather(str).items():
        shore.arrived.until(f"{host}-flat-{version}", points)
    for host, points in weather(lambda field: f"weather/{field}").items():  # stamped by the edge
        values = [(metric, value) for (metric, _), value in points.items()]
        shore.arrived.until_values(f"{host}-value-{version}", values)


def test_telegraf_is_told_of_its_own_json(shore: Shore, tmp_path: Path, refused: Callable[[], float]) -> None:
    topic = 'tidemark/cams/{{ .Tag "host" }}'
    said = telegraf(tmp_path, mqtt_output(shore, "5", topic, '  data_format = "json"'))
    assert (said.count("Could not publish"), refused()) == (3, 9)  # name, tags and fields are no numbers
    said = telegraf(tmp_path, mqtt_output(shore, "3.1.1", topic, '  data_format = "json"'))
    assert (said.count("Could not publish"), refused()) == (0, 18)


TICKS = """
[agent]
  interval = "200ms"
  flush_interval = "200ms"
  precision = "1ms"
  skip_processors_after_aggregators = true
[[inputs.mock]]
  metric_name = "ticks"
  [[inputs.mock.step]]
    name = "n"
    start = 0.0
    step = 1.0
"""


@pytest.mark.long
def test_telegraf_while_the_bus_is_away(shore: Shore, tmp_path: Path) -> None:
    """Of version 3.1.1; that of 5 drops what is not acknowledged when a connection ends."""
    config, tokens = tmp_path / "telegraf.conf", tmp_path / "tokens"
    tokens.write_text(line_of(shore.house.token, "cams", ["write"]))
    running = Running(shore.house.bus.address, tokens, "--mqtt_port=0", "--publish_timeout_s=0.5")
    where = running.device_ports["mqtt"][0], shore.house.token, "3.1.1", "tidemark/cams/ticks"
    config.write_text(TICKS + MQTT_OUTPUT % where + FLAT + '  timeout = "1s"\n')
    process = subprocess.Popen(
        [os.environ.get("TELEGRAF") or tool("telegraf"), "--config", config], stderr=subprocess.DEVNULL
    )

    def values() -> set[float]:
        return set(shore.arrived.of("ticks").values())

    try:
        eventually(lambda: len(values()) > 3)
        shore.house.bus.server.kill()
        eventually(lambda: running.metric("disconnects_total") >= 3)
        shore.house.bus.server.start()
        before = max(values())
        eventually(lambda: max(values()) > before + 20)
        process.terminate()
        assert process.wait(20) == 0
        assert values() == set(range(len(values())))
    finally:
        process.kill()
        process.wait()
        running.stop()


SOCKET_OUTPUT = """
[[outputs.socket_writer]]
  address = "%s"
"""
CERTIFICATES = """
  tls_ca = "{0}/ca.pem"
  tls_cert = "{0}/cams.pem"
  tls_key = "{0}/cams.key"
"""


def test_telegraf_over_tcp_by_its_certificate_and_over_udp(shore: Shore, tmp_path: Path) -> None:
    authority, tokens = Authority("ours"), tmp_path / "tokens"
    (tmp_path / "ca.pem").write_bytes(pem(authority.certificate))
    for name in ("server", "cams"):
        authority.issue(name, tmp_path / f"{name}.pem", tmp_path / f"{name}.key")
    tokens.write_text("")
    running = Running(
        shore.house.bus.address,
        tokens,
        "--tcp_port=0",
        f"--tls_certificate={tmp_path}/server.pem",
        f"--tls_key={tmp_path}/server.key",
        f"--tls_client_ca={tmp_path}/ca.pem",
        "--tls_client_projects=true",
    )
    try:
        (port,) = running.device_ports["tcp"]
        telegraf(
            tmp_path,
            SOCKET_OUTPUT % f"tcp://localhost:{port}" + CERTIFICATES.format(tmp_path) + POINTS % "-tcp",
            SOCKET_OUTPUT % f"udp://127.0.0.1:{shore.port('udp')}" + POINTS % "-udp",
        )
        for host, points in weather(lambda field: f"weather_{field}").items():
            shore.arrived.until(f"{host}-tcp", points)
            shore.arrived.until(f"{host}-udp", points)
    finally:
        running.stop()


def ncat(shore: Shore, *more: str, text: str) -> list[Any]:
    """The lines that it is answered."""
    said = run(tool("ncat"), *more, "127.0.0.1", str(shore.port("tcp")), stdin=text)
    return [json.loads(line) for line in said.splitlines()]


def first(shore: Shore, **more: Any) -> str:
    return json.dumps({"token": shore.house.token, **more}) + "\n"


def test_ncat(shore: Shore) -> None:
    lines, wanted = series("ncat", 1000)
    text = first(shore) + "\n".join(lines) + "\n"
    end = {"line": 1000, "accepted": 1000, "refused": 0}
    assert ncat(shore, text=text) == [{**end, "end": True}]
    assert ncat(shore, text=text + lines[0]) == [{**end, "partial": True, "end": True}]
    shore.arrived.until("ncat", wanted)


def test_ncat_with_acknowledgements(shore: Shore) -> None:
    lines, wanted = series("ncat-acks", 1000)
    *some, last, end = ncat(shore, text=first(shore, acks=True) + "\n".join([*lines[:500], "{", *lines[500:]]) + "\n")
    assert [answer["line"] for answer in some if answer.get("reason") == "not_json"] == [501]
    assert last == {"line": 1001, "accepted": 1000}
    assert end == {"line": 1001, "accepted": 1000, "refused": 1, "end": True}
    shore.arrived.until("ncat-acks", wanted)


def test_ncat_with_line_ends_of_other_systems(shore: Shore) -> None:
    lines, wanted = series("ncat-crlf", 1000)
    *_, end = ncat(shore, "-C", text=first(shore) + "\n".join(lines) + "\n")
    assert end == {"line": 1000, "accepted": 1000, "refused": 0, "end": True}
    shore.arrived.until("ncat-crlf", wanted)


def test_ncat_is_told_that_its_token_is_none(shore: Shore) -> None:
    assert ncat(shore, text='{"token":"tm_no"}\n{}\n') == [{"error": "The token is not known."}]


BASH = """
exec 3<> "/dev/tcp/127.0.0.1/$1"
echo "{\\"token\\":\\"$2\\",\\"acks\\":true}" >&3
while read -r line; do
  echo "$line" >&3
  read -r answer <&3
  echo "$answer"
done
"""


def test_bash(shore: Shore) -> None:
    lines, wanted = series("bash", 100)
    said = run(
        tool("bash"), "-c", BASH, "bash", str(shore.port("tcp")), shore.house.token, stdin="\n".join(lines) + "\n"
    )
    assert list(map(json.loads, said.splitlines())) == [{"line": at, "accepted": at} for at in range(1, 101)]
    shore.arrived.until("bash", wanted)


def test_datagrams_of_ncat_and_bash(shore: Shore) -> None:
    port = str(shore.port("udp"))
    lines, wanted = series("ncat-udp", 20)
    run(tool("ncat"), "-u", "127.0.0.1", port, stdin="\n".join(lines[:10]) + "\n")
    run(tool("ncat"), "-u", "-C", "127.0.0.1", port, stdin="\n".join(lines[10:]) + "\n")
    shore.arrived.until("ncat-udp", wanted)
    lines, wanted = series("bash-udp", 100)
    a_line_each = 'while read -r line; do echo "$line"; done > "/dev/udp/127.0.0.1/$1"'
    run(tool("bash"), "-c", a_line_each, "bash", port, stdin="\n".join(lines) + "\n")
    shore.arrived.until("bash-udp", wanted)
