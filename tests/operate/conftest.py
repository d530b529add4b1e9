from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.operate.letters import Store
from tidemark.local.postgres import Postgres
from tidemark.local.stack import Stack
from tidemark.store.connection import make_engine
from tidemark.store.migrate import migrate


@pytest.fixture
def own_store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Engine]:
    """An empty store, which programs find by their environment."""
    server = Postgres(tmp_path)
    server.start()
    migrate(server.url())
    monkeypatch.setenv("TIDEMARK_DATABASE_URL", server.url())
    made = make_engine(server.url(), 1, 60)
    yield made
    made.dispose()
    server.stop()
    server.purge()


@pytest.fixture
def store(own_store: Engine) -> Store:
    return Store(own_store)


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    """Servers of this module's own."""
    made = Stack(tmp_path_factory.mktemp("stack"))
    made.up()
    yield made
    made.down(purge=True)
