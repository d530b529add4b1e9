from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.query.served import fill
from tests.store.conftest import server, url
from tidemark.local.postgres import Postgres
from tidemark.query.database import Database
from tidemark.store.migrate import migrate

__all__ = ["server", "url"]


@pytest.fixture(scope="module")
def loop() -> Iterator[asyncio.Runner]:
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="module")
def database(url: str, loop: asyncio.Runner) -> Iterator[Database]:
    made = Database(url, 2, 20)
    yield made
    loop.run(made.close())


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
