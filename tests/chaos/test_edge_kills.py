"""Edge, Pub/Sub and pipeline are killed under load: what was acknowledged is stored, each point as it was sent last."""

from __future__ import annotations

import os
import random
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

import pytest

from tests.chaos.campaign import SETTINGS, TIERS_S
from tests.chaos.senders import KEYS, KINDS, Key, Ports
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
EVERYDAY = {"edge": 5, "pubsub": 4, "pipeline": 3}
LONG = {"edge": 12, "pubsub": 10, "pipeline": 8}


class Plan(NamedTuple):
    kills: dict[str, int]
    clients: int
    seconds: float
    pause_s: float


@pytest.mark.parametrize(
    "plan",
    [Plan(EVERYDAY, 4, 15, 0.02), pytest.param(Plan(LONG, 16, 120, 0.005), marks=pytest.mark.long)],
    ids=["12 kills", "30 kills"],
)
@pytest.mark.timeout(1800)
def test_what_was_acknowledged_is_stored_whatever_is_killed(
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
    token, ports = new_token(), Ports(free_port(), free_port(), free_port())
    assert keeps(ports)
    tokens = state / "tokens"
    tokens.write_text(line_of(token, "cams", ["write"]) + "\n")

    def edge() -> Running:
        return Running(
            environment["PUBSUB_EMULATOR_HOST"],
            tokens,
            f"--topic={TOPIC}",
            f"--http_port={ports.http}",
            f"--mqtt_port={ports.mqtt}",
            f"--tcp_port={ports.tcp}",
            f"--mqtt_sessions={state / 'sessions'}",
            "--publish_timeout_s=0.3",
            f"--spool_dir={state / 'spool'}",
            "--spool_free_bytes=0",
        )

    def job(*options: str) -> Job:
        return Job(environment, state / "ingest.log", *options)

    running, pipeline = edge(), job()
    pipeline.wait_ready()
    clients = [KINDS[number % len(KINDS)](number, SEED, token, ports, plan.pause_s) for number in range(plan.clients)]
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
    told = sum((client.told for client in clients), Counter[str]())
    print(f"seed {SEED}: {dict(told)}")
    assert min(told[how] for how in ("200", "MQTTv311", "MQTTv5", "tcp")) > 20
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
