"""Settings that must agree are kept in the store: who is not told takes them from there, who is told otherwise is refused."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from sqlalchemy import Engine

from tests.store.faults import TABLES
from tests.waiting import eventually
from tidemark import cli
from tidemark.errors import MisconfiguredError, UsageError
from tidemark.local.postgres import Postgres
from tidemark.operate.compare_store import check_rollups
from tidemark.operate.report import Report
from tidemark.settings import INGEST, VERIFY, read
from tidemark.store.agreement import Agreement, agreed, kept
from tidemark.store.change import change
from tidemark.store.connection import make_engine, single_statement, transaction
from tidemark.store.fold import Range
from tidemark.store.housekeeping import Housekeeping
from tidemark.store.migrate import migrate
from tidemark.store.owing import Policy
from tidemark.store.rebuild import Rebuild
from tidemark.store.remove import Deletion
from tidemark.store.series import SeriesCache
from tidemark.store.settle import Settler
from tidemark.store.write import Writer
from tidemark.wire.block import Block, SeriesKey
from tidemark.wire.summary import POINT

DAY_S = 86_400
START_S = 1_767_225_600
FIRST = Agreement((60, 3600, DAY_S), 120.0, 30.0, False)
KEY = SeriesKey("shared", "s", "m")
Command = Callable[..., tuple[int, str, str]]


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Postgres]:
    made = Postgres(Path(tmp_path_factory.mktemp("postgres")))
    made.start()
    migrate(made.url())
    yield made
    made.stop()
    made.purge()


@pytest.fixture
def pool(server: Postgres) -> Iterator[Engine]:
    made = make_engine(server.url(), 4, 60)
    with transaction(made) as connection:
        connection.exec_driver_sql(f"TRUNCATE {TABLES}, settings")
        connection.exec_driver_sql("UPDATE retention SET removed_before = '-infinity'")
    yield made
    made.dispose()


@pytest.fixture
def command(server: Postgres, capsys: pytest.CaptureFixture[str]) -> Command:
    def run(*arguments: str) -> tuple[int, str, str]:
        status = cli.main([arguments[0], f"--database_url={server.url()}", *arguments[1:]])
        said = capsys.readouterr()
        return status, said.out, said.err

    return run


def values(group: tuple = INGEST, **told: str) -> object:
    required = {"subscription": "projects/p/subscriptions/s", "rollup_dataset": "proj.d"}
    return read(group, {**required, **told}, environment={})


def keep(pool: Engine, **told: str) -> None:
    agreed(pool, values(**told), keep=True)  # type: ignore[arg-type]


def store(pool: Engine, settings: Agreement = FIRST, number: int = 300, value: float = 1.0) -> None:
    policy = Policy(settings.tiers_s[0], settings.horizon_s, settings.debounce_s)
    Writer(pool, SeriesCache(pool), policy).write(block(number, value))


def block(number: int, value: float) -> Block:
    points = np.empty(number, POINT)
    points["series_id"] = 0
    points["event_time"] = (START_S + np.arange(number) * 97) * 1_000_000
    points["publish_time"] = (START_S + 40 * DAY_S + value) * 1_000_000
    points["value"] = value + np.arange(number)
    return Block([KEY], points)


def settle(pool: Engine, settings: Agreement = FIRST) -> int:
    settler, rows = Settler(pool, settings.tiers_s, settings.horizon_s, settings.quantiles), 0
    while found := list(settler.due(everything=True)):
        for settled in found:
            settler.forget(settled.mark_ids)
            rows += len(settled.rows)
    return rows


def right(pool: Engine, settings: Agreement) -> None:
    """Every rollup of every tier follows from the points, and nothing is owed."""
    report = Report()
    with transaction(pool) as connection:
        for level in range(len(settings.tiers_s)):
            within = Range(START_S, START_S + 2 * DAY_S)
            check_rollups(connection, report, settings.tiers_s, level, within, quantiles=settings.quantiles)
        tiers = dict(connection.exec_driver_sql("SELECT tier_s, sum(count)::int FROM rollups GROUP BY 1").all())  # type: ignore[arg-type]
        owed = connection.exec_driver_sql("SELECT count(*) FROM marks WHERE NOT closing").scalar_one()
        points = connection.exec_driver_sql("SELECT count(*) FROM points").scalar_one()
    assert (report.rollups_differ, report.examples, owed) == (0, [], 0)
    assert {tier: tiers[tier] for tier in settings.tiers_s} == dict.fromkeys(settings.tiers_s, points)


def test_the_first_program_keeps_its_own_and_others_take_them(pool: Engine) -> None:
    assert agreed(pool, values(VERIFY), keep=False).tiers_s == (60, 3600, DAY_S)  # type: ignore[arg-type]
    with single_statement(pool) as connection:
        assert kept(connection) is None, "only who stores points keeps them"
    keep(pool, tiers_s="10,60", horizon_s="7.5", quantiles="true")
    found = agreed(pool, values(VERIFY), keep=False)  # type: ignore[arg-type]
    assert (found.tiers_s, found.horizon_s, found.quantiles) == ((10, 60), 7.5, True)
    assert agreed(pool, values(tiers_s="10,60"), keep=True).debounce_s == 30  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("told", "said"),
    [
        ({"tiers_s": "60,3600"}, "--tiers_s is 60,3600, and the programs of this store run with 60,3600,86400"),
        ({"horizon_s": "60"}, "--horizon_s is 60, and the programs of this store run with 120"),
        ({"debounce_s": "0.5"}, "--debounce_s is 0.5, and"),
        ({"quantiles": "true"}, "--quantiles is true, and the programs of this store run with false"),
    ],
)
def test_who_is_told_otherwise_is_refused_with_both_and_the_way(pool: Engine, told: dict[str, str], said: str) -> None:
    keep(pool)
    with pytest.raises(UsageError) as caught:
        agreed(pool, values(**told), keep=True)  # type: ignore[arg-type]
    assert said in str(caught.value)
    assert "`tidemark settings`" in str(caught.value)


def test_of_two_that_come_first_at_once_one_is_kept(pool: Engine) -> None:
    barrier, refused = threading.Barrier(2), []

    def start(horizon_s: str) -> None:
        barrier.wait()
        try:
            keep(pool, horizon_s=horizon_s)
        except UsageError:
            refused.append(horizon_s)

    for _ in range(10):
        with transaction(pool) as connection:
            connection.exec_driver_sql("TRUNCATE settings")
        refused.clear()
        threads = [threading.Thread(target=start, args=(text,)) for text in ("60", "90")]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        with single_statement(pool) as connection:
            found = kept(connection)
        assert found is not None
        assert [float(text) for text in refused] == [150 - found.horizon_s]


def test_commands_take_them_and_refuse_others(pool: Engine, command: Command) -> None:
    keep(pool, tiers_s="60,3600", horizon_s="0", debounce_s="0")
    settings = Agreement((60, 3600), 0.0, 0.0, False)
    store(pool, settings)
    settle(pool, settings)
    for arguments in (
        ("verify", "--rollup_dataset=proj.d", "--tiers_s=60,86400"),
        ("delete", "--series_project=shared", "--yes", "--tiers_s=3600"),
        ("rebuild", "--from=2026-01-01T00:00:00Z", "--to=2026-01-02T00:00:00Z", "--tiers_s=10,60"),
        ("maintain", "--tiers_s=60"),
    ):
        status, out, err = command(*arguments)
        assert status == 2, arguments
        assert "the programs of this store run with 60,3600" in out + err
    right(pool, settings)
    assert command("rebuild", "--from=2026-01-01T00:00:00Z", "--to=2026-01-02T00:00:00Z")[0] == 0
    with single_statement(pool) as connection:
        assert set(connection.exec_driver_sql("SELECT tier_s FROM marks WHERE NOT closing").scalars()) == {60, 3600}
    settle(pool, settings)
    assert command("delete", "--series_project=shared", "--yes")[0] == 0
    settle(pool, settings)
    with single_statement(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rollups WHERE count > 0").scalar_one() == 0


def test_what_runs_with_others_stores_and_settles_nothing(pool: Engine) -> None:
    keep(pool)
    store(pool)
    for told in (Agreement((10, 3600, DAY_S), 120, 30, False), Agreement((60,), 60, 30, False)):
        with pytest.raises(MisconfiguredError, match="were changed"):
            store(pool, told, value=2.0)
    for told in (Agreement((60, DAY_S), 120, 30, False), Agreement((60, 3600, DAY_S), 120, 30, True)):
        with pytest.raises(MisconfiguredError, match="were changed"):
            settle(pool, told)
    with single_statement(pool) as connection:
        assert connection.exec_driver_sql("SELECT count(*) FROM rollups").scalar_one() == 0
        assert connection.exec_driver_sql("SELECT max(value) FROM points").scalar_one() == 300
    settle(pool)
    right(pool, FIRST)


@pytest.mark.parametrize(
    "new",
    [
        Agreement((60, 600, 3600, DAY_S), 120.0, 30.0, False),
        Agreement((60, DAY_S), 120.0, 30.0, False),
        Agreement((60, 3600, DAY_S), 120.0, 30.0, True),
        Agreement((10, 60, 3600), 0.0, 5.0, False),
        Agreement((300, DAY_S), 120.0, 30.0, True),
    ],
    ids=str,
)
def test_a_change_owes_what_follows_from_it(pool: Engine, command: Command, new: Agreement) -> None:
    keep(pool)
    store(pool)
    settle(pool)
    store(pool, number=200, value=5.0)  # and owed in the old tiers
    flags = [f"--{name}={text}" for name, text in new.texts().items()]
    status, out, _ = command("settings", *flags)
    assert (status, f"With --yes they become {new}" in out) == (0, True)
    with single_statement(pool) as connection:
        assert kept(connection) == FIRST
    status, out, _ = command("settings", *flags, "--yes", "--json")
    assert (status, json.loads(out)["settings"]) == (0, new.texts())
    assert json.loads(command("settings", "--json")[1])["settings"] == new.texts()
    with pytest.raises(MisconfiguredError):
        settle(pool, FIRST)
    settle(pool, new)
    right(pool, new)
    with single_statement(pool) as connection:
        assert set(connection.exec_driver_sql("SELECT tier_s FROM marks").scalars()) <= set(new.tiers_s)


def test_a_block_that_is_being_stored_while_they_change_is_in_the_right_windows(pool: Engine) -> None:
    keep(pool)
    writer, refused = Writer(pool, SeriesCache(pool), Policy(60, 120, 30)), []
    written = threading.Event()

    def write() -> None:
        try:
            for value in range(2, 10_000):
                writer.write(block(50, float(value)))
                written.set()
        except MisconfiguredError as error:
            refused.append(str(error))

    thread = threading.Thread(target=write)
    thread.start()
    assert written.wait(30)
    new = Agreement((10, 60), 120.0, 30.0, False)
    change(pool, new)
    thread.join(60)
    assert refused
    settle(pool, new)
    right(pool, new)


def old_rebuild(pool: Engine) -> None:
    Rebuild(pool, FIRST.tiers_s, START_S, START_S + DAY_S).mark()


def old_hiding(pool: Engine) -> None:
    Rebuild(pool, FIRST.tiers_s, START_S, START_S + DAY_S).hide([(tuple(KEY), 3600, START_S, 1 << 61)])


def old_deletion(pool: Engine) -> None:
    with single_statement(pool) as connection:
        ids = connection.exec_driver_sql("SELECT series_id FROM series").scalars().all()
    list(Deletion(pool, FIRST.tiers_s, list(ids), None, None).run())


@pytest.mark.parametrize("work", [old_rebuild, old_hiding, old_deletion])
def test_a_command_that_they_change_under_leaves_nothing_that_nobody_takes(
    pool: Engine, work: Callable[[Engine], None]
) -> None:
    keep(pool)
    store(pool)
    settle(pool)
    new = Agreement((10, 60), 120.0, 30.0, False)
    change(pool, new)
    with pytest.raises(MisconfiguredError, match="were changed"):
        work(pool)
    settle(pool, new)
    right(pool, new)
    with single_statement(pool) as connection:
        assert set(connection.exec_driver_sql("SELECT tier_s FROM marks").scalars()) <= set(new.tiers_s)


@pytest.mark.parametrize(
    "new",
    [Agreement((60, DAY_S), 120.0, 30.0, False), Agreement((60, 3600, DAY_S), 120.0, 30.0, True)],
    ids=str,
)
def test_what_a_settler_has_read_when_they_change_is_settled_again(pool: Engine, new: Agreement) -> None:
    keep(pool)
    store(pool)
    settle(pool)
    store(pool, value=5.0)
    refused: list[MisconfiguredError] = []

    def work() -> None:
        try:
            settle(pool)
        except MisconfiguredError as error:
            refused.append(error)

    thread = threading.Thread(target=work)

    def waits() -> bool:
        with single_statement(pool) as own:
            found = "SELECT count(*) FROM pg_stat_activity WHERE wait_event_type = 'Lock' AND state = 'active'"
            return bool(own.exec_driver_sql(found).scalar_one())

    with transaction(pool) as connection:
        connection.exec_driver_sql("SELECT FROM rollups FOR UPDATE")
        thread.start()
        eventually(waits)  # its statement has its snapshot
        change(pool, new)
    thread.join(60)
    assert "were changed" in str(refused[0])
    settle(pool, new)
    right(pool, new)


def test_what_is_owed_in_a_tier_that_goes_is_owed_in_the_one_above(pool: Engine) -> None:
    keep(pool)
    store(pool)
    settle(pool)
    store(pool, value=5.0)
    settler = Settler(pool, FIRST.tiers_s, FIRST.horizon_s)
    first = next(due := settler.due(everything=True))
    due.close()
    settler.forget(first.mark_ids)
    owed = "SELECT DISTINCT tier_s FROM marks WHERE NOT closing"
    with single_statement(pool) as connection:
        assert connection.exec_driver_sql(owed).scalars().all() == [3600]
    new = Agreement((60, DAY_S), 120.0, 30.0, False)
    change(pool, new)
    with single_statement(pool) as connection:
        assert connection.exec_driver_sql(owed).scalars().all() == [DAY_S]
    settle(pool, new)
    right(pool, new)


@pytest.mark.parametrize(
    ("ran_with", "told"),
    [
        (Agreement((10, 60), 120.0, 30.0, False), {"tiers_s": "10,60"}),
        (Agreement((60,), 120.0, 30.0, False), {"tiers_s": "60"}),
        (Agreement((60, 3600, DAY_S), 120.0, 30.0, True), {"quantiles": "true"}),
    ],
    ids=str,
)
def test_a_store_of_before_is_not_given_the_defaults_over_what_it_ran_with(
    pool: Engine, command: Command, ran_with: Agreement, told: dict[str, str]
) -> None:
    store(pool, ran_with)
    settle(pool, ran_with)
    name = next(iter(told))
    for keeps in (False, True):
        with pytest.raises(UsageError, match=f"start ingest once with .*--{name}"):
            agreed(pool, values(), keep=keeps)  # type: ignore[arg-type]
    status, out, err = command("verify", "--rollup_dataset=proj.d")
    assert (status, f"--{name}" in out + err) == (2, True)
    with single_statement(pool) as connection:
        assert kept(connection) is None
    keep(pool, **told)
    with single_statement(pool) as connection:
        assert kept(connection) == ran_with
    right(pool, ran_with)


def test_a_store_of_before_that_ran_with_the_defaults_keeps_them(pool: Engine) -> None:
    store(pool)
    settle(pool)
    keep(pool)
    with single_statement(pool) as connection:
        assert kept(connection) == FIRST


def test_the_smallest_tier_cannot_become_one_whose_points_are_gone(pool: Engine, command: Command) -> None:
    keep(pool)
    store(pool)
    settle(pool)
    Housekeeping(pool).move_cut(START_S + DAY_S, DAY_S)
    status, _, err = command("settings", "--tiers_s=10,60", "--yes")
    assert (status, "cannot begin with 10" in err) == (2, True)
    assert command("settings", "--tiers_s=3600,86400", "--yes")[0] == 0
    with single_statement(pool) as connection:
        counts = "SELECT tier_s, sum(count)::int FROM rollups GROUP BY 1 ORDER BY 1"
        before = connection.exec_driver_sql(counts).all()
    settle(pool, Agreement((3600, DAY_S), 120.0, 30.0, False))
    with single_statement(pool) as connection:
        assert connection.exec_driver_sql(counts).all() == before, "what retention took stays in the rollups"


@pytest.mark.parametrize("flag", ["--tiers_s=60,90", "--horizon_s=-1", "--quantiles=perhaps", "--tiers_s="])
def test_a_wrong_value_is_a_sentence(pool: Engine, command: Command, flag: str) -> None:
    status, _, err = command("settings", flag, "--yes")
    assert status == 2
    assert len(err.strip().splitlines()) == 1
