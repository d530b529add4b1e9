"""Blocks written in any order, any number of times, settle to what the oracle says; on a real PostgreSQL."""

from __future__ import annotations

import math
import random
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.integration.oracle import Oracle
from tests.store.chunks import has_chunks
from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.local.postgres import Postgres
from tidemark.operate.compare_store import check_rollups
from tidemark.operate.report import Report
from tidemark.store import settle
from tidemark.store.connection import make_engine, transaction
from tidemark.store.dead_letters import LETTERS_AT_ONCE
from tidemark.store.fold import Range
from tidemark.store.ledger import totals
from tidemark.store.marks import cut_marks, insert_marks
from tidemark.store.owing import Policy
from tidemark.store.rebuild import Rebuild
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, DeadLetter, SeriesKey
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
NAMES = ("count", "min", "max", "first", "last", "first_publish_time", "last_publish_time", "late_count")
BASE_US = 1_700_000_000_000_000


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, dead_letters, ledger")
    yield made
    made.dispose()


def blocks(seed: int, oracle: Oracle) -> list[Block]:
    rng = random.Random(seed)
    keys = [SeriesKey("p", f"s{i}", "m") for i in range(5)]
    made = []
    for _ in range(12):
        rows = []
        for _ in range(300):
            key, event = rng.randrange(5), BASE_US + rng.randrange(2000) * 7_000_000
            published, value = event + rng.randrange(200_000_000), rng.uniform(-5, 5)
            rows.append((key, event, published, value))
            oracle.publish(tuple(keys[key]), event, published, value)
        made.append(Block(keys, np.array(rows, POINT)))
    made += rng.choices(made, k=6)
    rng.shuffle(made)
    return made


def settle_all(pool: Engine) -> None:
    settler = Settler(pool, TIERS_S, 0)
    while True:
        found = list(settler.due(everything=True))
        for settled in found:
            settler.forget(settled.mark_ids)
        if not found:
            return


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_any_order_and_repetition_settles_to_the_oracle(pool: Engine, seed: int) -> None:
    oracle = Oracle()
    series = SeriesCache(pool)
    writer = Writer(pool, series, Policy(60, 0, 0))
    work = blocks(seed, oracle)
    halves = [
        threading.Thread(target=lambda some=some: [writer.write(b) for b in some]) for some in (work[::2], work[1::2])
    ]
    for thread in halves:
        thread.start()
    settle_all(pool)
    for thread in halves:
        thread.join()
    settle_all(pool)
    with transaction(pool) as connection:
        ledger = totals(connection)
        points = connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one()
        rows = connection.exec_driver_sql(
            """SELECT source, tier_s, extract(epoch FROM window_start)::bigint * 1000000, sum, m2, count, min, max, first,
                last, (extract(epoch FROM first_publish_time) * 1000000)::bigint,
                (extract(epoch FROM last_publish_time) * 1000000)::bigint, late_count
                FROM rollups JOIN series USING (series_id) WHERE count > 0"""
        ).all()
    assert points == len(oracle.winners) == ledger.inserted
    assert ledger.received == sum(len(block.points) for block in work)
    assert ledger.unbalanced == 0
    for tier_s in TIERS_S:
        wanted = oracle.rollups(tier_s, TIERS_S[0])
        got = {(("p", row[0], "m"), row[2]): row for row in rows if row[1] == tier_s}
        assert got.keys() == wanted.keys()
        for key, row in got.items():
            assert tuple(row[5:]) == tuple(wanted[key][name] for name in NAMES)
            assert math.isclose(row[3], wanted[key]["sum"], rel_tol=1e-9, abs_tol=1e-9)
            assert math.isclose(row[4], wanted[key]["m2"], rel_tol=1e-9, abs_tol=1e-9)


TINY = (5e-324, 1e-320, 2.3e-308, 1e-290, 1e-200, 1e-145, 1e-140, 1e-139, 1e-75)


