"""What settling really does, by the clock, is what `tidemark.store.advice` and the player of arrivals say of it."""

from __future__ import annotations

import time
from threading import Event, Thread
from unittest.mock import patch

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.store.arrivals import Arrival, play
from tests.waiting import eventually
from tidemark.store.advice import advice_of
from tidemark.store.connection import make_engine, transaction
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

SERIES, SECONDS = 20, 30
KEYS = [SeriesKey("p", str(number), "m") for number in range(SERIES)]


def planned(began: float) -> list[tuple[float, int, float]]:
    """When which series sends what happened when: mostly at once, some seconds late, some after a cut."""
    rng = np.random.default_rng(1)
    found = []
    for series in range(SERIES):
        events = began + np.sort(rng.uniform(0, SECONDS, SECONDS * 3))
        late = rng.lognormal(-2, 1, len(events)) + (rng.exponential(2, len(events)) if series % 5 == 1 else 0)
        for cut in rng.uniform(began, began + SECONDS, 3 if series % 4 == 0 else 0):
            held = np.flatnonzero((events > cut) & (events < cut + 4))
            late[held] = cut + 4 - events[held] + 0.02 * np.arange(len(held))
        found += [(float(p), series, float(e)) for p, e in zip(events + late, events, strict=True)]
    return sorted(found)


@pytest.mark.long
@pytest.mark.parametrize(("horizon_s", "debounce_s"), [(2, 0.5), (0.2, 1.5)])
def test_corrections_are_those_that_were_made(url: str, horizon_s: float, debounce_s: float) -> None:
    pool = make_engine(url, 4, 60)
    with transaction(pool) as connection:
        connection.exec_driver_sql("TRUNCATE points, rollups, marks, ledger, series, settings, corrections")
        connection.exec_driver_sql(
            "INSERT INTO settings VALUES (true, '{1,60}', %s, %s, false)", (horizon_s, debounce_s)
        )
    writer, settler = (
        Writer(pool, SeriesCache(pool), Policy(1, horizon_s, debounce_s)),
        Settler(pool, (1, 60), horizon_s),
    )
    ended = Event()

    def settle() -> None:
        while not ended.wait(0.005):
            for settled in settler.due():
                settler.forget(settled.mark_ids)

    thread = Thread(target=settle)
    thread.start()
    try:
        came = send(writer, planned(time.time() + 1))
        eventually(lambda: owed(pool) == 0, 30)
    finally:
        ended.set()
        thread.join(30)
    with transaction(pool) as connection:
        corrections, corrected = connection.exec_driver_sql(
            "SELECT count(*), count(DISTINCT (series_id, window_start)) FROM corrections WHERE tier_s = 1"
        ).one()
    played = play(came, 1, horizon_s, debounce_s)
    with patch("tidemark.store.horizons.YOUNG", 1_000_000):
        found = advice_of(pool, "p", days=1)
    pool.dispose()
    assert found is not None
    assert found.running is not None
    assert played.corrections > 100
    assert found.running.complete == pytest.approx(played.complete / played.windows, abs=1e-9)
    assert found.running.corrections_a_day * (found.until - found.start) / 86_400e6 == pytest.approx(played.corrections)  # type: ignore[operator]
    assert 1 - corrected / found.pairs == pytest.approx(found.running.complete, abs=0.01)
    assert corrections == pytest.approx(played.corrections, rel=0.03)


def send(writer: Writer, plan: list[tuple[float, int, float]]) -> list[Arrival]:
    """Write each point when it is time; as it was published then."""
    came: list[Arrival] = []
    while len(came) < len(plan):
        now_us = time.time_ns() // 1000
        some = [one for one in plan[len(came) : len(came) + 1000] if one[0] * 1e6 <= now_us]
        if not some:
            time.sleep(0.002)
            continue
        points = np.zeros(len(some), POINT)
        points["series_id"] = [series for _, series, _ in some]
        points["event_time"] = [round(event * 1e6) for _, _, event in some]
        points["publish_time"] = now_us
        writer.write(Block(KEYS, points))
        came += [Arrival(now_us / 1e6, series, round(event * 1e6) / 1e6) for _, series, event in some]
    return came


def owed(pool: Engine) -> int:
    with transaction(pool) as connection:
        return int(connection.exec_driver_sql("SELECT count(*) FROM marks WHERE tier_s = 1").scalar_one())
