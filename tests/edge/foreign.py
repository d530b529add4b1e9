"""What tests with clients that nobody here wrote share: finding and running them, and what has come of theirs."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterable, Iterator
from functools import cache
from pathlib import Path
from typing import NamedTuple

import grpc
import pytest
from google.pubsub_v1 import AcknowledgeRequest, PubsubMessage, PullRequest
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tests.bus.standin import SUBSCRIPTION, Bus
from tests.edge.house import House, housed
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.message import delivered

Points = dict[tuple[str, int], float]
"""Values by metric and time, in microseconds."""


def tool(name: str, path: str | None = None) -> str:
    found = shutil.which(name, path=path)
    if found is None:
        pytest.skip(f"{name} is not installed")
    return found


def run(*command: str, stdin: str = "", status: int = 0, said_of: str = "stdout") -> str:
    """What it says, once it has ended with this status."""
    done = subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == status, (done.returncode, done.stdout[-2000:], done.stderr[-2000:])
    return str(getattr(done, said_of))


@cache
def node_modules() -> str | None:
    """Where Node.js finds the package mqtt; None: it is not installed, or Node.js is not."""
    node = shutil.which("node")
    if node is None:
        return None
    done = subprocess.run([node, "-p", "require.resolve('mqtt')"], capture_output=True, text=True, check=False)
    above, inside, _ = done.stdout.rpartition(f"{os.sep}mqtt{os.sep}build")
    return above if inside else None


class Arrived:
    """What has come to the bus, as the pipeline reads it: of several values of a point that which was accepted last."""

    def __init__(self, bus: Bus) -> None:
        self._channel = grpc.insecure_channel(bus.address)
        self._service = SubscriberGrpcTransport(channel=self._channel)
        self._found: dict[tuple[str, str, int], tuple[int, float]] = {}

    def of(self, source: str) -> Points:
        self._look()
        return {(metric, at): value for (of, metric, at), (_, value) in self._found.items() if of == source}

    def until(self, source: str, wanted: Points, within_s: float = 20) -> None:
        """Wait for exactly these points."""
        until = time.monotonic() + within_s
        while (found := self.of(source)) != wanted and time.monotonic() < until:
            time.sleep(0.02)
        assert found == wanted

    def until_values(self, source: str, wanted: Iterable[tuple[str, float]]) -> None:
        """Wait for exactly these values of metrics, whenever they were."""
        until, ordered = time.monotonic() + 20, sorted(wanted)
        while (found := _values(self.of(source))) != ordered and time.monotonic() < until:
            time.sleep(0.02)
        assert found == ordered

    def close(self) -> None:
        self._channel.close()

    def _look(self) -> None:
        request, columns = PullRequest(subscription=SUBSCRIPTION, max_messages=1000, return_immediately=True), Columns()
        while received := self._service.pull(request, wait_for_ready=True, timeout=20).received_messages:
            for one in received:
                data, published = one.message.data, PubsubMessage.pb(one.message).publish_time.ToMicroseconds()
                message = delivered(data, dict(one.message.attributes), published, one.message.message_id)
                Decoder().decode(message, columns, time.time_ns() // 1000)
            ids = [one.ack_id for one in received]
            self._service.acknowledge(AcknowledgeRequest(subscription=SUBSCRIPTION, ack_ids=ids))
        assert columns.dead_letters == []
        for series, at, accepted, value in zip(
            columns.series, columns.event_time, columns.publish_time, columns.value, strict=True
        ):
            key = columns.keys[series]
            assert key.project == "cams"
            name = key.source, key.metric, at
            self._found[name] = max(self._found.get(name, (0, 0.0)), (accepted, value))


def _values(points: Points) -> list[tuple[str, float]]:
    return sorted((metric, value) for (metric, _), value in points.items())


def series(source: str, number: int, of: int | None = None) -> tuple[list[str], Points]:
    """Points as lines, and what is stored in the end: with `of` there are only so many, each written again and again."""
    base = time.time_ns() // 1_000_000 - 60_000
    times = [base + at % (of or number) for at in range(number)]
    lines = [
        json.dumps({"source": source, "metric": "m", "event_time": at, "value": value})
        for value, at in enumerate(times)
    ]
    return lines, {("m", at * 1000): float(value) for value, at in enumerate(times)}


class Shore(NamedTuple):
    """An edge that devices come to, and what has come of theirs."""

    house: House
    arrived: Arrived

    def port(self, kind: str) -> int:
        return self.house.running.device_ports[kind][0]


@contextlib.contextmanager
def shored(directory: Path) -> Iterator[Shore]:
    """One for many tests."""
    with (
        housed(directory, mqtt_port="0", tcp_port="0", udp_ports="0=cams") as house,
        contextlib.closing(Arrived(house.bus)) as arrived,
    ):
        yield Shore(house, arrived)
