"""Whatever roles, databases and servers are set to, statements mean what they mean, and run as they run."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Callable, Iterator

import numpy as np
import pg8000.dbapi
import pytest
from sqlalchemy import Engine, make_url

from tests.store.faults import TABLES, Proxy
from tests.store.hostile import SCOPES, SETTINGS, impose, lift
from tidemark.local.postgres import Postgres
from tidemark.operate.maintain import maintain
from tidemark.settings import MAINTAIN, read
from tidemark.store import imports, session
from tidemark.store.connection import make_engine, single_statement, transaction
from tidemark.store.ledger import totals
from tidemark.store.migrate import migrate
from tidemark.store.owing import Policy
from tidemark.store.read import Reader
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.sources import SourceBook, sources
from tidemark.store.write import Writer
from tidemark.wire.block import Block, DeadLetter, SeriesKey
from tidemark.wire.reasons import Reason
from tidemark.wire.summary import POINT

PROTOCOL = struct.pack("!i", 3 << 16)
TIERS_S = (60, 3600, 86_400)
DAY_US = 86_400_000_000
FIRST_US = 1_759_276_800_000_000
"""2025-10-01: days and months of what follows can be taken for each other."""
DAYS = 60
KEYS = [SeriesKey("hostile", f"a\\b'{i}", "null") for i in range(3)]


def days(value: float, publish_us: int) -> Block:
    """A point a day and series, at a time of microseconds, with attributes."""
    made = np.empty(DAYS * len(KEYS), POINT)
    made["series_id"] = np.arange(len(made)) % len(KEYS)
    made["event_time"] = FIRST_US + np.arange(len(made)) // len(KEYS) * DAY_US + 43_200_123_456
    made["publish_time"] = publish_us
    made["value"] = value + np.arange(len(made)) / 3
    attributes: list[bytes | None] = [json.dumps({"path": "C:\\new", "n": i}).encode() for i in range(len(made))]
    return Block(KEYS, made, attributes, [])


@pytest.fixture(params=SCOPES)
def pool(request: pytest.FixtureRequest, server: Postgres) -> Iterator[Engine]:
    plain = make_engine(server.url(), 1, 60)
    impose(plain, request.param)
    made = make_engine(server.url(), 2, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}, sources")
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    yield made
    made.dispose()
    lift(plain, request.param)
    plain.dispose()


def settle(pool: Engine) -> int:
    settler, rows = Settler(pool, TIERS_S, 0), 0
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)
            rows += len(settled.rows)
    return rows


def test_they_are_hostile(server: Postgres) -> None:
    """What a connection that states nothing would get; else the test below could not fail."""
    plain, at = make_engine(server.url(), 1, 60), make_url(server.url())
    for scope in SCOPES:
        impose(plain, scope, statement_timeout="5000", idle_session_timeout="0")
        raw = pg8000.dbapi.connect(at.username, at.host, at.database, at.port, at.password)
        try:
            raw.autocommit = True
            cursor = raw.cursor()
            cursor.execute("SET statement_timeout = 0")
            cursor.execute(
                "SELECT current_setting('DateStyle'), current_setting('bytea_output'), current_setting('jit')"
            )
            assert tuple(cursor.fetchone()) == ("SQL, DMY", "escape", "on")
        finally:
            raw.close()
            lift(plain, scope)
    plain.dispose()


def passed_on(startup: bytes) -> bytes:
    """A startup packet as a pooler passes it on: without settings."""
    if startup[4:8] != PROTOCOL:
        return startup
    texts = startup[8:].split(b"\0")
    pairs = dict(zip(texts[::2], texts[1::2], strict=False))
    return packet({name: pairs[name] for name in (b"user", b"database") if name in pairs})


def refused(startup: bytes) -> bytes:
    """One that the server refuses where it has settings, as PgBouncer does by itself."""
    if startup[4:8] != PROTOCOL or b"DateStyle" not in startup:
        return startup
    texts = startup[8:].split(b"\0")
    return packet({**dict(zip(texts[::2], texts[1::2], strict=False)), b"no_such_setting": b"1"})


def packet(pairs: dict[bytes, bytes]) -> bytes:
    body = PROTOCOL + b"".join(name + b"\0" + value + b"\0" for name, value in pairs.items() if name) + b"\0"
    return struct.pack("!i", len(body) + 4) + body


@pytest.mark.parametrize("rewrite", [passed_on, refused])
def test_what_a_pooler_does_not_pass_on_each_transaction_states(
    server: Postgres, rewrite: Callable[[bytes], bytes]
) -> None:
    plain, proxy = make_engine(server.url(), 1, 60), Proxy(server.port())
    proxy.rewrite = rewrite
    long_enough = "5000"  # to say that it is to be otherwise
    impose(plain, "role", statement_timeout=long_enough, idle_in_transaction_session_timeout=long_enough)
    pooled = make_engine(proxy.url(server.url()), 1, 60)
    try:
        shown = "SELECT current_setting('DateStyle'), current_setting('jit'), current_setting('statement_timeout')"
        for opened in (transaction, single_statement):
            with opened(pooled) as connection:  # type: ignore[operator]
                assert connection.exec_driver_sql(shown).one() == ("ISO, MDY", "off", "1min")
        with pooled.connect() as connection:  # which states nothing
            assert connection.exec_driver_sql(shown).one()[:2] == ("SQL, DMY", "on")
    finally:
        lift(plain, "role")
        proxy.close()
        pooled.dispose()
        plain.dispose()


def test_everything_that_is_set_otherwise_is_stated() -> None:
    stated = {name.lower() for name in session.startup(60)}
    assert {name.lower() for name in SETTINGS} - stated == {"jit_above_cost"}, "which says nothing without jit"


def test_the_whole_job(pool: Engine, server: Postgres) -> None:
    migrate(server.url())
    writer = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    publish_us = FIRST_US + 100 * DAY_US
    letter = DeadLetter("m", -1, b"\x00\xff\\x41", {"a": "\\"}, "decode", Reason.NOT_JSON, "told", publish_us)
    first = days(1, publish_us)
    written = writer.write(Block(first.keys, first.points, first.attributes, [letter]))
    assert (written.inserted, written.dead_lettered) == (len(first.points), 1)
    assert writer.write(first).ignored == len(first.points)
    corrected = days(0.1, publish_us + 1)
    assert writer.write(corrected).overwritten == len(first.points)
    with single_statement(pool) as connection:
        kept = connection.exec_driver_sql("SELECT data, attributes, publish_time FROM dead_letters").one()
    assert (bytes(kept[0]), kept[1], kept[2].timestamp()) == (letter.data, letter.attributes, publish_us / 1e6)
    book = SourceBook(pool, 60, 0)
    book.observe(first)
    book.write()
    assert {row.last_event_time for row in sources(pool, "silent", 9)} == {first.points["event_time"].max() / 1e6}

    assert settle(pool) == 3 * len(first.points)
    reader = Reader(pool, TIERS_S)
    ids = {key: number for number, key in reader.series("hostile").items()}
    assert set(ids) == set(KEYS)
    assert stored(reader, ids) == expected(corrected, set(range(DAYS)))

    # the 5th of November is no 11th of May: a day is deleted, a week rebuilt, and what is older than a cut removed
    fifth = 35
    day_s = FIRST_US // 1_000_000 + fifth * 86_400
    gone = Deletion(pool, TIERS_S, list(ids.values()), day_s, day_s + 86_400)
    assert sum(removed.points for removed in gone.run()) == len(KEYS)
    start_s = FIRST_US // 1_000_000
    assert Rebuild(pool, TIERS_S, start_s + 30 * 86_400, start_s + 37 * 86_400).mark()
    settle(pool)
    values = read(MAINTAIN, {"retention_days": "20"}, environment={})
    kept_from = 31
    done = maintain(server.url(), values, start_s + (kept_from + 20) * 86_400)
    assert done.points_removed == kept_from * len(KEYS)
    left = set(range(kept_from, DAYS)) - {fifth}
    assert stored(reader, ids) == expected(corrected, left)
    settle(pool)
    counts = reader.buckets(list(ids.values()), FIRST_US, FIRST_US + DAYS * DAY_US, 86_400, ["count"])["count"]
    assert np.nansum(counts) == (DAYS - 1) * len(KEYS)
    with single_statement(pool) as connection:
        account = totals(connection)
    assert account.inserted - account.removed == len(left) * len(KEYS)


def test_an_archive_is_loaded(pool: Engine) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE imports")
    loading = Writer(pool, SeriesCache(pool), Policy(60, 0, 0))
    part = imports.Importing.begin(loading, "C:\\new'\n.jsonl", 0, "fingerprint", 3600)
    some = days(1, FIRST_US)
    for number in range(imports.GATHERED):
        part.write(some.take(np.arange(number * 5, number * 5 + 5)), number, number + 1)
    again = imports.Importing.begin(loading, "C:\\new'\n.jsonl", 0, "fingerprint", 3600)
    assert again.done == [(0, imports.GATHERED)]
    assert list(Settler(pool, TIERS_S, 0).due()) == [], (
        "of an hour's gathering nothing is due, whatever an interval looks like"
    )
    again.finish(through=True)
    assert settle(pool) == 3 * imports.GATHERED * 5
    (known,) = imports.known(pool, ["C:\\new'\n.jsonl"])
    assert (known.received, known.through) == (imports.GATHERED * 5, True)
    assert abs(known.started_at.timestamp() - time.time()) < 3600


def stored(reader: Reader, ids: dict[SeriesKey, int]) -> dict[tuple[SeriesKey, int], tuple[int, float, object]]:
    return {
        (key, point.event_time): (point.publish_time, point.value, json.loads(point.attributes or "null"))
        for key, number in ids.items()
        for point in reader.points(number, 0, 2**53)
    }


def expected(block: Block, which: set[int]) -> dict[tuple[SeriesKey, int], tuple[int, float, object]]:
    assert block.attributes is not None
    return {
        (KEYS[series], event): (publish, value, json.loads(attributes or b"null"))
        for (series, event, publish, value), attributes in zip(block.points.tolist(), block.attributes, strict=True)
        if (event - FIRST_US) // DAY_US in which
    }
