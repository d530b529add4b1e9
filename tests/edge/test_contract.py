"""The table of answers is the one that the code follows and that readers are given."""

from __future__ import annotations

import ast
import inspect
import json
from collections.abc import Iterator
from typing import Any

from tidemark.edge import contract, http
from tidemark.edge.contract import ANYWHERE, PATHS, POINTS, Status
from tidemark.edge.reference import openapi
from tidemark.http import connection
from tidemark.wire.reasons import Reason


def test_the_door_answers_with_what_the_table_has_and_nothing_else() -> None:
    tree = ast.parse(inspect.getsource(http))
    used = {
        node.attr
        for node in ast.walk(tree)
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "Status"
    }
    of_the_door = {status for path in PATHS.values() for status in path.statuses}
    assert {Status[name] for name in used} - set(ANYWHERE) == of_the_door


def test_a_connection_answers_with_what_the_table_has_for_any_path() -> None:
    tree = ast.parse(inspect.getsource(connection))
    given = {
        call.args[0].value
        for call in ast.walk(tree)
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Attribute) and call.func.attr == "_refuse"
        if call.args and isinstance(call.args[0], ast.Constant)
    }
    assert {400, 408, 431, 503} <= given <= {int(status) for status in ANYWHERE}


def references(found: Any) -> Iterator[str]:
    if isinstance(found, dict):
        for key, value in found.items():
            if key == "$ref":
                yield value
            else:
                yield from references(value)
    elif isinstance(found, list):
        for value in found:
            yield from references(value)


def test_the_openapi_document_is_whole() -> None:
    document = json.loads(openapi())
    schemas = document["components"]["schemas"]
    named = set(references(document))
    assert {f"#/components/schemas/{name}" for name in schemas} == named
    post = document["paths"]["/v1/points"]["post"]
    assert post["responses"].keys() == {str(int(s)) for s in {*POINTS.statuses, *ANYWHERE} - {Status.NO_CONTENT}}
    reasons = schemas["Refused"]["oneOf"][0]["properties"]["rejected"]["items"]["properties"]["reason"]["enum"]
    elsewhere = {Reason.BAD_PUBLISH_TIME, Reason.REFUSED_BY_DATABASE, Reason.REFUSED_BY_BIGQUERY}
    assert {*reasons} == {*Reason, *contract.REASONS} - elsewhere
    assert document["paths"].keys() == PATHS.keys()
