"""Archives, loaded by the program as a person runs it, beside an oracle."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from pathlib import Path

import pytest
import zstandard

from tests.integration.archives import FORMATS, INTERRUPT, KILL, archived, broken_off, load, points
from tests.integration.oracle import Oracle
from tests.integration.points import Feed, Point, Sender, body, everything_is_right, query
from tidemark.local.job import Job

BEGIN_MS = 1_735_689_600_000
A_FILE = 3_000
KILLS = 3


@pytest.mark.timeout(300)
def test_every_format_once_again_and_changed(environment: dict[str, str], tmp_path: Path) -> None:
    oracle = Oracle()
    for seed, (name, write) in enumerate(FORMATS.items()):
        some = points(seed, A_FILE, BEGIN_MS + seed * 50_000)
        archived(oracle, some)
        (tmp_path / name).write_bytes(write(some))
    piped = points(77, A_FILE, BEGIN_MS)
    archived(oracle, piped)

    first = load(environment, tmp_path / "*.gz", *(tmp_path / name for name in FORMATS if not name.endswith(".gz")))
    assert first.status == 0, first.said
    total = first.told["received"]
    assert (first.told["files"], first.told["dead_lettered"]) == (len(FORMATS), 0)
    assert first.told["inserted"] + first.told["overwritten"] + first.told["ignored"] == total
    everything_but = load(environment, "-", data=zstandard.compress(body(piped)))
    assert everything_but.status == 0, everything_but.said
    everything_is_right(environment, oracle)

    before = query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*), sum(received) FROM ledger")
    second = load(environment, *(tmp_path / name for name in FORMATS))
    assert (second.status, second.told["received"]) == (0, 0)
    assert second.said.count("is loaded already") == len(FORMATS)
    assert query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*), sum(received) FROM ledger") == before

    again = load(environment, *(tmp_path / name for name in FORMATS), "--again")
    assert again.status == 0, again.said
    assert (again.told["received"], again.told["inserted"], again.told["overwritten"]) == (total, 0, 0)

    more = points(99, 100, BEGIN_MS)
    with (tmp_path / "plain.jsonl").open("ab") as file:
        file.write(b"\n" + body(more))
    changed = load(environment, tmp_path / "plain.jsonl")
    assert (changed.status, changed.told) == (2, {})
    assert "plain.jsonl has changed since it was loaded" in changed.said
    assert "--again" in changed.said
    archived(oracle, more)
    anew = load(environment, tmp_path / "plain.jsonl", "--again")
    assert anew.status == 0, anew.said
    everything_is_right(environment, oracle)


@pytest.mark.timeout(300)
def test_killed_at_any_instant_it_goes_on_from_there(
    environment: dict[str, str], tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    kills = 10 if request.config.getoption("--long") else KILLS
    chance = random.Random(5)
    some = points(1, 150_000, BEGIN_MS, series=50)
    oracle = Oracle()
    archived(oracle, some)
    file = tmp_path / "all.jsonl.zst"
    file.write_bytes(zstandard.compress(body(some)))
    slowly, log = "--max_rate=60000", tmp_path / "log"
    for _ in range(kills):
        enough = chance.randrange(1, len(some) // (3 * kills))
        broken_off(environment, file, enough, KILL, log, slowly)
    status, done = broken_off(environment, file, 1, INTERRUPT, log, slowly)
    assert status in (0, 130), log.read_text()
    if status == 130:
        assert "the same command goes on from there" in log.read_text()
        assert done < len(some)
    last = load(environment, file)
    assert last.status == 0, last.said
    read, received = query(
        environment["TIDEMARK_DATABASE_URL"], "SELECT (SELECT sum(received) FROM imports), sum(received) FROM ledger"
    )[0]
    assert read == received == len(some), "a place was done twice, or not at all"
    everything_is_right(environment, oracle)
    assert load(environment, file).told["received"] == 0


class _Live(Sender):
    """Points of now, and some that the archive has as well."""

    def __init__(self, feed: Feed, shared: list[Point]) -> None:
        super().__init__(feed)
        self._shared = shared

    def send(self) -> None:
        now_us = time.time_ns() // 1_000_000 * 1000
        fresh: list[Point] = [(("live", f"s{number}", "m"), now_us, float(number)) for number in range(20)]
        taken, self._shared = self._shared[:100], self._shared[100:]
        self.feed.points(fresh + [(key, at, value + 1000) for key, at, value in taken], of=10)


@pytest.mark.timeout(300)
def test_beside_live_traffic_in_the_same_hours_what_came_live_wins(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    begin_ms = time.time_ns() // 1_000_000 - 600_000
    some = points(2, 40_000, begin_ms, series=50)
    file = tmp_path / "hours.jsonl.zst"
    file.write_bytes(zstandard.compress(body(some)))
    job = Job(environment, tmp_path / "ingest.log")
    live = _Live(feed, random.Random(1).sample(some, 2_000))
    live.start()
    loaded = load(environment, file, "--max_rate=10000")
    assert loaded.status == 0, loaded.said
    live.finish()
    job.drain()
    job.drained()
    Job(environment, tmp_path / "rest.log", "--stop_when_idle_s=2").drained()
    oracle = feed.oracle()
    archived(oracle, some)
    everything_is_right(environment, oracle)


def _bent(text: bytes) -> bytes:
    """Text as gzip, of which one bit is wrong so that nothing shows it but the checksum at its end."""
    packed = gzip.compress(text)
    for at in range(len(packed) // 2, len(packed)):
        bent = bytearray(packed)
        bent[at] ^= 4
        unpacked = zlib.decompressobj(-15).decompress
        try:
            found = unpacked(bytes(bent[10:]))
        except zlib.error:
            continue
        if len(found) > 3 << 20 and found != text:
            return bytes(bent)
    raise AssertionError


@pytest.mark.timeout(200)
def test_what_cannot_be_read_or_taken_is_told(environment: dict[str, str], tmp_path: Path) -> None:
    oracle = Oracle()
    some = points(3, A_FILE, BEGIN_MS)
    whole = [body(some[at : at + 100]) + b"\n" for at in range(0, len(some), 100)]
    pack = zstandard.ZstdCompressor().compress
    frames = [pack(text) for text in whole]
    cut = tmp_path / "cut.jsonl.zst"
    cut.write_bytes(b"".join(frames[:10]) + frames[10][:-20])
    torn = load(environment, cut)
    assert torn.status == 1
    assert f"{cut}: part 0 is damaged at byte " in torn.said
    assert torn.told["damaged"]
    archived(oracle, some[:1000])
    assert torn.told["received"] >= 1000
    known = torn.told["received"]
    archived(oracle, some[:known])
    everything_is_right(environment, oracle)

    holed = tmp_path / "holed.jsonl.zst"
    holed.write_bytes(b"".join(frames[:10]) + b"\0\1\2garbage" + b"".join(frames[11:]))
    skipped = load(environment, holed, "--skip-damaged")
    assert skipped.status == 0, skipped.said
    assert len(skipped.told["damaged"]) == 1
    # the first line behind the gap goes with it
    archived(oracle, [point for at, point in enumerate(some) if not 1000 <= at <= 1100])
    everything_is_right(environment, oracle)

    bent = tmp_path / "bent.jsonl.gz"
    bent.write_bytes(_bent(body(points(5, 60_000, BEGIN_MS))))
    wrong = load(environment, bent)
    assert (wrong.status, wrong.told["received"]) == (1, 0), wrong.said
    everything_is_right(environment, oracle)

    lines = tmp_path / "lines.jsonl"
    good = points(4, 500, BEGIN_MS)
    long = b'{"project":"' + b"x" * 9_000_000 + b'"}\n'
    lines.write_bytes(body(good[:200]) + b"\nnot JSON\n\xff\xfe\n" + long + body(good[200:]) + b'\n{"project":"p"')
    looked = load(environment, lines, "--dry-run")
    assert (looked.status, looked.told["points"], looked.told["refused"]) == (0, len(good), 4)
    taken = load(environment, lines)
    assert (taken.status, taken.told["received"], taken.told["dead_lettered"]) == (0, len(good) + 4, 4)
    archived(oracle, good)
    everything_is_right(environment, oracle)
    rows = query(
        environment["TIDEMARK_DATABASE_URL"],
        "SELECT reason, attributes ->> 'line', attributes ->> 'file' FROM dead_letters ORDER BY reason, 2",
    )
    assert [tuple(row) for row in rows] == [
        ("empty_message", "202", str(lines)),
        ("message_too_large", None, str(lines)),
        ("not_json", "201", str(lines)),
        ("not_json", str(len(good) + 4), str(lines)),
    ]
