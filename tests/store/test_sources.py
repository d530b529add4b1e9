"""What is noted of sources, by several processes at once, on a real PostgreSQL."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator

import numpy as np
import pytest
from sqlalchemy import Engine

from tidemark import cli
from tidemark.metrics import LATENESS
from tidemark.store.connection import make_engine, transaction
from tidemark.store.sources import SourceBook, projects, sources
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

START_US = 1_767_225_600_000_000
KEYS = [SeriesKey("p", "a", "m"), SeriesKey("p", "a", "n"), SeriesKey("p", "b", "m"), SeriesKey("q", "a", "m")]


def block(*rows: tuple[int, float, float]) -> Block:
    """(series, event time in seconds after the start, lateness in seconds)"""
    made = [(s, START_US + int(e * 1e6), START_US + int((e + late) * 1e6), 1.0) for s, e, late in rows]
    return Block(KEYS, np.array(made, POINT))


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql("TRUNCATE sources")
    yield made
    made.dispose()


def test_lateness_is_counted_by_source_and_project(pool: Engine) -> None:
    book = SourceBook(pool, base_s=60, horizon_s=120)
    book.observe(block((0, 0, -5), (1, 0, 1), (0, 59, 1.5), (0, 0, 181), (2, 10, 90_000), (3, 30, 3600)))
    book.observe(block())
    assert list(projects(pool)) == []
    book.write()
    book.observe(block((0, 100, 0.5)))
    book.write()
    book.write()
    of_p, of_q = projects(pool)
    assert (of_p.project, of_p.sources, of_p.points, of_p.after_window, of_p.after_horizon) == ("p", 2, 6, 3, 2)
    assert of_p.most_late_s == 90_000
    assert of_p.last_seen == START_US / 1e6 + 90_010
    assert dict(zip(LATENESS, of_p.histogram, strict=True)) == {
        **dict.fromkeys(LATENESS, 0),
        "within_1s": 3,
        "within_10s": 1,
        "within_10m": 1,
        "later": 1,
    }
    assert (of_q.points, of_q.histogram[LATENESS.index("within_1h")]) == (1, 1)
    assert [(s.project, s.source) for s in sources(pool, "late", 2)] == [("p", "b"), ("q", "a")]
    silent = sources(pool, "silent", 10, "p")
    assert [(s.source, s.points, s.last_event_time - START_US / 1e6) for s in silent] == [("a", 5, 100), ("b", 1, 10)]


def test_many_processes_add_up(pool: Engine) -> None:
    def note(order: int) -> None:
        book = SourceBook(pool, 60, 120)
        for _ in range(20):
            keys = [SeriesKey("p", f"s{i}", "m") for i in range(300)][::order]
            rows = np.zeros(len(keys), POINT)
            rows["series_id"], rows["event_time"], rows["publish_time"] = range(len(keys)), START_US, START_US
            book.observe(Block(keys, rows))
            book.write()

    threads = [threading.Thread(target=note, args=(order,)) for order in (1, -1, 1, -1)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    (of_p,) = projects(pool)
    assert (of_p.sources, of_p.points, of_p.histogram[0]) == (300, 4 * 20 * 300, 4 * 20 * 300)


def test_it_is_time_once_a_while(pool: Engine) -> None:
    assert not SourceBook(pool, 60, 0, every_s=100).due()
    book = SourceBook(pool, 60, 0, every_s=0)
    assert book.due()


def test_the_command_tells(
    pool: Engine, url: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", url)
    assert cli.main(["sources"]) == 0
    assert "No points yet" in capsys.readouterr().out
    book = SourceBook(pool, 60, 120)
    book.observe(block((0, 0, 0), (0, 0, 600), (3, 0, 0)))
    book.write()
    assert cli.main(["sources", "--by=late", "--series_project=p"]) == 0
    said = capsys.readouterr().out
    assert "p: 1 sources, 2 points; 50.00% came after their window, 50.00% after its horizon" in said
    assert "q" not in said.split()
    assert cli.main(["sources", "--json", "--limit=1"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [p["project"] for p in told["projects"]] == ["p", "q"]
    assert told["projects"][0]["histogram"]["within_10m"] == 1
    assert len(told["sources"]) == 1
