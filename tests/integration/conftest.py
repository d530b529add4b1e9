from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemark.local.stack import Stack


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "state")
    made.up(ack_deadline_s=10)
    yield made
    made.down(purge=True)