@pytest.mark.parametrize("beside", [0.0, 1.0, 1e150])
@pytest.mark.parametrize("size", TINY)
def test_values_too_small_for_a_product_settle_and_compare(pool: Engine, size: float, beside: float) -> None:
    values = [size, -size, 3 * size, size, beside, size]
    rows = [(0, BASE_US + i * 40_000_000, BASE_US + i, v) for i, v in enumerate(values)]
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block([SeriesKey("p", "tiny", "m")], np.array(rows, POINT)))
    settle_all(pool)
    report = Report()
    with transaction(pool) as connection:
        for level in range(len(TIERS_S)):
            day = Range(BASE_US // 1_000_000 // 86_400 * 86_400, (BASE_US // 1_000_000 // 86_400 + 1) * 86_400)
            check_rollups(connection, report, TIERS_S, level, day, quantiles=False)
        whole = connection.exec_driver_sql("SELECT count, sum, min, max, m2 FROM rollups WHERE tier_s = 86400").one()
    assert report.rollups > 2
    assert report.rollups_differ == 0
    assert whole[0] == len(values)
    assert whole[2:4] == (min(values), max(values))
    assert math.isclose(whole[1], math.fsum(values), rel_tol=1e-9)
    mean = math.fsum(values) / len(values)
    assert math.isclose(whole[4], math.fsum((v - mean) ** 2 for v in values), rel_tol=1e-9, abs_tol=1e-270)


def test_a_block_written_again_changes_nothing_and_balances(pool: Engine) -> None:
    oracle = Oracle()
    block = blocks(9, oracle)[0]
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    first, again = writer.write(block), writer.write(block)
    assert (again.inserted, again.overwritten, again.ignored) == (0, 0, len(block.points))
    assert first.inserted + first.ignored == len(block.points)


def test_a_point_that_the_database_refuses_becomes_a_dead_letter_and_its_neighbours_are_stored(pool: Engine) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql("ALTER TABLE points ADD CONSTRAINT refuse CHECK (value <> 13)")
    try:
        rows = [(0, BASE_US + i, BASE_US + i, float(i)) for i in range(40)]
        block = Block([SeriesKey("p", "refused", "m")], np.array(rows, POINT))
        written = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(block)
    finally:
        with transaction(pool) as connection:
            connection.exec_driver_sql("ALTER TABLE points DROP CONSTRAINT refuse")
    assert written.inserted == 39
    assert [letter.reason for letter in written.dead_letters] == ["refused_by_database"]
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT data FROM dead_letters").scalar_one()
        assert totals(connection).unbalanced == 0


@contextmanager
def altered(pool: Engine, change: str, back: str) -> Iterator[None]:
    with transaction(pool) as connection:
        connection.exec_driver_sql(change)
    try:
        yield
    finally:
        with transaction(pool) as connection:
            connection.exec_driver_sql(back)


@pytest.mark.parametrize(
    ("change", "back"),
    [
        ("ALTER TABLE points ADD CONSTRAINT closed CHECK (false)", "ALTER TABLE points DROP CONSTRAINT closed"),
        (
            "ALTER TABLE points ADD CONSTRAINT past CHECK (event_time < '2001-01-01 00:00+00')",
            "ALTER TABLE points DROP CONSTRAINT past",
        ),
        ("ALTER TABLE points ADD COLUMN extra int NOT NULL", "ALTER TABLE points DROP COLUMN extra"),
        ("ALTER TABLE marks ADD CONSTRAINT closed CHECK (false)", "ALTER TABLE marks DROP CONSTRAINT closed"),
        ("ALTER TABLE ledger ADD CONSTRAINT closed CHECK (false)", "ALTER TABLE ledger DROP CONSTRAINT closed"),
        (
            "ALTER TABLE dead_letters ADD CONSTRAINT closed CHECK (false)",
            "ALTER TABLE dead_letters DROP CONSTRAINT closed",
        ),
        (
            "ALTER TABLE series ADD CONSTRAINT closed CHECK (false) NOT VALID",
            "ALTER TABLE series DROP CONSTRAINT closed",
        ),
    ],
)
def test_when_the_database_is_at_fault_nothing_becomes_a_dead_letter(pool: Engine, change: str, back: str) -> None:
    if "points ADD COLUMN" in change and has_chunks(pool):
        pytest.skip("a hypertable refuses such a column itself")
    rows = [(0, BASE_US + i, BASE_US + i, float(i)) for i in range(40)]
    letter = DeadLetter("m", -1, b"?", {}, "decode", Reason.NOT_JSON, "told", BASE_US)
    block = Block([SeriesKey("p", f"fault {change[:30]}", "m")], np.array(rows, POINT), None, [letter])
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    with altered(pool, change, back), pytest.raises(MisconfiguredError):
        writer.write(block)
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == 0
        assert set(connection.exec_driver_sql("SELECT reason FROM dead_letters").scalars()) <= {"not_json"}
        assert connection.exec_driver_sql("SELECT count(*) FROM series WHERE source = 'good'").scalar_one() == 0
    written = writer.write(block)
    assert (written.inserted, written.dead_lettered) == (40, 1)
    with transaction(pool) as connection:
        assert totals(connection).unbalanced == 0


_LIMIT = """
CREATE OR REPLACE FUNCTION limited() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN
    IF (SELECT count(*) FROM fresh) > {most} THEN RAISE 'too much at once' USING ERRCODE = '53400'; END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER limited AFTER INSERT ON points REFERENCING NEW TABLE AS fresh FOR EACH STATEMENT EXECUTE FUNCTION limited()"""


@pytest.mark.parametrize(("most", "stored"), [(100, 1000), (1, 1000), (0, 0)])
def test_a_block_that_is_too_much_is_written_in_halves(pool: Engine, most: int, stored: int) -> None:
    """Whatever the server counts; but where even a point is too much, that is found out soon."""
    if has_chunks(pool):
        pytest.skip("a hypertable has no transition tables")
    rows = [(0, BASE_US + i, BASE_US + i, float(i)) for i in range(1000)]
    letter = DeadLetter("halved", -1, b"?", {}, "decode", Reason.NOT_JSON, "told", BASE_US)
    block = Block([SeriesKey("p", "halved", "m")], np.array(rows, POINT), None, [letter])
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    create, trigger = _LIMIT.format(most=most).split(";\nCREATE TRIGGER")
    with transaction(pool) as connection:
        connection.exec_driver_sql(create)
    with altered(pool, f"CREATE TRIGGER{trigger}", "DROP TRIGGER limited ON points"):
        began = time.monotonic()
        if stored:
            assert writer.write(block).inserted == stored
        else:
            with pytest.raises(UnavailableError, match="too much at once"):
                writer.write(block)
            assert time.monotonic() - began < 1
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == stored
        assert totals(connection).unbalanced == 0
        assert totals(connection).received == (stored + 1 if stored else 0)


def test_points_that_come_with_a_dead_letter_that_is_refused_are_not_refused_for_it(pool: Engine) -> None:
    rows = [(0, BASE_US + i, BASE_US + i, float(i)) for i in range(40)]
    letter = DeadLetter("poison", -1, b"?", {}, "decode", Reason.NOT_JSON, "told", BASE_US)
    block = Block([SeriesKey("p", "poisoned", "m")], np.array(rows, POINT), None, [letter])
    change = "ALTER TABLE dead_letters ADD CONSTRAINT poison CHECK (message_id <> 'poison')"
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    with (
        altered(pool, change, "ALTER TABLE dead_letters DROP CONSTRAINT poison"),
        pytest.raises(MisconfiguredError, match="dead letters"),
    ):
        writer.write(block)
    assert writer.write(block).inserted == 40


def test_a_flood_of_dead_letters_large_and_small_is_kept_once_and_whole(pool: Engine) -> None:
    bodies = [b"\xff%d" % i for i in range(2 * LETTERS_AT_ONCE + 7)] + [bytes(5 << 20), b"x" * (9 << 20), b"end"]
    letters = [
        DeadLetter(f"m{i}", -1, body, {"n": "\x00"}, "decode", Reason.NOT_JSON, f"nul \x00 {i}", BASE_US + i)
        for i, body in enumerate(bodies)
    ]
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    for _ in range(2):
        written = writer.write(Block([], np.zeros(0, POINT), None, [*letters, *letters[:3]]))
        assert written.dead_lettered == len(letters) + 3
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(
            "SELECT message_id, data, attributes::text, reason, detail FROM dead_letters WHERE position = -1"
        ).all()
        assert totals(connection).unbalanced == 0
    assert {row[0]: bytes(row[1]) for row in rows} == {f"m{i}": body for i, body in enumerate(bodies)}
    assert {(row[3], row[4]) for row in rows} == {("not_json", f"nul \\0 {i}") for i in range(len(bodies))}


def test_a_writer_merges_at_once_while_blocks_overlap_and_copies_again_when_they_do_not(pool: Engine) -> None:
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))

    def block(number: int) -> Block:
        rows = [(0, BASE_US + (number * 50 + i) * 1000, BASE_US, 1.0) for i in range(50)]
        return Block([SeriesKey("p", "habit", "m")], np.array(rows, POINT))

    for number in range(4):
        writer.write(block(number))
    assert not writer.habit.merges()
    for number in (0, 1, 2, 3, 0, 1):
        writer.write(block(number))
    assert writer.habit.merges()
    for number in range(4, 10):
        assert writer.write(block(number)).inserted == 50
    assert not writer.habit.merges()
    with transaction(pool) as connection:
        ledger = totals(connection)
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == 500 == ledger.inserted
    assert (ledger.ignored, ledger.unbalanced) == (300, 0)


