"""`tidemark status` says until when answers are complete; on a real PostgreSQL."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tidemark import cli
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction
from tidemark.store.migrate import migrate


@pytest.fixture
def pool(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    server = Postgres(tmp_path)
    server.start()
    migrate(server.url())
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", server.url())
    made = make_engine(server.url(), 1, 60)
    yield made
    made.dispose()
    server.stop()
    server.purge()


def test_from_an_empty_store_to_a_dead_ingest(pool: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*options: str) -> tuple[int, str]:
        status = cli.main(["status", *options])
        return status, capsys.readouterr().out

    assert asked() == (0, "No program has written to this store yet.\n")
    assert json.loads(asked("--json")[1])["complete_until"] is None
    with transaction(pool) as connection:
        connection.exec_driver_sql("INSERT INTO settings VALUES (true, '{60,3600}', 120, 30, false)")
    status, text = asked()
    assert status == 0
    assert "complete until   not known" in text
    assert "never heard of" in text
    with transaction(pool) as connection:
        connection.exec_driver_sql("INSERT INTO heartbeats VALUES ('here/1', 'ours', now(), false, now(), now())")
        connection.exec_driver_sql(
            "INSERT INTO series (project, source, metric) VALUES ('p', 'a', 'm'), ('q', 'a', 'm')"
        )
        for project, ago in (("p", 700), ("q", 5)):
            connection.exec_driver_sql(
                """INSERT INTO sources VALUES (%s, 'a', now(), now() - %s * interval '1 second', now(), 200, 0, 3, 0, 0,
                   0, 0, 0, 0, 0, 0, 0)""",
                (project, ago),
            )
        connection.exec_driver_sql(
            "INSERT INTO corrections SELECT series_id, 60, now(), 1, 1, 1, 1, 1, 2, 2, 2, 2, now(), now() FROM series"
        )
    status, text = asked()
    assert status == 0
    assert "ingest live" in text
    assert "ours, process here/1: heard of" in text
    assert "1.50% of the points" in text
    assert "2 in the last hour" in text
    assert "silent: source p/a" in text
    told = json.loads(asked("--project=q", "--json")[1])
    assert (told["ingest"], told["corrections"], told["silent_sources"]) == ("live", 1, [])
    assert 120 <= told["behind_s"] < 185
    assert datetime.fromisoformat(told["complete_until"]) <= datetime.fromisoformat(told["settled_until"])
    with transaction(pool) as connection:
        connection.exec_driver_sql("UPDATE heartbeats SET at = '2026-01-31T12:00:00Z', written_publish_time = NULL")
    status, text = asked("--project=p")
    assert status == 1
    assert "ingest silent since 2026-01-31T12:00:00Z" in text
