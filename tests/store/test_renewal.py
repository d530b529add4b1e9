"""A secret that changes under a running writer: another password, another server, unreadable for a while."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy

from tests.store.faults import Stream, block
from tests.waiting import eventually
from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.local.postgres import Postgres
from tidemark.retry import until_done
from tidemark.store import connection
from tidemark.store.connection import make_engine, transaction
from tidemark.store.migrate import migrate
from transforms import resources
from transforms.resources import Store


@pytest.fixture
def secret(server: Postgres, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(connection, "RENEW_S", 0.2)
    # no test drops it: a backend that is just ending may still own a temporary table
    as_owner(server, "DO $$ BEGIN CREATE ROLE rotated LOGIN SUPERUSER; EXCEPTION WHEN duplicate_object THEN END $$")
    as_owner(server, "ALTER ROLE rotated PASSWORD 'first'")
    path = tmp_path / "url"
    path.write_text(url_of(server, "first"))
    resources.close()
    yield path
    resources.close()


def url_of(server: Postgres, password: str) -> str:
    url = sqlalchemy.make_url(server.url()).set(username="rotated", password=password)
    return url.render_as_string(hide_password=False)


def as_owner(server: Postgres, statement: str) -> None:
    pool = make_engine(server.url(), 1, 10)
    with transaction(pool) as session:
        session.exec_driver_sql(statement)
    pool.dispose()


def store_of(secret: Path) -> Store:
    return Store(f"file:{secret}", 2, (60,), 0, 0, 10)


def end_sessions(server: Postgres) -> None:
    as_owner(server, "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'rotated'")


@contextmanager
def role(server: Postgres, change: str, back: str) -> Iterator[None]:
    """The user altered, for a while."""
    as_owner(server, f"ALTER ROLE rotated {change}")
    try:
        yield
    finally:
        as_owner(server, f"ALTER ROLE rotated {back}")


def change_password(server: Postgres) -> None:
    """As one does it, with the connections that are open ended."""
    as_owner(server, "ALTER ROLE rotated PASSWORD 'second'")
    end_sessions(server)


def test_a_new_password_is_found_without_a_restart(server: Postgres, secret: Path) -> None:
    store = store_of(secret)
    stream = Stream(store.writer())
    stream.start()
    stream.reaches(3)
    change_password(server)
    eventually(lambda: stream.retries["retries_misconfigured"] >= 3)
    stored = stream.acknowledged
    secret.write_text(url_of(server, "second") + "\n")
    stream.goes_on()
    assert stream.acknowledged > stored
    owner = make_engine(server.url(), 1, 30)
    stream.stop(owner)
    assert store.settler().oldest_due_s() >= 0, "others share the pool"
    owner.dispose()


@pytest.fixture
def other(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    """Another server, migrated, with the same user."""
    made = Postgres(Path(tmp_path_factory.mktemp("other")))
    made.start()
    migrate(made.url())
    as_owner(made, "CREATE ROLE rotated LOGIN SUPERUSER PASSWORD 'first'")
    yield made
    made.stop()
    made.purge()


def stored(server: Postgres) -> int:
    pool = make_engine(server.url(), 1, 10)
    with transaction(pool) as session:
        found = int(session.exec_driver_sql("SELECT count(*) FROM points").scalar_one())
    pool.dispose()
    return found


def test_a_database_that_is_gone_has_moved(server: Postgres, other: Postgres, secret: Path) -> None:
    writer = store_of(secret).writer()
    writer.write(block(0))
    secret.write_text(url_of(other, "first"))
    with role(server, "NOLOGIN", "LOGIN"):
        end_sessions(server)
        until_done(lambda: writer.write(block(0)))
    assert stored(other) == len(block(0).points)


def test_a_primary_that_is_one_no_more_is_left(server: Postgres, other: Postgres, secret: Path) -> None:
    """It still serves, and keeps every connection."""
    writer = store_of(secret).writer()
    writer.write(block(0))
    with role(server, "SET default_transaction_read_only = on", "RESET default_transaction_read_only"):
        end_sessions(server)
        with pytest.raises(UnavailableError):
            writer.write(block(1))  # the connection that it had was ended
        with pytest.raises(UnavailableError, match="25006"):
            writer.write(block(1))
        secret.write_text(url_of(other, "first"))
        until_done(lambda: writer.write(block(1)))
    assert stored(other) == len(block(1).points)


def test_no_process_writes_to_two_databases(server: Postgres, other: Postgres, secret: Path) -> None:
    """One connection is open to the old one, and serves, when another leads to the new one."""
    pool = store_of(secret)._pool()
    with transaction(pool) as held:
        old = held.exec_driver_sql("SELECT current_setting('port')").scalar_one()
        secret.write_text(url_of(other, "first"))
        with role(server, "NOLOGIN", "LOGIN"), transaction(pool) as first:
            new = first.exec_driver_sql("SELECT current_setting('port')").scalar_one()
    assert new != old
    for _ in range(5):
        with transaction(pool) as one, transaction(pool) as two:
            seen = {session.exec_driver_sql("SELECT current_setting('port')").scalar_one() for session in (one, two)}
        assert seen == {new}


def test_a_new_secret_that_does_not_work_yet_takes_nothing_away(server: Postgres, secret: Path) -> None:
    writer = store_of(secret).writer()
    writer.write(block(0))
    secret.write_text(url_of(server, "second"))  # before ALTER ROLE
    with role(server, "NOLOGIN", "LOGIN"):
        end_sessions(server)
        with pytest.raises(MisconfiguredError, match="28"):
            until_done(lambda: writer.write(block(0)), waits_for=(UnavailableError,))
    writer.write(block(0))
    change_password(server)
    until_done(lambda: writer.write(block(0)))


@pytest.mark.parametrize("text", [b"\xff\xfe", b"no url"])
def test_a_secret_that_is_no_url_takes_nothing_away(server: Postgres, secret: Path, text: bytes) -> None:
    writer = store_of(secret).writer()
    writer.write(block(0))
    secret.write_bytes(text)
    end_sessions(server)
    until_done(lambda: writer.write(block(0)))
    change_password(server)
    with pytest.raises(MisconfiguredError, match="28P01"):
        until_done(lambda: writer.write(block(0)), waits_for=(UnavailableError,))
    resources.close()
    with pytest.raises(MisconfiguredError):
        store_of(secret).writer()


def test_a_secret_that_cannot_be_read_is_waited_for(server: Postgres, secret: Path) -> None:
    text = secret.read_text()
    secret.unlink()
    store = store_of(secret)
    told: list[str] = []
    with pytest.raises(MisconfiguredError, match="cannot be read"):
        store.settler()
    threading.Timer(0.5, lambda: secret.write_text(text)).start()
    written = until_done(lambda: store.writer().write(block(0)), count=told.append)
    assert len(written.points) == len(block(0).points)
    assert set(told) == {"retries_misconfigured"}


def test_an_unreadable_secret_does_not_break_what_is_open(
    server: Postgres, secret: Path, caplog: pytest.LogCaptureFixture
) -> None:
    writer = store_of(secret).writer()
    writer.write(block(0))
    secret.unlink()
    end_sessions(server)
    until_done(lambda: writer.write(block(0)))
    change_password(server)
    with pytest.raises(MisconfiguredError, match="28P01"):
        until_done(lambda: writer.write(block(0)), waits_for=(UnavailableError,))
    assert "The database URL that was read before is used" in caplog.text
