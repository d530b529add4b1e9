"""A database that is not as it must be is refused before anything is made in it."""

from __future__ import annotations

import pytest
from sqlalchemy import make_url

from tidemark.errors import MisconfiguredError
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.migrate import migrate


def run(url: str, *statements: str) -> None:
    pool = make_engine(url, 1, 60)
    try:
        with single_statement(pool) as connection:
            for statement in statements:
                connection.exec_driver_sql(statement)
    finally:
        pool.dispose()


@pytest.fixture
def bare(server: Postgres) -> str:
    """The URL of an empty database."""
    run(server.url(), "DROP DATABASE IF EXISTS bare", "CREATE DATABASE bare")
    return make_url(server.url()).set(database="bare").render_as_string(False)


@pytest.mark.parametrize(
    ("statements", "said"),
    [
        (["CREATE TABLE points (x int)"], "table points of another program"),
        (["CREATE VIEW series AS SELECT 1 AS x"], "series of another program"),
        (
            [
                "CREATE TABLE alembic_version (version_num text)",
                "INSERT INTO alembic_version VALUES ('3f2a'), ('77bc')",
            ],
            "3f2a and 77bc: of another program",
        ),
        (["ALTER DATABASE bare SET search_path = ''"], "leads to no schema"),
        (["ALTER DATABASE bare SET search_path = 'none'"], "leads to no schema"),
        (
            [
                "DO $$ BEGIN CREATE ROLE guest LOGIN PASSWORD 'g'; EXCEPTION WHEN duplicate_object THEN NULL; END $$",
                "REVOKE CREATE ON SCHEMA public FROM PUBLIC",
            ],
            "may not create tables in schema public",
        ),
    ],
)
def test_what_is_in_the_way_is_told_and_nothing_made(bare: str, statements: list[str], said: str) -> None:
    run(bare, *statements)
    guest = make_url(bare).set(username="guest", password="g").render_as_string(False)
    with pytest.raises(MisconfiguredError, match=said) as told:
        migrate(guest if "guest" in statements[0] else bare)
    assert "\n" not in str(told.value)
    run(bare, "SELECT 1 / (SELECT CASE WHEN to_regclass('public.ledger') IS NULL THEN 1 ELSE 0 END)")


@pytest.mark.parametrize("encoding", ["LATIN1", "SQL_ASCII"])
def test_a_database_that_is_not_utf8_is_refused(server: Postgres, encoding: str) -> None:
    name = encoding.lower()
    run(server.url(), f"CREATE DATABASE {name} ENCODING '{encoding}' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0")
    with pytest.raises(MisconfiguredError, match=f"encoding is {encoding}"):
        migrate(make_url(server.url()).set(database=name).render_as_string(False))


def test_a_schema_of_its_own_will_do(bare: str) -> None:
    run(
        bare,
        "CREATE TABLE points (x int)",
        "CREATE SCHEMA tidemark",
        "ALTER DATABASE bare SET search_path = tidemark, public",
    )
    migrate(bare)
    assert migrate(bare)[0] == migrate(bare)[1]
    run(bare, "SELECT series_id FROM tidemark.points")


def test_timescaledb_in_a_schema_that_is_not_looked_in_is_told(server: Postgres, bare: str) -> None:
    run(bare, "CREATE SCHEMA extensions")
    try:
        run(bare, "CREATE EXTENSION timescaledb SCHEMA extensions")
    except MisconfiguredError:
        pytest.skip("this server has no TimescaleDB")
    with pytest.raises(MisconfiguredError, match="TimescaleDB's functions are in schema extensions"):
        migrate(bare)
    run(bare, "ALTER DATABASE bare SET search_path = public, extensions")
    migrate(bare)
    run(bare, "SELECT 1 / (SELECT count(*) FROM timescaledb_information.hypertables WHERE hypertable_name = 'points')")
