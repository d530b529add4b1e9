"""What a database can do to a writer, on a real server: nothing acknowledged is lost, nothing is there twice."""

from __future__ import annotations

import gc
import logging
import math
import os
import random
import resource
import shutil
import signal
import socket
import struct
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.store.faults import (
    KEYS,
    START_US,
    TABLES,
    Proxy,
    block,
    everything_is_there,
    shuffled,
    streaming,
    writer,
)
from tidemark.errors import UnavailableError
from tidemark.local.postgres import Postgres
from tidemark.local.processes import children
from tidemark.store.connection import make_engine, transaction
from tidemark.store.ledger import totals
from tidemark.store.owing import Policy
from tidemark.store.series import SeriesCache
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

ROOT = Path(__file__).parents[2]


@pytest.fixture
def admin(server: Postgres) -> Iterator[Engine]:
    """Beside the writers, unhurt by what is done to them."""
    server.start()
    made = make_engine(server.url(), 3, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}")
    yield made
    made.dispose()


@pytest.fixture
def pool(server: Postgres, admin: Engine) -> Iterator[Engine]:
    made = make_engine(server.url() + "?application_name=victim", 3, 5, connect_timeout_s=3)
    yield made
    made.dispose()


def long(pytestconfig: pytest.Config, everyday: float, full: float) -> float:
    return full if pytestconfig.getoption("--long") else everyday


def do(admin: Engine, *statements: str) -> None:
    for statement in statements:
        with transaction(admin) as connection:
            connection.exec_driver_sql(statement)


def said(caplog: pytest.LogCaptureFixture, text: str) -> None:
    lines = [record.getMessage() for record in caplog.records if record.name == "tidemark"]
    assert any(text in line for line in lines), lines
    assert len(lines) < 5, "one sentence a minute and kind"


def test_a_server_that_is_away(
    server: Postgres, admin: Engine, pool: Engine, pytestconfig: pytest.Config, caplog: pytest.LogCaptureFixture
) -> None:
    away_s = long(pytestconfig, 3, 60)
    with streaming(pool, points=2000) as stream:
        server.kill()
        time.sleep(0.2)
        memory, before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, stream.acknowledged
        time.sleep(away_s)
        assert stream.acknowledged <= before + 1
        server.start()
        caught_up_s = stream.goes_on(20)
        print(f"away {away_s:g} s, 20 blocks after {caught_up_s:.2f} s, {stream.retries}")
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - memory < 50_000, "kilobytes"
        assert sum(stream.retries.values()) < 8 + away_s, "no hot loop"
        admin.dispose()
    said(caplog, "The database")


