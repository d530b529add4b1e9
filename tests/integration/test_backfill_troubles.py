"""Loads beside what goes wrong: services that are away, points that are not kept any more, letters, streams, many files."""

from __future__ import annotations

import gzip
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration.archives import COMMAND, archived, load, points
from tests.integration.oracle import Oracle
from tests.integration.points import body, everything_is_right, query
from tidemark.local.stack import Stack
from tidemark.store.connection import make_engine, transaction

BEGIN_MS = 1_735_689_600_000
DAY_MS = 86_400_000


def tidemark(environment: dict[str, str], *arguments: str) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tidemark", *arguments],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def until(holds: Callable[[], bool], within_s: float = 60) -> None:
    end = time.monotonic() + within_s
    while not holds():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.long  # most of a minute
@pytest.mark.timeout(200)
def test_the_database_and_bigquery_away_are_waited_for(
    stack: Stack, environment: dict[str, str], tmp_path: Path
) -> None:
    some = points(1, 100_000, BEGIN_MS, series=50)
    oracle = Oracle()
    archived(oracle, some)
    file, log = tmp_path / "all.jsonl.gz", tmp_path / "log"
    file.write_bytes(gzip.compress(body(some)))
    url = environment["TIDEMARK_DATABASE_URL"]
    with (
        log.open("wb") as said,
        subprocess.Popen([*COMMAND, file, "--max_rate=40000"], env=environment, stdout=said, stderr=said) as running,
    ):
        until(lambda: query(url, "SELECT count(*) FROM points")[0][0] > 0)
        stack.postgres.kill()
        until(lambda: "Waiting;" in log.read_text())
        stack.bigquery.kill()
        stack.postgres.start()
        until(lambda: query(url, "SELECT count(*) FROM imports WHERE finished_at IS NOT NULL")[0][0] == 1)
        assert running.poll() is None
        stack.bigquery.start()
        assert running.wait(60) == 0, log.read_text()
    assert "Traceback" not in log.read_text()
    everything_is_right(environment, oracle)


@pytest.mark.timeout(100)
@pytest.mark.parametrize(
    "number",
    [
        signal.SIGINT,
        pytest.param(signal.SIGTERM, marks=pytest.mark.long),
        pytest.param(signal.SIGHUP, marks=pytest.mark.long),
    ],
)
def test_it_can_be_stopped_while_it_waits(
    stack: Stack, environment: dict[str, str], tmp_path: Path, number: signal.Signals
) -> None:
    file, log = tmp_path / "all.jsonl", tmp_path / "log"
    file.write_bytes(body(points(1, 50_000, BEGIN_MS)))
    url = environment["TIDEMARK_DATABASE_URL"]
    temporary = {**environment, "TMPDIR": str(tmp_path)}
    with (
        log.open("wb") as said,
        subprocess.Popen([*COMMAND, file, "--max_rate=5000"], env=temporary, stdout=said, stderr=said) as running,
    ):
        until(lambda: query(url, "SELECT count(*) FROM points")[0][0] > 0)
        stack.postgres.kill()
        until(lambda: "Waiting;" in log.read_text())
        running.send_signal(number)
        assert running.wait(30) == 130, log.read_text()
    assert "the same command goes on from there" in log.read_text()
    assert "Traceback" not in log.read_text()
    assert sorted(one.name for one in tmp_path.iterdir()) == ["all.jsonl", "log", "state"]
    stack.postgres.start()
    assert load(environment, file).status == 0
    assert query(url, "SELECT sum(received) FROM imports")[0][0] == len(file.read_bytes().splitlines())


