from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration.points import Feed
from tidemark.local.stack import Stack


@pytest.fixture
def ack_deadline_s() -> int:
    return 10


@pytest.fixture
def stack(tmp_path: Path, ack_deadline_s: int) -> Iterator[Stack]:
    made = Stack(tmp_path / "state")
    made.up(ack_deadline_s=ack_deadline_s)
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
    monkeypatch.setenv("BIGQUERY_EMULATOR_HOST", found["BIGQUERY_EMULATOR_HOST"])  # for what verify opens here
    return found


@pytest.fixture
def feed(environment: dict[str, str]) -> Feed:
    return Feed(environment["PUBSUB_EMULATOR_HOST"])
