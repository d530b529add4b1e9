"""Answers as large as they may be: nobody else waits for them, and memory holds, whether they are read or not."""

from __future__ import annotations

import contextlib
import signal
import socket
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.edge.house import statuses
from tests.query.served import MINE, START_S, Others, Serving, serving
from tests.waiting import eventually
from tidemark.local.postgres import Postgres
from tidemark.query.http import MOST_UNREAD_BYTES
from tidemark.query.statement import MOST_TAKEN
from tidemark.store.connection import make_engine, transaction

TIMEOUT_S = 1.0
MOST_MB = 450
"""Of memory; a container has 512."""
SIZE = 22_000_000
DENSE = 400_000


def giant(number: int = 0, *, seconds: int = 10_900) -> str:
    """What is answered with 22 MB, each number with others."""
    names = "&".join(f"aggregation={name}" for name in ("avg", "min", "max", "first", "last", "sum", "stddev"))
    span = f"from={START_S + number}&until={START_S + number + seconds}&interval-sec=1"
    return f"/v1/query?project={MINE}&match={{__name__!=%22%22}}&{span}&fill=1.2345678901234567&{names}"


def written(url: str, source: str, points: int, apart_ms: int) -> None:
    """A series with so many points."""
    pool = make_engine(url, 1, 120)
    with transaction(pool) as connection:
        connection.exec_driver_sql("INSERT INTO series (project, source, metric) VALUES ('giants', %s, 'm')", (source,))
        connection.exec_driver_sql(
            "INSERT INTO points (series_id, event_time, publish_time, value) SELECT s.series_id, to_timestamp(%s) + n * %s * "
            "interval '1 millisecond', now(), n %% 997 FROM generate_series(1, %s) n, series s WHERE s.source = %s",
            (START_S, apart_ms, points, source),
        )
    pool.dispose()


@pytest.fixture(scope="module")
def shared(standing: Postgres) -> Iterator[Serving]:
    written(standing.url(), "dense", DENSE, 200)
    for number in range(10):
        written(standing.url(), f"of-{number}", 11_000, 1000)
    with serving(f"--database_url={standing.url()}", f"--client_timeout_s={TIMEOUT_S}", "--access_log_share=0") as made:
        assert len(made.get(giant()).body) > SIZE
        yield made


class Memory(threading.Thread):
    """The most that the process had, from the beginning to the end of a test."""

    def __init__(self, served: Serving) -> None:
        super().__init__(daemon=True)
        self._served, self._wish = served, threading.Event()
        self.most_mb = 0.0

    def run(self) -> None:
        while not self._wish.wait(0.01):
            self.most_mb = max(self.most_mb, self._served.rss_mb())

    def stop(self) -> float:
        self._wish.set()
        self.join()
        return self.most_mb


@pytest.fixture
def served(shared: Serving) -> Iterator[Serving]:
    """It has never too much memory, and answers giants afterwards."""
    memory = Memory(shared)
    memory.start()
    yield shared
    assert memory.stop() < MOST_MB
    eventually(lambda: shared.metric("connections") == shared.metric("running") == 0)
    eventually(lambda: shared.get(giant()).status == 200)


@contextlib.contextmanager
def unread(served: Serving, *targets: str) -> Iterator[list[socket.socket]]:
    """Connections that have asked, and do not read."""
    with contextlib.ExitStack() as ends:
        found = []
        for target in targets:
            one = ends.enter_context(socket.socket())
            one.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            one.connect(("127.0.0.1", served.port))
            one.sendall(served.head(target, "Connection: close"))
            found.append(one)
        yield found


@pytest.mark.parametrize(
    ("form", "encoding"),
    [
        ("application/json", "identity"),
        ("application/json", "gzip"),
        ("text/csv", "zstd"),
        ("application/x-ndjson", "gzip"),
    ],
)
def test_nobody_waits_for_a_giant(served: Serving, form: str, encoding: str) -> None:
    with Others(served) as others:
        answer = served.get(giant(1, seconds=9000), {"Accept": form, "Accept-Encoding": encoding})
    assert answer.status == 200
    assert answer.headers.get("content-encoding", "identity") == encoding
    others.not_held()


def test_many_giants_at_once_are_told_to_come_again(served: Serving) -> None:
    with Others(served) as others, ThreadPoolExecutor(30) as pool:
        answers = list(pool.map(served.get, map(giant, range(30))))
    assert {answer.status for answer in answers} == {200, 429}
    for answer in answers:
        assert answer.status == 200 or int(answer.headers["retry-after"]) > 0
    others.not_held()


