"""Windows without rollups are inserted by a statement of their own, which says what the other would; on a real PostgreSQL."""

from __future__ import annotations

import math
import random
import threading
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sqlalchemy import Connection, Engine

from tests.store.corrections import chained
from tests.waiting import eventually
from tidemark.store import replace
from tidemark.store.connection import make_engine, transaction
from tidemark.store.copy import copy_out
from tidemark.store.fold import Range
from tidemark.store.owing import Policy
from tidemark.store.remove import Deletion
from tidemark.store.replace import REPLACED, Kind, insert, look
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
START_S = 1_700_006_400 // 86_400 * 86_400
KEYS = [SeriesKey("p", f"s{i}", "m") for i in range(6)]


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, corrections, series RESTART IDENTITY")
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    yield made
    with transaction(made) as connection:
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    made.dispose()


def write(pool: Engine, rng: random.Random, number: int) -> None:
    rows = []
    for _ in range(number):
        event = START_S * 1_000_000 + rng.randrange(2000) * 7_000_000
        late = rng.choice((1, 50, 300, 4000, 100_000)) * 1_000_000
        rows.append((rng.randrange(len(KEYS)), event, event + late, rng.choice((0.0, rng.uniform(-5, 5), 1e9))))
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block(KEYS, np.array(rows, POINT)))


def settle(pool: Engine, *, horizon_s: float = 0, quantiles: bool = False) -> None:
    settler = Settler(pool, TIERS_S, horizon_s, quantiles)
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)


def scope(rng: random.Random, tier_s: int) -> Range | list[Range]:
    def some() -> tuple[int, int]:
        first = START_S + rng.randrange(14_000) // tier_s * tier_s
        return first, first + rng.choice((1, 5, 400)) * tier_s

    if rng.random() < 0.5:
        return Range(*some())
    return [Range(*some(), series_id) for series_id in rng.sample(range(1, len(KEYS) + 1), 3)]


def said(connection: Connection, statement: str) -> list[list[tuple[Any, ...]]]:
    """What it returns, and leaves in the two tables."""
    rows = copy_out(connection, statement, REPLACED).tolist()
    tables = [
        connection.exec_driver_sql(
            f"SELECT to_jsonb(t) - '{at}' FROM {table} t ORDER BY series_id, tier_s, window_start, revision"
        )
        .scalars()
        .all()
        for table, at in (("rollups", "settled_at"), ("corrections", "corrected_at"))
    ]
    return [sorted(rows), *([tuple(sorted(row.items())) for row in table] for table in tables)]


def alike(one: Any, other: Any) -> bool:
    if isinstance(one, (tuple, list)) and isinstance(other, (tuple, list)):
        return len(one) == len(other) and all(alike(a, b) for a, b in zip(one, other, strict=True))
    if isinstance(one, float) and isinstance(other, float):
        return math.isclose(one, other, rel_tol=1e-9, abs_tol=1e-6) or (math.isnan(one) and math.isnan(other))
    return bool(one == other)


@pytest.mark.parametrize("seed", range(6))
def test_where_there_are_no_rollups_both_statements_say_and_leave_the_same(pool: Engine, seed: int) -> None:
    rng = random.Random(seed)
    with_rows = with_corrections = 0
    for turn in range(20):
        write(pool, rng, 100)
        if rng.random() < 0.7:
            settle(pool, quantiles=rng.random() < 0.5)
        if turn == 12:
            with transaction(pool) as connection:
                connection.exec_driver_sql(
                    "UPDATE retention SET removed_before = to_timestamp(%s)", (START_S + rng.randrange(1, 3) * 3600,)
                )
        level = rng.choice((0, 0, 1, 2))
        tiers_s = TIERS_S[: level + 1]
        where, horizon_s, quantiles = (
            scope(rng, tiers_s[-1]),
            rng.choice((0, 120, 10_000, 1e10)),
            rng.random() < 0.5,
        )
        found = []
        for statement in (insert, replace.replace):
            with pool.connect() as connection:
                _empty(connection, where, tiers_s[-1])
                _, empty = look(connection, tiers_s[-1], where)
                assert empty
                text = statement(tiers_s, where, horizon_s, 1_800_000_000_000_000, quantiles=quantiles)
                found.append(said(connection, text))
                connection.rollback()
        assert alike(*found), (seed, turn)
        rows, _, corrections = found[0]
        with_rows += len(rows) > 0
        with_corrections += len(corrections) > 0
        assert {row[-1] for row in rows} <= {Kind.NEW}
    assert with_rows > 5
    assert with_corrections > 2