@pytest.mark.long  # most of a minute
@pytest.mark.timeout(100)
def test_it_can_be_stopped_while_its_rollups_wait_for_bigquery(
    stack: Stack, environment: dict[str, str], tmp_path: Path
) -> None:
    some = points(1, 1000, BEGIN_MS)
    file, log = tmp_path / "all.jsonl", tmp_path / "log"
    file.write_bytes(body(some))
    with (
        log.open("wb") as said,
        subprocess.Popen([*COMMAND, file, "--max_rate=200"], env=environment, stdout=said, stderr=said) as running,
    ):
        until(lambda: query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM imports")[0][0] > 0)
        stack.bigquery.kill()
        until(lambda: "Waiting;" in log.read_text())
        running.send_signal(signal.SIGTERM)
        assert running.wait(40) == 130, log.read_text()
    assert "Traceback" not in log.read_text()
    stack.bigquery.start()
    assert load(environment, file).told["files_before"] == 1, "all points are stored, and what they owe is settled now"
    oracle = Oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)


@pytest.mark.timeout(100)
def test_what_is_older_than_what_is_kept_is_refused_and_counted(environment: dict[str, str], tmp_path: Path) -> None:
    now_ms = time.time_ns() // 1_000_000
    old, new = points(1, 100, now_ms - 10 * DAY_MS), points(2, 100, now_ms - DAY_MS)
    file = tmp_path / "both.jsonl"
    file.write_bytes(body(old + new))
    first = load(environment, file, "--retention_days=5")
    assert (first.status, first.told["inserted"] + first.told["overwritten"] + first.told["ignored"]) == (0, len(new))
    assert first.told["dead_lettered_older_than_retention"] == first.told["dead_lettered"] == len(old)
    tidemark(environment, "maintain", "--retention_days=5")
    kept = load(environment, file, "--again")
    assert (kept.status, kept.told["dead_lettered_older_than_retention"]) == (0, len(old)), "as the store keeps them"
    longer = load(environment, file, "--again", "--retention_days=20")
    assert longer.told["dead_lettered_older_than_retention"] == len(old), "they are in no rollup any more"
    oracle = Oracle()
    archived(oracle, new)
    everything_is_right(environment, oracle)


@pytest.mark.timeout(100)
def test_letters_are_told_apart_shown_and_redriven_without_harm(environment: dict[str, str], tmp_path: Path) -> None:
    url = environment["TIDEMARK_DATABASE_URL"]
    good = points(1, 3000, BEGIN_MS)
    lines = body(good).split(b"\n")
    point = {"project": "late", "source": "s", "metric": "m", "event_time": BEGIN_MS, "value": 1}
    bad = json.dumps({**point, "attributes": {"a": "x" * 20000}}).encode()
    rows = [line for at, line in enumerate(lines) for line in ((line, bad) if at % 100 == 0 else (line,))]
    for name in ("a.jsonl", "b.jsonl"):
        (tmp_path / name).write_bytes(b"\n".join(rows))
    refused = 2 * sum(row is bad for row in rows) + 2
    (tmp_path / "c.csv").write_text("project,source,metric,event_time,value\nx,y\n1,2,3,4,5,6\n")
    files = [str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "c.csv")]
    first = load(environment, *files)
    assert (first.status, first.told["dead_lettered"]) == (0, refused), first.said
    counted = "SELECT count(*), count(DISTINCT (message_id, position, md5(data))) FROM dead_letters"
    assert tuple(query(url, counted)[0]) == (refused, refused)
    again = load(environment, *files, "--again")
    assert (again.status, again.told["dead_lettered"]) == (0, refused)
    assert tuple(query(url, counted)[0]) == (refused, refused), "the same letters are the same"

    number = query(url, "SELECT min(id) FROM dead_letters")[0][0]
    page = tidemark(environment, "dead-letters", "show", str(number))
    assert str(tmp_path / "a.jsonl") in page
    assert "line" in page
    # what came live meanwhile is newer than what an archive has, whenever that was refused
    live = json.dumps({**point, "value": 7}).encode()
    assert (
        load(environment, "-", data=live.replace(b'"value"', b'"publish_time": %d, "value"' % (BEGIN_MS + 1))).status
        == 0
    )
    tidemark(environment, "redrive", "--max_attributes_bytes=30000", "--reason=attributes_too_large")
    rows_now = query(url, "SELECT value FROM points JOIN series USING (series_id) WHERE project = 'late'")
    assert [tuple(row) for row in rows_now] == [(7.0,)]
    assert query(url, "SELECT count(*) FROM dead_letters")[0][0] == 2


