"""The pipeline, the database and BigQuery are killed while points come late, twice, overwritten and malformed."""

from __future__ import annotations

import json
import os
import random
import threading
import time
from pathlib import Path

import grpc
import pytest
from google.pubsub_v1 import types

from tests.integration.oracle import Oracle, differences
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import DATASET, TOPIC, Stack
from tidemark.operate.verify import verify
from tidemark.store.connection import make_engine, transaction
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import latest
from tidemark.wire.message import microseconds

SEED = int(os.environ.get("TEST_SEED", "20130711"))
TIERS_S = (2, 10, 60)
HORIZON_S = 5
POINTS, SECONDS, BATCH = 200_000, 60, 500
SERIES = [("chaos", f"s{i}", "m") for i in range(100)]
Message = types.PubsubMessage.pb()
Request = types.PublishRequest.pb()


class Feed(threading.Thread):
    """Publishes the plan and remembers, by message id, when each message was accepted."""

    def __init__(self, address: str, rng: random.Random) -> None:
        super().__init__(daemon=True)
        self._rng = rng
        self._publish = grpc.insecure_channel(address).unary_unary(
            "/google.pubsub.v1.Publisher/Publish", Request.SerializeToString, types.PublishResponse.pb().FromString
        )
        self.sent: dict[str, list[tuple[tuple[str, str, str], int, float]]] = {}
        self.malformed = 0
        self.error: Exception | None = None

    def run(self) -> None:
        try:
            self._run()
        except Exception as error:  # noqa: BLE001
            self.error = error

    def _run(self) -> None:
        start, number = time.time(), 0
        past: list[tuple[tuple[str, str, str], int]] = []
        while number < POINTS:
            due = start + number * SECONDS / POINTS
            time.sleep(max(0.0, due - time.time()))
            made, contents = [], []
            for _ in range(BATCH // 10):
                points = []
                for _ in range(10):
                    points.append(self._point(number, past))
                    number += 1
                made.append(self._message(points))
                contents.append(points)
                if self._rng.random() < 0.05:  # published again, with an id and a publish time of its own
                    made.append(self._message(points))
                    contents.append(points)
                if self._rng.random() < 0.01:  # 0.1 % of the points
                    made.append(Message(data=self._rng.choice([b"\xff\xfe", b"{", b'{"project":"chaos"}', b"[1"])))
                    contents.append([])
                    self.malformed += 1
            response = self._publish(Request(topic=TOPIC, messages=made), timeout=30)
            self.sent.update(zip(response.message_ids, contents, strict=True))

    def _point(self, number: int, past: list) -> tuple[tuple[str, str, str], int, float]:
        value = round(self._rng.uniform(-1000, 1000), 3)
        if past and self._rng.random() < 0.01:  # overwritten
            key, event_us = self._rng.choice(past[-20_000:])
            return key, event_us, value
        key = SERIES[number % len(SERIES)]
        event_us = time.time_ns() // 1_000_000 * 1000 - number % 1000 * 1000
        if self._rng.random() < 0.1:
            event_us -= int(self._rng.uniform(0, 5 * HORIZON_S) * 1000) * 1000
        past.append((key, event_us))
        return key, event_us, value

    def _message(self, points: list) -> object:
        body = b"\n".join(
            json.dumps(
                {"project": k[0], "source": k[1], "metric": k[2], "event_time": us // 1000, "value": value}
            ).encode()
            for k, us, value in points
        )
        message = Message(data=body)
        message.attributes["event_time"] = str(min(us for _, us, _ in points) // 1000)
        return message


@pytest.mark.timeout(600)
def test_every_number_is_right_after_kills_of_everything(stack: Stack, tmp_path: Path, monkeypatch) -> None:
    rng = random.Random(SEED)
    print(f"seed {SEED}")
    environment = {**stack.environment(), "TIDEMARK_TIERS_S": ",".join(map(str, TIERS_S))}
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", environment["BIGQUERY_EMULATOR_HOST"])
    options = (f"--horizon_s={HORIZON_S}", "--debounce_s=1", "--early_firing_s=2", "--idle_timeout_s=3")
    accepted = _listen(environment["PUBSUB_EMULATOR_HOST"])
    control = Control(environment["PUBSUB_EMULATOR_HOST"])
    job = Job(environment, tmp_path / "ingest.log", *options)
    job.wait_ready()
    feed = Feed(environment["PUBSUB_EMULATOR_HOST"], rng)
    began = time.monotonic()
    feed.start()
    kills = [(rng.uniform(3, SECONDS), "pipeline") for _ in range(5)]
    kills += [(rng.uniform(5, SECONDS), "postgres"), (rng.uniform(5, SECONDS), "bigquery")]
    for at, what in sorted(kills):
        control.drop_acks(
            ids=POINTS // 10 // 20 // len(kills)
        )  # 5 % of the messages come again, beside the killed ones
        time.sleep(max(0.0, began + at - time.monotonic()))
        if what == "pipeline":
            job.kill()
            job = Job(environment, tmp_path / "ingest.log", *options)
        else:
            server = getattr(stack, what)
            server.kill()
            server.start()
    feed.join(300)
    control.clear()
    control.close()
    assert feed.error is None, feed.error
    assert not feed.is_alive()
    job.kill()
    job = Job(environment, tmp_path / "ingest.log", *options, f"--stop_when_idle_s={LEASE_S + 5}")
    job.drained(240)

    oracle = Oracle()
    published = accepted(set(feed.sent))
    for message_id, points in feed.sent.items():
        for key, event_us, value in points:
            oracle.publish(key, event_us, published[message_id], value)
    pool = make_engine(environment["TIDEMARK_DATABASE_URL"], 1, 60)
    with transaction(pool) as connection:
        stored = connection.exec_driver_sql(
            "SELECT project, source, metric, event_time, publish_time, value FROM points JOIN series USING (series_id)"
        ).all()
        dead = connection.exec_driver_sql("SELECT count(*) FROM dead_letters").scalar_one()
    pool.dispose()
    found = {((p, s, m), microseconds(e)): (microseconds(t), v) for p, s, m, e, t, v in stored}
    assert len(found) == len(stored)
    assert found == oracle.winners
    assert dead == feed.malformed
    client = rest(DATASET)
    for tier_s in TIERS_S:
        rows = list(latest(client, DATASET, 0, 4_000_000_000_000_000, tier_s))
        wrong = differences(oracle.rollups(tier_s, TIERS_S[0]), rows)
        assert not wrong, (tier_s, len(wrong), wrong[:5])
        assert all(row.pane == "settled" for row in rows)
    report = verify(environment["TIDEMARK_DATABASE_URL"], DATASET, TIERS_S)
    assert report.passed, report


def _listen(address: str):
    """Subscribe beside the pipeline; the result gives the publish time of messages in µs."""
    channel = grpc.insecure_channel(address)
    service = "/google.pubsub.v1.Subscriber/"
    name = "projects/tidemark-local/subscriptions/witness"
    channel.unary_unary(service + "CreateSubscription", types.Subscription.pb().SerializeToString, None)(
        types.Subscription.pb()(name=name, topic=TOPIC, ack_deadline_seconds=600)
    )
    pull = channel.unary_unary(
        service + "Pull", types.PullRequest.pb().SerializeToString, types.PullResponse.pb().FromString
    )

    def collect(wanted: set[str]) -> dict[str, int]:
        times: dict[str, int] = {}
        while not wanted <= times.keys():
            for one in pull(types.PullRequest.pb()(subscription=name, max_messages=1000), timeout=30).received_messages:
                at = one.message.publish_time
                times[one.message.message_id] = at.seconds * 1_000_000 + at.nanos // 1000
        return times

    return collect
