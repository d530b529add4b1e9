"""The roles of docs/operations do their whole job, and nothing else."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import sqlalchemy
from sqlalchemy import Engine

from tests.store.faults import START_US, block, writer
from tidemark import cli
from tidemark.errors import MisconfiguredError
from tidemark.local.postgres import Postgres, find
from tidemark.operate.maintain import maintain
from tidemark.settings import AGREED, MAINTAIN, read
from tidemark.store import dead_letters, imports, letters
from tidemark.store.agreement import agreed
from tidemark.store.completeness import completeness_of
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import beat
from tidemark.store.letters import Chosen
from tidemark.store.migrate import migrate
from tidemark.store.read import Reader
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.settle import Settler
from tidemark.wire.block import DeadLetter, SeriesKey
from tidemark.wire.reasons import Reason

DOCS = Path(__file__).parents[2] / "docs" / "operations"
TIERS_S = (60, 3600, 86_400)
LOADED = [SeriesKey("loaded", f"s{i}", "m") for i in range(10)]
ROLES = ("owner", "writer", "operator", "redriver", "reader")


@pytest.fixture(scope="module")
def urls(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    server = Postgres(Path(tmp_path_factory.mktemp("roles")))
    server.start()
    psql = find().directory / "psql"
    if not psql.exists():
        pytest.skip("this server comes without psql")

    def run(url: str, file: str) -> None:
        variables = [argument for role in ROLES for argument in ("-v", f"{role}_password={role}-secret")]
        subprocess.run([psql, url, "-qv", "ON_ERROR_STOP=1", *variables, "-f", DOCS / file], check=True)

    base = sqlalchemy.make_url(server.url())
    run(server.url(), "roles.sql")
    found = {
        role: base.set(username=f"tidemark_{role}", password=f"{role}-secret").render_as_string(False) for role in ROLES
    }
    migrate(found["owner"])
    run(found["owner"], "grants.sql")
    run(found["owner"], "grants.sql")
    yield found
    server.stop()
    server.purge()


@pytest.fixture
def as_role(urls: dict[str, str]) -> Iterator[Callable[[str], Engine]]:
    made: list[Engine] = []

    def connect(role: str) -> Engine:
        made.append(make_engine(urls[role], 2, 10))
        return made[-1]

    yield connect
    for one in made:
        one.dispose()


def settle(pool: Engine) -> int:
    settler = Settler(pool, TIERS_S, 0)
    rows = 0
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)
            rows += len(settled.rows)
    return rows


def test_each_does_its_job(urls: dict[str, str], as_role: Callable[[str], Engine]) -> None:
    made = writer(as_role("writer"))
    made.write(block(0))
    made.write(block(1))  # overlaps: staged and merged
    newer = block(1)
    newer.points["publish_time"] += 1
    assert made.write(newer).overwritten > 0
    assert settle(as_role("writer"))
    for written_us in (None, START_US):
        beat(as_role("writer"), "job", written_us, None, idle=False)
    reader = Reader(as_role("reader"), TIERS_S)
    found = reader.series("faults")
    assert len(found) == 10
    day = START_US // 86_400_000_000 * 86_400_000_000
    counts = reader.buckets(list(found), day, day + 86_400_000_000, 86_400, ["count"])["count"]
    assert counts.sum() == 1000
    operator = as_role("operator")
    assert Rebuild(operator, TIERS_S, START_US // 1_000_000, START_US // 1_000_000 + 1).mark() == 3
    assert letters.remove_of(operator, "nobody's", None) == 0
    assert len(letters.counts(as_role("reader"), Chosen(), [])) == 1
    assert sum(removed.points for removed in Deletion(operator, TIERS_S, [next(iter(found))], None, None).run()) == 100
    assert settle(as_role("writer"))
    assert reader.buckets(list(found), day, day + 86_400_000_000, 86_400, ["count"])["count"].sum() == 900
    values = agreed(as_role("writer"), read(AGREED, {}, environment={}), keep=True)
    assert values.tiers_s == TIERS_S
    found = completeness_of(as_role("reader"), "faults")
    assert found is not None
    assert (found.ingested_until, found.corrections) == (START_US, 3)
    with transaction(as_role("reader")) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM corrections WHERE is_count = 0").scalar_one() == 3
    with transaction(as_role("owner")) as connection:
        connection.exec_driver_sql("UPDATE corrections SET corrected_at = now() - interval '91 days'")
    done = maintain(
        urls["owner"], read(MAINTAIN, {"retention_days": "1"}, environment={}), START_US / 1e6 + 10 * 86_400
    )
    assert (done.points_removed, done.corrections_removed, done.failed) == (900, 3, {})


@pytest.mark.parametrize(
    ("role", "statement"),
    [
        ("writer", "DROP TABLE points"),
        ("writer", "TRUNCATE points"),
        ("writer", "DELETE FROM points"),
        ("writer", "UPDATE retention SET removed_before = now()"),
        ("writer", "UPDATE ledger SET received = 0"),
        ("writer", "DELETE FROM dead_letters"),
        ("writer", "UPDATE corrections SET was_count = 0"),
        ("writer", "DELETE FROM corrections"),
        ("writer", "DELETE FROM heartbeats"),
        ("writer", "TRUNCATE imports"),
        ("operator", "DELETE FROM imports"),
        ("redriver", "UPDATE imports SET done = '{}'"),
        ("writer", "CREATE TABLE mine (x int)"),
        ("operator", "TRUNCATE points"),
        ("operator", "UPDATE points SET value = 0"),
        ("operator", "DELETE FROM ledger"),
        ("redriver", "TRUNCATE dead_letters"),
        ("redriver", "UPDATE dead_letters SET data = ''"),
        ("redriver", "INSERT INTO dead_letters (message_id) VALUES ('mine')"),
        ("redriver", "DELETE FROM points"),
        ("redriver", "DELETE FROM marks"),
        ("redriver", "UPDATE ledger SET received = 0"),
        ("redriver", "UPDATE rollups SET count = 0"),
        ("redriver", "UPDATE settings SET horizon_s = 0"),
        ("redriver", "CREATE TABLE mine (x int)"),
        ("reader", "INSERT INTO marks (tier_s, window_from, window_to, ready_at) VALUES (60, now(), now(), now())"),
        ("reader", "CREATE TEMPORARY TABLE mine (x int)"),
        ("reader", "DELETE FROM points"),
        ("reader", "INSERT INTO heartbeats VALUES ('p', 'j', now(), true)"),
    ],
)
def test_and_nothing_else(as_role: Callable[[str], Engine], role: str, statement: str) -> None:
    with pytest.raises(MisconfiguredError, match="42501"), transaction(as_role(role)) as connection:
        connection.exec_driver_sql(statement)


def test_the_writer_loads_archives_and_begins_them_anew(as_role: Callable[[str], Engine]) -> None:
    with transaction(as_role("owner")) as connection:
        connection.exec_driver_sql("DELETE FROM settings")  # another test runs with others, and has moved the cut
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    pool = as_role("writer")
    assert imports.kept_from(pool) is None or isinstance(imports.kept_from(pool), int)
    for _ in range(2):
        part = imports.Importing.begin(writer(pool), "archive", 0, "fingerprint", 3600)
        for number in range(imports.GATHERED):
            part.write(replace(block(number), keys=LOADED), number, number + 1)
        part.finish(through=True)
        (found,) = imports.known(pool, ["archive"])
        assert (found.through, found.received) == (True, imports.GATHERED * 510 - 10)
        assert settle(pool)
        imports.forget(pool, "archive")
    assert imports.known(as_role("reader"), ["archive"]) == []
    with transaction(as_role("owner")) as connection:
        for table in ("points", "rollups"):
            connection.exec_driver_sql(
                f"DELETE FROM {table} t USING series WHERE series.series_id = t.series_id AND project = 'loaded'"
            )


def test_redriving_and_looking_need_no_more(
    urls: dict[str, str], as_role: Callable[[str], Engine], capsys: pytest.CaptureFixture[str]
) -> None:
    at = START_US // 1000
    bodies = [
        b'{"project":"redriven","source":"s","metric":"m","event_time":%d,"value":1}' % (at + n * 40_000_000)
        for n in range(4)
    ]
    some = [
        DeadLetter(f"r{number}", 0, data, {}, "decode", Reason.BAD_NAME, "told", START_US + 10**12)
        for number, data in enumerate([*bodies, bodies[0].replace(b"1}", b"2}"), b'{"project":"redriven"'])
    ]
    # too large, and of which the database refuses one
    whole = b"\n".join(body.replace(b'"s"', b'"t"') for body in bodies)
    some.append(
        DeadLetter("r9", -1, whole, {"project": "redriven"}, "decode", Reason.BAD_NAME, "told", START_US + 10**12)
    )
    rollup = b'{"project":"redriven","source":"s","metric":"m","tier_s":60,"window_start":0}'
    some.append(DeadLetter("ra", -1, rollup, {}, "write_rollups", Reason.REFUSED_BY_BIGQUERY, "no", START_US))
    dead_letters.keep(as_role("writer"), some)
    with transaction(as_role("owner")) as connection:
        connection.exec_driver_sql(
            "ALTER TABLE points ADD CONSTRAINT odd CHECK (value <> 1 OR event_time < to_timestamp("
            f"{at // 1000 + 100_000})) NOT VALID"
        )
    try:
        assert cli.main(["redrive", f"--database_url={urls['redriver']}", "--series_project=redriven", "--json"]) == 1
    finally:
        with transaction(as_role("owner")) as connection:
            connection.exec_driver_sql("ALTER TABLE points DROP CONSTRAINT odd")
            left = connection.exec_driver_sql("DELETE FROM dead_letters WHERE project = 'redriven'").rowcount
            connection.exec_driver_sql(
                "DELETE FROM points USING series WHERE series.series_id = points.series_id AND project = 'redriven'"
            )
            connection.exec_driver_sql("DELETE FROM marks")
    found = json.loads(capsys.readouterr().out)
    assert (found["letters"], found["points"], found["still"]) == (5, 7, 3)
    assert left == 3
    for command in (["count"], ["list"], ["list", "--json"]):
        assert cli.main(["dead-letters", *command, f"--database_url={urls['reader']}"]) == 0


def test_the_reader_can_ask_what_the_runbook_asks(as_role: Callable[[str], Engine]) -> None:
    text = (DOCS / "runbook.md").read_text()
    blocks = re.findall(r"^ {7}SELECT .+?;$", text, re.MULTILINE | re.DOTALL)
    assert (len(blocks), len(re.findall("SELECT", text))) == (5, 5), "a statement in another form would not be tried"
    with as_role("writer").connect() as busy:
        busy.exec_driver_sql("SELECT 'of another role'")
        with transaction(as_role("reader")) as connection:
            for statement in blocks:
                connection.exec_driver_sql(statement.replace("%", "%%"))
            seen = connection.exec_driver_sql("SELECT query FROM pg_stat_activity WHERE usename = 'tidemark_writer'")
            assert any("of another role" in query for query in seen.scalars())


def test_a_dead_letter_tells_its_project(as_role: Callable[[str], Engine]) -> None:
    letters = [
        DeadLetter(f"m{number}", -1, data, {}, "decode", Reason.WRONG_SHAPE, "told", START_US)
        for number, data in enumerate((b'{"project" : "cams", "x": 1}', b"\x28\xb5\x2f\xfd", b"[]"))
    ]
    dead_letters.keep(as_role("writer"), letters)
    text = (DOCS / "runbook.md").read_text()
    (statement,) = re.findall(r"^ {7}(SELECT reason.+?;)$", text, re.MULTILINE | re.DOTALL)
    with transaction(as_role("reader")) as connection:
        rows = connection.exec_driver_sql(statement.replace("%", "%%")).all()
    assert sorted((row.reason, row.project or "", row.count) for row in rows) == [
        ("wrong_shape", "", 2),
        ("wrong_shape", "cams", 1),
    ]
