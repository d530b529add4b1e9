"""The table of parameters is the one that the parser follows, and the one that readers and programs are given."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tidemark.query.parameters import Parameter, parsed
from tidemark.query.paths import PATHS
from tidemark.query.problems import TITLES, ProblemError

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
DOCUMENT: dict[str, Any] = json.loads((REFERENCE / "query.openapi.json").read_text())
PAGE = (REFERENCE / "query.md").read_text()
ROW = re.compile(r"^\| `([^`]+)`(, repeatable)? \| (.+) \| (?:(required)|`([^`]+)`)? \|$", re.MULTILINE)
VALUES = {"project": "cams", "from": "now-1h"}


def sections() -> dict[str, str]:
    """What the page says of each path."""
    _, *parts = re.split(r"^## ", PAGE, flags=re.MULTILINE)
    told = {heading: body for heading, _, body in (part.partition("\n") for part in parts)}
    assert told.pop("Problems")
    return {re.fullmatch(r"`GET (/\S+)`", heading)[1]: body for heading, body in told.items()}  # type: ignore[index]


def operation(path: str) -> dict[str, Any]:
    found: dict[str, Any] = DOCUMENT["paths"][path]
    assert found.keys() == {"get"}
    return found["get"]  # type: ignore[no-any-return]


def test_page_and_document_have_the_paths_of_the_service_and_no_others() -> None:
    assert sections().keys() == DOCUMENT["paths"].keys() == PATHS.keys()


@pytest.mark.parametrize("path", PATHS)
def test_the_page_has_the_parameters_of_the_table_and_no_others(path: str) -> None:
    body = sections()[path]
    rows = ROW.findall(body)
    assert len(rows) == max(0, sum(line.startswith("|") for line in body.splitlines()) - 2)
    assert [(name, bool(repeats), bool(required), default or None) for name, repeats, _, required, default in rows] == [
        (each.name, each.repeats, each.required, each.default) for each in PATHS[path].parameters
    ]
    for (_, _, told, _, _), each in zip(rows, PATHS[path].parameters, strict=True):
        choices = each.shape.get("enum", ())
        assert told == " ".join([each.help, *([f"One of {', '.join(f'`{c}`' for c in choices)}."] if choices else [])])


@pytest.mark.parametrize("path", PATHS)
def test_the_document_has_the_parameters_of_the_table_and_no_others(path: str) -> None:
    told = operation(path)["parameters"]
    assert [(each["name"], each["in"], each["required"], each["description"]) for each in told] == [
        (each.name, "query", each.required, each.help) for each in PATHS[path].parameters
    ]
    for found, each in zip(told, PATHS[path].parameters, strict=True):
        shape = found["schema"]
        if each.repeats:
            assert shape.keys() == {"type", "items"}
            assert (shape["type"], found["style"], found["explode"]) == ("array", "form", True)
            assert shape["items"] == each.shape
        else:
            default = shape.pop("default", None)
            assert (default is None) == (each.default is None)
            assert each.default is None or str(default) == each.default
            assert shape == each.shape


@pytest.mark.parametrize("path", PATHS)
def test_the_parser_takes_what_page_and_document_have_and_nothing_else(path: str) -> None:
    known = {each.name for each in PATHS[path].parameters}
    needed = "&".join(f"{each.name}={VALUES[each.name]}" for each in PATHS[path].parameters if each.required)
    assert parsed(PATHS[path].parameters, needed.encode()).keys() == known
    assert {name for name, *_ in ROW.findall(sections()[path])} == known
    for name in {each.name for other in PATHS.values() for each in other.parameters} - known:
        with pytest.raises(ProblemError, match="unknown"):
            parsed(PATHS[path].parameters, f"{name}=x&{needed}".encode())


def bounds(parameter: Parameter) -> list[tuple[str, bool]]:
    """Values at the edges of what a parameter's shape allows, and beyond them; and whether they are."""
    shape = parameter.shape
    if "enum" in shape:
        return [*((choice, True) for choice in shape["enum"]), ("x" + shape["enum"][0], False)]
    if shape["type"] == "integer":
        low, high = shape["minimum"], shape["maximum"]
        return [(str(low), True), (str(high), True), (str(low - 1), False), (str(high + 1), False), ("x", False)]
    return [("", False), *((example, True) for example in shape.get("examples", ()))]


@pytest.mark.parametrize("path", PATHS)
def test_what_the_document_says_of_a_value_is_what_the_parser_does_with_it(path: str) -> None:
    needed = [each for each in PATHS[path].parameters if each.required]
    for each in PATHS[path].parameters:
        others = {other.name: VALUES[other.name] for other in needed if other is not each}
        for value, taken in bounds(each):
            query = "&".join(f"{name}={text}" for name, text in {**others, each.name: value}.items()).encode()
            if taken:
                assert each.name in parsed(PATHS[path].parameters, query)
            else:
                with pytest.raises(ProblemError, match=each.name):
                    parsed(PATHS[path].parameters, query)


def test_page_and_document_have_the_problems_of_the_table_and_no_others() -> None:
    _, _, body = PAGE.partition("\n## Problems\n")
    rows = re.findall(r"^\| `([^`]+)` \| (\d{3}) \| (.+) \|$", body, re.MULTILINE)
    assert [(kind, int(status), title) for kind, status, title in rows] == [(k, *told) for k, told in TITLES.items()]
    types = DOCUMENT["components"]["schemas"]["Problem"]["properties"]["type"]["enum"]
    assert types == [f"urn:tidemark:{kind}" for kind in TITLES]


@pytest.mark.parametrize("path", PATHS)
def test_page_and_document_say_the_same_of_a_paths_own_problems(path: str) -> None:
    own = re.search(r"^Its own problems: (.+)\.$", sections()[path], re.MULTILINE)
    assert re.findall(r"`([^`]+)`", own[1] if own else "") == list(PATHS[path].problems)
    statuses = {str(TITLES[kind][0]) for kind in PATHS[path].problems}
    assert statuses <= operation(path)["responses"].keys() <= {"200", "304", *(str(s) for s, _ in TITLES.values())}