DAY_S = BASE_US // 1_000_000 // 86_400 * 86_400
DAY = Range(DAY_S, DAY_S + 86_400)
SERIES = 12


def minutes(pool: Engine, first: int, number: int, value: float = 1.0) -> None:
    """One point of each series in each of some minutes of the day."""
    keys = [SeriesKey("rebuilt", f"s{i}", "m") for i in range(SERIES)]
    times = [(DAY.start + minute * 60) * 1_000_000 for minute in range(first, first + number)]
    rows = [(s, at, at + 1, value + s) for s in range(SERIES) for at in times]
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block(keys, np.array(rows, POINT)))


def settled_right(pool: Engine, rollups: int) -> None:
    report = Report()
    with transaction(pool) as connection:
        for level in range(len(TIERS_S)):
            check_rollups(connection, report, TIERS_S, level, DAY, quantiles=False)
        assert connection.exec_driver_sql("SELECT count(*) FROM marks WHERE NOT closing").scalar_one() == 0
    assert (report.rollups, report.rollups_differ) == (rollups, 0), report


def marked(pool: Engine) -> set[tuple[int, int, int]]:
    """Every (series, tier, window) that a mark owes and that has a rollup."""
    with transaction(pool) as connection:
        rows = connection.exec_driver_sql(
            """SELECT r.series_id, r.tier_s, extract(epoch FROM r.window_start)::bigint * 1000000 FROM rollups r
               WHERE EXISTS (SELECT FROM marks m WHERE m.tier_s = r.tier_s AND m.window_from <= r.window_start
                             AND m.window_to > r.window_start AND (m.series_id IS NULL OR m.series_id = r.series_id))"""
        ).all()
    return {(row[0], row[1], row[2]) for row in rows}


