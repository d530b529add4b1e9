"""Parameters as nobody should give them: every one of every path, refused at once with its name, and never a 5xx."""

from __future__ import annotations

import contextlib
import http.client
import json
import random
import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import quote

import pytest

from tests.query.served import METRICS, MINE, SOURCES, THEIR_OWN, Answer, Serving, serving
from tests.query.wrong import NO_CURSOR, NO_SELECTOR, NO_TEXT, NO_TIME, NO_WHOLE, SQL, wrong
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.postgres import Postgres
from tidemark.query.parameters import MOST_FIELDS, Parameter
from tidemark.query.paths import PATHS, Path
from tidemark.query.problems import TITLES
from tidemark.store.connection import make_engine, transaction

QUICK_S = 1.0
GOOD = {"project": MINE, "metric": "fps", "from": "now-3d"}
"""With these every path answers."""
EVERY = [(path, parameter) for path in PATHS.values() for parameter in path.parameters]


class Asked:
    """One connection, and what it is answered."""

    def __init__(self, served: Serving) -> None:
        self._served = served
        self._connection = http.client.HTTPConnection("127.0.0.1", served.port, timeout=30)

    def close(self) -> None:
        self._connection.close()

    def __call__(self, path: str, query: str) -> Answer:
        """The answer to a query as it stands, which comes quickly and is no 5xx."""
        began = time.monotonic()
        self._connection.request("GET", f"{path}?{query}", headers={"Authorization": f"Bearer {self._served.token}"})
        found = self._connection.getresponse()
        answer = Answer(found.status, {name.lower(): value for name, value in found.getheaders()}, found.read())
        assert time.monotonic() - began < QUICK_S, query
        assert answer.status < 500, (query, answer)
        assert THEIR_OWN.encode() not in answer.body
        return answer

    def refused(self, path: str, query: str, parameter: str | None, kind: str = "bad-parameter") -> Any:
        """The problem that it is."""
        answer = self(path, query)
        assert answer.headers["content-type"] == "application/problem+json", (query, answer)
        told = answer.told()
        assert told["type"] == f"urn:tidemark:{kind}", (query, told)
        assert told["status"] == answer.status == TITLES[kind][0]
        assert told.get("parameter") == parameter, (query, told)
        assert len(answer.body) < 1000
        return told


