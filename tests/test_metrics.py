"""The list of metrics is what the code counts, no more and no less."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from tidemark.metrics import METRICS, Kind

ROOT = Path(__file__).parents[1]
KINDS = {"count": Kind.COUNTER, "count_by_project": Kind.COUNTER, "gauge": Kind.GAUGE, "observe": Kind.DISTRIBUTION}


def counted() -> tuple[set[tuple[str, Kind]], set[tuple[str, Kind]]]:
    """(names, beginnings of names that are put together) with their kinds, as they stand in calls."""
    names, beginnings = set(), set()
    for package in ("pipelines", "transforms", "tidemark"):
        for path in (ROOT / package).rglob("*.py"):
            for node in ast.walk(ast.parse(path.read_text())):
                if not (
                    isinstance(node, ast.Call)
                    and isinstance(node.func, ast.Name)
                    and node.func.id in KINDS
                    and node.args
                ):
                    continue
                kind, argument = KINDS[node.func.id], node.args[0]
                if isinstance(argument, ast.Constant):
                    names.add((argument.value, kind))
                elif isinstance(argument, ast.JoinedStr):
                    beginnings.add((argument.values[0].value, kind))
    return names, beginnings


def test_what_is_counted_is_listed() -> None:
    names, beginnings = counted()
    assert len(names) > 20
    assert {(name, kind) for name, kind in names if name not in METRICS or METRICS[name].kind is not kind} == set()
    for beginning, kind in beginnings:
        assert any(name.startswith(beginning) and metric.kind is kind for name, metric in METRICS.items()), beginning


@pytest.mark.parametrize("name", METRICS)
def test_what_is_listed_is_counted(name: str) -> None:
    names, beginnings = counted()
    kind = METRICS[name].kind
    assert (name, kind) in names or any(name.startswith(start) and k is kind for start, k in beginnings)
