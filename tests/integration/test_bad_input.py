"""What can never be accepted becomes a dead letter, whole and with its reason; its neighbours are stored."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Message, Point, body, everything_is_right, message, query
from tidemark.local.job import Job


def one(**fields: object) -> bytes:
    point = {"project": "bad", "source": "s", "metric": "m", "event_time": time.time_ns() // 1_000_000, "value": 1.5}
    return json.dumps({**point, **fields}).encode()


WHOLE = {
    b"\xff\xfe\x00 not text": "not_json",
    b'{"project": "bad"': "not_json",
    b"": "empty_message",
    b"[" + b" " * 9_999_000 + b"]": "message_too_large",
}
POINTS = {
    b"7": "wrong_shape",
    b'{"project": "bad", "source": "s", "metric": "m", "event_time": 1700000000000}': "missing_field",
    one(event_time="yesterday"): "bad_event_time",
    one(event_time="2026-01-01T00:00:00"): "bad_event_time",
    one(event_time=(time.time_ns() // 1_000_000) + 3_600_000): "event_time_in_future",
    one(source="a\0b"): "bad_name",
    one(source=""): "bad_name",
    one(value=1e200): "bad_value",
    one(value="1.5"): "bad_value",
    one(attributes={"deep": [[[[[[[[[1]]]]]]]]]}): "attributes_too_deep",
    one(value=float("nan")): "bad_value",
}


@pytest.mark.timeout(200)
def test_bad_input_is_kept_with_its_reason_and_its_neighbours_are_stored(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    now = time.time_ns() // 1_000_000
    good: list[Point] = [(("good", f"s{i}", "m"), (now - i) * 1000, float(i)) for i in range(50)]
    wanted: dict[tuple[str, int], tuple[bytes, str]] = {}
    for data, reason in {**WHOLE, **POINTS}.items():
        message_id = feed.publish([(Message(data=data, attributes={"a": "b"}), [])])[0]
        position = -1 if data in WHOLE else 0
        wanted[message_id, position] = (data, reason)
    # one bad point between good ones
    lines = body(good[:10]).split(b"\n")
    mixed = Message(data=b"\n".join([*lines[:4], one(value=None), *lines[4:]]))
    mixed.attributes["event_time"] = str(now - 10)
    mixed_id = feed.publish([(mixed, good[:10])])[0]
    # event times that cannot be read: the publish time stands in, the points are good
    for attributes in ({}, {"event_time": "soon"}, {"event_time": "-5"}, {"event_time": "9" * 30}):
        some = [good.pop() for _ in range(5)]
        feed.publish([(Message(data=body(some), attributes=attributes), some)])
    feed.publish([(message(good[10:]), good[10:])])

    log = tmp_path / "ingest.log"
    counters = Job(environment, log, "--stop_when_idle_s=3").drained()

    rows = query(
        environment["TIDEMARK_DATABASE_URL"],
        "SELECT message_id, position, data, attributes::text, stage, reason, detail FROM dead_letters",
    )
    found = {(row[0], row[1]): row for row in rows}
    for key, (data, reason) in wanted.items():
        row = found.pop(key)
        assert row[2] == data
        assert row[5] == reason, (data[:60], row)
        assert row[4] == "decode"
        assert row[6]
        assert json.loads(row[3]) == {"a": "b"}
        assert counters[f"dead_lettered_{reason}"] >= 1
    assert found.pop((mixed_id, 4))[5] == "bad_value"
    assert not found
    # every message above but `mixed` and the last one
    assert counters["event_time_attribute_missing"] == len(wanted) + 4
    assert counters["dead_lettered"] == len(wanted) + 1
    oracle = feed.oracle()
    assert len(oracle.winners) == 50
    everything_is_right(environment, oracle)
    assert log.read_text() == ""
