"""Each mapping that is shipped: its samples become these points, and what is broken on purpose is told in its words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from tidemark.mapping import shipped
from tidemark.mapping.program import program
from tidemark.mapping.trial import Sum, Tried, messages, tries
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import Reason

SAMPLES = Path(__file__).parent / "samples"
NAMES = [one.name for one in shipped.shipped()]


def tried(name: str, inputs: list[bytes]) -> list[Tried]:
    made = program(shipped.by_name(name).text, name)
    return list(tries(made, Limits(), messages(inputs, {}, "example", inputs=True), Sum()))


def wanted(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((SAMPLES / f"{name}.json").read_text())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_its_samples_become_these_points(name: str) -> None:
    found = tried(name, shipped.samples(name).encode().splitlines())
    assert not any(one.refused for one in found)
    columns = ("project", "source", "metric", "event_time", "value")
    assert [[[point[column] for column in columns] for point in one.points] for one in found] == wanted(name)["points"]
    assert all(one.points or one.filtered for one in found)


@pytest.mark.parametrize("name", NAMES)
def test_what_is_broken_is_told_and_what_is_no_measurement_is_filtered(name: str) -> None:
    broken = wanted(name)["broken"]
    assert any("error" in one for one in broken)
    assert any("filtered" in one for one in broken)
    for one, found in zip(broken, tried(name, [json.dumps(one["input"]).encode() for one in broken]), strict=True):
        assert not found.points
        assert [(letter.reason, letter.detail) for letter in found.refused] == (
            [(Reason.MAPPING_FAILED, one["error"])] if "error" in one else []
        )
        assert found.filtered == ("filtered" in one)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("body", [None, True, 3, "text", [], [[]], {}, {"a": {"b": None}}])
def test_whatever_it_is_given_it_tells_why_or_filters_it(name: str, body: Any) -> None:
    found = tried(name, [json.dumps({"body": body, "attributes": {"topic": "a/b/c"}}).encode()])
    assert not found[0].points
    assert found[0].filtered or found[0].refused


def test_a_file_of_samples_is_that_of_an_example() -> None:
    assert sorted(path.stem for path in SAMPLES.iterdir()) == NAMES
