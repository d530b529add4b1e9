"""Clients that nobody here wrote, while the bus, the edge or the connection is away: what they sent arrives."""

from __future__ import annotations

import itertools
import signal
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Self

import pytest

from tests.edge.foreign import Points, series
from tests.edge.ground import Client, Cuts, Ground, Proxy, Senders, grounded, missing
from tests.waiting import eventually
from tidemark.local.processes import free_port, keeps

KINDS = {
    "with_paho.py": [(4, False), (4, True), (5, False), (5, True)],
    "with_gmqtt.py": [(4, False), (5, False)],  # of a clean session it forgets what is not acknowledged, as it should
    "with_mqtt.js": [(4, False), (4, True), (5, False), (5, True)],
}
"""Of clients: version, and whether it wants a new session."""
NUMBER = 90
"""Of messages a client: fewer than may be on their way unacknowledged."""
TIMES = 36
"""Each point is written two or three times, and that which came last counts."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ground]:
    with grounded(tmp_path_factory.mktemp("outages")) as made:
        yield made


@pytest.fixture
def ground(shared: Ground) -> Iterator[Ground]:
    yield shared
    shared.clear()


class Fleet:
    """A client of each kind, behind a proxy of its own."""

    def __init__(
        self,
        ground: Ground,
        directory: Path,
        *flags: str,
        scripts: Collection[str] = KINDS,
        cuts: Callable[[], Cuts | None] = lambda: None,
    ) -> None:
        self.ground, self.flags = ground, (f"--mqtt_port={free_port()}", *flags)
        self.running = ground.edge(*self.flags)
        self.port = self.running.device_ports["mqtt"][0]
        self.missing = [name for name in map(missing, scripts) if name]
        self.proxies: list[Proxy] = []
        self.senders: list[Senders] = []
        self.wanted: dict[str, Points] = {}
        self.size = 0
        self._directory, self._scripts, self._cuts = directory, scripts, cuts

    def __enter__(self) -> Self:
        for script in self._scripts:
            if missing(script) is None:
                clients = [self._client(script, *kind) for kind in KINDS[script]]
                self.senders.append(Senders(script, clients, self._directory, self.ground.token))
        return self

    def _client(self, script: str, version: int, clean: bool) -> Client:
        source = f"{script}-{version}-{'clean' if clean else 'kept'}-{self._directory.name}"
        lines, self.wanted[source] = series(source, NUMBER, TIMES)
        self.size += sum(map(len, lines))
        self.proxies.append(Proxy(self.port, self._cuts()))
        return Client(self.proxies[-1].port, version, clean, source, lines)

    def __exit__(self, *_: object) -> None:
        for one in (*self.proxies, *self.senders):
            one.close()

    def sent(self) -> None:
        """Wait until all messages are in the edge, which holds them, and no more come."""

        def all_of_them() -> bool:
            held = self.running.metric("inflight_bytes")
            time.sleep(0.3)
            return self.size < held == self.running.metric("inflight_bytes")

        eventually(all_of_them)

    def restart(self) -> None:
        """Another edge in the place of the first."""
        self.running.process.kill()
        self.running.process.communicate()
        assert keeps([self.port])
        self.running = self.ground.edge(*self.flags)

    def acknowledged(self) -> int:
        return sum(sender.told("acknowledged") for sender in self.senders)

    def arrives(self) -> None:
        """Everything is acknowledged, and everything that was sent, and nothing else, is in the bus."""
        for sender in self.senders:
            sender.ended()
        for source, points in self.wanted.items():
            self.ground.arrived.until(source, points)
        status, said = self.running.stop()
        assert status == 0, said
        if self.missing:
            pytest.skip(f"the others did well; not installed: {', '.join(self.missing)}")


def _stands_still(fleet: Fleet) -> None:
    fleet.sent()
    time.sleep(0.5)
    assert fleet.acknowledged() == 0
    fleet.ground.signal(signal.SIGCONT)


def _is_killed(fleet: Fleet) -> None:
    fleet.sent()
    fleet.ground.bus.server.kill()
    time.sleep(0.5)
    assert fleet.acknowledged() == 0
    fleet.ground.bus.server.start()


def _is_away(fleet: Fleet) -> None:
    """For longer than the edge is patient: it ends the connections, and the clients come again."""
    fleet.ground.bus.server.kill()
    eventually(lambda: all(proxy.connections > 1 for proxy in fleet.proxies))
    assert fleet.acknowledged() == 0
    fleet.ground.bus.server.start()


def _connections_are_cut(fleet: Fleet) -> None:
    fleet.sent()
    for proxy in fleet.proxies:
        proxy.cut()
    eventually(lambda: all(proxy.connections > 1 for proxy in fleet.proxies))
    assert fleet.acknowledged() == 0
    fleet.ground.signal(signal.SIGCONT)


def _edge_is_killed(fleet: Fleet) -> None:
    fleet.sent()
    fleet.restart()
    assert fleet.acknowledged() == 0
    fleet.ground.signal(signal.SIGCONT)


@pytest.mark.parametrize(
    ("outage", "flags"),
    [
        pytest.param(_stands_still, (), id="the bus stands still"),
        pytest.param(_is_killed, (), id="the bus is killed"),
        pytest.param(_is_away, ("--publish_timeout_s=0.5",), id="the bus is away for long"),
        pytest.param(_connections_are_cut, (), id="the connections are cut"),
        pytest.param(_edge_is_killed, ("--mqtt_sessions={}/sessions",), id="the edge is killed"),
    ],
)
def test_what_is_on_its_way_arrives(
    ground: Ground, tmp_path: Path, outage: Callable[[Fleet], None], flags: tuple[str, ...]
) -> None:
    ground.signal(signal.SIGSTOP)
    with Fleet(ground, tmp_path, *(flag.format(tmp_path) for flag in flags)) as fleet:
        outage(fleet)
        fleet.arrives()


def test_another_edge_takes_over(ground: Ground, tmp_path: Path) -> None:
    ground.signal(signal.SIGSTOP)
    with Fleet(ground, tmp_path, "--mqtt_session_present=always", scripts=["with_gmqtt.py"]) as fleet:
        _edge_is_killed(fleet)
        fleet.arrives()


def _at(number: int, kinds: tuple[int, ...], left: Callable[[bytes], int]) -> Cuts:
    """Cut at the packet of these kinds that has this number, and hand on what is left of it."""
    numbers = itertools.count()
    return lambda packet: left(packet) if packet[0] >> 4 in kinds and next(numbers) == number else None


PUBLISH, ACKNOWLEDGED = (3,), (4, 5)


@pytest.mark.parametrize(
    "cuts",
    [
        pytest.param(lambda: _at(40, ACKNOWLEDGED, lambda _packet: 0), id="an acknowledgement is lost"),
        pytest.param(lambda: _at(40, PUBLISH, len), id="after a message"),
        pytest.param(lambda: _at(40, PUBLISH, lambda packet: len(packet) // 2), id="amid a message"),
    ],
)
def test_what_is_sent_again_is_stored_once(ground: Ground, tmp_path: Path, cuts: Callable[[], Cuts]) -> None:
    with Fleet(ground, tmp_path, cuts=cuts) as fleet:
        fleet.arrives()
        assert {(proxy.connections, proxy.cut_connections) for proxy in fleet.proxies} == {(2, 1)}
        assert sum(proxy.sent_again for proxy in fleet.proxies) > 0
