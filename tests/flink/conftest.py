from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.flink import network
from tests.flink.cluster import Cluster
from tests.integration import conftest as integration
from tidemark.local.pubsub.control import Control

stack, environment, feed = integration.stack, integration.environment, integration.feed
# these run by scripts/flink-test only, in a network of their own
collect_ignore_glob = [] if network.PLACE in os.environ else ["test_*.py"]


@pytest.fixture
def ack_deadline_s() -> int:
    return 20


@pytest.fixture
def control(environment: dict[str, str]) -> Control:
    return Control(environment["PUBSUB_EMULATOR_HOST"])


@pytest.fixture
def cluster(tmp_path: Path, environment: dict[str, str]) -> Iterator[Cluster]:
    made = Cluster(tmp_path / "flink", environment)
    try:
        made.up()
        yield made
    finally:
        made.down()
