"""A database URL is understood, or refused in one sentence that shows nothing of it."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tidemark.errors import UsageError
from tidemark.local.postgres import Postgres
from tidemark.settings import STORE, read
from tidemark.store.connection import make_engine, single_statement
from tidemark.store.url import read_url

SECRET = "h0rse-battery"


@pytest.mark.parametrize(
    ("text", "user", "password", "host", "port", "database"),
    [
        ("postgres://u:p@h/d", "u", "p", "h", None, "d"),
        ("postgresql://u:p@h:6543/d\n", "u", "p", "h", 6543, "d"),
        (" postgresql+psycopg2://u:p@h/d ", "u", "p", "h", None, "d"),
        ("postgresql://u:p%40w%2F%25@h/d", "u", "p@w/%", "h", None, "d"),
        ("postgresql://u:p/w#x?y:z@h/d", "u", "p/w#x?y:z", "h", None, "d"),
        ("postgresql://u@h/d", "u", None, "h", None, "d"),
        ("postgresql://u:p@[::1]:5432/d", "u", "p", "::1", 5432, "d"),
        ("postgresql://u:p@/d?host=/var/run/postgresql", "u", "p", None, None, "d"),
        ("postgresql://u:p@%2Fvar%2Frun%2Fpostgresql/d", "u", "p", None, None, "d"),
        ("postgresql://h/d?user=u&password=p%26w", "u", "p&w", "h", None, "d"),
        ("postgresql:///d?host=h&port=7&user=u", "u", None, "h", 7, "d"),
        (
            "postgresql://u:p@ep-cool-1.eu-central-1.aws.neon.tech/d?sslmode=require&channel_binding=require",
            "u", "p", "ep-cool-1.eu-central-1.aws.neon.tech", None, "d",
        ),
        ("postgresql://u:p@h/d?target_session_attrs=read-write&connect_timeout=10&gssencmode=disable", "u", "p", "h", None, "d"),
        ("postgres://u.project:p@h.pooler.supabase.com:6543/d?pgbouncer=true", "u.project", "p", "h.pooler.supabase.com", 6543, "d"),
    ],
)  # fmt: skip
def test_what_people_have_is_understood(
    text: str, user: str, password: str | None, host: str | None, port: int | None, database: str
) -> None:
    url = read_url(text).url
    assert (url.username, url.password, url.host or None, url.port) == (user, password, host, port)
    assert url.database == database
    assert url.drivername == "postgresql+pg8000"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (f"postgresql://{SECRET}", "no user"),
        (f"postgresql://h/{SECRET}", "no user"),
        (f"postgresql://:{SECRET}@h/d", "no user"),
        (f"postgresql://u:{SECRET}@h", "no name of a database"),
        (f"postgresql://u:{SECRET}@h/", "no name of a database"),
        (f"postgresql://u:{SECRET}@/d", "no host"),
        (f"postgresql://u:x@{SECRET}@h/d", "%40 for @"),
        (f"postgresql://u:x@/{SECRET}@h/d", "%2F for /|cannot be read"),
        (f"postgresql://u:{SECRET}@h:port/d", "cannot be read"),
        (f"postgresql://u:{SECRET}@h:99999/d", "65535"),
        (f"postgresql://u:{SECRET}@h:0/d", "65535"),
        (f"postgresql://u:{SECRET}@h1,h2/d", "several hosts|cannot be read"),
        (f"postgresql://u:{SECRET}@h1:5432,h2:5432/d", "several hosts|cannot be read"),
        (f"mysql://u:{SECRET}@h/d", "no PostgreSQL"),
        (f"jdbc:postgresql://u:{SECRET}@h/d", "cannot be read|no PostgreSQL"),
        (SECRET, "cannot be read"),
        (f"postgresql://u:{SECRET}@h/d?sslmode={SECRET}", "sslmode is one of"),
        (f"postgresql://u:{SECRET}@h/d?{SECRET}=1", "unknown parameter"),
        (f"postgresql://u:{SECRET}@h/d?connect_timeout={SECRET}", "whole number"),
        (f"postgresql://u:{SECRET}@h/d?options={SECRET}", "of options"),
        (f"postgresql://u:{SECRET}@h/d?options=-c%20'{SECRET}", "of options"),
        (f"postgresql://u:x@h{SECRET} y/d", "host that is none|cannot be read"),
        (f"host=h user=u password={SECRET} dbname=d", "cannot be read"),
    ],
)
def test_anything_else_is_refused_and_not_shown(text: str, said: str) -> None:
    with pytest.raises(UsageError, match=said) as caught:
        make_engine(text, 1, 1)
    assert SECRET not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert caught.value.__cause__ is None


def test_options_are_stated_and_do_not_go_before_what_must_be(server: Postgres) -> None:
    url = f"{server.url()}?options=-c%20geqo_seed%3D0.5%20--DateStyle%3DSQL,DMY%20-cstatement_timeout%3D1"
    pool = make_engine(url, 1, 60)
    with single_statement(pool) as connection:
        shown = (
            "SELECT current_setting('geqo_seed'), current_setting('DateStyle'), current_setting('statement_timeout')"
        )
        assert connection.exec_driver_sql(shown).one() == ("0.5", "ISO, MDY", "1min")
    pool.dispose()


def test_a_line_feed_at_the_end_of_a_setting_is_left_out(server: Postgres, tmp_path: Path) -> None:
    environment = {"TIDEMARK_DATABASE_URL": server.url() + "\n"}
    assert read(STORE, {}, environment).database_url == server.url()


def test_a_command_ends_with_2_and_a_sentence() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "tidemark", "migrate", f"--database_url=postgresql://localhost/{SECRET}"],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 2
    assert "no user" in done.stderr
    assert SECRET not in done.stderr + done.stdout
    assert len(done.stderr.strip().splitlines()) == 1
