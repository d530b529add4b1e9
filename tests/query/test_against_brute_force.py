"""Queries against what plain Python makes of the points, before, while and after they are settled."""

from __future__ import annotations

import asyncio
import math
import random
import statistics
import time
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any
from urllib.parse import urlencode
from zoneinfo import ZoneInfo

import msgspec
import pytest

from tests.store.test_read import DAY_US, KEYS, START_US, TIERS_S, World, random_rows
from tidemark.query import parameters
from tidemark.query.answers import CSV, JSON, NDJSON, written
from tidemark.query.buckets import Store
from tidemark.query.catalogue import Catalogue
from tidemark.query.completeness import Completeness
from tidemark.query.database import Database
from tidemark.query.http import ANYBODY
from tidemark.query.problems import ProblemError
from tidemark.query.service import Service
from tidemark.store.connection import make_engine, transaction
from tidemark.store.settle import Settler

QUERIES = 60
PERCENT = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}
EXACT = {"count", "min", "max", "first", "last"}
Points = dict[tuple[int, int], float]


def ask(world: World, **given: Any) -> dict[str, Any]:
    """The answer, as a client has it."""
    return msgspec.json.decode(asked(world, JSON, **given))  # type: ignore[no-any-return]


def asked(world: World, form: str, **given: Any) -> bytes:
    async def run() -> bytes:
        database = Database(world.pool.url.render_as_string(hide_password=False).replace("+pg8000", ""), 1, 20)
        store = Store(database, TIERS_S, 0)
        service = Service(store, Catalogue(database), Completeness(store))
        names = {name.replace("_", "-").rstrip("-"): value for name, value in given.items()}
        values = parameters.parsed(parameters.QUERY, urlencode({"project": "p", **names}, doseq=True).encode())
        try:
            return written(await service.query(values, ANYBODY, time.time_ns() // 1000), form).body
        finally:
            await database.close()

    return asyncio.run(run())


def kept(world: World) -> dict[str, list[tuple[int, float]]]:
    """What is stored of each source's metric `a`: the later published stays, of two the greater."""
    best: dict[tuple[str, int], tuple[int, float]] = {}
    for series, event, published, value in world.rows:
        key = KEYS[series]
        if key.metric == "a":
            best[key.source, event] = max(best.get((key.source, event), (0, -math.inf)), (published, value))
    found: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for (source, event), (_, value) in sorted(best.items()):
        found[source].append((event, value))
    return found


def percentile(values: list[float], share: float) -> float:
    values = sorted(values)
    at = share * (len(values) - 1)
    low, high = values[math.floor(at)], values[math.ceil(at)]
    return low + (high - low) * (at - math.floor(at))


def wanted(name: str, points: list[tuple[int, float]], begin: int, end: int) -> float | None:
    """An aggregation of the points of [begin, end)."""
    values = [value for at, value in points if begin <= at < end]
    if name in ("rate", "increase"):
        rises = [(b if b < a else b - a) for (_, a), (at, b) in pairwise(points) if begin <= at < end]
        total = sum(rises) if rises else None
        return total if name == "increase" or total is None else total / ((end - begin) / 1e6)
    if not values:
        return None
    simple = {
        "avg": statistics.fmean,
        "sum": math.fsum,
        "min": min,
        "max": max,
        "count": len,
        "first": lambda v: v[0],
        "last": lambda v: v[-1],
        "stddev": statistics.pstdev,
        "range": lambda v: max(v) - min(v),
    }
    return percentile(values, PERCENT[name]) if name in PERCENT else float(simple[name](values))  # type: ignore[operator]


def same(name: str, found: float | None, right: float | None) -> bool:
    if found is None or right is None:
        return found is right
    return found == right if name in EXACT else math.isclose(found, right, rel_tol=1e-9, abs_tol=1e-9)


def boundaries(answer: dict[str, Any]) -> list[tuple[int, int]]:
    starts = [at * 1000 for at in answer["start"]]
    end = datetime.fromisoformat(answer["until"])
    return list(zip(starts, [*starts[1:], round(end.timestamp() * 1_000_000)], strict=True))


def check(world: World, chance: random.Random) -> None:
    """One query at random, all of its numbers."""
    names = chance.sample([*parameters.AGGREGATIONS], chance.choice((1, 1, 2, 4)))
    start = START_US // 1_000_000 + chance.randrange(-7200, 2 * 86_400)
    until = start + chance.choice((60, 3600, 40_000, 86_400, 3 * 86_400))
    given: dict[str, Any] = {"from": start, "until": until, "aggregation": names, "metric": "a"}
    kind = chance.randrange(5)
    if kind == 0:
        given["interval-sec"] = 86_400
        given["tz"] = chance.choice(("Europe/Berlin", "Asia/Kathmandu", "America/St_Johns"))
    elif kind == 1:
        given["max-points"] = chance.choice((10, 100, 500))
    else:
        given["interval-sec"] = chance.choice(
            [each for each in (7, 60, 90, 600, 3600, 7200, 86_400) if (until - start) / each < 9000]
        )
        if chance.random() < 0.3:
            given["align"] = "from"
    answer = ask(world, **given)
    points = kept(world)
    spans = boundaries(answer)
    assert spans[0][0] <= start * 1_000_000
    assert spans[-1][1] >= until * 1_000_000
    for line in answer["series"]:
        for name in names:
            for found, (begin, end) in zip(line[name], spans, strict=True):
                right = wanted(name, points[line["source"]], begin, end)
                assert same(name, found, right), (given, line, name, begin, right)


@pytest.fixture
def world(url: str) -> Iterator[World]:
    pool = make_engine(url, 2, 20)
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, dead_letters, ledger, series, corrections")
    made = World(pool)
    made.write(random_rows(1, 3000))
    yield made
    pool.dispose()


def test_random_queries_before_while_and_after_settling(world: World) -> None:
    chance = random.Random(4)
    edges = [(0, START_US + at + off, START_US + at + 5, 1.0) for at in (3_600_000_000, DAY_US) for off in (-1, 0, 1)]
    world.write(edges)
    stages = (
        lambda: None,
        world.settle,
        lambda: world.write(random_rows(2, 80)),
        lambda: next(Settler(world.pool, TIERS_S, 0).due(), None),  # one transaction, whose marks stay
        lambda: world.write([(s, e, p + 1_000_000, v + 1) for s, e, p, v in world.rows[:40]]),
        world.settle,
    )
    for stage in stages:
        stage()
        for _ in range(QUERIES // len(stages)):
            check(world, chance)


@pytest.mark.long
def test_many_random_queries(world: World) -> None:
    chance = random.Random(5)
    for turn in range(10_000):
        check(world, chance)
        if turn % 500 == 250:
            world.settle()
        elif turn % 500 == 0:
            world.write(random_rows(turn, 80))


def test_across_and_fill(world: World) -> None:
    world.settle()
    points = kept(world)
    given = {"from": START_US // 1_000_000, "until": START_US // 1_000_000 + 86_400, "interval-sec": 600, "metric": "a"}
    apart = ask(world, **given, columns=["count"])
    for how in ("sum", "avg", "min", "max", "count"):
        (line,) = ask(world, **given, across=how)["series"]
        for at, (begin, end) in enumerate(boundaries(apart)):
            each = [found["avg"][at] for found in apart["series"] if found["avg"][at] is not None]
            every = [value for found in points.values() for time_us, value in found if begin <= time_us < end]
            right = {
                "sum": math.fsum(each),
                "avg": statistics.fmean(every) if every else None,
                "min": min(each, default=None),
                "max": max(each, default=None),
                "count": float(len(each)),
            }[how]
            assert same("avg", line["avg"][at], right if each else None), (how, at)
    for how, right in (("7", 7.0), ("previous", None)):
        answer = ask(world, **given, source="s0", fill=how, columns=["count"])["series"][0]
        bare = apart["series"][[line["source"] for line in apart["series"]].index("s0")]["avg"]
        last = None
        for at, (found, before) in enumerate(zip(answer["avg"], bare, strict=True)):
            assert same("avg", found, before if before is not None else right if how == "7" else last), (how, at)
            assert (at in answer["filled"]["avg"]) == (before is None and found is not None)
            last = before if before is not None else last


def test_rows_say_what_columns_say(world: World) -> None:
    given = {"from": START_US // 1_000_000, "until": START_US // 1_000_000 + 7200, "interval-sec": 600, "metric": "a"}
    answer = ask(world, **given, columns="count")
    cells = [
        [line["source"], line["avg"][at], line["count"][at]]
        for line in answer["series"]
        for at in range(len(answer["start"]))
    ]
    lines = [msgspec.json.decode(line) for line in asked(world, NDJSON, **given, columns="count").splitlines()]
    assert [[line["source"], line["avg"], line["count"]] for line in lines] == cells
    head, *rows = asked(world, CSV, **given, columns="count").decode().splitlines()
    assert head == "start,source,metric,avg,count"
    shown = [
        [source, float(avg) if avg else None, int(count) if count else None]
        for _, source, _, avg, count in (row.split(",") for row in rows)
    ]
    assert shown == cells


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "America/Sao_Paulo", "Asia/Beirut", "Pacific/Apia", "Australia/Lord_Howe"]
)
def test_days_begin_at_midnight(zone: str) -> None:
    from tidemark.query.intervals import Asked, axis  # noqa: PLC0415

    there = ZoneInfo(zone)
    for year in (2011, 2018, 2025):
        start = datetime(year, 1, 1, tzinfo=UTC)
        found = axis(
            Asked(
                *(round(at.timestamp() * 1e6) for at in (start, start + timedelta(days=366))), 86_400, 500, zone, False
            )
        )
        days = [datetime.fromtimestamp(at / 1e6, UTC).astimezone(there).date() for at in found.boundaries.tolist()]
        just_before = [
            datetime.fromtimestamp((at - 1) / 1e6, UTC).astimezone(there).date() for at in found.boundaries.tolist()
        ]
        assert all(before < day for before, day in zip(just_before, days, strict=True))
        assert days == sorted(set(days))
        left_out = {date(2011, 12, 30)} if (zone, year) == ("Pacific/Apia", 2011) else set()
        every = {days[0] + timedelta(days=n) for n in range((days[-1] - days[0]).days + 1)}
        assert every - set(days) == left_out


@pytest.mark.parametrize(
    ("given", "kind"),
    [
        ({"metric": "zzz", "from": "now-1d"}, "no-such-series"),
        ({"from": "now-1d"}, "bad-parameter"),
        ({"metric": "a", "from": "now-1d", "interval-sec": 1}, "too-many-intervals"),
        ({"metric": "a", "from": "2026-01-01T00:00:00"}, "bad-parameter"),
        ({"metric": "a", "from": "now", "until": "now-1d"}, "bad-parameter"),
        ({"metric": "a", "from": "now-1d", "tz": "Mars/Olympus", "interval-sec": 86_400}, "bad-parameter"),
        ({"metric": "a", "from": "now-1d", "tz": "Europe/Berlin", "interval-sec": 3600}, "bad-parameter"),
        ({"match": 'a{source=~"("}', "from": "now-1d"}, "bad-parameter"),
        ({"match": "rate(a[5m])", "from": "now-1d"}, "bad-parameter"),
    ],
)
def test_what_is_refused(world: World, given: dict[str, Any], kind: str) -> None:
    with pytest.raises(ProblemError) as refused:
        ask(world, **given)
    assert refused.value.kind == kind


def test_selectors(world: World) -> None:
    given = {"from": START_US // 1_000_000, "until": START_US // 1_000_000 + 3600}
    for match, sources in (
        ('a{source=~"s[01]"}', ["s0", "s1"]),
        ('a{source!="s0"}', ["s1", "s2"]),
        ('{__name__=~"a|b",source="s2"}', ["s2", "s2"]),
        ('{__name__!="",source!~"s[12]"}', ["s0", "s0"]),
    ):
        assert [line["source"] for line in ask(world, **given, match=match)["series"]] == sources