def _empty(connection: Connection, where: Range | list[Range], tier_s: int) -> None:
    for one in [where] if isinstance(where, Range) else where:
        for table in ("rollups", "corrections"):
            connection.exec_driver_sql(
                f"DELETE FROM {table} WHERE tier_s = %s AND window_start >= to_timestamp(%s) AND window_start < to_timestamp(%s)"
                " AND (CAST(%s AS integer) IS NULL OR series_id = %s)",
                (tier_s, one.start, one.end, one.series_id, one.series_id),
            )


def test_a_scope_with_one_rollup_is_not_empty(pool: Engine) -> None:
    write(pool, random.Random(1), 300)
    settle(pool)
    with transaction(pool) as connection:
        one = "SELECT series_id, extract(epoch FROM window_start)::bigint FROM rollups WHERE tier_s = 60 LIMIT 1"
        series_id, start = connection.exec_driver_sql(one).one()
        around = Range(start - 600, start + 600)
        assert not look(connection, 60, around)[1]
        assert not look(connection, 60, [Range(0, 60, series_id), Range(start, start + 60, series_id)])[1]
        assert look(connection, 60, [Range(0, 60, series_id), Range(start - 60, start, series_id + 100)])[1]
        assert look(connection, 120, around)[1]


def test_what_a_deletion_commits_meanwhile_is_replaced(pool: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It leaves an emptied rollup of a window that was never settled, and holds no lock of it."""
    at = START_S * 1_000_000
    rows = [(0, at + i, at + i, float(i)) for i in range(4)]
    rows += [(1, at + i, at + i, float(i)) for i in range(4)]
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(Block(KEYS[:2], np.array(rows, POINT)))
    tried: list[str] = []
    inserting = replace.insert

    def seen(*arguments: Any, **options: Any) -> str:
        tried.append("insert")
        return inserting(*arguments, **options)

    monkeypatch.setattr(replace, "insert", seen)
    holding = pool.connect()
    holding.exec_driver_sql(
        "INSERT INTO rollups (series_id, tier_s, window_start, count, sum, min, max, first, last, m2, first_publish_time,"
        " last_publish_time, late_count, revision, final)"
        " SELECT 2, 60, to_timestamp(%s), 0, 0, 0, 0, 0, 0, 0, now(), now(), 0, 7, false",
        (START_S,),
    )
    settling = threading.Thread(target=settle, args=(pool,))
    settling.start()

    def waits() -> bool:
        with transaction(pool) as connection:
            waiting = "SELECT count(*) FROM pg_locks WHERE NOT granted AND locktype = 'transactionid'"
            return bool(connection.exec_driver_sql(waiting).scalar_one())

    try:
        eventually(waits)
        assert tried == ["insert"]
    finally:
        holding.commit()
        holding.close()
        settling.join()
    with transaction(pool) as connection:
        found = connection.exec_driver_sql(
            "SELECT series_id, tier_s, count, first, last, revision > 7 FROM rollups ORDER BY tier_s, series_id"
        ).all()
    assert [tuple(row) for row in found] == [(s, t, 4, 0.0, 3.0, True) for t in TIERS_S for s in (1, 2)]


def test_deletions_beside_settling_leave_what_the_points_say(pool: Engine) -> None:
    rng = random.Random(3)
    write(pool, rng, 600)
    settling = threading.Thread(target=settle, args=(pool,))
    settling.start()
    list(Deletion(pool, TIERS_S, [2, 3], START_S, START_S + 7200).run())
    settling.join()
    settle(pool)
    with transaction(pool) as connection:
        wrong = connection.exec_driver_sql(
            """SELECT count(*) FROM (
                   SELECT series_id, date_bin('1 minute', event_time, to_timestamp(0)) AS window_start, count(*) AS n
                   FROM points GROUP BY 1, 2
               ) p FULL JOIN (SELECT * FROM rollups WHERE tier_s = 60 AND count > 0) r USING (series_id, window_start)
               WHERE p.n IS DISTINCT FROM r.count"""
        ).scalar_one()
    assert wrong == 0
    chained(pool)