@pytest.mark.parametrize(("project", "look_s"), [(None, 0.0), ("rebuilt", 0.0), (None, 30.0)])
def test_a_rebuild_of_any_size_settles_in_bounded_transactions_beside_live_windows(
    pool: Engine, monkeypatch: pytest.MonkeyPatch, project: str | None, look_s: float
) -> None:
    minutes(pool, 0, 400)
    settle_all(pool)
    monkeypatch.setattr(settle, "ROWS_A_TRANSACTION", 200)
    monkeypatch.setattr(settle, "TURN_S", 0.0)
    monkeypatch.setattr(settle, "LOOK_S", look_s)
    for _ in range(2):  # what is owed twice is one range
        assert Rebuild(pool, TIERS_S, DAY.start, DAY.end, project).mark() == 3 * (SERIES if project else 1)
    owed = marked(pool)
    assert len(owed) == SERIES * (400 + 7 + 1)
    rng = random.Random(5)
    settler = Settler(pool, TIERS_S, 0)
    live, since, appended = 400, 0, set()
    for turn in range(1000):
        if turn % 5 == 0 and live < 410:
            minutes(pool, live, 1)
            with transaction(pool) as connection:  # as of points that come in time
                insert_marks(
                    connection, (60, 3600, 86_400), 60, [Range(DAY.start + live * 60, DAY.start + live * 60 + 60)]
                )
            live, since = live + 1, turn
        shown = set()
        for settled in settler.due():
            assert len(settled.rows) <= 200 * settle.SOURCES_A_ROW
            rows = settled.rows[["series_id", "tier_s", "window_start"]].tolist()
            shown |= set(rows)
            if rng.random() < 0.8:  # else its rows were not appended
                appended |= set(rows)
                settler.forget(settled.mark_ids)
            elif rng.random() < 0.3:  # and another process goes on
                settler = Settler(pool, TIERS_S, 0)
                break
        if (60, (DAY.start + (live - 1) * 60) * 1_000_000) in {row[1:] for row in shown}:
            since = turn
        assert turn - since < 15 or live == 410, "live windows wait"
        left = marked(pool)
        assert owed <= appended | left, "what is not appended is owed"
        if live == 410 and not left:
            break
    assert look_s or turn > 40
    assert owed <= appended
    settled_right(pool, SERIES * (410 + 7 + 1))


