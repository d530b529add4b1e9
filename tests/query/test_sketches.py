"""Percentiles from sketches: where they are taken from them, where not, and that the answer says which."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from tests.query.oracle import DAY_S, SECOND, Request
from tests.query.world import HISTORY, Plan, World
from tidemark.edge.tokens import Grant
from tidemark.query import reading, statement
from tidemark.query.answers import JSON, written
from tidemark.query.columns import POSTGRES_EPOCH_US
from tidemark.query.connections import Connection
from tidemark.query.database import Database
from tidemark.query.fold import PERCENTILES
from tidemark.query.intervals import Axis
from tidemark.query.parameters import QUERY, parsed
from tidemark.query.problems import ProblemError
from tidemark.query.sketches import percentiles
from tidemark.store.connection import make_engine
from tidemark.wire.quantiles import bins_of

START = 1_600_000_000 // DAY_S * DAY_S * SECOND
HOUR = 3600 * SECOND
NAMES = (("metric", "a"), ("source", "gw-0"))
WHOLE = Request((0,), START, START + DAY_S * SECOND, 7200, aggregations=tuple(PERCENTILES), quantiles="sketch")


@pytest.fixture
def world(url: str, database: Database, loop: asyncio.Runner) -> Iterator[World]:
    """A day of points of one series, settled with sketches."""
    pool = make_engine(url, 2, 20)
    made = World(Plan(1, HISTORY[0][0], START + DAY_S * SECOND, 1, (60, 3600, DAY_S), 0.0), pool, database, loop)
    made.sketch(wanted=True)
    chance = random.Random(1)
    made.write([(0, START + at * 60 * SECOND, START + at * 60 * SECOND, chance.gauss(5, 3)) for at in range(1440)])
    made.settle()
    yield made
    pool.dispose()


def asked(world: World, request: Request) -> Any:
    """The answer, after it is found to be right."""
    world.check(request, NAMES, world.marks())
    return world.ask(world.fields(request, NAMES))[0]


def answer(world: World, request: Request) -> tuple[Any, str]:
    values = parsed(QUERY, world.fields(request, NAMES).encode())
    found = world.loop.run(world.service.query(values, Grant("", frozenset({"read"})), time.time_ns() // 1000))
    return found, written(found, JSON).tag


def test_sketches_say_nearly_what_points_say(world: World) -> None:
    told, exact = asked(world, WHOLE), asked(world, replace(WHOLE, quantiles="exact"))
    assert (told["quantiles"], told["error"]) == ("sketch", 0.01)
    assert exact["quantiles"] == "exact"
    assert "error" not in exact
    assert told["series"] != exact["series"]


def test_nothing_is_said_of_quantiles_where_there_are_none(world: World) -> None:
    assert "quantiles" not in asked(world, replace(WHOLE, aggregations=("avg", "rate")))


def test_beside_what_needs_points(world: World) -> None:
    told = asked(world, replace(WHOLE, aggregations=("rate", "p99", "avg", "increase")))
    assert told["quantiles"] == "sketch"


@pytest.mark.parametrize("request_", [replace(WHOLE, interval_s=90), replace(WHOLE, start=START + 1, align="from")])
def test_intervals_that_do_not_lie_on_windows_are_exact(world: World, request_: Request) -> None:
    assert asked(world, request_)["quantiles"] == "exact"


def test_windows_that_are_owed_a_settling_are_merged_from_what_is_below(world: World) -> None:
    world.write([(0, START + 5 * HOUR + at, START + 9 * HOUR, 70.0 + at) for at in range(40)])
    told = asked(world, replace(WHOLE, columns=("state",)))
    assert told["quantiles"] == "sketch"
    assert told["series"][0]["p99"][2] > 70
    assert told["series"][0]["state"][2] == "p"


def test_one_rollup_without_a_sketch_makes_all_exact(world: World) -> None:
    world.sketch(wanted=False)
    world.write([(0, START + 5 * HOUR + 1, START + 9 * HOUR, 3.0)])
    assert asked(world, WHOLE)["quantiles"] == "sketch"  # it is owed a settling, and its points are read
    world.settle()
    assert asked(world, WHOLE)["quantiles"] == "exact"
    assert asked(world, replace(WHOLE, end=START + 4 * HOUR))["quantiles"] == "sketch"
    world.write([(0, START + 5 * HOUR + 2, START + 9 * HOUR, 3.0)])
    assert asked(world, WHOLE)["quantiles"] == "sketch"


def test_sketches_outlive_points(world: World) -> None:
    while (world.contents.cut or 0) <= START:
        world.cut()
    world.remove_cut()
    told, exact = asked(world, WHOLE), asked(world, replace(WHOLE, quantiles="exact"))
    assert told["points-removed-before"] == told["until"]
    assert None not in told["series"][0]["p50"]
    assert exact["series"][0]["p50"] == [None] * 12


def test_a_tag_is_of_what_is_said_of_quantiles(world: World) -> None:
    """Points that are all the same have the same percentiles either way."""
    world.write([(0, START - HOUR + at, START, 2.5) for at in range(50)])
    world.settle()
    request = replace(WHOLE, start=START - 2 * HOUR, end=START)
    (one, tag), (other, other_tag) = answer(world, request), answer(world, replace(request, quantiles="exact"))
    assert bytes(one.told["series"]) == bytes(other.told["series"])
    assert tag != other_tag


def test_sketches_are_of_the_same_snapshot_as_all_else(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    request = replace(WHOLE, aggregations=("p50", "increase"), columns=("count", "max"))
    before, fetchrow, number = asked(world, request), Connection.fetchrow, iter(range(3))

    async def meanwhile(*arguments: Any) -> Any:
        found = await fetchrow(*arguments)
        world.write([(0, START + at, START, 1e9) for at in range(next(number) * 500, 1000)])
        return found

    monkeypatch.setattr(Connection, "fetchrow", meanwhile)
    told, _ = world.ask(world.fields(request, NAMES))
    monkeypatch.undo()
    assert list(number) == []
    assert told["series"] == before["series"]
    assert asked(world, request)["series"] != before["series"]


def test_many_bins_are_for_few_requests_at_once(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    told = asked(world, WHOLE)
    monkeypatch.setattr(reading, "GIANT", 30)
    assert asked(world, WHOLE)["series"] == told["series"]
    monkeypatch.setattr(statement, "MOST_TAKEN", 60)
    with pytest.raises(ProblemError, match="more than 60 points"):
        asked(world, WHOLE)


def sent(element: str, arrays: Sequence[Sequence[int]]) -> bytes:
    """As `array_send` writes arrays: dimensions, nulls, type, length, first place; of each element its length and itself."""
    size = struct.calcsize(f">{element}")
    return b"".join(
        struct.pack(">5i", 1, 0, 23, len(each), 1)
        + b"".join(struct.pack(f">i{element}", size, value) for value in each)
        for each in arrays
    )


def test_counts_may_be_as_great_as_the_store_has_them() -> None:
    bins = [[int(each) for each in bins_of(np.array(values))] for values in ([-3.0, 0.0], [5.0], [5.0, 7.0])]
    counts = [[3 << 40, 5], [1], [1 << 33, 1]]
    heads = b"".join(
        struct.pack(">iqq", series, -POSTGRES_EPOCH_US, len(each)) for series, each in zip((7, 4, 4), bins, strict=True)
    )
    row = {"sketches": heads, "bins": sent("i", bins), "bin_counts": sent("q", counts)}
    axis = Axis(np.array([0, HOUR, 2 * HOUR]), 3600)
    least, greatest = np.full((2, 2), -9.0), np.full((2, 2), 9.0)
    found = percentiles(("p50", "p99"), axis, [4, 7], row, least, greatest)
    assert found["p50"][:, 0] == pytest.approx([5.0, -3.0], rel=0.01)
    assert found["p99"][:, 0] == pytest.approx([5.0, -3.0], rel=0.01)
    assert np.isnan(found["p50"][:, 1]).all()
