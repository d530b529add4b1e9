"""`tidemark status` says until when answers are complete; on a real PostgreSQL."""

from __future__ import annotations

import json
from datetime import datetime

import pytest
from sqlalchemy import Engine

from tidemark import cli
from tidemark.store.connection import transaction


def test_from_an_empty_store_to_a_dead_ingest(own_store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*options: str) -> tuple[int, str]:
        status = cli.main(["status", *options])
        return status, capsys.readouterr().out

    assert asked() == (0, "No program has written to this store yet.\n")
    assert json.loads(asked("--json")[1])["complete_until"] is None
    with transaction(own_store) as connection:
        connection.exec_driver_sql("INSERT INTO settings VALUES (true, '{60,3600}', 120, 30, false)")
    status, text = asked()
    assert status == 0
    assert "complete until   not known" in text
    assert "never heard of" in text
    with transaction(own_store) as connection:
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
    with transaction(own_store) as connection:
        connection.exec_driver_sql("UPDATE heartbeats SET at = '2026-01-31T12:00:00Z', written_publish_time = NULL")
    status, text = asked("--project=p")
    assert status == 1
    assert "ingest silent since 2026-01-31T12:00:00Z" in text
