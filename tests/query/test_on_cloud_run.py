"""With the options that terraform gives it the service is ready, answers what is asked, and ends within Cloud Run's grace."""

from __future__ import annotations

import re
import signal
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from templates.check_cloud_run import GRACE_S, parts
from templates.check_terraform import QUERY, read
from tests.query.served import MINE, Serving, fill
from tests.waiting import eventually
from tidemark.edge.tokens import line_of, new_token
from tidemark.query.paths import HEALTH, READY
from tidemark.store.connection import make_engine, transaction

ROOT = Path(__file__).parents[2]
TOKEN = new_token()
AT_ONCE = read(ROOT, QUERY).resources["google_cloud_run_v2_service.query"]["template"][0][
    "max_instance_request_concurrency"
]


def options(url: str, directory: Path) -> list[str]:
    """Those of the file, with secrets and ports of this machine."""
    (directory / "reader").write_text(url)
    (directory / "tokens").write_text(line_of(TOKEN, MINE, ["read"]) + "\n")
    _, _, command = parts(read(ROOT, QUERY).resources["google_cloud_run_v2_service.query"])
    assert command[:2] == ["tidemark", "serve"]
    kept = re.compile(r"\$\{google_secret_manager_secret\.(\w+)\.name\}/versions/latest")
    given = [kept.sub(lambda match: f"file:{directory / match[1]}", option) for option in command[2:]]
    return [option for option in given if not option.startswith("--http_port=")]


@pytest.fixture(scope="module")
def filled(url: str) -> str:
    fill(url)
    return url


@pytest.fixture
def served(filled: str, tmp_path: Path) -> Iterator[Serving]:
    database, *others = options(filled, tmp_path)
    made = Serving(database, *others, token=TOKEN)
    yield made
    if made.process.poll() is None:
        made.process.kill()
    made.process.communicate()


def ended_s(served: Serving) -> float:
    """How long it takes to end in order."""
    began = time.monotonic()
    served.process.send_signal(signal.SIGTERM)
    _, err = served.process.communicate(timeout=60)
    assert served.process.returncode == 0, err
    assert "Traceback" not in err
    return time.monotonic() - began


def refuses(served: Serving) -> bool:
    """Whether it takes no new connections any more."""
    try:
        served.connect().close()
    except ConnectionRefusedError:
        return True
    return False


def ask(served: Serving, n: int) -> int:
    """A question of its own, so that it is executed by itself."""
    return served.ask("/v1/query", project=MINE, metric="fps", from_="now-3d", interval_sec=60 * (60 + n)).status


def test_it_is_ready_and_answers_as_many_as_it_is_given_at_once(served: Serving) -> None:
    assert served.get(HEALTH).status == served.get(READY).status == 200
    with ThreadPoolExecutor(AT_ONCE) as askers:
        assert set(askers.map(lambda n: ask(served, n), range(4 * AT_ONCE))) == {200}
    assert ended_s(served) < GRACE_S / 2


def test_what_is_asked_when_it_is_to_end_is_answered(served: Serving, url: str) -> None:
    engine = make_engine(url, 1, 60)
    with ThreadPoolExecutor(AT_ONCE + 1) as askers:
        with transaction(engine) as connection:
            connection.exec_driver_sql("LOCK TABLE rollups IN ACCESS EXCLUSIVE MODE")
            asked = [askers.submit(ask, served, n) for n in range(AT_ONCE)]
            eventually(lambda: served.metric("running") == AT_ONCE)
            ending = askers.submit(ended_s, served)
            eventually(lambda: refuses(served))
        assert [each.result() for each in asked] == [200] * AT_ONCE
        assert ending.result() < GRACE_S / 2
    engine.dispose()


def test_a_database_that_stands_still_does_not_keep_it_beyond_the_grace(served: Serving, url: str) -> None:
    engine = make_engine(url, 1, 60)
    with ThreadPoolExecutor(AT_ONCE + 1) as askers, transaction(engine) as connection:
        connection.exec_driver_sql("LOCK TABLE rollups IN ACCESS EXCLUSIVE MODE")
        asked = [askers.submit(ask, served, n) for n in range(AT_ONCE)]
        eventually(lambda: served.metric("running") == AT_ONCE)
        assert ended_s(served) < GRACE_S
        assert {each.result() for each in asked} == {503}
    engine.dispose()
