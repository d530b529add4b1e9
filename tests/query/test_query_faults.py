"""What a database does to those who ask: each is answered, by the deadline, and it goes on as soon as it can."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.query.served import MINE, START_S, Answer, Serving, fill, serving
from tests.store.faults import Proxy, ended
from tests.waiting import eventually
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction

TIMEOUT_S = 1.5
GRACE_S = 1.0
POOL, WAITING = 3, 20
FLAGS = (f"--database_pool_size={POOL}", f"--max_waiting={WAITING}", f"--query_timeout_s={TIMEOUT_S}")
OF_ROLLUPS = f"/v1/query?project={MINE}&metric=fps&from={START_S}&interval-sec=3600"
OF_POINTS = f"/v1/query?project={MINE}&metric=fps&from={START_S}&interval-sec=3600&aggregation=p99"
LATEST = f"/v1/latest?project={MINE}&metric=fps"


@pytest.fixture(scope="module")
def filled(server: Postgres) -> Postgres:
    fill(server.url())
    return server


@pytest.fixture
def admin(filled: Postgres) -> Iterator[Engine]:
    """Beside the service, unhurt by what is done to it."""
    filled.start()
    made = make_engine(filled.url(), 2, 60)
    yield made
    made.dispose()


@pytest.fixture
def served(filled: Postgres, admin: Engine) -> Iterator[Serving]:
    with serving(f"--database_url={filled.url()}", *FLAGS) as made:
        yield made


@pytest.fixture
def proxy(filled: Postgres, admin: Engine) -> Iterator[Proxy]:
    made = Proxy(filled.port())
    yield made
    made.close()


@pytest.fixture
def behind(filled: Postgres, proxy: Proxy) -> Iterator[Serving]:
    """One that reaches its database through the proxy."""
    with serving(f"--database_url={proxy.url(filled.url())}", *FLAGS) as made:
        yield made


class Asking(threading.Thread):
    """Somebody who asks all the time, of everything; what came of it, and the longest that an answer took."""

    def __init__(self, served: Serving, seed: int) -> None:
        super().__init__(daemon=True)
        self._served, self._rng, self._wish = served, random.Random(seed), threading.Event()
        self.statuses: Counter[int] = Counter()
        self.longest_s = 0.0
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self._wish.is_set():
                began = time.monotonic()
                answer = self._served.get(
                    f"{self._rng.choice([OF_ROLLUPS, OF_POINTS, LATEST])}&source=gw-{self._rng.randrange(3)}"
                )
                is_in_order(answer)
                self.statuses[answer.status] += 1
                self.longest_s = max(self.longest_s, time.monotonic() - began)
        except BaseException as error:  # noqa: BLE001  # told below
            self.error = error

    def stop(self) -> None:
        self._wish.set()
        self.join(60)
        assert self.error is None, self.error
        assert not self.is_alive()


def is_in_order(answer: Answer) -> None:
    """It is an answer, or one that says when to come again."""
    if answer.status == 200:
        assert answer.told()["project"] == MINE
    else:
        assert answer.status in (429, 503), answer
        assert answer.headers["content-type"] == "application/problem+json"
        assert int(answer.headers["retry-after"]) > 0


@contextlib.contextmanager
def asked(served: Serving, number: int = POOL + 2) -> Iterator[list[Asking]]:
    """Some ask meanwhile; at the end it answers as before, at once."""
    some = [Asking(served, seed) for seed in range(number)]
    for one in some:
        one.start()
    try:
        eventually(lambda: all(one.statuses[200] > 3 for one in some))
        yield some
    finally:
        answers_again(served)
        for one in some:
            one.stop()
    assert max(one.longest_s for one in some) < TIMEOUT_S + GRACE_S
    assert all(served.get(target).status == 200 for target in (OF_ROLLUPS, OF_POINTS, LATEST))


def answers_again(served: Serving) -> None:
    eventually(lambda: served.get("/readyz").status == 200)
    eventually(lambda: all(served.get(target).status == 200 for target in (OF_ROLLUPS, OF_POINTS, LATEST)))


def refused(some: list[Asking]) -> int:
    return sum(one.statuses[503] for one in some)


def do(admin: Engine, *statements: str) -> None:
    for statement in statements:
        with transaction(admin) as connection:
            connection.exec_driver_sql(statement)


def test_a_server_that_is_killed_and_comes_back(filled: Postgres, served: Serving) -> None:
    with asked(served) as some:
        filled.kill()
        eventually(lambda: refused(some) > 20)
        eventually(lambda: served.get("/readyz").status == 503)
        assert served.get("/healthz").status == 200
        filled.start()


def test_a_server_that_stops_in_order(filled: Postgres, served: Serving) -> None:
    with asked(served) as some:
        filled.stop()
        eventually(lambda: refused(some) > 20)
        filled.start()


def test_a_service_that_starts_before_its_database(filled: Postgres) -> None:
    filled.stop()
    with serving(f"--database_url={filled.url()}", *FLAGS) as served:
        is_in_order(served.get(LATEST))
        assert served.get("/readyz").status == served.get(LATEST).status == 503
        filled.start()
        answers_again(served)


def test_a_database_that_stands_still(behind: Serving, proxy: Proxy) -> None:
    with asked(behind) as some:
        proxy.swallowing.set()
        eventually(lambda: refused(some) > 3 * POOL)
        eventually(lambda: behind.get("/readyz").status == 503)
        began = time.monotonic()
        assert behind.get("/healthz").status == 200
        assert time.monotonic() - began < 0.5
        proxy.swallowing.clear()
        proxy.cut()  # what was swallowed leaves connections that wait for ever


def test_connections_that_are_cut_at_random(behind: Serving, proxy: Proxy) -> None:
    rng = random.Random(7)
    with asked(behind) as some:
        for _ in range(30):
            before = sum(one.statuses[200] for one in some)
            proxy.cut()
            eventually(lambda before=before: sum(one.statuses[200] for one in some) > before + rng.randrange(20))  # type: ignore[misc]
        assert refused(some) >= 5


class Cutting(Proxy):
    """Cuts a connection after some bytes of what the server answers."""

    left = 1 << 60

    def _pump(self, source, target, from_client):  # type: ignore[no-untyped-def]
        if from_client:
            super()._pump(source, target, from_client)
            return
        with contextlib.suppress(OSError):
            while data := source.recv(1 << 12):
                target.sendall(data[: max(0, self.left)])
                self.left -= len(data)
                if self.left < 0:
                    break
        ended(source, target)


def test_a_connection_that_is_cut_in_the_middle_of_an_answer(filled: Postgres, admin: Engine) -> None:
    proxy = Cutting(filled.port())
    points = f"/v1/points?project={MINE}&metric=fps&from={START_S}&limit=10000"
    with serving(f"--database_url={proxy.url(filled.url())}", *FLAGS) as served:
        whole = served.get(points)
        for left in (0, 1, 100, 5000, 30_000):
            eventually(lambda: served.get(points).status == 200)
            proxy.left = left
            answer = served.get(points)
            proxy.left = 1 << 60
            assert answer.status == 503, left
            is_in_order(answer)
        eventually(lambda: served.get(points).status == 200)
        assert served.get(points).told()["points"] == whole.told()["points"]
    proxy.close()


def test_sessions_that_are_ended_and_statements_that_are_cancelled(served: Serving, admin: Engine) -> None:
    with asked(served) as some:
        for call in ("pg_terminate_backend", "pg_cancel_backend") * 15:
            before = sum(one.statuses[200] for one in some)
            do(admin, f"SELECT {call}(pid) FROM pg_stat_activity WHERE application_name = 'tidemark-query'")
            eventually(lambda before=before: sum(one.statuses[200] for one in some) > before + 5)  # type: ignore[misc]


def url_of(server: Postgres, user: str, password: str) -> str:
    return sqlalchemy.make_url(server.url()).set(username=user, password=password).render_as_string(False)


@pytest.fixture
def crowded(filled: Postgres, admin: Engine) -> str:
    """Of a user that may have two connections."""
    do(admin, "DROP OWNED BY crowded" if exists(admin, "crowded") else "CREATE ROLE crowded LOGIN PASSWORD 'crowded'")
    do(admin, "ALTER ROLE crowded CONNECTION LIMIT 2", "GRANT SELECT ON ALL TABLES IN SCHEMA public TO crowded")
    return url_of(filled, "crowded", "crowded")


def exists(admin: Engine, role: str) -> bool:
    with transaction(admin) as connection:
        return bool(
            connection.exec_driver_sql("SELECT count(*) FROM pg_roles WHERE rolname = %s", (role,)).scalar_one()
        )


def test_fewer_connections_than_it_may_make(crowded: str) -> None:
    others = make_engine(crowded, 2, 10)
    with serving(f"--database_url={crowded}", *FLAGS) as served:
        with asked(served) as some:
            eventually(lambda: refused(some) > 20)
        assert sum(one.statuses[200] for one in some) > 20
    with others.connect(), others.connect(), serving(f"--database_url={crowded}", *FLAGS) as served:
        answer = served.get(LATEST)
        assert answer.status == 503
        assert "53300" in answer.told()["detail"]
        is_in_order(answer)
    others.dispose()


def test_a_new_password_is_found_without_a_restart(filled: Postgres, admin: Engine, tmp_path: Path) -> None:
    secret = tmp_path / "url"
    do(admin, "DROP ROLE IF EXISTS rotated", "CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'first'")
    secret.write_text(url_of(filled, "rotated", "first"))
    with serving(f"--database_secret=file:{secret}", *FLAGS) as served, asked(served) as some:
        do(admin, "ALTER ROLE rotated PASSWORD 'second'")
        secret.write_text(url_of(filled, "rotated", "second") + "\n")
        do(admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")
        answers_again(served)
        do(admin, "ALTER ROLE rotated NOLOGIN")  # and nothing is said of it
        do(admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")
        eventually(lambda: refused(some) > 5)
        assert b"second" not in served.get(LATEST).body
        do(admin, "ALTER ROLE rotated LOGIN")
