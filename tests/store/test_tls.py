"""TLS to a real server, as libpq's parameters ask for it."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.certificates import Authority, pem
from tests.integration.points import query
from tidemark.errors import UnavailableError, UsageError
from tidemark.local.postgres import Postgres
from tidemark.store.connection import make_engine, transaction


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Postgres, Path]]:
    directory = tmp_path_factory.mktemp("tls")
    made = Postgres(directory / "server")
    made.start()
    without_tls = query(made.url(), "SHOW ssl_library") == [("",)]
    made.stop()
    if without_tls:
        pytest.skip("this server is built without TLS")
    ours, other = Authority("ours"), Authority("other")
    data = made.data()
    ours.issue("localhost", data / "server.crt", data / "server.key")
    for name in ("server.crt", "server.key"):
        os.chown(data / name, data.stat().st_uid, data.stat().st_gid)
        (data / name).chmod(0o600)
    with (data / "postgresql.conf").open("a") as file:
        file.write("\nssl = on\n")
    (directory / "ours.pem").write_bytes(pem(ours.certificate))
    (directory / "other.pem").write_bytes(pem(other.certificate))
    made.start()
    yield made, directory
    made.stop()
    made.purge()


def encrypted(url: str) -> bool:
    pool = make_engine(url, 1, 5)
    try:
        with transaction(pool) as connection:
            found = connection.exec_driver_sql("SELECT ssl FROM pg_stat_ssl WHERE pid = pg_backend_pid()").scalar_one()
    finally:
        pool.dispose()
    return bool(found)


def test_modes(server: tuple[Postgres, Path]) -> None:
    made, directory = server
    url, ca = made.url(), f"sslrootcert={directory / 'ours.pem'}"
    by_name = url.replace("127.0.0.1", "localhost")
    assert encrypted(url), "as libpq: encrypted where the server can"
    assert not encrypted(f"{url}?sslmode=disable")
    assert encrypted(f"{url}?sslmode=require")
    assert encrypted(f"{url}?sslmode=require&{ca}")
    assert encrypted(f"{url}?sslmode=verify-ca&{ca}")
    assert encrypted(f"{by_name}?sslmode=verify-full&{ca}")


@pytest.mark.parametrize("mode", ["require", "verify-ca", "verify-full"])
def test_an_unknown_authority_is_refused(server: tuple[Postgres, Path], mode: str) -> None:
    made, directory = server
    url = made.url().replace("127.0.0.1", "localhost")
    with pytest.raises(UnavailableError, match="certificate verify failed"):
        encrypted(f"{url}?sslmode={mode}&sslrootcert={directory / 'other.pem'}")


def test_another_host_name_is_refused(server: tuple[Postgres, Path]) -> None:
    made, directory = server
    with pytest.raises(UnavailableError, match="certificate"):
        encrypted(f"{made.url()}?sslmode=verify-full&sslrootcert={directory / 'ours.pem'}")


@pytest.mark.parametrize(
    ("parameters", "text"),
    [
        ("sslmode=always", "sslmode is one of"),
        ("sslmode=verify-full&sslrootcert=/nowhere.pem", "cannot be used"),
        ("sslmod=require", "unknown parameter 'sslmod'"),
    ],
)
def test_a_wrong_parameter_is_one_sentence_without_the_password(parameters: str, text: str) -> None:
    with pytest.raises(UsageError, match=text) as caught:
        make_engine(f"postgresql://u:h0rse-battery@h:5432/d?{parameters}", 1, 1)
    assert "h0rse-battery" not in str(caught.value)
    assert "\n" not in str(caught.value)
