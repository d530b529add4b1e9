"""What `tidemark.store.advice` says of horizons is what settling would do; on a real PostgreSQL."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.store.arrivals import Arrival, arrivals, play
from tidemark.store.advice import Question, advice_of
from tidemark.store.connection import make_engine, transaction

HOUR_S = 3600
BEGAN_S = int(time.time()) // HOUR_S * HOUR_S - 20 * HOUR_S


@pytest.fixture
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 1, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql(
            "TRUNCATE points, rollups, marks, ledger, series, settings, sources RESTART IDENTITY"
        )
    yield made
    made.dispose()


def run_with(pool: Engine, *, width_s: int = 60, horizon_s: float = 45, debounce_s: float = 30) -> None:
    with transaction(pool) as connection:
        connection.exec_driver_sql("DELETE FROM settings")
        connection.exec_driver_sql(
            "INSERT INTO settings VALUES (true, CAST(%s AS integer[]), %s, %s, false)",
            ([width_s, 86_400], horizon_s, debounce_s),
        )


def store(pool: Engine, project: str, points: list[Arrival]) -> None:
    with transaction(pool) as connection:
        names = [str(number) for number in sorted({point.series for point in points})]
        rows = connection.exec_driver_sql(
            "INSERT INTO series (project, source, metric) SELECT %s, s, 'm' FROM unnest(CAST(%s AS text[])) s "
            "RETURNING source, series_id",
            (project, names),
        )
        ids = {int(source): number for source, number in rows}
        connection.exec_driver_sql(
            "INSERT INTO points SELECT s, to_timestamp(e), 1, to_timestamp(p) "
            "FROM unnest(CAST(%s AS integer[]), CAST(%s AS float8[]), CAST(%s AS float8[])) u(s, e, p)",
            ([ids[point.series] for point in points], [p.event for p in points], [p.published for p in points]),
        )


def told(pool: Engine, project: str = "p", **options: Any) -> Any:
    found = advice_of(pool, project, days=1, **options)
    assert found is not None
    return found


def days(found: Any) -> float:
    return float(found.until - found.start) / 86_400e6


@pytest.mark.parametrize(("debounce_s", "width_s"), [(30, None), (0, None), (30, 10), (30, 1), (120, 300), (900, 3600)])
def test_shares_and_corrections_are_those_of_settling(pool: Engine, debounce_s: float, width_s: int | None) -> None:
    points = arrivals(20130711, 60, BEGAN_S, 2 * HOUR_S, 8)
    run_with(pool, debounce_s=debounce_s)
    store(pool, "p", points)
    found = told(pool, window_s=width_s)
    assert (found.points, found.series, found.sampled) == (len(points), 60, 1)
    assert [target.horizon_s for target in found.targets] == sorted(target.horizon_s for target in found.targets)
    for target, share in zip(found.targets, (0.99, 0.999), strict=True):
        assert share <= target.complete < share + 0.01
    assert found.running in found.steps
    for step in found.steps:
        played = play(points, width_s or 60, step.horizon_s, debounce_s)
        assert found.pairs == played.windows
        assert step.complete == pytest.approx(played.complete / played.windows, abs=1e-12)
        assert step.corrections_a_day * days(found) == pytest.approx(played.corrections, rel=1e-9), step


def test_the_least_horizon_that_reaches_a_share_is_the_least(pool: Engine) -> None:
    points = arrivals(7, 40, BEGAN_S, HOUR_S, 10)
    run_with(pool)
    store(pool, "p", points)
    for target, share in zip(told(pool).targets, (0.99, 0.999), strict=True):
        below = play(points, 60, target.horizon_s - 1, 30)
        assert below.complete / below.windows < share


def test_points_of_another_project_that_open_a_window_sooner_change_little(pool: Engine) -> None:
    mine, theirs = (arrivals(seed, 40, BEGAN_S, HOUR_S, 10) for seed in (1, 2))
    run_with(pool)
    store(pool, "p", mine)
    store(pool, "q", theirs)
    found = told(pool)
    both = sorted(mine + [point._replace(series=point.series + 1000) for point in theirs])
    for step in found.steps[:12]:
        played = [play(points, 60, step.horizon_s, 30) for points in (both, theirs)]
        windows, complete, corrections = (a - b for a, b in zip(*played, strict=True))
        assert step.complete == pytest.approx(complete / windows, abs=0.01)
        assert step.corrections_a_day * days(found) == pytest.approx(corrections, rel=0.01)


def test_a_sample_says_that_it_is_one_and_is_the_same_again(pool: Engine, monkeypatch: pytest.MonkeyPatch) -> None:
    points = arrivals(3, 200, BEGAN_S, 4 * HOUR_S, 15)
    run_with(pool)
    store(pool, "p", points)
    whole = told(pool)
    with monkeypatch.context() as patch:
        patch.setattr("tidemark.store.advice.MOST_POINTS", len(points) // 2)
        some, again = told(pool), told(pool)
    assert some.steps == again.steps
    assert (whole.sampled, whole.points) == (1, len(points))
    assert some.points == pytest.approx(len(points) / 2, abs=20)
    assert 0.4 < some.sampled < 0.6
    by_horizon = {step.horizon_s: step for step in some.steps}
    for step in whole.steps[:10]:
        if step.horizon_s in by_horizon:
            assert by_horizon[step.horizon_s].complete == pytest.approx(step.complete, abs=0.03)
            assert by_horizon[step.horizon_s].corrections_a_day == pytest.approx(step.corrections_a_day, rel=0.3)


@pytest.mark.parametrize("cell_s", [600, 3600, 86_400])
def test_cells_are_all_of_it(pool: Engine, monkeypatch: pytest.MonkeyPatch, cell_s: int) -> None:
    run_with(pool)
    store(pool, "p", arrivals(5, 30, BEGAN_S, 2 * HOUR_S, 15))
    whole = told(pool)
    monkeypatch.setattr(Question, "cell_s", cell_s)
    cut = told(pool)
    assert (cut.sampled, cut.steps) == (1, whole.steps)


def test_one_series_that_is_more_than_the_sample_may_have_is_cut_at_a_window(
    pool: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    points = arrivals(4, 1, BEGAN_S, HOUR_S, 0.5)
    run_with(pool)
    store(pool, "p", points)
    monkeypatch.setattr("tidemark.store.advice.MOST_POINTS", 1000)
    found = told(pool)
    events = sorted(point.event for point in points)
    start = events[-1000] // 60 * 60 + 60
    newest = [point for point in points if point.event >= start]
    assert (found.start, found.points) == (start * 1e6, len(newest))
    played = play(newest, 60, 45, 30)
    assert found.running.complete == pytest.approx(played.complete / played.windows, abs=1e-12)


def test_it_says_from_when_and_leaves_out_what_is_too_young(pool: Engine) -> None:
    run_with(pool)
    now = time.time()
    ages_h = (30, 20, 10, 1)
    store(pool, "p", [Arrival(now - age * HOUR_S + 5, age, now - age * HOUR_S) for age in ages_h])
    found = told(pool)
    assert found.pairs == 2  # of the day: the last tenth of 20 hours is too young
    assert found.start == pytest.approx((now - 20 * HOUR_S) * 1e6, abs=60e6)
    with transaction(pool) as connection:
        connection.exec_driver_sql("UPDATE retention SET removed_before = to_timestamp(%s)", (now - 15 * HOUR_S,))
    found = told(pool)
    assert found.question.ground.removed_before == pytest.approx((now - 15 * HOUR_S) * 1e6, abs=1)
    assert found.pairs == 1
    with transaction(pool) as connection:
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    assert told(pool, "nobody's").steps == ()


def test_delay_is_the_horizon_and_what_settling_takes(pool: Engine) -> None:
    run_with(pool, width_s=10, horizon_s=5)
    points = [Arrival(BEGAN_S + n * 10 + 9, 0, BEGAN_S + n * 10 + 8) for n in range(50)]
    store(pool, "p", points)
    assert [step.delay_s for step in told(pool).steps[:7]] == [29, 29, 29, 29, 29, 29, 30]
    with transaction(pool) as connection:
        zeros = ", ".join("0" * 6)
        connection.exec_driver_sql(
            f"""INSERT INTO rollups SELECT series_id, 10, t, 1, {zeros}, t, t, 0, 1, true, t + interval '17.5 seconds'
                FROM points, LATERAL (SELECT date_bin('10 seconds', event_time, to_timestamp(0)) AS t) w"""
        )
    assert told(pool).steps[8].delay_s == 120 + 2.5


def test_nothing_is_known_before_anything_was_written(pool: Engine) -> None:
    assert advice_of(pool, "p") is None
