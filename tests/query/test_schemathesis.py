"""The OpenAPI document is one, and the service keeps to it: what schemathesis asks by it, right and wrong, of all paths."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from typing import Any

import hypothesis
import openapi_spec_validator
import pytest
import schemathesis
from schemathesis.checks import positive_data_acceptance

from tests.query.served import METRICS, MINE, SOURCES, Serving, serving
from tidemark.edge.tokens import line_of, new_token
from tidemark.local.postgres import Postgres
from tidemark.query.paths import OPENAPI, PATHS
from tidemark.query.reference import openapi

EVERYDAY = 50
LONG = 1500
WORDS = {
    "metric": [*METRICS, "none such"],
    "source": [*SOURCES, "none such"],
    "match": ['fps{source=~"gw-.*"}', '{__name__=~".+"}', '{__name__=~"f.*",lens!=""}', "fps{", "rate(fps[5m])"],
    "from": ["now-3d", "now-1h", "0", "1767225600000", "2026-01-31T12:00:00+01:00", "2026-01-31T12:00:00", "9" * 15],
    "until": ["now", "now-1d", "now-10d", "253402300799", "2026-02-30T00:00:00Z"],
    "since": ["now-3d", "now", "yesterday"],
    "tz": ["Europe/Berlin", "Africa/Cairo", "UTC", "../../etc/passwd", "Europe"],
    "fill": ["null", "none", "previous", "linear", "0", "1e300", "nan"],
    "attribute": ["camera:cams", "camera", ":x"],
    "search": ["gw", "FPS", "%", "\\"],
    "after": ["WzEsMF0", "WyJmcHMiLCJndy0wIl0", "AAAA", "W10"],
}
"""Beside what it makes up itself."""
GOOD = {
    "project": [MINE],
    "source": [list(SOURCES[:1]), list(SOURCES)],
    "metric": [list(METRICS[:1]), list(METRICS)],
    "from": ["now-3d", "2026-01-31T12:00:00+01:00"],
    "until": ["now", "now-1h"],
    "since": ["now-3d"],
    "interval-sec": [3600, 86_400],
    "aggregation": [["avg"], ["min", "max", "count"], ["p99"]],
    "fill": ["null", "linear", "previous"],
    "tz": ["Europe/Berlin", "UTC"],
    "quantiles": ["exact", "sketch"],
    "order": ["late", "silent"],
    "limit": [1, 100],
    "days": [1, 7],
    "window-sec": [60, 3600],
}
"""Of these alone, most questions have an answer."""
TOKEN = new_token()
seen: Counter[tuple[str, int]] = Counter()


def _closed(document: Any) -> Any:
    """The same, by which objects have nothing that it does not name."""
    if isinstance(document, list):
        return [_closed(each) for each in document]
    if not isinstance(document, dict):
        return document
    found = {name: _closed(value) for name, value in document.items()}
    if found.get("type") == "object" and "properties" in found:
        found.setdefault("additionalProperties", False)
    return found


def _auth() -> dict[str, Any]:
    return {"auth": {"openapi": {"token": {"bearer": TOKEN}}}, "generation": {"database": "none"}}


def _good() -> Any:
    """The document with nothing but what has an answer."""
    document = _closed(json.loads(openapi()))
    for path in document["paths"].values():
        kept = [parameter for parameter in path["get"]["parameters"] if parameter["name"] in GOOD]
        for parameter in kept:
            parameter["schema"] = {"enum": GOOD[parameter["name"]]}
            parameter["required"] = parameter["name"] in ("project", "from", "metric")
            parameter.pop("example", None)
        path["get"]["parameters"] = kept
    auth = _auth()
    auth["generation"]["mode"] = "positive"
    config = schemathesis.Config.from_dict(auth)
    return schemathesis.openapi.from_dict(document, config=config)


def _schema() -> Any:
    document = _closed(json.loads(openapi()))
    for path in document["paths"].values():
        for parameter in path["get"]["parameters"]:
            if parameter["name"] == "project":  # others are the token's bearer's to be refused
                parameter["schema"]["enum"] = [MINE]
            elif parameter["name"] in WORDS:
                parameter["example"] = WORDS[parameter["name"]][0]
    config = schemathesis.Config.from_dict(
        {
            "dictionaries": {name: {"values": words} for name, words in WORDS.items()},
            "parameters": {f"query.{name}": {"dictionary": name, "probability": 0.7} for name in WORDS},
            **_auth(),
        }
    )
    return schemathesis.openapi.from_dict(document, config=config)


schema, good = _schema(), _good()


@pytest.fixture(scope="module")
def served(standing: Postgres, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Serving]:
    tokens = tmp_path_factory.mktemp("tokens") / "tokens"
    tokens.write_text(line_of(TOKEN, MINE, ["read"]) + "\n")
    with serving(f"--database_url={standing.url()}", f"--tokens=file:{tokens}", token=TOKEN) as made:
        yield made


def test_the_document_is_openapi_and_the_one_that_is_served(served: Serving) -> None:
    document = served.ask(OPENAPI).told()
    openapi_spec_validator.validate(document)
    assert document == json.loads(openapi())
    assert set(document["paths"]) == set(PATHS)


def _keeps_to_it(served: Serving, case: Any) -> None:
    answer = case.call_and_validate(
        base_url=served.url,
        excluded_checks=[positive_data_acceptance],  # that `from` is before `until`, no schema can say
    )
    seen[case.operation.path, answer.status_code] += 1


@schema.parametrize()
@hypothesis.settings(max_examples=EVERYDAY)
def test_what_it_says_is_so(served: Serving, case: Any) -> None:
    _keeps_to_it(served, case)


@good.parametrize()
@hypothesis.settings(max_examples=EVERYDAY)
def test_what_it_says_of_good_questions_is_so(served: Serving, case: Any) -> None:
    _keeps_to_it(served, case)


@pytest.mark.long
@pytest.mark.timeout(3600)
@schema.parametrize()
@hypothesis.settings(max_examples=LONG)
def test_what_it_says_is_so_of_much(served: Serving, case: Any) -> None:
    _keeps_to_it(served, case)


@pytest.fixture(scope="module", autouse=True)
def _something_was_answered(served: Serving) -> Iterator[None]:
    yield
    for path in {path for path, _ in seen}:
        assert seen[path, 200] > 5, (path, seen)
        assert seen[path, 401], seen
        assert seen[path, 400] > 5 or not PATHS[path].parameters, seen
