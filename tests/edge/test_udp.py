"""Datagrams: each that was sent is counted once, whatever it is and however many come."""

from __future__ import annotations

import contextlib
import itertools
import json
import multiprocessing
import socket
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from tests.edge.conftest import point
from tests.edge.house import MB, House, housed
from tests.waiting import eventually
from tidemark.local.pubsub.faults import Change

INFLIGHT = 4 * MB
RSS_BESIDE_MB = 150
FORK = multiprocessing.get_context("fork")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Iterator[House]:
    with housed(
        tmp_path_factory.mktemp("udp"),
        inflight_bytes=str(INFLIGHT),
        access_log_share="0",
        udp_ports="0=cams,0=other",
        udp_networks="127.0.0.1/32,10.0.0.0/8",
    ) as made:
        yield made


@pytest.fixture
def house(shared: House) -> Iterator[House]:
    yield shared
    shared.unharmed()
    assert shared.rss_mb() < INFLIGHT / MB + RSS_BESIDE_MB


def line(value: float = 1, **more: object) -> bytes:
    return json.dumps(point(value=value, **more)).encode()


@contextlib.contextmanager
def sender(house: House, port: int = 0, source: str = "127.0.0.1") -> Iterator[socket.socket]:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.bind((source, 0))
        made.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4 * MB)
        made.connect(("127.0.0.1", house.running.device_ports["udp"][port]))
        yield made


def counted(house: House) -> dict[str, float]:
    """Datagrams by what became of them, of all projects; `dropped` by the kernel."""
    with urllib.request.urlopen(f"http://127.0.0.1:{house.running.metrics_port}/metrics", timeout=10) as answer:
        families = text_string_to_metric_families(answer.read().decode())
    found: dict[str, float] = {}
    for sample in (sample for family in families for sample in family.samples):
        if sample.name == "tidemark_edge_datagrams_total":
            outcome = sample.labels["outcome"]
            found[outcome] = found.get(outcome, 0) + sample.value
        elif sample.name == "tidemark_edge_datagrams_dropped_total":
            found["dropped"] = found.get("dropped", 0) + sample.value
    return found


class Balance:
    """What has become of datagrams since it was made."""

    def __init__(self, house: House) -> None:
        self._house, self._before = house, counted(house)

    def of(self, number: int) -> dict[str, int]:
        """Of so many that were sent, once all are accounted for; a moment later it is no more."""
        eventually(lambda: sum(self._now().values()) >= number)
        found = self._now()
        time.sleep(0.05)
        assert self._now() == found
        assert sum(found.values()) == number, found
        return found

    def _now(self) -> dict[str, int]:
        now = counted(self._house)
        return {one: int(now[one] - self._before.get(one, 0)) for one in now if now[one] > self._before.get(one, 0)}


def test_points_come_as_lines_in_datagrams_of_the_ports_project(house: House) -> None:
    house.kept()
    balance = Balance(house)
    with sender(house) as one, sender(house, 1) as other:
        one.send(line(1, metric="udp"))
        one.send(line(2, metric="udp") + b"\r\n" + line(3, metric="udp") + b"\n")
        one.send(b"[" + line(4, metric="udp") + b"]")
        one.send(b"\n".join(line(value, metric="udp") for value in range(5, 400)))
        other.send(line(1000, metric="udp"))
        other.send(line(1001, metric="udp", project="cams"))
    assert balance.of(6) == {"accepted": 5, "refused": 1}
    assert sorted(value for metric, value in house.kept() if metric == "udp") == [*range(1, 400), 1000]


def test_what_is_none_is_counted_as_one_each(house: House) -> None:
    wrong = [
        b"",
        b"",
        b" ",
        b"\n\n",
        b"\0" * 100,
        b"x" * 65_507,
        b"\xff\xfe",
        b"{}",
        b"[" * 60_000,
        b'{"a":' * 13_000,
        line()[:-1],
        line(1, project="other"),
        line() + b"\n" + b"x",
        b"\n".join([b"{}"] * 20_000),
        b'{"source":"s}',
        b"\x10\x10\0\4MQTT\4\2\0\0\0\4abcd",
    ]
    balance = Balance(house)
    with sender(house) as one:
        for text in wrong:
            one.send(text)
        assert balance.of(len(wrong)) == {"refused": len(wrong)}
        with house.held():  # so that they are read together
            for text in wrong:
                one.send(text)
                one.send(line())
        found = balance.of(3 * len(wrong))
        assert found == {"refused": 2 * len(wrong), "accepted": len(wrong)}
        with house.held():
            for _ in range(300):
                one.send(b"")
        assert balance.of(3 * len(wrong) + 300)["refused"] == 2 * len(wrong) + 300