def test_who_reads_nothing_of_the_same_giant_is_sent_away(served: Serving) -> None:
    with unread(served, *[giant(2)] * 40):
        began = time.monotonic()
        eventually(lambda: served.metric("connections") == 40)
        eventually(lambda: served.metric("connections") == 0)
        assert time.monotonic() - began < TIMEOUT_S + 8


def test_beyond_what_may_be_unread_giants_are_refused_and_all_else_is_answered(standing: Postgres) -> None:
    with serving(f"--database_url={standing.url()}", "--client_timeout_s=20", "--access_log_share=0") as served:
        memory = Memory(served)
        memory.start()
        with unread(served, *map(giant, range(3))) as first, Others(served) as others:
            more = [(number, served.get(giant(number))) for number in range(3, 9)]
            eventually(lambda: served.metric("running") == 0)
            assert {answer.status for _, answer in more} <= {200, 429}
            with unread(served, *map(giant, range(20, 24))) as second:
                eventually(lambda: served.metric("running") == 0)
                refused = served.get(giant(30))
                assert (refused.status, refused.told()["detail"]) == (429, "Too many large answers are unread.")
                assert (len(first) + len(second)) * SIZE > MOST_UNREAD_BYTES
            eventually(lambda: served.get(giant(30)).status == 200)
        others.not_held()
        assert memory.stop() < MOST_MB


def slowly(connection: socket.socket) -> bytes:
    """All that comes, taken at 8 MB/s."""
    found, began = bytearray(), time.monotonic()
    while part := connection.recv(1 << 20):
        found += part
        while time.monotonic() < began + len(found) / 8_000_000:
            time.sleep(0.01)
    assert time.monotonic() - began > 2 * TIMEOUT_S
    return bytes(found)


@pytest.mark.parametrize("after", ["close", pytest.param("keep-alive", marks=pytest.mark.long)])
def test_who_reads_slowly_has_all_of_it(served: Serving, after: str) -> None:
    with socket.create_connection(("127.0.0.1", served.port)) as connection:
        connection.sendall(served.head(giant(3), f"Connection: {after}") + served.head(giant(3), "Connection: close"))
        found = slowly(connection)
    assert statuses(found) == [200] * (1 + (after == "keep-alive"))
    assert len(found) > SIZE * (1 + (after == "keep-alive"))


def test_who_reads_slowly_has_all_of_it_when_the_service_ends(standing: Postgres) -> None:
    with serving(f"--database_url={standing.url()}", "--access_log_share=0") as served, served.connect() as connection:
        connection.sendall(served.head(giant(3)))
        assert connection.recv(1 << 16).startswith(b"HTTP/1.1 200 ")
        served.process.send_signal(signal.SIGTERM)
        assert len(slowly(connection)) > SIZE - (1 << 16)
        assert served.process.wait(10) == 0
        served.process.communicate()


@pytest.mark.parametrize(
    "more",
    ["aggregation=p50&aggregation=p99", "aggregation=rate&aggregation=increase", "interval-sec=7&aggregation=avg"],
)
def test_nobody_waits_for_many_points(served: Serving, more: str) -> None:
    span = f"from={START_S}&until={START_S + 80_000}"
    with Others(served) as others:
        with ThreadPoolExecutor(3) as pool:
            ask = f"/v1/query?project=giants&metric=m&source=dense&{span}{{}}&{more}"
            answers = list(pool.map(served.get, (ask.format(number) for number in range(3))))
        lttb = served.get(f"/v1/points?project=giants&metric=m&source=dense&{span}&downsample=lttb&points=11000")
    assert {answer.status for answer in answers} <= {200, 429, 422}
    assert lttb.status == 200
    assert len(lttb.told()["points"]) == 11_000
    others.not_held()


@pytest.mark.long
def test_more_points_than_may_be_are_refused(served: Serving, standing: Postgres) -> None:
    written(standing.url(), "denser", MOST_TAKEN + 1, 80)
    span = f"from={START_S}&until={START_S + 172_800}"
    denser = served.get(f"/v1/query?project=giants&metric=m&source=denser&{span}&aggregation=p99")
    assert (denser.status, denser.told()["type"]) == (422, "urn:tidemark:too-many-points")
    folded = served.get(f"/v1/query?project=giants&metric=m&source=denser&{span}&interval-sec=100000&align=from")
    assert folded.status == 200


def test_more_points_than_may_be_chosen_are_refused(served: Serving) -> None:
    of = f"/v1/points?project=giants&match=m{{source=~%22of-.*%22}}&from={START_S}&until={START_S + 11_001}&downsample=m4"
    chosen = served.get(f"{of}&points=11000")
    assert (chosen.status, chosen.told()["type"]) == (422, "urn:tidemark:answer-too-large")
    assert 5000 < len(served.get(f"{of}&points=1000").told()["points"]) <= 10_000
