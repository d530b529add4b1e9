"""HTTP as it comes from the open internet, and patterns and answers that are to take long: nobody else waits for them."""

from __future__ import annotations

import contextlib
import socket
import threading
import time
from collections.abc import Iterator
from urllib.parse import quote

import pytest

from tests.edge.house import reset, rest, statuses
from tests.query.served import LATEST, MINE, START_S, Others, Serving, serving
from tests.waiting import eventually
from tidemark.local.postgres import Postgres
from tidemark.query.paths import HEALTH, OPENAPI, PATHS, READY
from tidemark.store.connection import make_engine, transaction

TIMEOUT_S = 1.0
MANY = 5_000
NEXT = f"GET {HEALTH} HTTP/1.1\r\nHost: x\r\n\r\n".encode()
EVERYDAY = ("(x+x+)+y", "[^x]{1,300}y", "(.?){1000}", r"\\pL{1000}")
PATTERNS = (
    *EVERYDAY,
    *(
        pytest.param(each, marks=pytest.mark.long)
        for each in (
            "(a+)+$",
            "(.*a){30}",
            "(a|aa)+$",
            "(a|a?)+$",
            "(.*)*(.*)*(.*)*x",
            "(?:a?b?){400}c",
            "(a?){300}a{300}",
            "(.?){400}",
            ".*.*.*.*.*.*.*=.*",
            "(?i)(.*)(.*)(.*)[a-z]{300}",
            r"(\\w|\\d|.)*?z",
            "(" * 500 + "a" + ")*" * 500,
            "a" * 2000 + "|" + "a.*" * 300,
        )
    ),
)


@pytest.fixture(scope="module")
def shared(standing: Postgres) -> Iterator[Serving]:
    pool = make_engine(standing.url(), 1, 60)
    with transaction(pool) as connection:
        connection.exec_driver_sql(
            "INSERT INTO series (project, source, metric) SELECT 'many', 'gw', 'm{x=\"' || repeat('a', 900) || n || '\"}'"
            f" FROM generate_series(1, {MANY}) AS s(n)"
        )
    pool.dispose()
    with serving(f"--database_url={standing.url()}", f"--client_timeout_s={TIMEOUT_S}", "--access_log_share=0") as made:
        yield made


@pytest.fixture
def served(shared: Serving) -> Iterator[Serving]:
    """It lives, holds nothing of anybody, and answers as before."""
    before = shared.get(LATEST).headers["etag"]
    yield shared
    assert shared.process.poll() is None
    eventually(lambda: shared.metric("running") == 0)
    assert shared.get(LATEST).headers["etag"] == before


# requests


@pytest.mark.parametrize("path", [*PATHS, OPENAPI, HEALTH, READY])
def test_only_what_reads_is_a_method(served: Serving, path: str) -> None:
    for method in ("POST", "PUT", "PATCH", "DELETE", "TRACE", "PROPFIND"):
        answer = served.get(path, method=method)
        assert answer.status == 405
        assert answer.headers["allow"] == "GET, HEAD, OPTIONS"
        assert answer.told()["type"] == "urn:tidemark:method-not-allowed"
        assert statuses(served.exchange(served.head(path, "Content-Length: 2", method=method) + b"{}" + NEXT)) == [413]
    for method in ("BREW", "get", "G\xc9T"):
        assert statuses(served.exchange(served.head(path, method=method) + NEXT)) == [400]
    asked = served.get(path, method="OPTIONS")
    assert (asked.status, asked.headers["allow"], asked.body) == (204, "GET, HEAD, OPTIONS", b"")


@pytest.mark.parametrize(
    "target",
    [LATEST, "/v1/latest", "/nothing", OPENAPI]
    + [f"/v1/{name}?project={MINE}" for name in ("series", "sources", "completeness", "corrections", "metrics")],
)
def test_a_head_is_that_of_the_answer_and_the_same_data_have_the_same_tag(served: Serving, target: str) -> None:
    whole, head = served.get(target), served.get(target, method="HEAD")
    assert (head.status, head.body) == (whole.status, b"")
    assert head.headers.keys() == whole.headers.keys()
    for name in head.headers.keys() - {"date", "content-length"}:  # ages have more digits or fewer
        assert head.headers[name] == whole.headers[name]
    assert int(whole.headers["content-length"]) == len(whole.body) > 0
    assert int(head.headers["content-length"]) > 0


BODIES = {
    "a length": ("Content-Length: 5", b"hello"),
    "a length, and nothing": ("Content-Length: 5", b""),
    "chunks": ("Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n"),
    "a giant": ("Content-Length: 99999999999", b"x" * 100_000),
    "for which it asks": ("Content-Length: 5\r\nExpect: 100-continue", b""),
}


@pytest.mark.parametrize("what", BODIES)
def test_a_body_is_refused_unread_and_nothing_in_it_is_a_request(served: Serving, what: str) -> None:
    lines, body = BODIES[what]
    answered = served.exchange(served.head(LATEST, lines) + body + NEXT, half_close=True)
    assert statuses(answered) == [413]
    assert b"urn:tidemark:body-not-allowed" in answered


