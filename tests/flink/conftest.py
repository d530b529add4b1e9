from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flink import network
from tests.flink.cluster import Cluster
from tests.integration import conftest as integration
from tidemark.local.stack import Stack

environment, feed = integration.environment, integration.feed
# these run by scripts/flink-test only, in a network of their own
collect_ignore_glob = [] if network.PLACE in os.environ else ["test_*.py"]


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "state")
    made.up(ack_deadline_s=20)
    yield made
    made.down(purge=True)


@pytest.fixture
def cluster(tmp_path: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "flink", environment)
    try:
        made.up()
        yield made
    finally:
        made.down()
