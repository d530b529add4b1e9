"""What processes say of themselves, on a real PostgreSQL."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tidemark.store import heartbeats
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import COUNTS_S, beat
from tidemark.wire.message import microseconds

US = 1_700_000_000_000_000


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 1, 10)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE heartbeats")
    yield made
    made.dispose()


def rows(pool: Engine) -> dict[str, tuple[int | None, int | None, bool]]:
    with transaction(pool) as connection:
        found = connection.exec_driver_sql(
            "SELECT process, written_publish_time, watermark, idle FROM heartbeats WHERE at > now() - interval '1 minute'"
        ).all()
    return {
        row[0]: (*(None if at is None else microseconds(at) for at in row[1:3]), row[3])  # type: ignore[misc]
        for row in found
    }


def test_each_process_has_a_row_that_says_the_latest(pool: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    mine = heartbeats.PROCESS
    beat(pool, "job", US, US - 5, idle=False)
    beat(pool, "job", US + 1, None, idle=True)
    monkeypatch.setattr(heartbeats, "PROCESS", "another")
    beat(pool, "job", US + 2, US, idle=False)
    assert rows(pool) == {mine: (US + 1, None, True), "another": (US + 2, US, False)}


def test_who_knows_nothing_yet_says_what_was_known(pool: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    beat(pool, "job", None, None, idle=False)
    assert set(rows(pool).values()) == {(None, None, False)}
    beat(pool, "job", US, None, idle=False)
    for name, written, wanted in (("b", None, US), ("b", US + 9, US + 9), ("c", None, US), ("c", None, US)):
        monkeypatch.setattr(heartbeats, "PROCESS", name)
        beat(pool, "job", written, None, idle=False)
        assert rows(pool)[name][0] == wanted
    with transaction(pool) as connection:  # those of a run that ended long ago: the last of them count
        connection.exec_driver_sql("UPDATE heartbeats SET at = at - interval '1 day' * (1 + (process <> 'b')::int)")
    monkeypatch.setattr(heartbeats, "PROCESS", "d")
    beat(pool, "job", None, None, idle=False)
    assert rows(pool) == {"d": (US + 9, None, False)}
    assert COUNTS_S > heartbeats.LIVE_S
