"""A dataset holds the rollups of one database: whatever else is pointed at it is refused, with both names."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from google.api_core.exceptions import PreconditionFailed

from tidemark import cli
from tidemark.errors import MisconfiguredError
from tidemark.local.stack import DATASET, Stack
from tidemark.store.connection import make_engine, transaction
from tidemark.store.identity import identity
from tidemark.store.migrate import migrate
from tidemark.warehouse import owner
from tidemark.warehouse.clients import rest
from tidemark.warehouse.tables import ensure
from tidemark.wire.block import SeriesKey
from tidemark.wire.identity import StoreIdentity
from tidemark.wire.summary import ROLLUP
from transforms import resources
from transforms.resources import Store, Warehouse
from transforms.write_rollups import append

FROM, TO = "--from=2026-01-01T00:00:00Z", "--to=2026-01-02T00:00:00Z"
OTHER = StoreIdentity("f" * 32, "another")


@pytest.fixture(scope="module")
def second(stack: Stack) -> str:
    """The URL of another database of the same server."""
    first = stack.environment()["TIDEMARK_DATABASE_URL"]
    pool = make_engine(first, 1, 60)
    with pool.connect() as connection:
        connection.execution_options(isolation_level="AUTOCOMMIT").exec_driver_sql("CREATE DATABASE second")
    pool.dispose()
    url = re.sub(r"/tidemark$", "/second", first)
    migrate(url)
    return url


@pytest.fixture(autouse=True)
def environment(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, str]]:
    found = stack.environment()
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    client = rest(DATASET)
    table = client.get_table(f"{DATASET}.rollups")
    table.labels = {}
    client.update_table(table, ["labels"])
    yield found
    resources.close()


def store(url: str) -> StoreIdentity:
    pool = make_engine(url, 1, 60)
    try:
        with transaction(pool) as connection:
            return identity(connection)
    finally:
        pool.dispose()


def rows_there() -> int:
    return int(next(iter(rest(DATASET).query_and_wait(f"SELECT count(*) FROM `{DATASET}.rollups`")))[0])


def rollup() -> np.ndarray:
    rows = np.zeros(1, ROLLUP)
    rows["tier_s"], rows["window_start"], rows["count"], rows["revision"] = 60, 1_767_225_600_000_000, 1, 7
    return rows


def test_each_database_has_an_identity_that_stays(environment: dict[str, str], second: str) -> None:
    first = store(environment["TIDEMARK_DATABASE_URL"])
    assert re.fullmatch("[0-9a-f]{32}", first.id)
    assert first.name == "tidemark"
    assert store(second).id != first.id
    migrate(second)
    assert store(second) == store(second)


def test_the_first_that_writes_has_it_and_everything_of_the_other_is_refused(
    environment: dict[str, str], second: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    assert cli.main(["rebuild", FROM, TO]) == 0
    assert cli.main(["verify"]) == 0
    capsys.readouterr()
    before = rows_there()
    options = [f"--database_url={second}"]
    refused = {
        "rebuild": (cli.main(["rebuild", FROM, TO, *options]), 1),
        "verify": (cli.main(["verify", *options]), 2),
        "preflight": (cli.main(["preflight", *options]), 1),
    }
    told = capsys.readouterr()
    assert {name: status for name, (status, wanted) in refused.items() if status != wanted} == {}
    said = told.out + told.err
    assert said.count("holds the rollups of the database 'tidemark'") == 3
    assert said.count("this is the database 'second'") == 3
    assert f"bq update --set_label tidemark_store:{store(second).id} tidemark-local:tidemark.rollups" in said
    assert rows_there() == before
    program = [sys.executable, "-m", "pipelines.ingest", *options]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "holds the rollups of the database 'tidemark'" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_a_worker_whose_secret_leads_elsewhere_appends_nothing(
    environment: dict[str, str], second: str, tmp_path: Path
) -> None:
    secret = tmp_path / "url"
    secret.write_text(environment["TIDEMARK_DATABASE_URL"])
    at = Store(f"file:{secret}", 2, (60, 3600, 86_400), 0.0, 0.0)
    warehouse = Warehouse(DATASET, environment["TIDEMARK_BIGQUERY_STORAGE_ENDPOINT"])
    client = rest(DATASET)
    owner.claim(client, DATASET, store(environment["TIDEMARK_DATABASE_URL"]))
    ids = at.series().ids([SeriesKey("p", "s", "m")])
    rows = rollup()
    rows["series_id"] = ids[0]
    append(at, warehouse, rows, "settled")
    before = rows_there()
    assert before == 1
    resources.close()
    secret.write_text(second)
    rows["series_id"] = at.series().ids([SeriesKey("p", "s", "m")])[0]
    with pytest.raises(MisconfiguredError, match="holds the rollups"):
        append(at, warehouse, rows, "settled")
    assert rows_there() == before


def test_labels_of_others_stay_and_whoever_moves_the_dataset_on_purpose_may(second: str) -> None:
    client = rest(DATASET)
    table = client.get_table(f"{DATASET}.rollups")
    table.labels = {"team": "video"}
    client.update_table(table, ["labels"])
    assert owner.check(client, DATASET, store(second)) is False, "nobody's, and looking changes nothing"
    owner.claim(client, DATASET, OTHER)
    table = client.get_table(f"{DATASET}.rollups")
    assert table.labels == {"team": "video", "tidemark_store": OTHER.id, "tidemark_database": "another"}
    with pytest.raises(MisconfiguredError):
        owner.claim(client, DATASET, store(second))
    table.labels = {**table.labels, "tidemark_store": store(second).id}
    client.update_table(table, ["labels"])
    owner.claim(client, DATASET, store(second))


def test_of_two_that_claim_it_at_once_one_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    client = rest(DATASET)
    update = client.update_table

    def beaten(table: Any, fields: list[str], **options: Any) -> Any:
        """BigQuery refuses to change what was changed since it was read; the stand-in would not."""
        monkeypatch.undo()
        winner = client.get_table(f"{DATASET}.rollups")
        winner.labels = {"tidemark_store": OTHER.id, "tidemark_database": OTHER.name}
        update(winner, ["labels"])
        raise PreconditionFailed("etag")

    monkeypatch.setattr(client, "update_table", beaten)
    with pytest.raises(MisconfiguredError, match="another"):
        owner.claim(client, DATASET, StoreIdentity("0" * 32, "mine"))


def test_names_fit_into_labels_and_a_missing_table_is_nobodys(environment: dict[str, str]) -> None:
    client = rest("tidemark-local.fresh")
    assert owner.check(client, "tidemark-local.fresh", OTHER) is False
    with pytest.raises(MisconfiguredError):
        owner.claim(client, "tidemark-local.fresh", OTHER)
    ensure(client, "tidemark-local.fresh", "US")
    owner.claim(client, "tidemark-local.fresh", StoreIdentity("1" * 32, "Übung, 2 " + "x" * 100))
    label = client.get_table("tidemark-local.fresh.rollups").labels["tidemark_database"]
    assert re.fullmatch("[a-z0-9_-]{1,63}", label)
