"""`tidemark advise` says what another horizon would do; on a real PostgreSQL."""

from __future__ import annotations

import json
import time
from datetime import datetime

import pytest
from sqlalchemy import Engine

from tidemark import cli
from tidemark.operate.advise import MOST_PROJECTS
from tidemark.store.connection import transaction

_POINTS = """
INSERT INTO points SELECT s.series_id, t, 1, t + (CASE WHEN number %% 100 = 0 THEN 500.25 ELSE 2 END) * interval '1 second'
FROM series s, LATERAL (
    SELECT n AS number, to_timestamp(%s) + n * interval '10 seconds' AS t FROM generate_series(0, 1999) n
) u WHERE s.project = %s"""


def test_from_an_empty_store_to_many_projects(own_store: Engine, capsys: pytest.CaptureFixture[str]) -> None:
    def asked(*options: str) -> str:
        assert cli.main(["advise", *options]) == 0
        return capsys.readouterr().out

    assert asked() == "There is nothing in this store yet.\n"
    assert asked("--series_project=cams") == "There is nothing in this store yet.\n"
    began = int(time.time()) // 3600 * 3600 - 20 * 3600
    with transaction(own_store) as connection:
        connection.exec_driver_sql("INSERT INTO settings VALUES (true, '{60,3600}', 120, 30, false)")
        connection.exec_driver_sql(
            "INSERT INTO series (project, source, metric) VALUES ('cams', 'a', 'm'), ('cams', 'b', 'm'), ('old', 'a', 'm')"
        )
        connection.exec_driver_sql(_POINTS, (began, "cams"))
    text = asked()
    # every hundredth point of both comes 500.25 s late: in 20 of 334 windows
    for line in (
        "4,000 points of 2 series, all there are",
        "old: nothing of the last 7 days is old enough yet.",
        "120 s    94.012%",
        "120.0 s  runs now",
        "the least for 99%, the least for 99.9%",
        "late points are gathered for 30 s",
    ):
        assert line in text, text
    told = json.loads(asked("--series_project=cams", "--json"))
    assert told["more_projects"] == 0
    (only,) = told["projects"]
    running = only["running"]
    assert (running["window_s"], running["horizon_s"], running["debounce_s"]) == (60, 120, 30)
    assert running["complete"] == pytest.approx(1 - 20 / 334)
    seconds = (datetime.fromisoformat(only["until"]) - datetime.fromisoformat(only["from"])).total_seconds()
    assert running["corrections_a_day"] == pytest.approx(40 / (seconds / 86_400))
    assert [target["target"] for target in only["targets"]] == [0.99, 0.999]
    # the last of them happened 20 s before the end of their window
    assert {target["horizon_s"] for target in only["targets"]} == {481}
    assert "windows of 3600 s (60 s run now)" in asked("--series_project=cams", "--window_s=3600")
    with transaction(own_store) as connection:
        connection.exec_driver_sql("UPDATE retention SET removed_before = to_timestamp(%s)", (began + 600,))
    assert "were removed" in asked("--series_project=cams")
    with transaction(own_store) as connection:
        connection.exec_driver_sql(
            "INSERT INTO series (project, source, metric) SELECT 'more' || n, 'a', 'm' FROM generate_series(1, 30) n"
        )
    assert f"{32 - MOST_PROJECTS} more projects: --series_project names one." in asked()


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--days=0", "--days must be at least 1, not '0'."),
        ("--days=week", "--days needs a whole number, not 'week'."),
        ("--window_s=7", "--window_s needs whole seconds that divide a day (86400 s), not '7'."),
        ("--window_s=-60", "--window_s needs whole seconds that divide a day (86400 s), not '-60'."),
    ],
)
def test_a_wrong_option_is_a_sentence(option: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", option]) == 2
    assert capsys.readouterr().err == f"{said}\n"


def test_no_database_is_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["advise", "--database_url=postgresql://u:p@127.0.0.1:1/d"]) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("The database does not answer")