@pytest.mark.parametrize("error", [MisconfiguredError, UnavailableError])
def test_a_window_that_cannot_be_settled_does_not_stop_others(
    pool: Engine, url: str, monkeypatch: pytest.MonkeyPatch, error: type[TidemarkError]
) -> None:
    minutes(pool, 0, 100)
    settle_all(pool)
    minutes(pool, 60, 1, value=1000.0)  # the same event times: greater points
    with transaction(pool) as connection:
        insert_marks(connection, (60, 3600, 86_400), 60, [DAY])
    minutes(pool, 100, 20)
    hasty = make_engine(url, 2, 1.0)
    settler = Settler(hasty, TIERS_S, 0)
    broken = DAY.start + 60 * 60
    holding = pool.connect()
    try:
        if error is MisconfiguredError:
            holding.exec_driver_sql("ALTER TABLE rollups ADD CONSTRAINT refuse CHECK (max < 1000 OR tier_s > 60)")
            holding.commit()
        else:
            holding.exec_driver_sql(
                "SELECT FROM rollups WHERE tier_s = 60 AND window_start = to_timestamp(%s) FOR UPDATE", (broken,)
            )
        failures = 0
        for _ in range(40):
            try:
                for settled in settler.due():
                    settler.forget(settled.mark_ids)
            except error:
                failures += 1
            with transaction(pool) as connection:
                left = connection.exec_driver_sql(
                    """SELECT DISTINCT extract(epoch FROM window_from)::bigint, extract(epoch FROM window_to)::bigint
                       FROM marks WHERE NOT closing"""
                ).all()
            if [tuple(row) for row in left] == [(broken, broken + 60)]:
                break
            assert any(start <= broken < end for start, end in left)
        else:
            pytest.fail(f"marks are left: {left}")
        assert 1 < failures < 15
        with pytest.raises(error):
            list(settler.due())
        minutes(pool, 120, 1)
        newest = set()
        with pytest.raises(error):  # noqa: PT012  # at its end
            for settled in settler.due():
                newest |= set(settled.rows["window_start"].tolist())
                settler.forget(settled.mark_ids)
        assert (DAY.start + 120 * 60) * 1_000_000 in newest, "live windows go on"
        holding.rollback()
        if error is MisconfiguredError:
            holding.exec_driver_sql("ALTER TABLE rollups DROP CONSTRAINT refuse")
            holding.commit()
    finally:
        holding.close()
    while found := list(settler.due()):
        for settled in found:
            settler.forget(settled.mark_ids)
    hasty.dispose()
    settled_right(pool, SERIES * (121 + 3 + 1))


def test_after_a_fail_over_a_new_mark_is_not_taken_for_one_that_was_settled(pool: Engine, server: Postgres) -> None:
    """As a replica looks that lacks the last seconds: another server, whose sequence goes back."""
    minutes(pool, 0, 1)
    settler = Settler(pool, TIERS_S[:1], 0)
    (settled,) = settler.due()
    with transaction(pool) as connection:
        first = connection.exec_driver_sql("SELECT min(id) FROM marks").scalar_one()
    pool.dispose()
    server.stop()
    server.start()
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks")
        connection.exec_driver_sql(f"ALTER TABLE marks ALTER id RESTART WITH {first}")
    minutes(pool, 0, 1)
    with transaction(pool) as connection:
        before = connection.exec_driver_sql("SELECT id FROM marks ORDER BY id").scalars().all()
    assert first in before
    settler.forget(settled.mark_ids)
    with transaction(pool) as connection:
        assert cut_marks(connection, [(settled.mark_ids[0], 0, 60)]) == []
        assert connection.exec_driver_sql("SELECT id FROM marks ORDER BY id").scalars().all() == before
    (settled,) = settler.due()
    settler.forget(settled.mark_ids)
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM marks").scalar_one() == 0
