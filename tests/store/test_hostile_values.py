"""Whatever a sender can put into a message is stored literally and read back equal, or refused with a reason."""

from __future__ import annotations

import json
import math
import random
import string
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.store.faults import TABLES
from tidemark.errors import RefusedError
from tidemark.settings import LIMITS
from tidemark.store.connection import make_engine, transaction
from tidemark.store.dead_letters import keep, of_refused
from tidemark.store.owing import Policy
from tidemark.store.read import Reader
from tidemark.store.series import SeriesCache
from tidemark.store.sources import SourceBook, projects, sources
from tidemark.store.write import Writer
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.labels import labelled
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message

NOW_US = 1_767_225_600_000_000
NASTY = (
    "null",
    "NULL",
    "\\.",
    "\\N",
    "a\tb",
    "'; DROP TABLE points; --",
    '"',
    "{}",
    "{a,b}",
    "%s",
    "%%",
    "\\x00",
    "é",
    "𝄞",
    " ",
)
NAMES = st.one_of(
    st.sampled_from((*NASTY, "\x00", "\ud800", "x" * 256, "x" * 257, "", "\n")), st.text(min_size=1, max_size=20)
)
VALUES = st.one_of(
    st.sampled_from((1e150, -1e150, 1e151, 0.0, -0.0, 5e-324, 2.2250738585072014e-308, 0.1, 1 / 3, 2**53 + 1)),
    st.floats(allow_nan=True, allow_infinity=True),
)
TIMES = st.one_of(
    st.sampled_from((0, 1, NOW_US // 1000, NOW_US // 1000 + 600_000, NOW_US // 1000 + 600_001, -1, 2**53)),
    st.integers(0, NOW_US // 1000),
)
ATTRIBUTES = st.one_of(
    st.none(),
    st.dictionaries(st.sampled_from(NASTY), st.one_of(st.sampled_from((*NASTY, "\x00", 1e308, None, True)), st.text())),
)


@pytest.fixture(scope="module")
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 2, 20)
    yield made
    made.dispose()


@settings(max_examples=150)
@given(points=st.lists(st.tuples(NAMES, NAMES, NAMES, TIMES, VALUES, ATTRIBUTES), min_size=1, max_size=6))
def test_stored_literally_or_refused(pool: Engine, points: list[tuple]) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}")
    columns = Columns()
    decoder = Decoder(Limits())
    for i, (project, source, metric, ms, value, attributes) in enumerate(points):
        point = {"project": project, "source": source, "metric": metric, "event_time": ms, "value": value}
        if attributes is not None:
            point["attributes"] = attributes
        body = json.dumps(point).encode()
        decoder.decode(Message(body, {}, NOW_US + i, f"message-{i}", None), columns, NOW_US)
    block = columns.block()
    written = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(block)
    assert (
        len(block.points) + len(block.dead_letters)
        == len(points)
        == written.inserted + written.overwritten + (written.ignored + written.dead_lettered)
    )
    refused = {letter.message_id for letter in block.dead_letters}
    assert written.dead_lettered == len(refused), "the database refuses nothing that decode lets through"
    reader = Reader(pool, (60, 3600, 86_400))
    wanted = {}
    for i, (project, source, metric, ms, value, attributes) in enumerate(points):
        if f"message-{i}" not in refused:
            wanted[project, source, metric, ms * 1000] = (float(value), NOW_US + i, attributes or None)
    found = {}
    for project in {key[0] for key in wanted}:
        for number, name in reader.series(project).items():
            for point in reader.points(number, 0, 2**53):
                read = None if point.attributes is None else json.loads(point.attributes)
                found[*name, point.event_time] = (point.value, point.publish_time, read or None)
    assert found == wanted
    assert all(math.copysign(1, value) == 1 for value, _, _ in found.values() if value == 0), "there is one zero"
    assert all(abs(value) <= 1e150 for value, _, _ in found.values())


@pytest.mark.parametrize("name", [*filter(str.isprintable, NASTY), "a,b", "}", "x" * 256])
def test_names_arrive_literally_wherever_they_travel(pool: Engine, name: str) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}, sources")
    columns = Columns()
    metric_of = labelled("m", {"name": name}) if "{" in name else name
    for project, source, metric in ((name, "s", "m"), ("p", name, "m"), ("p", "s", metric_of), (name, name, metric_of)):
        point = {"project": project, "source": source, "metric": metric, "event_time": NOW_US // 1000, "value": 1}
        Decoder().decode(Message(json.dumps(point).encode(), {}, NOW_US, "1"), columns, NOW_US)
    block = columns.block()
    Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(block)
    book = SourceBook(pool, 60, 0)
    book.observe(block)
    book.write()
    kept = {(row.project, row.source) for row in sources(pool, "silent", 10)}
    assert kept == {(name, "s"), ("p", name), ("p", "s"), (name, name)}
    assert {row.project for row in projects(pool)} == {name, "p"}
    assert [row.project for row in projects(pool, name)] == [name]
    reader = Reader(pool, (60, 3600, 86_400))
    found = [set(reader.series(*key).values()) for key in block.keys]
    assert found == [{key} for key in block.keys]


def test_the_longest_names_that_settings_allow_fit_the_index(pool: Engine) -> None:
    high = {setting.name: int(setting.high or 0) for setting in LIMITS}
    bounds = {name: high[name] for name in ("max_name_bytes", "max_metric_bytes")}
    chance = random.Random(1)
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}")
    most = (bounds["max_name_bytes"], bounds["max_name_bytes"], bounds["max_metric_bytes"])
    names = ["".join(chance.choices(string.ascii_letters + string.digits, k=number)) for number in most]
    point: dict[str, object] = dict(
        zip(("project", "source", "metric"), names, strict=True), event_time=NOW_US // 1000, value=1
    )
    columns = Columns()
    message = Message(json.dumps(point).encode(), {}, NOW_US, "1")
    Decoder(Limits(**bounds)).decode(message, columns, NOW_US)
    written = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(columns.block())
    assert (written.inserted, written.dead_letters) == (1, [])
    letter = of_refused(columns.block(), RefusedError("for a test", code="23514"))
    keep(pool, [letter])


