"""Devices that do not write the contract: their JSON becomes points by a mapping, and what it cannot do is kept."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Message, Point, everything_is_right, query
from tidemark.local.job import Job

MAPPING = """# a gateway of cameras
.attributes.topic as $topic
| .body
| if .kind == "log" then empty else . end
| .at as $at
| if .spin then (def f: f; f) else . end
| .cameras[]
| {project: "cams", source: "\\($topic)/\\(.id)", metric: "fps", event_time: $at, value: .fps}
"""
CAMERAS = 4


def status(number: int, now_ms: int) -> tuple[dict, list[Point]]:
    at = now_ms - number * 7
    cameras = [{"id": camera, "fps": number + camera / 10} for camera in range(CAMERAS)]
    points = [(("cams", f"gw/{one['id']}", "fps"), at * 1000, one["fps"]) for one in cameras]
    return {"kind": "status", "at": at, "cameras": cameras, "firmware": {"a": [1, None, "x"]}}, points


def sent(body: bytes, points: list[Point]) -> tuple[Message, list[Point]]:
    return Message(data=body, attributes={"topic": "gw"}), points


@pytest.mark.timeout(200)
def test_what_is_mapped_is_stored_and_what_cannot_be_is_kept(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    mapping = tmp_path / "gateway.jq"
    mapping.write_text(MAPPING)
    now_ms = time.time_ns() // 1_000_000
    statuses = [status(number, now_ms) for number in range(600)]
    for one, points in statuses[:200]:
        feed.publish([sent(json.dumps(one).encode(), points)])
    for begin in range(200, 600, 100):
        some = statuses[begin : begin + 100]
        points = [point for _, of_one in some for point in of_one]
        feed.publish([sent(b"\n".join(json.dumps(one).encode() for one, _ in some), points)])
    log = json.dumps({"kind": "log", "text": "x"}).encode()
    spin = json.dumps({**statuses[0][0], "spin": True}).encode()
    bad = json.dumps({"kind": "status", "at": "soon", "cameras": [{"id": 1, "fps": 1}, {"id": 2, "fps": 2}]}).encode()
    ids = feed.publish([sent(log, []), sent(spin, []), sent(bad, []), sent(b'{"kind": 3', []), sent(b"17", [])])

    said = tmp_path / "ingest.log"
    counters = Job(environment, said, "--stop_when_idle_s=3", f"--mapping={mapping}", "--mapping_cpu_s=0.5").drained()

    oracle = feed.oracle()
    assert len(oracle.winners) == 600 * CAMERAS
    everything_is_right(environment, oracle)
    rows = query(
        environment["TIDEMARK_DATABASE_URL"],
        "SELECT message_id, data, stage, reason, detail, points FROM dead_letters ORDER BY message_id::bigint",
    )
    assert [tuple(row[:4]) for row in rows] == [
        (ids[1], spin, "mapping", "mapping_failed"),
        (ids[2], bad, "mapping", "bad_event_time"),
        (ids[3], b'{"kind": 3', "mapping", "not_json"),
        (ids[4], b"17", "mapping", "mapping_failed"),
    ]
    assert [row[5] for row in rows] == [1, 2, 1, 1]
    assert rows[0][4] == "it took more than 0.5 s"
    assert counters["mapping_filtered"] == 1
    assert counters["dead_lettered"] == 5
    assert said.read_text() == ""


def test_a_mapping_that_is_none_ends_the_launch_with_one_sentence(tmp_path: Path) -> None:
    mapping = tmp_path / "wrong.jq"
    mapping.write_text(".body\n| {source: .id,, metric: 1}")
    arguments = [
        "--subscription=projects/p/subscriptions/s",
        "--rollup_dataset=some-project.d",
        "--database_url=postgresql://u@h/d",
    ]
    for given, sentence in (
        (str(mapping), "line 2, column 16: syntax error, unexpected ','"),
        (str(tmp_path / "none.jq"), "none.jq cannot be read"),
    ):
        done = subprocess.run(
            [sys.executable, "-m", "pipelines.ingest", *arguments, f"--mapping={given}"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 2
        assert sentence in done.stderr
        assert len(done.stderr.splitlines()) == 1
