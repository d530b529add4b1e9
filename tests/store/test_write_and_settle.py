"""Blocks written in any order, any number of times, settle to what the oracle says; on a real PostgreSQL."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.integration.oracle import Oracle
from tidemark.operate.compare_store import check_rollups
from tidemark.operate.report import Report
from tidemark.store.connection import make_engine, transaction
from tidemark.store.dead_letters import LETTERS_AT_ONCE
from tidemark.store.fold import Range
from tidemark.store.ledger import totals
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Policy, Writer
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