def test_a_dead_letter_of_many_points_counts_as_many(pool: Engine) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}")
    columns = Columns()
    body = b"[" + b",".join(b"1" for _ in range(50_000)) + b"]"
    attributes = {f"name-{i}": "x" * 600 for i in range(100)}
    Decoder().decode(Message(body, attributes, NOW_US, "1"), columns, NOW_US)
    block = columns.block()
    written = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(block)
    assert written.dead_lettered == block.received > len(block.dead_letters)
    with transaction(pool) as connection:
        number, size, points = connection.exec_driver_sql(
            "SELECT count(*), sum(length(data) + length(attributes::text) + length(detail)), sum(points) FROM dead_letters"
        ).one()
        received, dead_lettered = connection.exec_driver_sql("SELECT received, dead_lettered FROM ledger").one()
        assert connection.exec_driver_sql("SELECT count(*) FROM series").scalar_one() == 0
    assert number == len(block.dead_letters)
    assert points == received == dead_lettered == block.received
    sent = len(body) + sum(len(name) + len(value) for name, value in attributes.items())
    assert size <= 2 * sent + (64 << 10)


def test_points_that_are_refused_make_no_series(pool: Engine) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}, sources")
    columns = Columns()
    good = {"project": "p", "source": "s", "metric": "m", "event_time": NOW_US // 1000, "value": 1}
    bad = [{**good, "metric": f"bad-{i}", "event_time": NOW_US // 1000 + 10**9} for i in range(100)]
    Decoder().decode(Message(json.dumps([*bad, good]).encode(), {}, NOW_US, "1"), columns, NOW_US)
    written = Writer(pool, SeriesCache(pool), Policy(60, 0, 0)).write(columns.block())
    assert (written.inserted, written.dead_lettered) == (1, 100)
    with transaction(pool) as connection:
        assert connection.exec_driver_sql("SELECT metric FROM series").scalars().all() == ["m"]
