"""What was refused is found, told, and written again, once, and never over what came later."""

from __future__ import annotations

import gzip
import json
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.operate.letters import AT_MS, NOW_US, TIERS_S, Store, point, redrive, run, text
from tidemark.store.settle import Settler
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import Reason


def test_a_bad_point_of_a_batch_is_stored_when_the_limit_was_raised(store: Store, capsys: Any) -> None:
    batch = {
        "project": "cams",
        "source": "a",
        "points": [{"metric": "m", "event_time": AT_MS + n, "value": n} for n in range(3)],
    }
    batch["points"][1]["metric"] = "m" * 1100
    store.take(json.dumps(batch).encode())
    assert store.letters() == [("bad_name", 1, 0)]
    assert redrive(capsys) == {"letters": 0, "points": 0, "still": 1, "skipped": 0, "written": True}
    assert store.letters() == [("bad_name", 1, 1)]
    store.rows(
        "UPDATE dead_letters SET data = replace(encode(data, 'escape'), %s, 'm2')::bytea RETURNING 1", "m" * 1100
    )
    assert redrive(capsys) == {"letters": 1, "points": 1, "still": 0, "skipped": 0, "written": True}
    assert store.values() == [("a", 0.0), ("a", 1.0), ("a", 2.0)]
    assert store.letters() == []
    assert store.balanced()
    assert redrive(capsys)["letters"] == 0


@pytest.mark.parametrize("packed", [False, True])
def test_messages_as_a_whole_and_in_parts_packed_or_not(store: Store, capsys: Any, packed: bool) -> None:
    body = text(point(source="ok"), *(point(event_time=AT_MS + n) for n in range(50)), "no point")
    store.take(gzip.compress(body) if packed else body, **({"content_encoding": "gzip"} if packed else {}))
    store.take(text(point(source="too long a name")), max_message=("x"))
    assert len(store.letters()) == 52
    dry = redrive(capsys, "--dry-run")
    assert dry == {"letters": 51, "points": 51, "still": 1, "skipped": 0, "written": False}
    assert len(store.letters()) == 52
    assert redrive(capsys) == {**dry, "written": True}
    assert store.letters() == [("wrong_shape", 1, 1)]
    assert len(store.values()) == 52
    assert store.balanced()


def test_a_whole_message_that_counts_as_one_becomes_all_of_its_points(store: Store, capsys: Any) -> None:
    body = text(*(point(source="a", event_time=AT_MS + n) for n in range(40)))
    store.take(body, Limits(max_message_bytes=1024))
    assert store.letters() == [("message_too_large", 1, 0)]
    assert redrive(capsys)["points"] == 40
    assert len(store.values()) == 40
    assert store.balanced()


def test_what_is_refused_in_part_stays_whole_and_its_good_points_are_written_once(store: Store, capsys: Any) -> None:
    body = text(*(point(event_time=AT_MS + n) for n in range(3)), point(value="x"))
    store.take(body, Limits(max_message_bytes=100))
    for attempts in (1, 2):
        assert redrive(capsys) == {"letters": 0, "points": 3, "still": 1, "skipped": 0, "written": True}
        assert store.letters() == [("bad_value", 1, attempts)]
        assert store.rows("SELECT data FROM dead_letters") == [(body,)]
        assert len(store.values()) == 3
    assert store.balanced()


def test_it_never_overwrites_what_was_accepted_later(store: Store, capsys: Any) -> None:
    store.take(text(point(value=1)), published=NOW_US - 1000)
    store.take(text(point(value=2)), Limits())
    assert redrive(capsys)["letters"] == 1
    assert store.values() == [("gateway-7", 2.0)]
    store.take(text(point(value=3, event_time=AT_MS + 1)), published=NOW_US + 1000)
    store.take(text(point(value=2, event_time=AT_MS + 1)), Limits())
    redrive(capsys)
    assert store.values() == [("gateway-7", 2.0), ("gateway-7", 3.0)]
    assert store.balanced()


def test_its_windows_are_owed_a_settling(store: Store, capsys: Any) -> None:
    store.take(text(point()))
    redrive(capsys)
    settler = Settler(store.pool, TIERS_S, 0)
    rows = [row for settled in settler.due(everything=True) for row in settled.rows["count"].tolist()]
    assert rows == [1] * len(TIERS_S)


def test_a_rollup_that_bigquery_refused_is_owed_a_settling_again(store: Store, capsys: Any) -> None:
    store.take(text(point()), Limits())
    settler = Settler(store.pool, TIERS_S, 0)
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)
    start_us = AT_MS * 1000 // 60_000_000 * 60_000_000
    told = {
        "project": "cams",
        "source": "gateway-7",
        "metric": "fps",
        "tier_s": 60,
        "window_start": start_us,
        "count": 1,
    }
    store.keep(
        DeadLetter(
            "rollup/1", -1, msgspec.json.encode(told), {}, "write_rollups", Reason.REFUSED_BY_BIGQUERY, "no", NOW_US
        )
    )
    store.keep(DeadLetter("rollup/2", -1, b"no JSON", {}, "write_rollups", Reason.REFUSED_BY_BIGQUERY, "no", NOW_US))
    assert redrive(capsys, "--reason=refused_by_bigquery") == {
        "letters": 1,
        "points": 0,
        "still": 1,
        "skipped": 0,
        "written": True,
    }
    (settled,) = settler.due(everything=True)
    assert settled.rows["window_start"].tolist() == [start_us]


