"""`/v1/advice` says what `tidemark advise` says, of what the token may read."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import Engine

from tests.query.served import METRICS, MINE, POINTS, SOURCES, Serving, fill, serving
from tidemark.edge.tokens import line_of, new_token
from tidemark.query.advice import EFFORT
from tidemark.store.advice import Step, advice_of
from tidemark.store.connection import make_engine, transaction


@pytest.fixture(scope="module")
def pool(url: str) -> Iterator[Engine]:
    fill(url)
    made = make_engine(url, 1, 60)
    yield made
    made.dispose()


@pytest.fixture(scope="module")
def served(url: str, pool: Engine, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    token, narrow = new_token(), new_token()
    lines = [line_of(token, MINE, ["read"]), line_of(narrow, MINE, ["read"], source=SOURCES[1])]
    tokens.write_text("\n".join([*lines, ""]))
    with serving(f"--database_url={url}", f"--tokens=file:{tokens}", token=token) as made:
        made.narrow = narrow  # type: ignore[attr-defined]
        yield made


def steps(told: list[dict[str, Any]]) -> list[tuple[float, ...]]:
    return [tuple(step[name.replace("_", "-")] for name in Step._fields) for step in told]


@pytest.mark.parametrize("window_s", [None, 300])
def test_it_is_what_the_command_says(served: Serving, pool: Engine, window_s: int | None) -> None:
    asked = {} if window_s is None else {"window_sec": window_s}
    told = served.ask("/v1/advice", project=MINE, days=3, **asked).told()
    found = advice_of(pool, MINE, window_s, 3, EFFORT)
    assert found is not None
    assert (told["windows"], told["points"], told["series"]) == (found.pairs, found.points, found.series)
    assert (told["window-sec"], told["running"]["window-sec"], told["sampled"]) == (window_s or 60, 60, 1)
    assert steps(told["horizons"]) == [tuple(pytest.approx(value, abs=1e-2) for value in step) for step in found.steps]
    assert [step["target"] for step in told["targets"]] == [0.99, 0.999]
    assert told["running"]["horizon-s"] == 0
    assert found.running is not None
    assert told["running"]["complete"] == pytest.approx(found.running.complete, abs=1e-6)


def test_a_token_of_one_source_is_told_of_that_source(served: Serving) -> None:
    whole = served.ask("/v1/advice", project=MINE).told()
    narrow = {"Authorization": f"Bearer {served.narrow}"}  # type: ignore[attr-defined]
    told = served.ask("/v1/advice", project=MINE, headers=narrow).told()
    assert (told["series"], told["points"]) == (len(METRICS), len(METRICS) * POINTS)
    assert whole["series"] == len(SOURCES) * told["series"]


def test_as_a_table_it_is_the_horizons(served: Serving) -> None:
    text = served.ask("/v1/advice", project=MINE, headers={"Accept": "text/csv"}).body.decode()
    header, first, *_ = text.splitlines()
    assert header == "horizon-s,complete,corrections-a-day,delay-s"
    assert first.startswith("0,")


def test_windows_that_do_not_divide_a_day_are_refused(served: Serving) -> None:
    refused = served.ask("/v1/advice", project=MINE, window_sec=7)
    assert refused.status == 400
    assert refused.told()["detail"] == "`window-sec` has to be whole seconds that divide a day."


def test_of_a_project_without_points_and_of_an_empty_store_there_is_nothing(url: str, pool: Engine) -> None:
    with serving(f"--database_url={url}") as open_:
        told = open_.ask("/v1/advice", project="nobody's").told()
        assert (told["windows"], told["horizons"], told["running"]["horizon-s"]) == (0, [], 0)
        with transaction(pool) as connection:
            kept = connection.exec_driver_sql("DELETE FROM settings RETURNING tiers_s").scalar_one()
        assert open_.ask("/v1/advice", project=MINE).told()["running"] is None
        with transaction(pool) as connection:
            connection.exec_driver_sql(
                "INSERT INTO settings VALUES (true, CAST(%s AS integer[]), 0, 0, false)", (kept,)
            )
