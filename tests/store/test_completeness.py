"""Until when answers are complete, as marks and heartbeats say; on a real PostgreSQL, by either driver."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import Connection, Engine

from tidemark.store.completeness import (
    Completeness,
    completeness,
    completeness_of,
    completeness_sql,
)
from tidemark.store.connection import make_engine, transaction
from tidemark.store.expressions import numbered, pyformat
from tidemark.store.heartbeats import COUNTS_S, LIVE_S
from tidemark.wire.message import moment_s

HORIZON_S = 120
US = 1_000_000


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 2, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql(
            "TRUNCATE series, marks, sources, heartbeats, corrections, settings RESTART IDENTITY"
        )
        for project, source in (("p", "a"), ("p", "b"), ("q", "a")):
            connection.exec_driver_sql(
                "INSERT INTO series (project, source, metric) VALUES (%s, %s, 'm')", (project, source)
            )
        connection.exec_driver_sql("INSERT INTO settings VALUES (true, '{60,3600,86400}', 120, 30, false)")
    yield made
    made.dispose()


def mark(connection: Connection, tier_s: int, start_s: int, series_id: int | None = None, **more: Any) -> None:
    until_s, closing = more.get("until_s", start_s + tier_s), more.get("closing", False)
    connection.exec_driver_sql(
        "INSERT INTO marks (tier_s, window_from, window_to, series_id, ready_at, closing) VALUES (%s, %s, %s, %s, now(), %s)",
        (tier_s, moment_s(start_s), moment_s(until_s), series_id, closing),
    )


def asked(pool: Engine, *args: Any) -> Completeness:
    found = completeness_of(pool, *args)
    assert found is not None
    return found


def closed(found: Completeness) -> int:
    return (found.now // US - HORIZON_S) // 60 * 60


def test_a_store_that_nobody_has_written_to_is_not_complete(pool: Engine) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE settings")
    assert completeness_of(pool, "p") is None


def test_without_marks_all_is_settled_up_to_the_horizon_and_without_heartbeats_nobody_knows(pool: Engine) -> None:
    found = asked(pool, "p")
    assert found.settled_until == closed(found) * US
    assert (found.base_s, found.horizon_s) == (60, HORIZON_S)
    assert (found.ingested_until, found.complete_until, found.behind_s) == (None, None, None)
    assert (found.ingest, found.expected_late, found.oldest_due_s, found.corrections) == ("never heard of", None, 0, 0)


DAY_S = 1_700_000_000 // 86_400 * 86_400
HOUR_S = DAY_S + 7 * 3600


@pytest.mark.parametrize(
    ("what", "until_s"),
    [
        ((60, HOUR_S + 60), HOUR_S + 60),
        ((60, HOUR_S + 60, 1), HOUR_S + 60),
        ((60, HOUR_S + 60, 3), None),
        ((3600, HOUR_S), HOUR_S + 3600 - 60),
        ((86_400, DAY_S), DAY_S + 86_400 - 60),
        ((30, HOUR_S), None),
    ],
)
@pytest.mark.parametrize("closing", [False, True])
def test_a_mark_holds_the_first_of_its_windows_that_ends(
    pool: Engine, what: tuple[int, ...], until_s: int | None, closing: bool
) -> None:
    """A wider window that is owed ends with the last of the narrow ones; another project's marks, or those of a tier that is
    no more, are nobody's."""
    with transaction(pool) as connection:
        mark(connection, *what, closing=closing)
        if until_s is not None:
            mark(connection, 60, HOUR_S + 1_000_000 * 60)
    found = asked(pool, "p")
    assert found.settled_until == (until_s if until_s is not None else closed(found)) * US
    assert found.oldest_due_s > 0