def test_what_can_be_read_in_two_ways_is_refused_once(served: Serving) -> None:
    for lines in (
        "Content-Length: 0\r\nContent-Length: 5",
        "Content-Length: +0",
        "X : y",
        "X: a\r\n b",
        "X: \0",
        "Host: y",
    ):
        assert statuses(served.exchange(served.head(LATEST, lines) + NEXT)) == [400]
    for target in (
        "/v1/latest/",
        "//v1/latest",
        "/v1//latest",
        "/v1/x/../latest",
        "/v1/%6catest",
        "/V1/latest",
        "/v1/latest%00",
    ):
        assert served.get(f"{target}?project={MINE}&metric=fps").status == 404
    for target in ("http://elsewhere:81" + LATEST, LATEST + "#here"):
        assert statuses(served.exchange(served.head(target), half_close=True)) == [200]
    raw = served.head(LATEST).replace(b"fps", b"\xff\xfe")
    assert statuses(served.exchange(raw, half_close=True)) == [400]


def test_headers_may_be_anything(served: Serving) -> None:
    odd = (
        "",
        "*",
        "x",
        ";q=1",
        "a/b",
        "text/csv;q=nan",
        "text/csv;q=1.2.3",
        "*/*;q=.",
        "*/*;q=-1",
        "é",
        ",,,",
        "\xff",
        "a/" + "b" * 9000,
    )
    for name in (
        "Accept",
        "Accept-Encoding",
        "If-None-Match",
        "If-Modified-Since",
        "Origin",
        "Range",
        "Authorization",
        "Connection",
    ):
        for value in odd:
            status = statuses(served.exchange(served.head(LATEST, f"{name}: {value}"), half_close=True))
            assert status in ([200], [304], [406] if name == "Accept" else [200]), (name, value)
    for value in ("*", '"x", *', 'W/"' + served.get(LATEST).headers["etag"][1:]):
        assert statuses(served.exchange(served.head(LATEST, f"If-None-Match: {value}"), half_close=True)) in (
            [304],
            [200],
        )


@pytest.mark.parametrize("piece", [1, 100, 5000, 1 << 20])
def test_requests_in_a_row_are_answered_in_order_wherever_they_are_cut(served: Serving, piece: int) -> None:
    slow = f"/v1/query?project={MINE}&metric=fps&from={START_S}&interval-sec=60&aggregation=p99"
    row = [(slow, "GET", 200), (LATEST, "GET", 200), ("/v1/latest?x=1", "GET", 400), ("/none", "GET", 404)]
    row += [(LATEST, "OPTIONS", 204), (LATEST, "POST", 405), (LATEST, "GET", 200)]
    times = 1 if piece == 1 else 20
    data = b"".join(served.head(target, method=method) for target, method, _ in row) * times
    data += served.head(LATEST, "Connection: close")
    found: list[bytes] = []
    with served.connect() as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        reader = threading.Thread(target=lambda: found.append(rest(connection)))
        reader.start()
        for start in range(0, len(data), piece):
            connection.sendall(data[start : start + piece])
        reader.join(30)
    assert statuses(found[0]) == [*([status for _, _, status in row] * times), 200]


# time


def test_a_slow_head_is_sent_away_and_costs_nobody_anything(served: Serving) -> None:
    with contextlib.ExitStack() as ends, Others(served) as others:
        slow = [ends.enter_context(served.connect()) for _ in range(50)]
        began = time.monotonic()
        for number, connection in enumerate(slow):
            connection.sendall(served.head(LATEST)[:number])
        for connection in slow:
            assert statuses(rest(connection)) == [408]
        assert time.monotonic() - began < TIMEOUT_S + 2
    others.not_held()


@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda pattern: pattern[:30])
def test_no_pattern_holds_others(served: Serving, pattern: str) -> None:
    parts = [
        f'm{{x=~"{pattern}"}}',
        f'{{source="gw",x!~"{pattern}"}}',
        "m{" + f'x=~"{pattern}",' * min(10, 3900 // len(pattern)) + "}",
    ]
    answered: list[int] = []

    def ask(text: str) -> None:
        answered.append(served.get(f"/v1/series?project=many&limit=1&match={quote(text)}").status)

    with Others(served) as others:
        threads = [threading.Thread(target=ask, args=(text,)) for text in parts]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert set(answered) <= {200, 400, 404, 422}
    others.not_held()


def test_who_goes_in_the_middle_of_anything_leaves_nothing(served: Serving) -> None:
    request = served.head(LATEST) + served.head(f"/v1/query?project={MINE}&metric=fps&from={START_S}&interval-sec=60")
    for end in range(0, len(request) + 1, 2):
        connection = served.connect()
        connection.sendall(request[:end])
        reset(connection) if end % 4 else connection.close()
    eventually(lambda: served.metric("connections") == 0)


def test_more_connections_than_may_be_are_told(standing: Postgres) -> None:
    with serving(f"--database_url={standing.url()}", "--max_connections=10") as served, contextlib.ExitStack() as ends:
        first = [ends.enter_context(served.connect()) for _ in range(10)]
        eventually(lambda: served.metric("connections") == 10)
        beyond = [ends.enter_context(served.connect()) for _ in range(100)]
        told = [rest(connection) for connection in beyond]
        assert statuses(told[0]) == [503]
        assert b"\r\nretry-after: " in told[0]
        assert {tuple(statuses(answer)) for answer in told} == {(503,), ()}
        first[0].sendall(served.head(LATEST, "Connection: close"))
        assert statuses(rest(first[0])) == [200]
        ends.close()
        eventually(lambda: served.get(LATEST).status == 200)
