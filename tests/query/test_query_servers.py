"""Whatever a server, a role or a pooler is set to answers are the same; and a server may be another than before."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.query.served import MINE, START_S, TIERS_S, Serving, fill, serving
from tests.store.faults import Proxy
from tests.store.hostile import SCOPES, impose, lift
from tests.store.test_hostile_settings import passed_on, refused
from tests.waiting import eventually
from tidemark.local.postgres import Postgres
from tidemark.query.catalogue import Catalogue
from tidemark.query.database import Database
from tidemark.query.problems import ProblemError
from tidemark.store.connection import make_engine, transaction
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

LATEST = f"/v1/latest?project={MINE}&metric=fps"
PATHS = (
    f"/v1/query?project={MINE}&match={{__name__!=%22%22}}&from={START_S}&until={START_S + 200_000}&aggregation=stddev&columns=state",
    f"/v1/query?project={MINE}&metric=fps&from={START_S}&until={START_S + 86_400}&interval-sec=600&aggregation=p95&aggregation=rate",
    f"/v1/query?project={MINE}&metric=load&from={START_S}&until={START_S + 9999}&interval-sec=86400&tz=Asia/Kathmandu",
    f"/v1/points?project={MINE}&metric=fps&from=2020-05-11T00:00:00Z&until=now&limit=500&attribute=camera:{MINE}",
    f"/v1/points?project={MINE}&metric=rising&from={START_S}&downsample=lttb&points=20",
    *(f"/v1/{name}?project={MINE}" for name in ("series", "metrics", "sources", "corrections")),
    LATEST,
    "/v1/projects",
)


@pytest.fixture(scope="module")
def filled(server: Postgres) -> Postgres:
    fill(server.url())
    return server


@pytest.fixture
def admin(filled: Postgres) -> Iterator[Engine]:
    made = make_engine(filled.url(), 2, 60)
    yield made
    made.dispose()


@pytest.fixture
def served(filled: Postgres) -> Iterator[Serving]:
    with serving(f"--database_url={filled.url()}") as made:
        yield made


def tags(served: Serving) -> list[tuple[int, str]]:
    """Of all that is asked, in each form."""
    forms = ("application/json", "text/csv", "application/x-ndjson")
    answers = [served.get(target, {"Accept": form}) for target in PATHS for form in forms]
    return [(answer.status, answer.headers.get("etag", str(answer.body))) for answer in answers]


@pytest.mark.parametrize("scope", SCOPES)
def test_whatever_is_set_answers_are_the_same(filled: Postgres, served: Serving, admin: Engine, scope: str) -> None:
    wanted = tags(served)
    assert {status for status, _ in wanted} == {200}
    impose(admin, scope)
    try:
        with serving(f"--database_url={filled.url()}") as other:
            assert tags(other) == wanted
    finally:
        lift(admin, scope)


@pytest.mark.parametrize("rewrite", [passed_on, refused])
def test_behind_a_pooler_answers_are_the_same(
    filled: Postgres, served: Serving, admin: Engine, rewrite: Callable[[bytes], bytes]
) -> None:
    wanted, proxy = tags(served), Proxy(filled.port())
    proxy.rewrite = rewrite
    impose(
        admin, "role", statement_timeout="5000", idle_in_transaction_session_timeout="5000", idle_session_timeout="0"
    )
    try:
        with serving(f"--database_url={proxy.url(filled.url())}") as other:
            assert tags(other) == wanted
    finally:
        lift(admin, "role")
        proxy.close()


def written(url: str, source: str, value: float) -> int:
    """A series with one point; its number."""
    pool = make_engine(url, 1, 10)
    cache, keys = SeriesCache(pool), [SeriesKey(MINE, source, "m")]
    Writer(pool, cache, Policy(TIERS_S[0], 0, 0)).write(
        Block(keys, np.array([(0, START_S * 1_000_000, START_S * 1_000_000, value)], POINT))
    )
    (number,) = cache.ids(keys)
    pool.dispose()
    return int(number)


def test_a_replica_that_lacks_the_newest_series(filled: Postgres, served: Serving) -> None:
    filled.stop()
    data = filled.data()
    replica, owner = data.with_name("replica"), data.stat()
    shutil.copytree(data, replica, symlinks=True)
    for path in (replica, *replica.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    filled.start()
    lost = written(filled.url(), "lost", 1.0)
    asked = f"/v1/latest?project={MINE}&metric=m&source=lost"
    eventually(lambda: served.get(asked).status == 200)
    assert served.get(asked).told()["latest"][0]["value"] == 1
    filled.kill()
    shutil.rmtree(data)
    replica.rename(data)
    filled.start()
    assert written(filled.url(), "another", 2.0) == lost, "else nothing could be mixed up"
    found: list[bytes] = []

    def answered() -> bool:
        answer = served.get(asked)
        found.append(answer.body)
        return answer.status != 503

    eventually(answered)
    assert b'"value":2' not in b"".join(found)
    assert served.get(asked).status == 404


def test_numbers_are_forgotten_with_their_server(filled: Postgres, admin: Engine) -> None:
    """As behind a pooler, whose connections stay."""
    number = written(filled.url(), "first", 1.0)

    async def run() -> None:
        database = Database(filled.url(), 1, 10)
        catalogue = Catalogue(database)
        await catalogue.projects()  # and so it is connected
        assert (await catalogue.asked(MINE, ["m"], ["first"], None))[0].number == number
        with transaction(admin) as connection:
            connection.exec_driver_sql("UPDATE series SET source = 'second' WHERE series_id = %s", (number,))
        assert await catalogue.asked(MINE, ["m"], ["first"], None), "it is remembered"
        database.connections.answered_by(datetime.now(UTC))
        with pytest.raises(ProblemError, match="No series"):
            await catalogue.asked(MINE, ["m"], ["first"], None)
        assert (await catalogue.asked(MINE, ["m"], ["second"], None))[0].number == number
        await database.close()

    asyncio.run(run())
