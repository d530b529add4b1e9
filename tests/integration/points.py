"""Publishes points beside an oracle, and holds what the product says against it."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Iterable, Mapping, Sequence

import grpc
from google.pubsub_v1 import types

from tests.integration.oracle import Key, Oracle, differences
from tidemark.local.stack import DATASET, TOPIC
from tidemark.operate.verify import verify
from tidemark.store.connection import make_engine, transaction
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import latest
from tidemark.wire.message import microseconds

Point = tuple[Key, int, float]
"""(series, event time in µs, value)"""
Message = types.PubsubMessage.pb()
_Request = types.PublishRequest.pb()
_Pull = types.PullRequest.pb()
_WITNESS = "projects/tidemark-local/subscriptions/witness"


def body(points: Iterable[Point]) -> bytes:
    return b"\n".join(
        json.dumps({"project": p, "source": s, "metric": m, "event_time": us // 1000, "value": value}).encode()
        for (p, s, m), us, value in points
    )


def message(points: Sequence[Point]) -> Message:
    made = Message(data=body(points))
    made.attributes["event_time"] = str(min(us for _, us, _ in points) // 1000)
    return made


class Feed:
    """Publishes, and subscribes beside the pipeline to learn when each message was accepted."""

    def __init__(self, address: str) -> None:
        channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        self._publish = channel.unary_unary(
            "/google.pubsub.v1.Publisher/Publish", _Request.SerializeToString, types.PublishResponse.pb().FromString
        )
        self._pull = channel.unary_unary(
            "/google.pubsub.v1.Subscriber/Pull", _Pull.SerializeToString, types.PullResponse.pb().FromString
        )
        self._subscribe = channel.unary_unary(
            "/google.pubsub.v1.Subscriber/CreateSubscription", types.Subscription.pb().SerializeToString, None
        )
        self.subscribe("witness", 600)
        self.sent: dict[str, list[Point]] = {}

    def subscribe(self, name: str, ack_deadline_s: int = 20) -> str:
        """One more subscription to the topic; returns its full name."""
        full = f"{_WITNESS.rpartition('/')[0]}/{name}"
        self._subscribe(types.Subscription.pb()(name=full, topic=TOPIC, ack_deadline_seconds=ack_deadline_s))
        return full

    def publish(self, messages: Sequence[tuple[Message, list[Point]]]) -> list[str]:
        """Publish messages that hold these points; returns their ids."""
        response = self._publish(_Request(topic=TOPIC, messages=[m for m, _ in messages]), timeout=30)
        self.sent.update(zip(response.message_ids, (points for _, points in messages), strict=True))
        return list(response.message_ids)

    def points(self, points: Sequence[Point], of: int = 10) -> None:
        """Publish points, `of` a message, 500 messages a request."""
        messages = [points[i : i + of] for i in range(0, len(points), of)]
        for i in range(0, len(messages), 500):
            self.publish([(message(some), list(some)) for some in messages[i : i + 500]])

    def oracle(self) -> Oracle:
        """What everything published so far amounts to."""
        times: dict[str, int] = {}
        until = time.monotonic() + 60
        while not self.sent.keys() <= times.keys() and time.monotonic() < until:
            for one in self._pull(_Pull(subscription=_WITNESS, max_messages=1000), timeout=30).received_messages:
                at = one.message.publish_time
                times[one.message.message_id] = at.seconds * 1_000_000 + at.nanos // 1000
        made = Oracle()
        for message_id, points in self.sent.items():
            for key, event_us, value in points:
                made.publish(key, event_us, times[message_id], value)
        return made


class Sender(threading.Thread):
    """Publishes beside a test, ten times a second until it is told to finish."""

    def __init__(self, feed: Feed) -> None:
        super().__init__(daemon=True)
        self.feed, self.finishing = feed, threading.Event()
        self._error: Exception | None = None

    def send(self) -> None:
        """What is due, at each turn."""
        raise NotImplementedError

    def work(self) -> None:
        """All that is sent."""
        while not self.finishing.wait(0.1):
            self.send()

    def run(self) -> None:
        try:
            self.work()
        except Exception as error:  # noqa: BLE001  # `finish` raises it
            self._error = error

    def finish(self, within_s: float = 30) -> None:
        """Send what is still to be sent, and no more."""
        self.finishing.set()
        self.join(within_s)
        assert not self.is_alive()
        if self._error is not None:
            raise self._error


def stored(database_url: str) -> dict[tuple[Key, int], tuple[int, float]]:
    """(series, event time in µs) to (publish time in µs, value), of every row."""
    rows = query(
        database_url,
        "SELECT project, source, metric, event_time, publish_time, value FROM points JOIN series USING (series_id)",
    )
    found = {((p, s, m), microseconds(e)): (microseconds(t), v) for p, s, m, e, t, v in rows}
    assert len(found) == len(rows)
    return found


def query(database_url: str, sql: str) -> list:
    pool = make_engine(database_url, 1, 60)
    try:
        with transaction(pool) as connection:
            return list(connection.exec_driver_sql(sql).all())
    finally:
        pool.dispose()


def everything_is_right(environment: Mapping[str, str], oracle: Oracle) -> None:
    """Raw points, settled rollups of every tier and `verify` say what the oracle says."""
    database_url = environment["TIDEMARK_DATABASE_URL"]
    found = stored(database_url)
    wrong = [(k, found.get(k), v) for k, v in oracle.winners.items() if found.get(k) != v]
    assert not wrong, (len(wrong), wrong[:5])
    assert len(found) == len(oracle.winners)
    tiers_s = tuple(map(int, environment["TIDEMARK_TIERS_S"].split(",")))
    quantiles = environment.get("TIDEMARK_QUANTILES") == "true"
    client = rest(DATASET, environment["BIGQUERY_EMULATOR_HOST"])
    for tier_s in tiers_s:
        rows = list(latest(client, DATASET, 0, 4_000_000_000_000_000, tier_s))
        off = differences(oracle.rollups(tier_s, tiers_s[0], quantiles=quantiles), rows)
        assert not off, (tier_s, len(off), off[:5])
        assert all(row.pane == "settled" for row in rows)
    report = verify(database_url, DATASET, tiers_s, quantiles=quantiles)
    assert report.passed, report