@pytest.fixture(scope="module")
def served(standing: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    token, tokens = new_token(), tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(line_of(token, MINE, ["read"]) + "\n")
    with serving(f"--database_url={standing.url()}", f"--tokens=file:{tokens}", token=token) as made:
        yield made


@pytest.fixture
def ask(served: Serving) -> Iterator[Asked]:
    with contextlib.closing(Asked(served)) as made:
        yield made


def good(path: Path, *without: str) -> str:
    """What a path needs, as a query's beginning."""
    names = [each.name for each in path.parameters if each.name in GOOD and each.name not in without]
    return "".join(f"{name}={quote(GOOD[name])}&" for name in names)


def beside(path: Path, parameter: Parameter) -> str:
    """The same, so that a value of the parameter is looked at."""
    without = {"match": ["metric"], "tz": [], "metric": ["metric"]}.get(parameter.name, [parameter.name])
    more = "interval-sec=86400&" if parameter.name == "tz" else ""
    return good(path, *without) + more


of_every_parameter = pytest.mark.parametrize(
    ("path", "parameter"), EVERY, ids=[f"{path.path}-{parameter.name}" for path, parameter in EVERY]
)


@pytest.mark.parametrize("path", PATHS.values(), ids=PATHS)
def test_what_is_right_is_answered(ask: Asked, path: Path) -> None:
    assert ask(path.path, good(path).rstrip("&")).status == 200


@of_every_parameter
def test_what_cannot_be_a_value_is_refused_by_name(ask: Asked, path: Path, parameter: Parameter) -> None:
    for text in wrong(parameter):
        broken = text in NO_TEXT and "%00" not in text
        ask.refused(path.path, f"{beside(path, parameter)}{parameter.name}={text}", None if broken else parameter.name)


@of_every_parameter
def test_an_empty_one_and_a_second_one_are_refused(ask: Asked, path: Path, parameter: Parameter) -> None:
    name, before = parameter.name, beside(path, parameter)
    for text in (f"{name}=", name, f"&{name}=&"):
        ask.refused(path.path, f"{before}{text}", name)
    value = quote(str(parameter.default or GOOD.get(name) or parameter.shape.get("enum", "x")[0]))
    if parameter.shape["type"] == "integer":
        value = str(parameter.shape["maximum"])
    if not parameter.repeats:
        for second in (value, parameter.shape.get("enum", [value])[-1]):
            assert name in ask.refused(path.path, f"{before}{name}={value}&{name}={second}", name)["detail"]
    if parameter.required:
        assert "missing" in ask.refused(path.path, good(path, name), name)["detail"]


@of_every_parameter
def test_a_name_that_is_nearly_right_is_told_the_right_one(ask: Asked, path: Path, parameter: Parameter) -> None:
    name = parameter.name
    for near in {name.upper(), name.replace("-", "_"), name + "s", name[:-1], name[1:], name.title()} - {name}:
        if near in {each.name for each in path.parameters}:
            continue
        detail = ask.refused(path.path, f"{good(path)}{near}=1", near)["detail"]
        assert f"`{name}`" in detail
        assert "is it" in detail or len(name) < 4
    for far in ("x" * 5000, "%27%20OR%201=1", "%00", "__proto__", "%d9%a3"):
        told = ask(path.path, f"{good(path)}{far}=1").told()
        assert told["type"] == "urn:tidemark:bad-parameter"
        assert len(told["parameter"]) <= 64


@of_every_parameter
def test_sql_is_text(ask: Asked, path: Path, parameter: Parameter) -> None:
    for text in SQL:
        answer = ask(path.path, f"{beside(path, parameter)}{parameter.name}={quote(text, safe='')}")
        if answer.status == 200:  # a text like any other, which nothing has
            rows = next(value for value in answer.told().values() if isinstance(value, list))
            assert rows == [] or parameter.name == "search"
        else:
            assert answer.status in (400, 403, 404), (text, answer)


@of_every_parameter
def test_a_giant_is_refused_or_looked_for_and_beyond_the_head_it_is_not_read(
    ask: Asked, served: Serving, path: Path, parameter: Parameter
) -> None:
    for text in ("a" * 15_000, "%27" * 5000, "%c3%a9" * 2500, "(" * 15_000, "{" * 15_000, "9" * 15_000, "=" * 15_000):
        answer = ask(path.path, f"{beside(path, parameter)}{parameter.name}={text}")
        assert answer.status in (200, 400, 403, 404), answer
        assert len(answer.body) < 2000
    assert served.get(f"{path.path}?{beside(path, parameter)}{parameter.name}={'a' * 17_000}").status == 431


@pytest.mark.parametrize("path", [path for path in PATHS.values() if path.parameters], ids=lambda path: path.path)
def test_many_and_strange_separators(ask: Asked, path: Path) -> None:
    ask.refused(path.path, good(path) + "&".join(["x=1"] * (MOST_FIELDS + 1)), None)
    assert ask(path.path, "&&&" + good(path) + "&&").status == 200
    for name in ("project[]", "project%5b%5d", "project[0]", "%20project", "project%20", "%70roject%00"):
        assert ask(path.path, f"{good(path, 'project')}{name}={MINE}").status == 400
    assert ask(path.path, f"{good(path, 'project')}%70roject={MINE}").status == 200


def test_a_range_that_ends_before_it_begins_is_refused(ask: Asked) -> None:
    for path in [path for path in PATHS.values() if any(each.name == "until" for each in path.parameters)]:
        for start, end in (
            ("now", "now"),
            ("now-1h", "now-2h"),
            ("1769860800", "1769860800000"),
            ("253402300799", "0"),
        ):
            query = f"{good(path, 'from')}from={start}&until={end}"
            assert "before" in ask.refused(path.path, query, "from")["detail"]


def test_what_excludes_each_other_is_refused(ask: Asked) -> None:
    query, points = good(PATHS["/v1/query"]), good(PATHS["/v1/points"])
    for path, more, parameter in (
        ("/v1/query", query + "match=fps", "match"),
        ("/v1/query", query + "across=sum&columns=state", "columns"),
        ("/v1/query", query + "tz=Europe/Berlin&interval-sec=3600", "tz"),
        ("/v1/query", query + "tz=Europe/Berlin&align=from&interval-sec=86400", "align"),
        ("/v1/points", points + "attribute=a:b&downsample=m4", "attribute"),
        ("/v1/points", points + "after=WzEsMF0&downsample=m4", "after"),
    ):
        ask.refused(path, more, parameter)


@pytest.mark.parametrize("seed", [1, 2, pytest.param(3, marks=pytest.mark.long)])
def test_whatever_is_asked(ask: Asked, seed: int) -> None:
    rng = random.Random(seed)
    texts = [
        *SQL,
        *METRICS,
        *SOURCES,
        "fps",
        "now-3d",
        "now",
        "1",
        "86400",
        "avg",
        "count",
        "state",
        "Europe/Berlin",
        "m4",
        "null",
    ]
    raw = [*NO_TEXT, *NO_TIME, *NO_SELECTOR, *NO_CURSOR, *NO_WHOLE]
    statuses: set[int] = set()
    for _ in range(20_000 if seed == 3 else 2000):
        path = rng.choice([path for path in PATHS.values() if path.parameters])
        chosen = rng.sample(path.parameters, rng.randrange(1, len(path.parameters) + 1))
        pairs = [
            f"{each.name}={quote(rng.choice(texts)) if rng.random() < 0.8 else rng.choice(raw)}" for each in chosen
        ]
        answer = ask(path.path, good(path) * (rng.random() < 0.7) + "&".join(pairs))
        statuses.add(answer.status)
        if answer.status >= 400 and answer.status != 431:
            assert answer.told()["type"].removeprefix("urn:tidemark:") in TITLES
        else:
            json.loads(answer.body)
    assert {200, 400} <= statuses


def test_nothing_of_it_has_changed_anything(standing: Postgres, ask: Asked) -> None:
    counted = "SELECT (SELECT count(*) FROM points), (SELECT count(*) FROM series), (SELECT count(*) FROM rollups)"
    pool = make_engine(standing.url(), 1, 10)
    with transaction(pool) as connection:
        before = connection.exec_driver_sql(counted).one()
    for path, parameter in EVERY:
        for text in SQL:
            ask(path.path, f"{beside(path, parameter)}{parameter.name}={quote(text, safe='')}")
    with transaction(pool) as connection:
        assert connection.exec_driver_sql(counted).one() == before
    pool.dispose()