def test_only_networks_that_may_are_heard(house: House) -> None:
    balance = Balance(house)
    with sender(house, source="127.0.0.2") as stranger, sender(house) as known:
        for _ in range(700):
            stranger.send(line())
        known.send(line())
        stranger.send(b"")
    assert balance.of(702) == {"not_allowed": 701, "accepted": 1}


def test_a_great_many_senders_are_no_more_than_one(house: House) -> None:
    before, balance, number = house.rss_mb(), Balance(house), 0
    for _ in range(40):
        with contextlib.ExitStack() as ends:
            senders = [ends.enter_context(sender(house)) for _ in range(50)]
            for one in senders:
                one.send(line())
                number += 1
    assert balance.of(number).get("accepted", 0) > 0
    assert house.rss_mb() - before < 20


def _flood(port: int, number: int, texts: list[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
        made.connect(("127.0.0.1", port))
        for at in range(number):
            made.send(texts[at % len(texts)])


@pytest.mark.parametrize("delay_s", [0.0, 0.3], ids=["quick", "slow"])
def test_of_a_flood_all_are_counted_those_too_for_which_there_was_no_room(house: House, delay_s: float) -> None:
    before, balance = house.rss_mb(), Balance(house)
    texts = [line(attributes={"a": "x" * 3000}), line(), b"x", b"", line() + b"\n" + line()]
    ports = house.running.device_ports["udp"]
    with house.bus.slow(delay_s):
        senders = [
            FORK.Process(target=_flood, args=(ports[number % 2], 20_000, texts[number:] + texts)) for number in range(4)
        ]
        for one in senders:
            one.start()
        most = 0.0
        while any(one.is_alive() for one in senders):
            most = max(most, house.running.metric("inflight_bytes"))
            time.sleep(0.05)
        for one in senders:
            one.join()
            assert one.exitcode == 0
        found = balance.of(80_000)
    print(found, f"most in flight {most:,.0f}")
    assert found["accepted"] > 100
    assert most <= INFLIGHT
    if delay_s:
        assert found["dropped"] > 0  # it was not read, and so it did not fill the memory
    assert house.rss_mb() - before < 40


def test_while_the_bus_is_away_they_are_lost_and_counted(tmp_path: Path) -> None:
    with housed(tmp_path, udp_ports="0=cams", publish_timeout_s="0.5", inflight_bytes=str(INFLIGHT)) as house:
        balance = Balance(house)
        with sender(house) as one:
            one.send(line())
            balance.of(1)
            with house.bus.control() as control:
                control.change(Change(delay_s={"Publish": 30.0}))
                for _ in range(3000):
                    one.send(line())
                one.send(b"x")
                assert balance.of(3002) == {"accepted": 1, "not_kept": 3000, "refused": 1}
                control.change(Change(clear=True))
            house.publishes_again()
            one.send(line())
            assert balance.of(3003)["accepted"] == 2


@pytest.mark.parametrize("inflight_mb", [64, 1], ids=["room", "little room"])
def test_what_has_come_until_the_end_is_in_the_bus(tmp_path: Path, inflight_mb: int) -> None:
    with housed(tmp_path, udp_ports="0=cams", inflight_bytes=str(inflight_mb * MB), max_packet_bytes="1024") as house:
        with house.bus.slow(0.3), sender(house) as one:
            for value in range(3000):
                one.send(line(value, metric="end", attributes={"a": "x" * 500}))
                if value == 2000:
                    eventually(lambda: house.running.metric("inflight_bytes") > 0)
            house.running.process.terminate()
            log = house.running.process.communicate(timeout=40)[1]
        assert "Traceback" not in log
        assert house.running.process.returncode == 0
        assert "lost" not in log
        assert {value for metric, value in house.kept() if metric == "end"} == set(range(3000))


def test_under_a_flood_it_ends_and_says_nothing_wrong(tmp_path: Path) -> None:
    with housed(tmp_path, udp_ports="0=cams", inflight_bytes=str(INFLIGHT)) as house:
        texts = [line(metric=f"m{number}") for number in range(500)]
        flood = FORK.Process(target=_until_refused, args=(house.running.device_ports["udp"][0], texts))
        flood.start()
        eventually(lambda: counted(house).get("accepted", 0) > 1000)
        began = time.monotonic()
        assert "Traceback" not in house.stopped()
        assert time.monotonic() - began < 15
        flood.join(20)
        assert flood.exitcode == 0


def _until_refused(port: int, texts: list[bytes]) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made, contextlib.suppress(ConnectionError):
        made.connect(("127.0.0.1", port))
        for text in itertools.cycle(texts):
            made.send(text)
