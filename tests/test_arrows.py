"""Imports go one way."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
ANYWHERE = {
    f"tidemark.{name}"
    for name in (
        "settings",
        "errors",
        "findings",
        "logs",
        "metrics",
        "retry",
        "failpoints",
        "version",
        "stop",
        "program",
        "secrets",
        "exposition",
        "arguments",
        "allocator",
        "plain",
    )
}
ALLOWED = {
    "tidemark/wire": set(),
    "tidemark/archive": {"tidemark.wire"},
    "tidemark/store": {"tidemark.wire"},
    "tidemark/warehouse": {"tidemark.wire"},
    "tidemark/bus": {"tidemark.wire"},
    "tidemark/mapping": {"tidemark.wire"},
    "tidemark/net": set(),
    "tidemark/http": {"tidemark.net"},
    "tidemark/mqtt": set(),
    "tidemark/edge": {
        "tidemark.wire",
        "tidemark.bus",
        "tidemark.http",
        "tidemark.mqtt",
        "tidemark.net",
        "tidemark.mapping",
    },
    "tidemark/query": {
        "tidemark.wire",
        "tidemark.store",
        "tidemark.http",
        "tidemark.net",
        "tidemark.edge.tokens",
    },
    "tidemark/operate": {
        "tidemark.wire",
        "tidemark.store",
        "tidemark.warehouse",
        "tidemark.bus",
        "tidemark.mapping",
        "tidemark.edge.reference",
        "tidemark.query.reference",
    },
    "tidemark/local": {"tidemark.wire", "tidemark.store", "tidemark.warehouse", "tidemark.bus", "tidemark.edge"},
    "transforms": {
        "tidemark.wire",
        "tidemark.archive",
        "tidemark.mapping",
        "tidemark.store",
        "tidemark.warehouse",
        "tidemark.bus",
    },
    "pipelines": {"transforms", "tidemark"},
}
NO_BEAM = "tidemark"


def imports(path: Path) -> Iterator[str]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module


def within(module: str, package: str) -> bool:
    return module == package or module.startswith(f"{package}.")


@pytest.mark.parametrize("package", sorted(ALLOWED))
def test_imports_go_one_way(package: str) -> None:
    own = package.replace("/", ".")
    wrong = [
        f"{path.relative_to(ROOT)} imports {module}"
        for path in (ROOT / package).rglob("*.py")
        for module in imports(path)
        if module.split(".")[0] in ("tidemark", "transforms", "pipelines")
        and not within(module, own)
        and module not in ANYWHERE
        and not any(within(module, allowed) for allowed in ALLOWED[package])
    ]
    assert not wrong


def test_the_library_imports_no_beam() -> None:
    wrong = [
        str(path.relative_to(ROOT))
        for path in (ROOT / NO_BEAM).rglob("*.py")
        if any(within(module, "apache_beam") for module in imports(path))
    ]
    assert not wrong