def test_a_point_that_the_database_refused_is_tried_again(store: Store, capsys: Any) -> None:
    store.rows("ALTER TABLE points ADD CONSTRAINT small CHECK (value < 5) NOT VALID; SELECT 1")
    store.take(text(*(point(event_time=AT_MS + n, value=n) for n in range(8))), Limits())
    assert store.letters() == [("refused_by_database", 1, 0)] * 3
    assert redrive(capsys) == {"letters": 0, "points": 0, "still": 3, "skipped": 0, "written": True}
    assert store.letters() == [("refused_by_database", 1, 1)] * 3
    store.rows("ALTER TABLE points DROP CONSTRAINT small; SELECT 1")
    assert redrive(capsys)["letters"] == 3
    assert len(store.values()) == 8
    assert store.balanced()


def test_one_letter_that_the_database_refuses_does_not_hold_up_the_others(store: Store, capsys: Any) -> None:
    store.take(text(*(point(event_time=AT_MS + n, value=n) for n in range(20))))
    store.rows("ALTER TABLE points ADD CONSTRAINT odd CHECK (value <> 7) NOT VALID; SELECT 1")
    assert redrive(capsys) == {"letters": 19, "points": 19, "still": 1, "skipped": 0, "written": True}
    assert store.letters() == [("refused_by_database", 1, 1)]
    assert store.balanced()


def test_with_a_mapping_foreign_json_and_what_it_failed_on_become_points(
    store: Store, capsys: Any, tmp_path: Path
) -> None:
    mapping = tmp_path / "m.jq"
    mapping.write_text('.body | {source: .id, metric: "fps", event_time: .t, value: .fps}')
    store.take(text({"id": "x", "t": AT_MS, "fps": 3}), project="cams")
    value = text({"id": "y", "t": AT_MS, "fps": 4})
    store.keep(DeadLetter("m", 0, value, {"project": "cams"}, "mapping", Reason.MAPPING_FAILED, "no", NOW_US))
    assert redrive(capsys) == {"letters": 0, "points": 0, "still": 1, "skipped": 1, "written": True}
    assert redrive(capsys, f"--mapping={mapping}") == {
        "letters": 2,
        "points": 2,
        "still": 0,
        "skipped": 0,
        "written": True,
    }
    assert store.values() == [("x", 3.0), ("y", 4.0)]
    assert store.balanced()


def test_filters_and_limit(store: Store, capsys: Any) -> None:
    store.take(text(*(point(event_time=AT_MS + n) for n in range(5))))
    store.take(text(point(project="bank", source="a", value="x")))
    assert redrive(capsys, "--limit=2")["letters"] == 2
    assert redrive(capsys, "--series_project=bank")["still"] == 1
    assert redrive(capsys, "--reason=not_json")["letters"] == 0
    assert redrive(capsys, "--to=2020-01-01T00:00:00Z")["letters"] == 0
    assert redrive(capsys, "--stage=decode", "--reason=bad_name")["letters"] == 3
    for wrong in ("--reason=none", "--stage=none", "--limit=0", "--to=soon", "--mapping=none.jq"):
        status, said = run(capsys, "redrive", wrong)
        assert status == 2
        assert len(said.splitlines()) == 1, said


def test_beyond_so_many_bytes_the_oldest_go(store: Store, capsys: Any) -> None:
    for number in range(10):
        store.take(b"{" + b"x" * 1000 * (number + 1), Limits())
    status, said = run(capsys, "maintain", "--dead_letter_bytes=20000", "--json")
    assert (status, json.loads(said)["dead_letters_removed"]) == (0, 8)
    assert [size for (size,) in store.rows("SELECT length(data) FROM dead_letters ORDER BY id")] == [9001, 10_001]


def test_delete_reaches_the_dead_letters_of_a_sender(store: Store, capsys: Any) -> None:
    store.take(text(point(), point(source="another")))
    store.take(b'{"project":"bank","source":"x"', Limits())
    status, said = run(capsys, "delete", "--series_project=cams", "--source=another", "--json")
    assert json.loads(said) == {"series": 0, "points": 0, "dead_letters": 1, "removed": False}
    status, said = run(capsys, "delete", "--series_project=cams", "--yes")
    assert (status, said) == (0, "Removed 0 points of 0 series and 2 dead letters; ingest settles their rollups.\n")
    assert len(store.letters()) == 1
    assert run(capsys, "delete", "--series_project=cams")[0] == 2


@pytest.mark.parametrize(
    ("number", "kills"), [(6_000, 3), pytest.param(100_000, 3, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_killed_at_any_instant_each_is_stored_once(store: Store, number: int, kills: int) -> None:
    chance = random.Random(20130711)
    for begin in range(0, number, 2000):
        letters = [
            DeadLetter(
                f"k{n}", 0, text(point(event_time=AT_MS - n, value=n)), {}, "decode", Reason.BAD_NAME, "x", NOW_US
            )
            for n in range(begin, min(number, begin + 2000))
        ]
        columns = Columns()
        columns.dead_letters += letters
        store.writer.write(columns.block())
    command = [sys.executable, "-m", "tidemark", "redrive", "--json"]
    for killed in range(1, kills + 1):
        goal = number * killed // (kills + 1) + chance.randrange(number // 10)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 120
            while store.rows("SELECT count(*) FROM points")[0][0] < goal and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(one.communicate(timeout=600)[0]) for one in two]
    assert [one.returncode for one in two] == [0, 0]
    assert sum(one["still"] for one in said) == 0
    assert store.letters() == []
    assert np.array_equal(sorted(value for _, value in store.values()), np.arange(number))
    assert store.balanced()
