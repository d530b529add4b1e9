"""What was refused is found, told, and written again, once, and never over what came later."""

from __future__ import annotations

import gzip
import json
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import msgspec
import pytest

from tests.operate.letters import AT_MS, NOW_US, TIERS_S, Store, point, redrive, run, text
from tests.store.hostile import impose, lift
from tidemark import retry
from tidemark.mapping.mapped import OneDecoder
from tidemark.mapping.program import in_file
from tidemark.operate import delete
from tidemark.store.letters import Chosen
from tidemark.store.redrive import Became, Redrive
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.archived import ArchiveDecoder
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason


def became(**more: int) -> dict[str, Any]:
    """What a run says."""
    return {**Became()._asdict(), **more, "written": True}


def test_a_bad_point_of_a_batch_is_stored_when_the_limit_was_raised(store: Store, capsys: Any) -> None:
    batch = {
        "project": "cams",
        "source": "a",
        "points": [{"metric": "m", "event_time": AT_MS + n, "value": n} for n in range(3)],
    }
    batch["points"][1]["metric"] = "m" * 1100
    store.take(json.dumps(batch).encode())
    assert store.letters() == [("bad_name", 1, 0)]
    assert redrive(capsys) == {"letters": 0, "points": 0, "filtered": 0, "still": 1, "skipped": 0, "written": True}
    assert store.letters() == [("bad_name", 1, 1)]
    store.rows(
        "UPDATE dead_letters SET data = replace(encode(data, 'escape'), %s, 'm2')::bytea RETURNING 1", "m" * 1100
    )
    assert redrive(capsys) == {"letters": 1, "points": 1, "filtered": 0, "still": 0, "skipped": 0, "written": True}
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
    assert dry == {"letters": 51, "points": 51, "filtered": 0, "still": 1, "skipped": 0, "written": False}
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
        assert redrive(capsys) == {"letters": 0, "points": 3, "filtered": 0, "still": 1, "skipped": 0, "written": True}
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
        "filtered": 0,
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
    assert redrive(capsys) == {"letters": 0, "points": 0, "filtered": 0, "still": 3, "skipped": 0, "written": True}
    assert store.letters() == [("refused_by_database", 1, 1)] * 3
    store.rows("ALTER TABLE points DROP CONSTRAINT small; SELECT 1")
    assert redrive(capsys)["letters"] == 3
    assert len(store.values()) == 8
    assert store.balanced()