def test_an_open_window_does_not_hold_what_is_before_its_end(pool: Engine) -> None:
    now_s = asked(pool).now // US
    with transaction(pool) as connection:
        for tier_s in (60, 3600, 86_400):
            mark(connection, tier_s, now_s // tier_s * tier_s)
    found = asked(pool, "p")
    assert found.settled_until == closed(found) * US


def test_only_marks_of_the_series_and_the_range_count(pool: Engine) -> None:
    with transaction(pool) as connection:
        mark(connection, 60, HOUR_S, 1)
        mark(connection, 60, HOUR_S + 600, 2, until_s=HOUR_S + 1200)
        mark(connection, 60, HOUR_S + 3600, 3)
    assert asked(pool, "p").settled_until == HOUR_S * US
    assert asked(pool, "q").settled_until == (HOUR_S + 3600) * US
    assert asked(pool).settled_until == HOUR_S * US
    assert asked(pool, "p", [2]).settled_until == (HOUR_S + 600) * US
    assert asked(pool, "p", [2, 1]).settled_until == HOUR_S * US
    assert asked(pool, "p", None, (HOUR_S + 60) * US).settled_until == (HOUR_S + 600) * US
    assert asked(pool, "p", None, (HOUR_S + 900) * US + 5).settled_until == (HOUR_S + 900) * US
    found = asked(pool, "p", [1, 2], (HOUR_S + 60) * US, (HOUR_S + 600) * US)
    assert found.settled_until == closed(found) * US


def test_the_share_of_late_points_and_the_corrections_of_an_hour_are_of_the_project(pool: Engine) -> None:
    with transaction(pool) as connection:
        for project, source, points, late in (("p", "a", 100, 3), ("p", "b", 300, 0), ("q", "a", 10, 10)):
            connection.exec_driver_sql(
                "INSERT INTO sources VALUES (%s, %s, now(), now(), now(), %s, 0, %s, 0, 0, 0, 0, 0, 0, 0, 0, 0)",
                (project, source, points, late),
            )
        for series_id, minutes in ((1, 1), (2, 59), (2, 61), (3, 0)):
            connection.exec_driver_sql(
                "INSERT INTO corrections VALUES (%s, 60, now(), %s, 1, 1, 1, 1, 2, 2, 2, 2, now(), now() - %s * interval '1 minute')",
                (series_id, minutes, minutes),
            )
    assert asked(pool, "p").expected_late == 3 / 400
    assert asked(pool).expected_late == 13 / 410
    assert asked(pool, "none").expected_late is None
    assert [asked(pool, *what).corrections for what in (("p",), ("q",), (), ("p", [2]))] == [2, 1, 3, 1]


def test_asyncpg_gives_the_same(pool: Engine, url: str) -> None:
    with transaction(pool) as connection:
        mark(connection, 60, HOUR_S, 1)
        connection.exec_driver_sql("INSERT INTO heartbeats VALUES ('x', 'j', now(), false, now(), NULL)")
    asking = ("p", [1, 2], HOUR_S * US, (HOUR_S + 60) * US)
    with transaction(pool) as connection:
        one = completeness(connection.exec_driver_sql(completeness_sql(pyformat), asking).one())

    async def ask(*parameters: Any) -> Completeness | None:
        made = await asyncpg.connect(url.replace("postgresql+pg8000", "postgresql"))
        try:
            return completeness(tuple(await made.fetchrow(completeness_sql(numbered), *parameters)))
        finally:
            await made.close()

    other = asyncio.run(ask(*asking))
    assert one is not None
    assert other is not None
    assert (one.settled_until, one.heartbeats, one.base_s) == (other.settled_until, other.heartbeats, other.base_s)
    assert one.settled_until == HOUR_S * US
    nothing = asyncio.run(ask("p", None, None, None))
    assert nothing is not None
    assert nothing.settled_until == HOUR_S * US


NOW_US = HOUR_S * US


def known(*beats: tuple[float, float | None], now_us: int = NOW_US) -> Completeness:
    """Of processes that were heard of so many seconds ago, and have stored what was published so many seconds ago."""
    rows = [
        [str(i), "job", NOW_US - round(ago * US), False, None if w is None else NOW_US - round(w * US), None]
        for i, (ago, w) in enumerate(beats)
    ]
    found = completeness(("[60,3600]", 120, now_us, None, None, 0, 0, 0, json.dumps(rows)))
    assert found is not None
    return found


def test_the_least_of_those_who_live_counts() -> None:
    found = known((1, 2), (LIVE_S + 1, 100), (COUNTS_S + 1, 5000))
    assert (found.ingest, found.ingested_until) == ("live", NOW_US - 100 * US)
    assert found.complete_until == (HOUR_S - 240) * US, "220 s ago, down to a minute"
    assert found.behind_s == 240


def test_who_knows_nothing_yet_makes_no_promise() -> None:
    assert known((1, 2), (3, None)).ingested_until is None
    assert known((1, 2), (COUNTS_S + 1, None)).ingested_until == NOW_US - 2 * US


def test_after_the_last_was_heard_of_it_stays_where_it_was() -> None:
    beats = ((0, 2), (30, 10), (LIVE_S + 10, 3))
    live = known(*beats)
    assert live.ingested_until == NOW_US - 10 * US
    for later_s in (LIVE_S + 1, 3600, 10**6):
        silent = known(*beats, now_us=NOW_US + later_s * US)
        assert silent.ingest == "silent since 2023-11-14T07:00:00Z"
        assert (silent.ingested_until, silent.complete_until) == (live.ingested_until, live.complete_until)