@pytest.mark.timeout(100)
def test_more_of_a_stream_is_loaded_the_next_time(environment: dict[str, str]) -> None:
    some = points(1, 30_000, BEGIN_MS)
    first, all_of_it = body(some[:20_000]) + b"\n", body(some)
    for data in (first, first, all_of_it):
        assert load(environment, "-", data=data).status == 0
    oracle = Oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)
    assert query(environment["TIDEMARK_DATABASE_URL"], "SELECT sum(received) FROM ledger")[0][0] == len(some)


@pytest.mark.timeout(100)
def test_a_stream_that_has_nothing_more_for_now_can_be_stopped(environment: dict[str, str], tmp_path: Path) -> None:
    some = points(1, 30_000, BEGIN_MS)
    reading, writing = os.pipe()
    log = tmp_path / "log"
    with (
        log.open("wb") as said,
        subprocess.Popen([*COMMAND, "-"], env=environment, stdin=reading, stdout=said, stderr=said) as running,
    ):
        os.close(reading)
        with os.fdopen(writing, "wb", closefd=False) as pipe:
            pipe.write(body(some) + b"\n")
        url = environment["TIDEMARK_DATABASE_URL"]
        until(lambda: query(url, "SELECT count(*) FROM imports")[0][0] > 0)
        running.send_signal(signal.SIGTERM)
        assert running.wait(30) == 130, log.read_text()
        os.close(writing)
    assert "Traceback" not in log.read_text()
    assert load(environment, "-", data=body(some)).status == 0
    oracle = Oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)


@pytest.mark.timeout(100)
def test_one_file_that_is_no_archive_leaves_the_others_to_be_loaded(
    environment: dict[str, str], tmp_path: Path
) -> None:
    some = points(1, 1000, BEGIN_MS)
    for number in range(5):
        (tmp_path / f"{number}.jsonl").write_bytes(body(some[number::5]))
    (tmp_path / "odd.csv.gz").write_bytes(gzip.compress(b"a,b\n") + b"x,y\n" * 20_000)
    done = load(environment, tmp_path / "*")
    assert done.status == 1, done.said
    assert [one.partition(": ")[0] for one in done.told["damaged"]] == [str(tmp_path / "odd.csv.gz")]
    oracle = Oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)
    with_stream = load(environment, "-", tmp_path / "0.jsonl", "--again", data=gzip.compress(b"a,,c\n1,2,3\n"))
    assert with_stream.status in (0, 1)
    assert "Traceback" not in with_stream.said


@pytest.mark.long  # most of a minute
@pytest.mark.timeout(100)
def test_loaded_anew_by_another_program_meanwhile_it_is_left_to_that_one(
    environment: dict[str, str], tmp_path: Path
) -> None:
    some = points(1, 100_000, BEGIN_MS, series=50)
    file, log = tmp_path / "all.jsonl", tmp_path / "log"
    file.write_bytes(body(some))
    with (
        log.open("wb") as said,
        subprocess.Popen([*COMMAND, file, "--max_rate=3000"], env=environment, stdout=said, stderr=said) as running,
    ):
        until(lambda: query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM points")[0][0] > 0)
        assert load(environment, file, "--again").status == 0
        assert running.wait(60) == 1, log.read_text()
    assert "Traceback" not in log.read_text()
    assert log.read_text().count(f"{file}: The file is loaded anew by another program") == 2, (
        "in the log and in the end"
    )
    oracle = Oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)


@pytest.mark.timeout(100)
def test_a_database_that_was_not_migrated_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    url = environment["TIDEMARK_DATABASE_URL"]
    (tmp_path / "a.jsonl").write_bytes(body(points(1, 10, BEGIN_MS)))
    pool = make_engine(url, 1, 10)
    with transaction(pool) as connection:
        connection.exec_driver_sql("DROP TABLE imports")
    pool.dispose()
    done = load(environment, tmp_path / "a.jsonl")
    assert (done.status, len(done.said.splitlines())) == (1, 1), done.said
    assert "tidemark migrate" in done.said