def test_one_letter_that_the_database_refuses_does_not_hold_up_the_others(store: Store, capsys: Any) -> None:
    store.take(text(*(point(event_time=AT_MS + n, value=n) for n in range(20))))
    store.rows("ALTER TABLE points ADD CONSTRAINT odd CHECK (value <> 7) NOT VALID; SELECT 1")
    assert redrive(capsys) == {"letters": 19, "points": 19, "filtered": 0, "still": 1, "skipped": 0, "written": True}
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
    assert redrive(capsys) == {"letters": 0, "points": 0, "filtered": 0, "still": 1, "skipped": 1, "written": True}
    assert redrive(capsys, f"--mapping={mapping}") == {
        "letters": 2,
        "points": 2,
        "filtered": 0,
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


def test_a_letter_of_which_the_database_refuses_points_has_its_good_ones_written(store: Store, capsys: Any) -> None:
    body = text(*(point(source="a", event_time=AT_MS + n, value=n) for n in range(40)))
    store.take(body, Limits(max_message_bytes=1024))
    store.rows("ALTER TABLE points ADD CONSTRAINT odd CHECK (value NOT IN (7, 8, 30)) NOT VALID; SELECT 1")
    for attempts in (1, 2):
        assert redrive(capsys) == became(points=37, still=1)
        assert store.letters() == [("refused_by_database", 1, attempts)]
        assert store.rows("SELECT data FROM dead_letters") == [(body,)]
        assert len(store.values()) == 37
    store.rows("ALTER TABLE points DROP CONSTRAINT odd; SELECT 1")
    assert redrive(capsys) == became(letters=1, points=40)
    assert len(store.values()) == 40
    assert store.balanced()


def test_a_database_that_refuses_everything_is_not_asked_for_ever(store: Store, capsys: Any) -> None:
    store.take(text(*(point(source="a", event_time=AT_MS + n) for n in range(5000))), Limits(max_message_bytes=1024))
    store.rows("ALTER TABLE points ADD CONSTRAINT none CHECK (value = 0) NOT VALID; SELECT 1")
    before = store.rows("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")[0][0]
    assert redrive(capsys)["still"] == 1
    after = store.rows("SELECT xact_rollback FROM pg_stat_database WHERE datname = current_database()")[0][0]
    assert after - before < 300
    assert store.letters() == [("refused_by_database", 1, 1)]


def redriven(store: Store, **more: Any) -> list[Became]:
    return list(Redrive(store.writer, TIERS_S, Decoder(Limits()), ArchiveDecoder(Limits()), **more).run(Chosen()))


def test_a_letter_of_many_days_is_written_in_parts(store: Store) -> None:
    store.writer.reach_of._seconds = 86_400.0  # as where it is a hypertable
    hours = [point(source="a", event_time=AT_MS - n * 3_600_000, value=n) for n in range(100)]
    store.take(text(*hours), Limits(max_message_bytes=1024))
    store.take(text(point()))
    assert Became().plus(redriven(store)[0]) == Became(letters=2, points=101)
    assert len(store.values()) == 101
    assert store.letters() == []
    assert store.balanced()
    assert store.rows("SELECT count(*) FROM ledger WHERE redriven > 0")[0][0] > 4


def test_one_that_is_removed_while_its_parts_are_written_has_no_further_part(
    store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    store.writer.reach_of._seconds = 86_400.0
    hours = [point(source="a", event_time=AT_MS - n * 3_600_000, value=n) for n in range(100)]
    store.take(text(*hours), Limits(max_message_bytes=1024))
    write = Writer.write_with

    def removed_after(self: Writer, *arguments: Any, **more: Any) -> Any:
        done = write(self, *arguments, **more)
        store.rows("DELETE FROM dead_letters RETURNING 1")
        return done

    monkeypatch.setattr(Writer, "write_with", removed_after)
    assert redriven(store) == [Became(), Became()]
    assert 0 < len(store.values()) < 30


@pytest.mark.parametrize("before", [True, False])
def test_what_is_redriven_while_its_sender_is_deleted_is_deleted(
    store: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch, before: bool
) -> None:
    store.take(text(point()))
    store.take(text(point(source="old", event_time=AT_MS + 1)), Limits())
    remove = delete.remove_of

    def amid(*arguments: Any) -> int:
        if before:
            redriven(store)
        number = remove(*arguments)
        redriven(store)
        return number

    monkeypatch.setattr(delete, "remove_of", amid)
    assert run(capsys, "delete", "--series_project=cams", "--yes")[0] == 0
    assert store.values() == []
    assert store.letters() == []
    assert store.balanced()


def test_what_a_mapping_filters_is_gone_and_said_where_it_was_meant_for_it(
    store: Store, capsys: Any, tmp_path: Path
) -> None:
    mapping = tmp_path / "m.jq"
    mapping.write_text('.body | select(.t?) | {project: "cams", source: "y", metric: "m", event_time: .t, value: .v}')
    for number, value in enumerate((b'{"hello": 1}', text({"t": AT_MS, "v": 2}), text({"t": AT_MS, "v": "no"}))):
        store.keep(DeadLetter("m", number, value, {}, "mapping", Reason.MAPPING_FAILED, "no", NOW_US))
    # and these were never meant for a mapping: points of the contract, and what is none of both
    store.take(text(point()))
    store.take(b'{"project": "cams", "hello": 2}')
    store.take(text({"t": AT_MS + 1, "v": 3}))
    dry = redrive(capsys, f"--mapping={mapping}", "--dry-run")
    assert dry == {**became(letters=4, points=3, filtered=1, still=2), "written": False}
    _, said = run(capsys, "redrive", f"--mapping={mapping}")
    assert said == (
        "4 dead letters are gone, with 3 points; 2 are still refused. The mapping has no output for 1 of their values.\n"
    )
    assert store.values() == [("gateway-7", 1.5), ("y", 2.0), ("y", 3.0)]
    assert store.letters() == [("bad_value", 1, 1), ("missing_field", 1, 1)]
    assert store.balanced()


def test_a_mapping_makes_many_points_of_one_letter(store: Store, capsys: Any, tmp_path: Path) -> None:
    mapping = tmp_path / "m.jq"
    mapping.write_text(
        '.body | .t as $t | range(1000) | {project: "cams", source: "y", metric: "m", event_time: ($t + .), value: .}'
    )
    for n in range(100):
        value = text({"t": AT_MS - n * 1000})
        store.keep(DeadLetter("m", n, value, {}, "mapping", Reason.MAPPING_FAILED, "no", NOW_US))
    assert redrive(capsys, f"--mapping={mapping}") == became(letters=100, points=100_000)
    assert store.rows("SELECT count(*) FROM points") == [(100_000,)]
    assert store.rows("SELECT max(redriven) FROM ledger")[0][0] <= 50_000
    assert store.balanced()


def test_a_value_that_is_an_array_is_mapped_as_the_value_that_it_was(store: Store, capsys: Any, tmp_path: Path) -> None:
    mapping = tmp_path / "m.jq"
    right = '.body | {project: "cams", source: "y", metric: "m", event_time: .[0], value: .[1]}'
    mapping.write_text('error("not yet")')
    program = in_file(str(mapping))
    messages = [
        (b"[[%d, 1], [%d,\n2]]" % (AT_MS, AT_MS + 1), {}),
        (b"[%d, 3]\n[%d, 4]\n" % (AT_MS + 2, AT_MS + 3), {}),
        (gzip.compress(b"[[%d, 5], [%d, 6]]" % (AT_MS + 4, AT_MS + 5)), {"content_encoding": "gzip"}),
        # so many that most of them are one letter together
        (b"[%b]" % b",".join(b'[%d, %d, "%b"]' % (AT_MS + n, n + 1, b"x" * 400) for n in range(6, 300)), {}),
    ]
    with closing(OneDecoder(program, Decoder(Limits()))) as mapped:
        for number, (data, attributes) in enumerate(messages):
            columns = Columns()
            mapped.decode(Message(data, attributes, NOW_US, f"{number}"), columns, NOW_US)
            store.writer.write(columns.block())
    assert {reason for reason, _, _ in store.letters()} == {"mapping_failed", "too_many_refused"}
    mapping.write_text(right)
    found = redrive(capsys, f"--mapping={mapping}")
    assert (found["points"], found["still"]) == (300, 0)
    assert sorted(value for _, value in store.values()) == [float(n) for n in range(1, 301)]
    assert store.letters() == []
    assert store.balanced()


def test_the_limit_counts_what_is_tried(store: Store, capsys: Any) -> None:
    for n in range(5):
        store.keep(DeadLetter("m", n, b"{}", {}, "mapping", Reason.MAPPING_FAILED, "no", NOW_US))
    store.take(text(*(point(event_time=AT_MS + n) for n in range(5))))
    assert redrive(capsys, "--limit=2") == became(letters=2, points=2, skipped=5)
    assert redrive(capsys) == became(letters=3, points=3, skipped=5)
    assert store.rows("SELECT count(*) FROM ledger WHERE received + redriven = 0") == [(0,)]


def everything(store: Store) -> dict[str, list[tuple[Any, ...]]]:
    tables = [name for (name,) in store.rows("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")]
    assert {"points", "dead_letters", "ledger", "marks", "series", "settings"} <= set(tables)
    return {name: store.rows(f"SELECT t::text, xmin::text FROM {name} t ORDER BY 1") for name in tables}


def test_a_dry_run_writes_nothing(store: Store, capsys: Any) -> None:
    store.take(text(point(source="a")), Limits())
    store.take(text(*(point(event_time=AT_MS + n) for n in range(5)), "no point", point(value="x")))
    rollup = msgspec.json.encode(point(source="a", tier_s=60, window_start=0))
    store.keep(DeadLetter("r", -1, rollup, {}, "write_rollups", Reason.REFUSED_BY_BIGQUERY, "no", NOW_US))
    before = everything(store)
    assert redrive(capsys, "--dry-run")["letters"] == 6
    assert everything(store) == before


def test_batches_and_duplicate_keys(store: Store, capsys: Any) -> None:
    points = [{"metric": "m" * 900, "event_time": AT_MS, "value": n} for n in range(4)]
    body = json.dumps({"source": "a", "points": points}).encode()
    store.take(gzip.compress(body), Limits(max_metric_bytes=800), content_encoding="gzip", project="cams")
    assert store.rows("SELECT position, reason, points FROM dead_letters ORDER BY 1") == [
        (n, "bad_name", 1) for n in range(4)
    ]
    assert redrive(capsys, "--max_metric_bytes=800")["still"] == 4
    assert redrive(capsys) == became(letters=4, points=4)
    # of one publish time the greatest value stays, whatever the order
    assert store.values() == [("a", 3.0)]
    assert store.balanced()


def test_two_redrives_and_the_pipeline_at_once(store: Store) -> None:
    number = 3000
    for begin in range(0, number, 1000):
        columns = Columns()
        columns.dead_letters += [
            DeadLetter(
                f"k{n}", 0, text(point(event_time=AT_MS - n, value=1)), {}, "decode", Reason.BAD_NAME, "x", NOW_US
            )
            for n in range(begin, begin + 1000)
        ]
        store.writer.write(columns.block())
    command = [sys.executable, "-m", "tidemark", "redrive", "--json"]
    both = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    rounds = 0
    while any(one.poll() is None for one in both) or not rounds:
        for part in range(10):  # the newer publish time wins, and the older one loses, whoever comes first
            later = [point(event_time=AT_MS - n, value=2 + n % 2) for n in range(part, number, 10) if n % 3]
            store.take(text(*later), Limits(), NOW_US + 1)
            store.take(
                text(*(point(event_time=AT_MS - n, value=0) for n in range(part, number, 10))), Limits(), NOW_US - 1
            )
        rounds += 1
    said = [json.loads(one.communicate(timeout=600)[0]) for one in both]
    assert [one.returncode for one in both] == [0, 0]
    assert sum(one["letters"] for one in said) == number
    found = store.rows("SELECT value FROM points ORDER BY event_time DESC")
    assert [value for (value,) in found] == [1 if n % 3 == 0 else 2 + n % 2 for n in range(number)]
    assert store.letters() == []
    assert store.balanced()


def test_settings_of_a_role_change_nothing(store: Store, capsys: Any) -> None:
    store.take(b'\xff\x00\\001{"', Limits(), at="1\\2")
    store.take(text(*(point(event_time=AT_MS + n, attributes={"p": "C:\\new"}) for n in range(5))))
    before = store.rows("SELECT id, publish_time, data FROM dead_letters ORDER BY id")
    impose(store.pool, "role")
    try:
        status, said = run(capsys, "dead-letters", "list", "--json")
        assert status == 0
        told = [json.loads(line) for line in said.splitlines()]
        assert [one["id"] for one in told] == [number for number, _, _ in before]
        assert bytes.fromhex(told[0]["hex"]) == before[0][2]
        assert {one["publish_time"] for one in told} == {before[0][1].isoformat(timespec="milliseconds")[:-6] + "Z"}
        assert run(capsys, "dead-letters", "count", "--from=2026-02-01T00:00:00Z")[0] == 0
        assert redrive(capsys) == became(letters=5, points=5, still=len(before) - 5)
    finally:
        lift(store.pool, "role")
    found = store.rows("SELECT publish_time, attributes->>'p' FROM points ORDER BY event_time")
    assert found == [(before[0][1], "C:\\new")] * 5
    kept = store.rows("SELECT data, attempts FROM dead_letters ORDER BY id")
    assert kept == [(data, 1) for _, _, data in before[: len(before) - 5]]
    assert store.balanced()


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [("default_transaction_read_only = on", "read-only transaction"), ("search_path = nowhere", "tidemark migrate")],
)
def test_where_nothing_can_be_written_nothing_is_lost(
    store: Store, capsys: Any, monkeypatch: pytest.MonkeyPatch, setting: str, sentence: str
) -> None:
    monkeypatch.setattr(retry, "PAUSES_S", (0.01,))
    store.take(text(point()))
    role = store.rows("SELECT quote_ident(current_user)")[0][0]
    store.rows(f"ALTER ROLE {role} SET {setting}; SELECT 1")
    status, said = run(capsys, "redrive")
    assert (status, len(said.splitlines())) == (1, 1)
    assert sentence in said
    assert store.letters() == [("bad_name", 1, 0)]
    assert store.values() == []
