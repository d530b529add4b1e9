"""Each check of the query service's deployment fails when what it looks at is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from templates.check_query import query
from tests.templates.conftest import is_found

MANIFEST = "templates/kubernetes/query.yaml"
BROKEN: dict[str, tuple[str, str, str]] = {
    "its syntax": ("spec:\n", "spec\n", "parsed"),
    "a part": ("kind: Service\n", "kind: Serving\n", "lacks"),
    "the program": ("command: [tidemark, serve]", "command: [tidemark, edge]", "does not run"),
    "an option": ("- --drain_s", "- --drains_s", "does not take"),
    "the database": ("--database_secret=${SECRET}", "--database_url=postgresql://u@h/${SECRET}", "stands in"),
    "a variable": ("${ACCOUNT}", "${ACCOUNTS}", "ACCOUNTS"),
    "the address": ("--http_address=0.0.0.0", "--http_address=127.0.0.1", "loopback"),
    "the port": ("containerPort: 8090", "containerPort: 8091", "ports"),
    "the end": ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "more than"),
    "the memory": ("limits: {memory: 512Mi}", "limits: {memory: 256Mi}", "memory"),
    "the rights": ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "more than it needs"),
    "the tokens": ("mountPath: /etc/tidemark,", "mountPath: /etc/others,", "mounted"),
    "the selector": ("selector: {app: tidemark-query}", "selector: {app: tidemark-edge}", "selects"),
    "the scaler": ("minReplicas: 2", "minReplicas: 1", "fewer"),
}


def test_the_manifest_is_right() -> None:
    assert list(query(Path(__file__).parents[2])) == []


@pytest.mark.parametrize("case", BROKEN)
def test_what_is_broken_is_found(case: str, tree: Path) -> None:
    is_found(tree, (query, MANIFEST, *BROKEN[case]))
