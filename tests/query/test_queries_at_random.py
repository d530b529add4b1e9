"""Random questions of stores in every state: each answer is what the oracle says."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest
from sqlalchemy import Engine

from tests.query.world import World, asked, planned
from tidemark.query.database import Database
from tidemark.store.connection import make_engine

EVERYDAY = (0, 3, 7, 10, 21)


@pytest.fixture(scope="module")
def pool(url: str) -> Iterator[Engine]:
    made = make_engine(url, 2, 20)
    yield made
    made.dispose()


@pytest.mark.parametrize("seed", EVERYDAY)
def test_every_answer_is_right(pool: Engine, database: Database, loop: asyncio.Runner, seed: int) -> None:
    world = World(planned(seed), pool, database, loop)
    assert asked(world, 6) > 100
    assert world.said["sketch"]


@pytest.mark.long
@pytest.mark.timeout(7200)
def test_ten_thousand_answers_are_right(pool: Engine, database: Database, loop: asyncio.Runner) -> None:
    total = 0
    for seed in range(100, 100 + 31):
        total += asked(World(planned(seed), pool, database, loop), 18)
    assert total >= 10_000
