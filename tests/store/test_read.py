"""Reading back on a real server, against a calculation that shares no code with the product."""

from __future__ import annotations

import random
import statistics
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tidemark.errors import UsageError
from tidemark.store.connection import make_engine, transaction
from tidemark.store.fold import SUMMARY
from tidemark.store.owing import Policy
from tidemark.store.read import Reader
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

TIERS_S = (60, 3600, 86_400)
DAY_US = 86_400_000_000
START_US = 1_767_225_600_000_000
KEYS = [SeriesKey("p", f"s{i}", m) for i in range(3) for m in ("a", "b")]
Rows = list[tuple[int, int, int, float]]


def random_rows(seed: int, number: int) -> Rows:
    rng = random.Random(seed)
    rows = {}
    for _ in range(number):
        series, event = rng.randrange(len(KEYS)), START_US + rng.randrange(2 * DAY_US // 1000) * 1000
        rows[series, event] = (series, event, event + rng.randrange(200_000_000), rng.uniform(-9, 9))
    return list(rows.values())


class World:
    def __init__(self, pool: Engine) -> None:
        self.pool, self.series = pool, SeriesCache(pool)
        self.writer = Writer(pool, self.series, Policy(60, 0, 0))
        self.rows: Rows = []
        self.reader = Reader(pool, TIERS_S)

    def write(self, rows: Rows) -> None:
        self.writer.write(Block(KEYS, np.array(rows, POINT)))
        self.rows += rows

    def settle(self) -> None:
        settler = Settler(self.pool, TIERS_S, 0)
        while found := list(settler.due(everything=True)):
            for settled in found:
                settler.forget(settled.mark_ids)

    def wanted(self, start: int, end: int, interval_s: int, origin: int) -> dict[tuple[int, int], dict[str, float]]:
        ids = self.series.ids(KEYS)
        groups = defaultdict(list)
        width = interval_s * 1_000_000
        for series, event, published, value in self.rows:
            if start <= event < end:
                groups[ids[series], origin + (event - origin) // width * width].append((event, published, value))
        found = {}
        for key, members in groups.items():
            members.sort()
            values = [value for _, _, value in members]
            found[key] = {
                "count": len(values),
                "sum": sum(values),
                "min": min(values),
                "max": max(values),
                "first": values[0],
                "last": values[-1],
                "m2": statistics.pvariance(values) * len(values),
                "first_publish_time": min(p for _, p, _ in members),
                "last_publish_time": max(p for _, p, _ in members),
                "late_count": sum(p > e // 60_000_000 * 60_000_000 + 60_000_000 for e, p, _ in members),
            }
        return found

    def check(self, start: int, end: int, interval_s: int, origin: int = 0) -> None:
        ids = self.series.ids(KEYS)
        found = self.reader.buckets(ids, start, end, interval_s, SUMMARY, origin)
        wanted = self.wanted(start, end, interval_s, origin)
        keys = [(int(row["series_id"]), int(row["start"])) for row in found]
        assert keys == sorted(wanted)
        for key, row in zip(keys, found, strict=True):
            for name in SUMMARY:
                assert row[name] == pytest.approx(wanted[key][name], rel=1e-9, abs=1e-9), (key, name)


@pytest.fixture
def world(url: str) -> Iterator[World]:
    pool = make_engine(url, 2, 20)
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, dead_letters, ledger, series")
    yield World(pool)
    pool.dispose()


INTERVALS = [
    (60, 0),
    (300, 0),
    (3600, 0),
    (7200, 0),
    (86_400, 0),
    (90, 0),
    (3600, 1_800_000_000),
    (600, 30_000_000),
    (7, 0),
]


@pytest.mark.parametrize(("interval_s", "origin"), INTERVALS)
def test_buckets_before_while_and_after_settling(world: World, interval_s: int, origin: int) -> None:
    whole, odd = (START_US, START_US + 2 * DAY_US), (START_US + 61_000_000, START_US + DAY_US + 12_345_678)
    world.write(random_rows(1, 2000))
    for start, end in (whole, odd):
        world.check(start, end, interval_s, origin)
    world.settle()
    for start, end in (whole, odd):
        world.check(start, end, interval_s, origin)
    taken = {row[:2] for row in world.rows}
    world.write([row for row in random_rows(2, 50) if row[:2] not in taken])  # late, and not settled yet
    for start, end in (whole, odd):
        world.check(start, end, interval_s, origin)
    list(Settler(world.pool, TIERS_S[:1], 0).due())  # the lowest tier only: its marks stay, none above
    for start, end in (whole, odd):
        world.check(start, end, interval_s, origin)


def test_settled_buckets_are_read_from_rollups(world: World) -> None:
    world.write(random_rows(1, 500))
    world.settle()
    with transaction(world.pool) as connection:
        connection.exec_driver_sql("DELETE FROM points")
    world.check(START_US, START_US + 2 * DAY_US, 3600)
    world.check(START_US, START_US + 2 * DAY_US, 60)


def test_points_come_in_pages(world: World) -> None:
    world.write(random_rows(3, 1000))
    ids = world.series.ids(KEYS)
    found = list(world.reader.points(ids[2], START_US, START_US + DAY_US, page=7))
    wanted = sorted((e, v, p) for s, e, p, v in world.rows if s == 2 and e < START_US + DAY_US)
    assert [(point.event_time, point.value, point.publish_time) for point in found] == wanted
    assert all(point.attributes is None for point in found)


def test_series_are_found_by_what_is_known_of_them(world: World) -> None:
    world.write(random_rows(1, 100))
    assert sorted(world.reader.series("p").values()) == sorted(KEYS)
    assert set(world.reader.series("p", source="s1").values()) == {("p", "s1", "a"), ("p", "s1", "b")}
    assert set(world.reader.series("p", metric="b").values()) == {("p", f"s{i}", "b") for i in range(3)}
    assert not world.reader.series("q")
    assert len(world.reader.series("p", most=2)) == 2


def test_what_cannot_be_asked(world: World) -> None:
    assert not len(world.reader.buckets([], START_US, START_US + DAY_US, 60, ["sum"]))
    assert not len(world.reader.buckets([1], START_US, START_US, 60, ["sum"]))
    with pytest.raises(UsageError, match="1,440,000 intervals"):
        world.reader.buckets(list(range(1000)), START_US, START_US + DAY_US, 60, ["sum"])
    with pytest.raises(UsageError, match="no 'median'"):
        world.reader.buckets([1], START_US, START_US + DAY_US, 60, ["median"])
