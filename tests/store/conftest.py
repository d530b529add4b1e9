from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tidemark.local.postgres import Postgres
from tidemark.store.migrate import migrate


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL of this module's own, migrated."""
    made = Postgres(Path(tmp_path_factory.mktemp("postgres")))
    made.start()
    migrate(made.url())
    yield made
    made.stop()
    made.purge()


@pytest.fixture(scope="module")
def url(server: Postgres) -> str:
    return server.url()