def test_connections_that_are_cut_at_random(admin: Engine, pool: Engine, caplog: pytest.LogCaptureFixture) -> None:
    rng = random.Random(7)
    with streaming(pool, pause_s=0) as stream:
        for _ in range(50):
            do(admin, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'victim'")
            time.sleep(rng.uniform(0, 0.1))
        stream.goes_on()
        assert stream.retries["retries_unavailable"] >= 5
        assert not stream.retries["retries_misconfigured"]
    said(caplog, "The database")


def test_no_connection_is_left(admin: Engine, server: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    do(admin, "DROP ROLE IF EXISTS crowded", "CREATE ROLE crowded LOGIN PASSWORD 'crowded' CONNECTION LIMIT 2")
    do(admin, "GRANT ALL ON ALL TABLES IN SCHEMA public TO crowded")
    url = sqlalchemy.make_url(server.url()).set(username="crowded", password="crowded").render_as_string(False)
    others, mine = make_engine(url, 2, 5), make_engine(url, 2, 5)
    held = [others.connect() for _ in range(2)]
    stream = None
    try:
        releasing = threading.Timer(2, lambda: [one.close() for one in held] and others.dispose())
        releasing.start()
        with streaming(mine) as stream:
            stream.goes_on()
            assert 3 <= stream.retries["retries_unavailable"] < 20
    finally:
        releasing.join()
        mine.dispose()
    said(caplog, "SQLSTATE 53300")


def test_deadlocks_and_serialization_failures(admin: Engine, pool: Engine, caplog: pytest.LogCaptureFixture) -> None:
    do(
        admin,
        "CREATE SEQUENCE unlucky",
        """CREATE FUNCTION be_unlucky() RETURNS trigger LANGUAGE plpgsql AS $$
           DECLARE n bigint := nextval('unlucky'); BEGIN
               IF n %% 7 = 1 THEN RAISE EXCEPTION 'deadlock detected' USING ERRCODE = '40P01'; END IF;
               IF n %% 7 = 4 THEN RAISE EXCEPTION 'could not serialize access' USING ERRCODE = '40001'; END IF;
               RETURN NULL; END $$""".replace("%%", "%"),
        "CREATE TRIGGER unlucky AFTER INSERT ON ledger FOR EACH STATEMENT EXECUTE FUNCTION be_unlucky()",
    )
    try:
        with streaming(pool) as stream:
            stream.goes_on(20)
            assert 4 <= stream.retries["retries_unavailable"] < stream.acknowledged
    finally:
        do(admin, "DROP TRIGGER unlucky ON ledger", "DROP FUNCTION be_unlucky", "DROP SEQUENCE unlucky")
    said(caplog, "SQLSTATE 40")


def test_a_real_deadlock(admin: Engine, pool: Engine) -> None:
    """Another client locks two rows in the other order."""
    made = writer(pool)
    made.write(block(0))
    newer = block(0)
    newer.points["publish_time"] += 1
    with admin.connect() as other:
        lock = "SELECT 1 FROM points WHERE value = %s FOR UPDATE"
        other.exec_driver_sql(lock, (499,))
        done: list[object] = []

        def write() -> None:
            while not done:
                try:
                    done.append(made.write(newer))
                except UnavailableError:
                    continue

        thread = threading.Thread(target=write)
        thread.start()
        time.sleep(0.5)
        try:
            other.exec_driver_sql(lock, (0,))  # the writer holds this one and waits for the other
            other.commit()
        except sqlalchemy.exc.DBAPIError:
            other.rollback()
    thread.join(20)
    assert done
    everything_is_there(admin, 1)


def refusing(admin: Engine, condition: str) -> None:
    do(admin, f"ALTER TABLE points ADD CONSTRAINT refuse CHECK ({condition})")


class Counting(Writer):
    """Counts the transactions that were tried."""

    tried = 0

    def _write_once(self, block: Block):  # type: ignore[no-untyped-def]
        Counting.tried += 1
        return super()._write_once(block)


@pytest.mark.parametrize("bad", [0, 1, 1234, 2500, 4998, 4999])
def test_one_refused_point_in_5000(admin: Engine, pool: Engine, bad: int) -> None:
    series = SeriesCache(pool)
    series.ids(KEYS)
    Counting.tried = 0
    refusing(admin, f"value <> {bad}")
    try:
        written = Counting(pool, series, Policy(60, 0, 0)).write(block(0, 5000))
    finally:
        do(admin, "ALTER TABLE points DROP CONSTRAINT refuse")
    assert (written.inserted, written.dead_lettered) == (4999, 1)
    assert Counting.tried <= 2 * math.log2(5000) + 2
    with transaction(admin) as connection:
        detail = connection.exec_driver_sql("SELECT detail FROM dead_letters").scalar_one()
        assert "SQLSTATE 23514" in detail
        assert connection.exec_driver_sql(f"SELECT count(*) FROM points WHERE value = {bad}").scalar_one() == 0
        ledger = totals(connection)
    assert (ledger.inserted, ledger.dead_lettered, ledger.unbalanced) == (4999, 1, 0)


def test_every_point_refused(admin: Engine, pool: Engine) -> None:
    number = 1000
    Counting.tried = 0
    refusing(admin, "value <> floor(value)")
    try:
        written = Counting(pool, SeriesCache(pool), Policy(60, 0, 0)).write(block(0, number))
    finally:
        do(admin, "ALTER TABLE points DROP CONSTRAINT refuse")
    assert (written.inserted, written.dead_lettered) == (0, number)
    assert Counting.tried < 1.1 * number
    with transaction(admin) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM dead_letters").scalar_one() == number
        assert totals(connection).unbalanced == 0


def test_some_refused_points_here_and_there(admin: Engine, pool: Engine) -> None:
    bad = sorted(random.Random(3).sample(range(5000), 40) + list(range(100, 140)))
    bad = sorted(set(bad))
    refusing(admin, f"value NOT IN ({', '.join(map(str, bad))})")
    try:
        written = writer(pool).write(block(0, 5000))
    finally:
        do(admin, "ALTER TABLE points DROP CONSTRAINT refuse")
    assert (written.inserted, written.dead_lettered) == (5000 - len(bad), len(bad))
    assert len(written.points) == written.inserted


@pytest.mark.skipif(os.geteuid() != 0, reason="only root may mount a small disk")
def test_a_full_disk(admin: Engine, pool: Engine, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=12m,mode=777", "none", str(disk)]
    if subprocess.run(mount, capture_output=True, check=False).returncode:
        pytest.skip("this machine lets nobody mount a small disk")
    for directory in (tmp_path, *tmp_path.parents[:3]):
        directory.chmod(directory.stat().st_mode | 0o055)
    try:
        space = disk / "space"
        space.mkdir()
        with transaction(admin) as connection:
            data = Path(connection.exec_driver_sql("SELECT current_setting('data_directory')").scalar_one())
        owner = data.stat()
        os.chown(space, owner.st_uid, owner.st_gid)
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql(f"CREATE TABLESPACE small LOCATION '{space}'")
            connection.exec_driver_sql("ALTER TABLE points SET TABLESPACE small")
        ballast = disk / "ballast"
        ballast.write_bytes(bytes(9 << 20))
        with streaming(pool, points=5000) as stream:
            until = time.monotonic() + 20
            while not stream.retries and time.monotonic() < until:
                time.sleep(0.05)
            time.sleep(1)
            assert 2 <= stream.retries["retries_unavailable"] < 20
            ballast.unlink()
            stream.goes_on(3)
    finally:
        with admin.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.exec_driver_sql("TRUNCATE points")
            connection.exec_driver_sql("ALTER TABLE points SET TABLESPACE pg_default")
            connection.exec_driver_sql("DROP TABLESPACE IF EXISTS small")
        subprocess.run(["umount", "-l", str(disk)], check=True)
    said(caplog, "SQLSTATE 53100")


def test_a_frozen_server(
    server: Postgres, admin: Engine, pool: Engine, pytestconfig: pytest.Config, caplog: pytest.LogCaptureFixture
) -> None:
    frozen_s = long(pytestconfig, 5, 60)
    impatient = make_engine(server.url(), 3, 1, connect_timeout_s=1, answer_grace_s=1)
    process = server.process()
    assert process is not None
    with streaming(impatient) as stream:
        pids = [process.pid, *[child.pid for child in children(process.pid)]]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(0.3)
            before = stream.acknowledged
            time.sleep(frozen_s)
            assert stream.acknowledged <= before + 1
            assert 1 <= sum(stream.retries.values()) < 5 + frozen_s
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        stream.goes_on()
    impatient.dispose()
    said(caplog, "The database does not answer")


def test_a_connection_that_the_server_breaks_off_half_way_leaves_no_socket() -> None:
    def reset(listening: socket.socket) -> None:
        while True:
            try:
                accepted, _ = listening.accept()
            except OSError:
                return  # closed
            accepted.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listening, warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("always", ResourceWarning)
        thread = threading.Thread(target=reset, args=(listening,))
        thread.start()
        for _ in range(200):
            pool = make_engine(f"postgresql://u:p@127.0.0.1:{listening.getsockname()[1]}/d", 1, 1, connect_timeout_s=1)
            with pytest.raises(UnavailableError), transaction(pool):
                pass
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
        gc.collect()
        assert [str(warning.message) for warning in found] == []


@pytest.mark.parametrize(
    ("break_it", "mend_it", "text"),
    [
        ("ALTER TABLE points RENAME COLUMN value TO worth", "ALTER TABLE points RENAME COLUMN worth TO value", "42703"),
        ("ALTER TABLE marks RENAME TO remarks", "ALTER TABLE remarks RENAME TO marks", "42P01"),
        ("ALTER TABLE ledger DROP COLUMN ignored", "ALTER TABLE ledger ADD ignored bigint NOT NULL DEFAULT 0", "42703"),
    ],
)
def test_a_schema_that_is_broken_and_mended(
    admin: Engine, pool: Engine, caplog: pytest.LogCaptureFixture, break_it: str, mend_it: str, text: str
) -> None:
    # `ignored` is lost with its column: the overlap of blocks would unbalance the ledger, so there is none here
    with streaming(pool) as stream:
        do(admin, break_it)
        time.sleep(0.2)
        before = stream.acknowledged
        time.sleep(1)
        assert stream.acknowledged <= before + 1
        assert 1 <= stream.retries["retries_misconfigured"] < 20
        do(admin, mend_it)
        stream.goes_on()
        if "DROP" in break_it:
            do(admin, "UPDATE ledger SET ignored = received - inserted - overwritten - dead_lettered")
    said(caplog, f"SQLSTATE {text}")
    assert "tidemark migrate" in caplog.text


def test_a_grant_that_is_taken_away(admin: Engine, server: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    do(admin, "DROP OWNED BY limited" if _role(admin, "limited") else "CREATE ROLE limited LOGIN PASSWORD 'limited'")
    do(admin, "GRANT ALL ON ALL TABLES IN SCHEMA public TO limited", "GRANT USAGE ON SCHEMA public TO limited")
    url = sqlalchemy.make_url(server.url()).set(username="limited", password="limited").render_as_string(False)
    mine = make_engine(url, 2, 5)
    with streaming(mine) as stream:
        do(admin, "REVOKE INSERT ON points FROM limited")
        time.sleep(1)
        assert stream.retries["retries_misconfigured"] >= 2
        do(admin, "GRANT INSERT ON points TO limited")
        stream.goes_on()
    mine.dispose()
    said(caplog, "SQLSTATE 42501")


def _role(admin: Engine, name: str) -> bool:
    with transaction(admin) as connection:
        return bool(connection.exec_driver_sql("SELECT 1 FROM pg_roles WHERE rolname = %s", (name,)).scalar())


def test_a_column_that_is_narrowed(admin: Engine, pool: Engine, caplog: pytest.LogCaptureFixture) -> None:
    """No value fits any more, which is nothing that the points have done: they wait, and none is a dead letter."""
    with streaming(pool) as stream:
        do(admin, "ALTER TABLE points ALTER value TYPE real")
        time.sleep(1)
        assert 1 <= stream.retries["retries_misconfigured"] < 20
        do(admin, "ALTER TABLE points ALTER value TYPE double precision")
        stream.goes_on()
    said(caplog, "SQLSTATE 22P03")
    with transaction(admin) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM dead_letters").scalar_one() == 0


CHILD = """
import sys
from tests.store.faults import block, writer
from tidemark.store.connection import make_engine
made = writer(make_engine(sys.argv[1], 2, 5))
for number in range(5):
    made.write(block(number))
    print("acknowledged", number, flush=True)
"""


@pytest.mark.parametrize("place", ["raw.written", "raw.committed"])
def test_a_worker_killed_around_its_commit(admin: Engine, server: Postgres, place: str) -> None:
    environment = {**os.environ, "TIDEMARK_FAILPOINTS": f"{place}=kill@3", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", CHILD, server.url()]
    died = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert died.returncode == -signal.SIGKILL, died.stderr
    assert died.stdout.splitlines() == ["acknowledged 0", "acknowledged 1"]
    everything_is_there(admin, 3 if place == "raw.committed" else 2)
    environment.pop("TIDEMARK_FAILPOINTS")
    again = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    assert again.returncode == 0, again.stderr
    everything_is_there(admin, 5)


def test_a_server_killed_between_copy_and_commit(
    server: Postgres, admin: Engine, pool: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    killed: list[str] = []

    def kill(place: str) -> None:
        if place == "raw.written" and not killed:
            killed.append(place)
            server.kill()
            server.start()

    monkeypatch.setattr("tidemark.store.write.reach", kill)
    made = writer(pool)
    with pytest.raises(UnavailableError):
        made.write(block(0))
    assert killed
    admin.dispose()
    everything_is_there(admin, 0)
    made.write(block(0))
    everything_is_there(admin, 1)


def test_a_commit_of_unknown_outcome(server: Postgres, admin: Engine) -> None:
    """The server commits, and the answer is lost on the way."""
    proxy = Proxy(server.port())
    mine = make_engine(proxy.url(server.url()), 2, 5)
    made = writer(mine)
    made.write(block(0))
    seen: list[bytes] = []

    def executes_commit(data: bytes) -> bool:
        """The client parses in one round and executes in a later one; the NUL tells it from the staging's ON COMMIT."""
        seen.append(data)
        return any(b"COMMIT\0" in one.upper() for one in seen[:-1]) and b"E\0\0\0\x09" in data

    proxy.watch = executes_commit
    with pytest.raises(UnavailableError):
        made.write(block(1))
    time.sleep(0.5)
    everything_is_there(admin, 2)
    written = made.write(block(1))
    assert (written.inserted, written.ignored) == (0, 510)
    everything_is_there(admin, 2)
    mine.dispose()
    proxy.close()


def test_a_half_open_connection(server: Postgres, admin: Engine, caplog: pytest.LogCaptureFixture) -> None:
    proxy = Proxy(server.port())
    mine = make_engine(proxy.url(server.url()), 2, 1, connect_timeout_s=1, answer_grace_s=0.5)
    with streaming(mine) as stream:
        proxy.swallowing.set()
        time.sleep(4)
        assert 1 <= sum(stream.retries.values()) < 10
        proxy.swallowing.clear()
        proxy.cut()
        stream.goes_on()
    mine.dispose()
    proxy.close()
    said(caplog, "The database does not answer")


def test_four_writers_on_overlapping_shuffled_keys(
    admin: Engine, pool: Engine, server: Postgres, pytestconfig: pytest.Config
) -> None:
    number = int(long(pytestconfig, 100_000, 1_000_000))
    rng = np.random.default_rng(5)
    names = [SeriesKey("many", f"s{i}", "m") for i in range(50)]
    points = np.empty(number, POINT)
    points["series_id"] = rng.integers(0, 50, number)
    points["event_time"] = START_US + rng.integers(0, number // 80, number) * 1_000_000
    points["publish_time"] = START_US + rng.integers(0, 50, number)
    points["value"] = rng.integers(0, 5, number)
    texts: list[bytes | None] = [b'{"a":%d}' % n if n else None for n in rng.integers(0, 3, number).tolist()]
    shared = make_engine(server.url(), 4, 60)
    made = Writer(shared, SeriesCache(shared), Policy(60, 0, 0))
    dead_before = _deadlocks(admin)
    failed: list[BaseException] = []

    def write(seed: int) -> None:
        order = shuffled(random.Random(seed), number)
        try:
            for at in range(0, number, 10_000):
                index = order[at : at + 10_000]
                made.write(Block(names, points[index], [texts[i] for i in index.tolist()]))
        except BaseException as error:  # noqa: BLE001  # told below
            failed.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    shared.dispose()
    assert not failed, failed
    wanted: dict[tuple[int, int], tuple[int, float, str]] = {}
    for point, text in zip(points.tolist(), texts, strict=True):
        key, candidate = (point[0], point[1]), (point[2], point[3], (text or b"").decode().replace(":", ": "))
        wanted[key] = max(wanted.get(key, candidate), candidate)
    with transaction(admin) as connection:
        rows = connection.exec_driver_sql(
            """SELECT source, (extract(epoch FROM event_time) * 1000000)::bigint,
                      (extract(epoch FROM publish_time) * 1000000)::bigint, value, coalesce(attributes::text, '')
               FROM points JOIN series USING (series_id)"""
        ).all()
        ledger = totals(connection)
    assert {(int(r[0][1:]), r[1]): tuple(r[2:]) for r in rows} == wanted
    assert len(rows) == len(wanted) == ledger.inserted
    assert (ledger.received, ledger.unbalanced) == (4 * number, 0)
    assert _deadlocks(admin) == dead_before


def _deadlocks(admin: Engine) -> int:
    with transaction(admin) as connection:
        found = connection.exec_driver_sql("SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()")
        return int(found.scalar_one())


def fresh(names: list[SeriesKey]) -> Block:
    rows = [(i, START_US + i, START_US, float(name.source[1:])) for i, name in enumerate(names)]
    return Block(names, np.array(rows, POINT))


def rightly_named(admin: Engine) -> None:
    with transaction(admin) as connection:
        rows = connection.exec_driver_sql("SELECT source, value FROM points LEFT JOIN series USING (series_id)").all()
    assert rows
    assert all(source == f"s{value:g}" for source, value in rows), rows


def test_fail_over_to_a_replica_that_lacks_the_last_seconds(server: Postgres, admin: Engine, pool: Engine) -> None:
    names = [SeriesKey("over", f"s{i}", "m") for i in range(30)]
    made = writer(pool)
    made.write(fresh(names[:10]))
    server.stop()
    data = server.data()
    replica = data.with_name("replica")
    shutil.copytree(data, replica, symlinks=True)
    owner = data.stat()
    for path in (replica, *replica.rglob("*")):
        os.chown(path, owner.st_uid, owner.st_gid, follow_symlinks=False)
    server.start()
    with pytest.raises(UnavailableError):
        made.write(fresh(names[:10]))
    made.write(fresh(names[10:20]))  # these seconds the replica lacks
    server.kill()
    shutil.rmtree(data)
    replica.rename(data)
    server.start()
    admin.dispose()
    other = make_engine(server.url(), 1, 5)
    writer(other).write(fresh(names[20:30]))  # takes the numbers that were lost
    other.dispose()
    with pytest.raises(UnavailableError):
        made.write(fresh(names[10:20]))
    made.write(fresh(names[10:20]))
    rightly_named(admin)


def test_numbers_that_go_lost_behind_a_pooler(admin: Engine, pool: Engine) -> None:
    """As a fail-over looks from a connection that survives it."""
    names = [SeriesKey("pooler", f"s{i}", "m") for i in range(30)]
    made = writer(pool)
    made.write(fresh(names[:10]))
    made.write(fresh(names[10:20]))
    with transaction(admin) as connection:
        least = connection.exec_driver_sql("SELECT series_id FROM series WHERE source = 's10'").scalar_one()
        connection.exec_driver_sql(f"DELETE FROM points WHERE series_id >= {least}")
        connection.exec_driver_sql(f"DELETE FROM series WHERE series_id >= {least}")
        connection.exec_driver_sql(f"ALTER TABLE series ALTER series_id RESTART WITH {least}")
    other = writer(admin)
    other.write(fresh(names[20:30]))
    made.write(fresh(names[10:20]))
    rightly_named(admin)
    with transaction(admin) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one() == 30


def test_statements_that_are_too_slow_again_and_again_need_a_person(
    admin: Engine, server: Postgres, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tidemark.retry.LONGEST_WAIT_S", 0.1)
    hasty = make_engine(server.url(), 2, 0.1)
    with streaming(hasty) as stream, admin.connect() as other:
        other.exec_driver_sql("LOCK TABLE points IN EXCLUSIVE MODE")
        until = time.monotonic() + 20
        while not stream.retries["retries_misconfigured"] and time.monotonic() < until:
            time.sleep(0.05)
        other.rollback()
        stream.goes_on()
        assert stream.retries["retries_unavailable"] >= 9
    hasty.dispose()
    assert "needs a person" in caplog.text
    assert "SQLSTATE 57014" in caplog.text


def test_no_password_is_ever_said(admin: Engine, server: Postgres, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    url = sqlalchemy.make_url(server.url()).set(password="h0rse-battery")
    mine = make_engine(url.render_as_string(hide_password=False), 1, 2)
    with pytest.raises(Exception, match="28P01") as caught:
        writer(mine).write(block(0))
    assert "h0rse-battery" not in f"{caught.value!r} {caught.value.__cause__!r} {caplog.text} {mine!r}"
    mine.dispose()
