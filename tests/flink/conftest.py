from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flink import network
from tests.flink.cluster import Cluster
from tests.integration.points import Feed
from tidemark.local.stack import Stack

# these run by scripts/flink-test only, in a network of their own
collect_ignore_glob = [] if network.PLACE in os.environ else ["test_*.py"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "state")
    made.up(ack_deadline_s=20)
    yield made
    made.down(purge=True)


@pytest.fixture
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> dict[str, str]:
    """Leads to the stack; windows of seconds, so that a test sees them settle."""
    found = {
        **stack.environment(),
        "TIDEMARK_TIERS_S": "2,10,60",
        "TIDEMARK_HORIZON_S": "5",
        "TIDEMARK_DEBOUNCE_S": "1",
        "TIDEMARK_EARLY_FIRING_S": "2",
        "TIDEMARK_IDLE_TIMEOUT_S": "3",
    }
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", found["BIGQUERY_EMULATOR_HOST"])
    return found


@pytest.fixture
def feed(environment: dict[str, str]) -> Feed:
    return Feed(environment["PUBSUB_EMULATOR_HOST"])


@pytest.fixture
def cluster(tmp_path: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "flink", environment)
    try:
        made.up()
        yield made
    finally:
        made.down()
