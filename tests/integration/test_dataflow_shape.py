"""Dataflow hands over one message an element: the same messages give the same rows, dead letters and marks."""

from __future__ import annotations

import random
import time
from pathlib import Path

import apache_beam as beam
import pg8000.native
import pytest
import sqlalchemy
from apache_beam.io.gcp.pubsub import PubsubMessage
from apache_beam.testing import test_pipeline as pipelines

from tests.integration.points import _WITNESS, Feed, Message, Point, _Pull, body, query
from tidemark.local.job import Job
from tidemark.settings import INGEST, read
from tidemark.store.migrate import migrate
from tidemark.wire.block import BLOCK_POINTS
from tidemark.wire.limits import Limits
from tidemark.wire.message import moment
from transforms import resources, write_raw
from transforms.decode import DecodeMessages
from transforms.heartbeat import Handed, Heart
from transforms.resources import Store
from transforms.source import _as_messages
from transforms.write_raw import WriteRaw

SINGLES, LONG_SINGLES = 12_000, 25_000
"""More than fill a block."""
HORIZON_S = 86_400 * 30


def publish(feed: Feed, singles: int) -> None:
    rng = random.Random(20260131)
    now_us = time.time_ns() // 1_000_000 * 1000
    points: list[Point] = []
    for i in range(singles):
        event_us = now_us - rng.randrange(0, 7_200_000) * 1000
        points.append((("shape", f"s{i % 50}", "m"), event_us, round(rng.uniform(-9, 9), 3)))
    points += points[:500]
    feed.points(points, of=1)
    feed.points(points[1000:3000], of=100)
    odd = [b"", b"no json", b'{"project":"shape"}', body(points[:2]) + b'\n{"value":"x"}', b"\xff\xfe"]
    feed.publish([(Message(data=data, attributes={"odd": "yes"}), []) for data in odd])


def published(feed: Feed) -> list[PubsubMessage]:
    found: dict[str, PubsubMessage] = {}
    until = time.monotonic() + 60
    while len(found) < len(feed.sent) and time.monotonic() < until:
        for one in feed._pull(_Pull(subscription=_WITNESS, max_messages=1000), timeout=30).received_messages:
            at = one.message.publish_time
            found[one.message.message_id] = PubsubMessage(
                one.message.data,
                dict(one.message.attributes),
                one.message.message_id,
                moment(at.seconds * 1_000_000 + at.nanos // 1000),
            )
    assert len(found) == len(feed.sent)
    return list(found.values())


def contents(url: str) -> dict[str, list]:
    return {
        "points": query(
            url,
            """SELECT project, source, metric, event_time, publish_time, value, attributes::text
               FROM points JOIN series USING (series_id) ORDER BY 1, 2, 3, 4""",
        ),
        "dead letters": query(
            url,
            """SELECT message_id, position, data, attributes::text, stage, reason, publish_time
               FROM dead_letters ORDER BY 1, 2""",
        ),
        "marks": query(  # what is owed, however it was gathered into rows
            url,
            """SELECT DISTINCT m.tier_s, s.project, s.source, s.metric, w
               FROM marks m JOIN series s ON s.series_id = m.series_id OR m.series_id IS NULL,
                    generate_series(m.window_from, m.window_to - interval '1 microsecond',
                                    make_interval(secs => m.tier_s)) w
               ORDER BY 1, 2, 3, 4, 5""",
        ),
    }


@pytest.mark.timeout(400)
def test_one_message_an_element_gives_what_one_pull_an_element_gives(
    environment: dict[str, str],
    feed: Feed,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    pytestconfig: pytest.Config,
) -> None:
    environment["TIDEMARK_HORIZON_S"] = str(HORIZON_S)  # so that the marks stay
    publish(feed, LONG_SINGLES if pytestconfig.getoption("--long") else SINGLES)
    job = Job(environment, tmp_path / "ingest.log")
    until = time.monotonic() + 90
    while job.latest.get("acknowledged", 0) < len(feed.sent) and time.monotonic() < until:
        time.sleep(0.1)
    job.drain()
    assert job.drained()["acknowledged"] >= len(feed.sent)
    first = contents(environment["TIDEMARK_DATABASE_URL"])
    assert all(first.values())

    url = sqlalchemy.make_url(environment["TIDEMARK_DATABASE_URL"])
    server = pg8000.native.Connection(
        url.username, host=url.host, port=url.port, database=url.database, password=url.password
    )
    server.run("CREATE DATABASE shape")
    server.close()
    second = url.set(database="shape").render_as_string(hide_password=False)
    migrate(second)
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", second)
    values = read(INGEST, {}, environment)
    store = Store.of(values)
    resources.close()
    handed = Handed()
    monkeypatch.setattr(handed, "begins", lambda _heart: None)  # here it beats when it is told to
    monkeypatch.setattr(write_raw, "HANDED", handed)
    heart = Heart(store, "shaped")
    try:
        with pipelines.TestPipeline(runner="FnApiRunner") as pipeline:
            (
                pipeline
                | beam.Create(published(feed), reshuffle=False)
                | "as message" >> beam.Map(_as_messages)
                | DecodeMessages(Limits.of(values))
                | WriteRaw(store, values.shards, values.horizon_s, heart=heart)
            )
        state = handed.state()
        heart.beat(state)
    finally:
        resources.close()
    again = contents(second)
    for name, rows in first.items():
        assert again[name] == rows, name
    assert not state.idle
    assert query(second, "SELECT job, idle, written_publish_time IS NULL FROM heartbeats") == [
        ("shaped", False, state.written is None)
    ]
    sizes = [row[0] for row in query(second, "SELECT received FROM ledger ORDER BY id")]
    assert max(sizes) >= BLOCK_POINTS, "blocks are gathered over elements"
    assert max(sizes) < BLOCK_POINTS + 100, "and flushed when they are full"
    assert len(sizes) <= 8, "and at the end of a bundle only"
