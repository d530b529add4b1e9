"""Whatever a sender can put into a message is stored literally and read back equal, or refused with a reason."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import Engine

from tests.store.faults import TABLES
from tidemark.store.connection import make_engine, transaction
from tidemark.store.read import Reader
from tidemark.store.series import SeriesCache
from tidemark.store.write import Policy, Writer
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
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
