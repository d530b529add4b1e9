"""A mosquitto broker that forwards to the edge by its bridge: what it has taken arrives, whatever is killed."""

from __future__ import annotations

import getpass
import os
import signal
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

import pytest

from tests.edge.foreign import run, series, tool
from tests.edge.ground import Ground, grounded
from tests.waiting import eventually
from tidemark.local.processes import free_port, keeps, listens

CONFIG = """
listener {port} 127.0.0.1
allow_anonymous true
user {user}
persistence true
persistence_location {directory}/
max_queued_messages 10000
log_dest file {directory}/log
"""
BRIDGE = """
connection {version}
address 127.0.0.1:{edge}
remote_username cams
remote_password {token}
remote_clientid broker-{version}
bridge_protocol_version {version}
cleansession false
restart_timeout 1
topic # out 1 {version}/ tidemark/cams/
{more}
"""
QUIET = "try_private false\nnotifications false"


@pytest.fixture
def ground(tmp_path: Path) -> Iterator[Ground]:
    with grounded(tmp_path) as made:
        yield made


class Broker:
    """A mosquitto with bridges of these versions."""

    def __init__(self, directory: Path, edge: int, token: str, versions: Iterable[str], more: str) -> None:
        directory.mkdir()
        self.port, self._saved, self._config = free_port(), directory / "mosquitto.db", directory / "mosquitto.conf"
        bridges = [BRIDGE.format(version=v, edge=edge, token=token, more=more) for v in versions]
        config = CONFIG.format(port=self.port, user=getpass.getuser(), directory=directory)
        self._config.write_text(config + "".join(bridges))
        self.start()

    def start(self) -> None:
        assert keeps([self.port])
        path = f"{os.environ['PATH']}:/usr/sbin"
        self._process = subprocess.Popen([tool("mosquitto", path), "-c", self._config])
        eventually(lambda: listens(self.port))

    def save(self) -> None:
        """Write to the disk, as it does by itself now and then, and when it is stopped."""
        before = self._saved.stat().st_ino if self._saved.exists() else None
        self._process.send_signal(signal.SIGUSR1)
        eventually(lambda: self._saved.exists() and self._saved.stat().st_ino != before)

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def publish(self, version: str, source: str, number: int) -> dict[tuple[str, int], float]:
        """As a device of its own would; what has to arrive."""
        lines, wanted = series(source, number)
        where = ["-p", str(self.port), "-q", "1", "-t", f"{version}/{source}"]
        run(tool("mosquitto_pub"), *where, "-l", stdin="\n".join(lines) + "\n")
        return wanted


def _forwards(ground: Ground, directory: Path, messages: dict[str, int], more: str = QUIET) -> None:
    """What bridges are given while the bus is away, and while the broker itself is away after that, arrives."""
    running = ground.edge("--mqtt_port=0", "--publish_timeout_s=0.5")
    broker = Broker(directory, running.device_ports["mqtt"][0], ground.token, messages, more)
    try:
        for turn in range(2):
            ground.bus.server.kill()
            wanted, ends = {}, running.metric("disconnects_total") + len(messages)
            for version, number in messages.items():
                wanted[f"{version}-{turn}"] = broker.publish(version, f"{version}-{turn}", number)
            eventually(lambda ends=ends: running.metric("disconnects_total") >= ends)
            if turn:
                broker.save()
                broker.kill()
            ground.bus.server.start()
            eventually(lambda: running.metric("ready") == 1)
            if turn:
                broker.start()
            for source, points in wanted.items():
                ground.arrived.until(source, points)
    finally:
        broker.kill()


def test_a_bridge(ground: Ground, tmp_path: Path) -> None:
    _forwards(ground, tmp_path / "broker", {"mqttv311": 500, "mqttv50": 90})


@pytest.mark.long
def test_a_bridge_as_it_is_without_options(ground: Ground, tmp_path: Path) -> None:
    _forwards(ground, tmp_path / "broker", {"mqttv311": 500, "mqttv50": 90}, more="")


@pytest.mark.long
def test_a_bridge_of_version_5_that_sends_more_at_once_than_it_may(ground: Ground, tmp_path: Path) -> None:
    """As mosquitto 2.0.11 does when it connects again, a hundred more each time."""
    _forwards(ground, tmp_path / "broker", {"mqttv50": 500})
