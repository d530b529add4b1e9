"""The same intervals from rollups and from points; and over HTTP, as from inside."""

from __future__ import annotations

import asyncio
import http.client
import json
import struct
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from urllib.parse import urlsplit

import pytest

from tests.query.oracle import DAY_S
from tests.query.world import Judged, World, planned
from tidemark.query.buckets import Store
from tidemark.query.catalogue import Catalogue
from tidemark.query.completeness import Completeness
from tidemark.query.database import Database
from tidemark.query.service import Service
from tidemark.store.connection import make_engine

EXACT = ("count", "min", "max", "first", "last")
NO_TIER = (1_000_003,)
"""No interval is made of its windows: points are read."""
STEPS = ("written", "partly settled", "settled", "late", "owed", "late and partly settled", "deleted and settled")


@pytest.fixture
def world(url: str, database: Database, loop: asyncio.Runner) -> Iterator[World]:
    pool = make_engine(url, 2, 20)
    yield World(planned(5), pool, database, loop)
    pool.dispose()


def bits(values: list[float | None]) -> list[bytes | None]:
    """Zeros are the same: of two of either sign the database takes any as the least."""
    return [None if value is None else struct.pack("d", value + 0.0) for value in values]


def test_rollups_say_to_the_bit_what_points_say(world: World, database: Database) -> None:
    rollups, store = world.service, Store(database, NO_TIER, 0)
    points = Service(store, Catalogue(database), Completeness(store))
    looked = 0
    for step in world.life():
        if step == "cut":
            break
        if step not in STEPS:
            continue
        for interval_s in (60, 300, 3600, DAY_S, 7 * DAY_S):
            request, names = world.question()
            fields = world.fields(
                replace(
                    request,
                    interval_s=interval_s,
                    end=min(request.end, request.start + 900 * interval_s * 1_000_000),
                    tz=None,
                    align="epoch",
                    across="none",
                    fill="null",
                    aggregations=EXACT,
                    columns=("late-count",) if interval_s == 60 else (),
                ),
                names,
            )
            world.service = rollups
            one, _ = world.ask(fields)
            world.service = points
            other, _ = world.ask(fields)
            world.service = rollups
            assert one["read"]["rollups"] == max(each for each in (60, 3600, DAY_S) if interval_s % each == 0)
            assert other["read"]["rollups"] is None
            assert one["start"] == other["start"]
            for left, right in zip(one["series"], other["series"], strict=True):
                assert (left["source"], left["metric"]) == (right["source"], right["metric"])
                for name in EXACT:
                    assert bits(left[name]) == bits(right[name]), (step, name, fields)
            looked += 1
    assert looked == 5 * len(STEPS)


def test_answers_are_right_while_a_settler_is_at_work(world: World) -> None:
    world.sketch(wanted=True)
    world.write(world.rows(1500))
    ended, failures = threading.Event(), []

    def settle() -> None:
        try:
            while not ended.is_set():
                world.settle(2, forget=False)
                world.settle()
                world.owe()
        except Exception as error:  # noqa: BLE001  # told below
            failures.append(error)

    settler = threading.Thread(target=settle)
    settler.start()
    try:
        for _ in range(60):
            request, names = world.question()
            fields = world.fields(request, names)
            told, _ = world.ask(fields)
            Judged(world, request, told, None, fields).judge()
    finally:
        ended.set()
        settler.join(60)
    assert not failures
    assert not settler.is_alive()


@pytest.fixture
def connection(url: str) -> Iterator[http.client.HTTPConnection]:
    """To a process that serves."""
    command = [sys.executable, "-m", "tidemark", "serve", f"--database_url={url}", "--http_port=0"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        ready = json.loads(process.stdout.readline())
        made = http.client.HTTPConnection(urlsplit(ready["url"]).netloc, timeout=30)
        yield made
        made.close()
        process.terminate()
        process.stdout.read()
        assert process.wait(30) == 0


def test_over_http_answers_are_right(world: World, connection: http.client.HTTPConnection) -> None:
    steps = world.life()
    asked = 0
    for step in steps:
        if step not in ("late", "deleted", "owed around the cut", "cut again"):
            continue
        marks = world.marks()
        for _ in range(10):
            request, names = world.question()
            fields = world.fields(request, names)
            connection.request("GET", f"/v1/query?{fields}")
            answer = connection.getresponse()
            body = answer.read()
            assert answer.status == 200, body
            Judged(world, request, json.loads(body), marks, fields).judge()
            asked += 1
    assert asked == 40
