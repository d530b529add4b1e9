from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.query.served import fill
from tests.store.conftest import server, url
from tidemark.local.postgres import Postgres
from tidemark.store.migrate import migrate

__all__ = ["server", "url"]


@pytest.fixture(scope="session")
def standing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """A PostgreSQL with what `fill` puts there, for all who change nothing of that."""
    made = Postgres(Path(tmp_path_factory.mktemp("standing")))
    made.start()
    migrate(made.url())
    fill(made.url())
    yield made
    made.stop()
    made.purge()
