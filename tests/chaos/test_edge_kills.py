"""Edge, Pub/Sub and pipeline are killed under load: what was answered 200 or 202 is stored, each point as it was sent last."""

from __future__ import annotations

import gzip
import http.client
import json
import os
import random
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from tests.chaos.campaign import SETTINGS, TIERS_S
from tests.edge.conftest import Running
from tests.waiting import eventually
from tidemark.bus.puller import LEASE_S
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.job import Job
from tidemark.local.processes import free_port, keeps
from tidemark.local.stack import DATASET, TOPIC, Stack
from tidemark.operate.verify import verify
from tidemark.store.connection import make_engine

SEED = int(os.environ.get("TEST_SEED", "20130711"))
KEYS = 40
"""Of a client: each is written again and again."""
Key = tuple[str, int]


EVERYDAY = {"edge": 5, "pubsub": 4, "pipeline": 3}
LONG = {"edge": 12, "pubsub": 10, "pipeline": 8}


class Plan(NamedTuple):
    kills: dict[str, int]
    clients: int
    seconds: float
    pause_s: float


class Client(threading.Thread):
    """Sends bodies, each until it is kept, as a sender has to; remembers the value of each point that was kept last."""

    def __init__(self, number: int, token: str, port: int, plan: Plan) -> None:
        super().__init__(daemon=True)
        self._metric, self._token, self._port, self._plan = f"m{number}", token, port, plan
        self._chance = random.Random(SEED * 100 + number)
        self._base = time.time_ns() // 1_000_000 - 5_000
        self._connection: http.client.HTTPConnection | None = None
        self.stop = threading.Event()
        self.kept: dict[Key, float] = {}
        self.told: Counter[int] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._send()
                self.stop.wait(self._plan.pause_s)
        except BaseException as error:
            self.error = error
            raise
        finally:
            if self._connection is not None:
                self._connection.close()

    def _send(self) -> None:
        chance = self._chance
        times = chance.sample(range(KEYS), chance.choice((1, 1, 1, 2, 7)))
        points: list[dict[str, Any]] = [
            {"source": "s", "metric": self._metric, "event_time": self._base + at, "value": chance.randrange(10_000)}
            for at in times
        ]
        if chance.random() < 0.1:
            points.append({"source": "s"})
        body = json.dumps(points if len(points) > 1 or chance.random() < 0.5 else points[0]).encode()
        packed = chance.random() < 0.3
        while (status := self._post(gzip.compress(body) if packed else body, packed=packed)) not in (200, 202, 400):
            assert status in (0, 503), status
            time.sleep(0.05)
        for point in points:
            if "value" in point:
                self.kept[self._metric, int(point["event_time"])] = float(point["value"])

    def _post(self, body: bytes, *, packed: bool) -> int:
        """The status; 0: nobody knows what became of it."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        headers = {"Authorization": f"Bearer {self._token}"} | ({"Content-Encoding": "gzip"} if packed else {})
        try:
            self._connection.request("POST", "/v1/points", body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self._connection.close()
            self._connection = None
            return 0
        self.told[answer.status] += 1
        if answer.status == 400:
            last = len(json.loads(gzip.decompress(body) if packed else body)) - 1
            assert [one["index"] for one in json.loads(text)["rejected"]] == [last]
        return answer.status


@pytest.mark.parametrize(
    "plan",
    [Plan(EVERYDAY, 4, 15, 0.02), pytest.param(Plan(LONG, 16, 120, 0.005), marks=pytest.mark.long)],
    ids=["12 kills", "30 kills"],
)
@pytest.mark.timeout(1800)
def test_what_was_answered_is_stored_whatever_is_killed(
    plan: Plan, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stack = Stack(tmp_path / "stack")
    environment = {**stack.up(ack_deadline_s=10), **SETTINGS}
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", environment["BIGQUERY_EMULATOR_HOST"])
    try:
        kept, found = _run(plan, tmp_path, stack, environment)
        assert found == kept
        report = verify(environment["TIDEMARK_DATABASE_URL"], DATASET, TIERS_S)
        assert report.passed, report.examples
    finally:
        stack.down(purge=True)


def _run(
    plan: Plan, state: Path, stack: Stack, environment: dict[str, str]
) -> tuple[dict[Key, float], dict[Key, float]]:
    """What was kept, and what is stored in the end."""
    token, port = new_token(), free_port()
    assert keeps([port])
    tokens = state / "tokens"
    tokens.write_text(line_of(token, "cams", ["write"]) + "\n")

    def edge() -> Running:
        return Running(
            environment["PUBSUB_EMULATOR_HOST"],
            tokens,
            f"--topic={TOPIC}",
            f"--http_port={port}",
            "--publish_timeout_s=0.3",
            f"--spool_dir={state / 'spool'}",
            "--spool_free_bytes=0",
        )

    def job(*options: str) -> Job:
        return Job(environment, state / "ingest.log", *options)

    running, pipeline = edge(), job()
    pipeline.wait_ready()
    clients = [Client(number, token, port, plan) for number in range(plan.clients)]
    for client in clients:
        client.start()
    chance, began = random.Random(SEED), time.monotonic()
    instants = sorted(
        (chance.uniform(1, plan.seconds), name) for name, number in plan.kills.items() for _ in range(number)
    )
    try:
        for at, name in instants:
            time.sleep(max(0.0, began + at - time.monotonic()))
            if name == "edge":
                running.process.kill()
                running.process.communicate()
                running = edge()
            elif name == "pubsub":
                stack.pubsub.kill()
                time.sleep(chance.choice((0, 0.2, 1.0)))
                stack.pubsub.start()
            else:
                pipeline.kill()
                pipeline = job()
        for client in clients:
            client.stop.set()
            client.join(60)
            assert client.error is None
            assert not client.is_alive()
        eventually(lambda: running.metric("spool_bytes") == 0, 60)
        assert running.stop()[0] == 0
    finally:
        running.process.kill()
        running.process.communicate()
        pipeline.kill()
    job(f"--stop_when_idle_s={LEASE_S + 5}").drained(600)
    told = sum((client.told for client in clients), Counter[int]())
    print(f"seed {SEED}: {dict(told)}")
    assert min(told[200], told[202]) > 20
    kept: dict[Key, float] = {}
    for client in clients:
        kept |= client.kept
    assert len(kept) == plan.clients * KEYS
    return kept, _stored(environment["TIDEMARK_DATABASE_URL"])


def _stored(url: str) -> dict[Key, float]:
    pool = make_engine(url, 1, 60)
    with pool.connect() as connection:
        rows = connection.exec_driver_sql(
            "SELECT metric, extract(epoch FROM event_time) * 1000, value FROM points JOIN series USING (series_id)"
        )
        found = {(metric, round(at)): value for metric, at, value in rows}
    pool.dispose()
    return found
