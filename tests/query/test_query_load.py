"""Many who ask at once, who leave, and who are still there when it ends."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator

import pytest
from sqlalchemy import Engine

from tests.edge.house import reset, rest, statuses
from tests.query.served import MINE, Serving, serving
from tests.waiting import eventually
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction

POOL, WAITING = 2, 3
FLAGS = (f"--database_pool_size={POOL}", f"--max_waiting={WAITING}", "--query_timeout_s=20", "--access_log_share=0")
LATEST = f"/v1/latest?project={MINE}&metric=fps"


@pytest.fixture
def admin(standing: Postgres) -> Iterator[Engine]:
    made = make_engine(standing.url(), 2, 60)
    yield made
    made.dispose()


@pytest.fixture
def served(standing: Postgres) -> Iterator[Serving]:
    with serving(f"--database_url={standing.url()}", *FLAGS) as made:
        yield made


@contextlib.contextmanager
def locked(admin: Engine) -> Iterator[Callable[[], None]]:
    """Nobody can read points until it is called, or at the end."""
    with admin.connect() as connection:
        connection.exec_driver_sql("LOCK TABLE points IN ACCESS EXCLUSIVE MODE")
        yield connection.rollback


def running(admin: Engine) -> int:
    """Statements of the service that wait for points."""
    asked = """SELECT count(*) FROM pg_stat_activity
        WHERE application_name = 'tidemark-query' AND state = 'active' AND wait_event_type = 'Lock'"""
    with transaction(admin) as connection:
        return int(connection.exec_driver_sql(asked).scalar_one())


class Waiting:
    """Connections that have asked and are not answered yet."""

    def __init__(self, served: Serving) -> None:
        self._served = served
        self.open: list[socket.socket] = []

    def __enter__(self) -> Waiting:  # noqa: PYI034
        return self

    def __exit__(self, *_: object) -> None:
        for one in self.open:
            with contextlib.suppress(OSError):
                reset(one)

    def ask(self, *targets: str) -> None:
        for target in targets:
            self.open.append(self._served.connect())
            self.open[-1].sendall(self._served.head(target, "Connection: close"))

    def statuses(self) -> list[int]:
        return [status for one in self.open for status in statuses(rest(one))]


ONES = [f"{LATEST}&source=gw-{number}" for number in range(3)]


def test_the_same_question_is_asked_of_the_database_once(served: Serving, admin: Engine) -> None:
    with Waiting(served) as asking, locked(admin) as let_go:
        asking.ask(*[LATEST] * 50)
        eventually(lambda: running(admin) == served.metric("running") == 1)
        asking.ask(LATEST + "&source=gw-0")
        eventually(lambda: running(admin) == served.metric("running") == 2)
        let_go()
        answers = [rest(one) for one in asking.open]
    assert len({answer.partition(b"\r\n\r\n")[2] for answer in answers[:50]}) == 1
    assert {tuple(statuses(answer)) for answer in answers} == {(200,)}


def test_more_than_may_wait_are_told_to_come_again(served: Serving, admin: Engine) -> None:
    with Waiting(served) as asking, locked(admin) as let_go:
        asking.ask(*ONES, LATEST, f"{LATEST}&source=gw-0&source=gw-1")
        eventually(lambda: served.metric("running") == POOL + WAITING)
        for number in range(20):
            began = time.monotonic()
            answer = served.get(f"{LATEST}&source=none{number}")
            assert answer.status == 429
            assert int(answer.headers["retry-after"]) > 0
            assert answer.told()["type"] == "urn:tidemark:too-many-requests"
            assert time.monotonic() - began < 1
        assert running(admin) == POOL
        asking.ask(LATEST)  # which is asked already
        assert served.get("/readyz").status == 200
        let_go()
        assert asking.statuses() == [200] * 6


def test_what_nobody_waits_for_any_more_is_cancelled(served: Serving, admin: Engine) -> None:
    with Waiting(served) as asking, locked(admin) as let_go:
        asking.ask(*[LATEST] * 3, *ONES)
        eventually(lambda: served.metric("running") == 4 and running(admin) == POOL)
        reset(asking.open[0])
        asking.open[1].close()
        eventually(lambda: served.metric("connections") == 4)
        assert (served.metric("running"), running(admin)) == (4, POOL)
        for one in asking.open:
            one.close()
        eventually(lambda: served.metric("running") == 0 and running(admin) == 0)
        for _ in range(20):  # whoever asks just then does not get what was given up
            with Waiting(served) as leaving, Waiting(served) as staying:
                leaving.ask(LATEST)
                eventually(lambda: running(admin) == 1)
                reset(leaving.open[0])
                staying.ask(LATEST)
                staying.open[0].settimeout(0.05)
                with pytest.raises(TimeoutError):
                    staying.open[0].recv(1)
        eventually(lambda: running(admin) == 0)
        let_go()
    assert served.get(LATEST).status == 200


def test_what_takes_too_long_is_answered_in_time_and_cancelled(standing: Postgres, admin: Engine) -> None:
    with serving(f"--database_url={standing.url()}", *FLAGS, "--query_timeout_s=1") as served, locked(admin):
        began = time.monotonic()
        with Waiting(served) as asking:
            asking.ask(*ONES, LATEST)
            eventually(lambda: running(admin) == POOL)
            answers = [rest(one) for one in asking.open]
        assert 0.9 < time.monotonic() - began < 2.5
        assert {tuple(statuses(answer)) for answer in answers} == {(503,)}
        assert all(b"retry-after: " in answer for answer in answers)
        eventually(lambda: running(admin) == 0)
        assert served.get(f"/v1/metrics?project={MINE}").status == 200


def test_what_was_asked_before_the_end_is_answered(served: Serving, admin: Engine) -> None:
    with Waiting(served) as asking, served.connect() as idle, locked(admin) as let_go:
        asking.ask(*ONES, *[LATEST] * 10)
        eventually(lambda: served.metric("running") == 4 and running(admin) == POOL)
        idle.sendall(served.head("/healthz"))
        assert idle.recv(65536).startswith(b"HTTP/1.1 200 ")
        served.process.send_signal(signal.SIGTERM)
        assert rest(idle) == b""
        with pytest.raises(ConnectionError):
            served.connect()
        assert served.process.poll() is None
        let_go()
        assert asking.statuses() == [200] * 13
    assert served.process.wait(20) == 0
    assert "Traceback" not in served.process.communicate()[1]


def test_what_is_not_answered_by_the_end_of_the_draining_is_broken_off(standing: Postgres, admin: Engine) -> None:
    with serving(f"--database_url={standing.url()}", *FLAGS, "--drain_s=1") as served, locked(admin):
        with Waiting(served) as asking:
            asking.ask(*ONES, LATEST)
            eventually(lambda: running(admin) == POOL)
            began = time.monotonic()
            assert "Traceback" not in served.stop()
            assert time.monotonic() - began < 5
        eventually(lambda: running(admin) == 0)


def test_under_load_it_ends_in_order(standing: Postgres) -> None:
    counted, wrong = [0], []

    def ask(served: Serving) -> None:
        with contextlib.suppress(ConnectionError), served.connect() as connection:
            while True:
                connection.sendall(served.head(LATEST))
                data = connection.recv(1 << 16)
                if not data:
                    return
                if not data.startswith(b"HTTP/1.1 200 ") or b"\r\n\r\n{" not in data:
                    wrong.append(data)
                counted[0] += 1

    with serving(f"--database_url={standing.url()}", *FLAGS) as served:
        threads = [threading.Thread(target=ask, args=(served,)) for _ in range(20)]
        for thread in threads:
            thread.start()
        eventually(lambda: counted[0] > 200)
        assert "Traceback" not in served.stop()
        for thread in threads:
            thread.join(20)
    assert not wrong
