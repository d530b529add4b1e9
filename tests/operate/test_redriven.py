"""What was redriven is settled, and `tidemark verify` proves it, whatever was in the way."""

from __future__ import annotations

import json
import random
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import pytest

from tests.operate.letters import AT_MS, NOW_US, TIERS_S, Store, point, redrive, run, text
from tests.operate.product import Product
from tidemark.local.stack import DATASET, Stack
from tidemark.store.settle import Settler
from tidemark.warehouse.clients import rest
from tidemark.warehouse.tables import ensure
from tidemark.wire.block import Columns, DeadLetter
from tidemark.wire.limits import Limits
from tidemark.wire.reasons import Reason

DAY_MS = 86_400_000


@pytest.fixture
def product(stack: Stack, monkeypatch: pytest.MonkeyPatch) -> Iterator[Product]:
    environment = stack.environment()
    for name in ("BIGQUERY_EMULATOR_HOST", "TIDEMARK_DATABASE_URL", "TIDEMARK_ROLLUP_DATASET"):
        monkeypatch.setenv(name, environment[name])
    made = Product(environment)
    made.damage("TRUNCATE points, rollups, marks, ledger, dead_letters, corrections")
    made.damage("UPDATE retention SET removed_before = '-infinity'")
    client = rest(DATASET)
    client.delete_dataset(DATASET, delete_contents=True, not_found_ok=True)
    ensure(client, DATASET, "US")
    yield made
    made.rollups.close()
    made.pool.dispose()


def verified(product: Product, capsys: Any, points: int) -> None:
    """Settle what is owed, and prove all of it by the command."""
    product.settle(everything=True)
    status, said = run(capsys, "verify", "--grace=0", "--json")
    told = json.loads(said)
    assert (status, told["verify"]) == (0, "PASS"), told
    assert told["points"] == points
    assert told["rollups_pending"] == 0


def test_verify_passes_after_letters_of_every_kind(product: Product, capsys: Any) -> None:
    store = Store(product.pool)
    store.take(text(*(point(source="gone", event_time=AT_MS - n * 1000) for n in range(100))), Limits())
    store.take(text(*(point(source="kept", event_time=AT_MS - n * DAY_MS) for n in range(40))), Limits())
    store.take(text(*(point(source="a very late one", event_time=AT_MS - n * DAY_MS // 2) for n in range(80))))
    store.take(text(*(point(source="gone", event_time=AT_MS - n * 500, value=3) for n in range(50)), point(value="x")))
    product.settle(everything=True)
    store.keep(
        DeadLetter("b", 3, text(point(source="gone", event_time=AT_MS - 7)), {}, "decode", Reason.BAD_NAME, "", NOW_US)
    )
    assert run(capsys, "delete", "--series_project=cams", "--source=gone", "--metric=fps", "--yes")[0] == 0
    assert run(capsys, "maintain", "--retention_days=20")[0] == 0
    product.settle(everything=True)
    cut = len(store.values())
    # some are older than retention and yet written, as the pipeline writes them without its --retention_days
    assert redrive(capsys, "--dry-run", "--retention_days=20")["still"] > 30
    assert redrive(capsys)["points"] == 80 + 1
    assert len(store.letters()) == 1
    assert store.balanced()
    verified(product, capsys, cut + 81)
    assert run(capsys, "maintain", "--retention_days=20")[0] == 0
    left = len(store.values())
    assert left < cut + 81
    verified(product, capsys, left)


def test_a_rollup_that_bigquery_refused_is_there_when_it_takes_it(product: Product, capsys: Any) -> None:
    store = Store(product.pool)
    store.take(text(point()), Limits())
    settler = Settler(product.pool, TIERS_S, 0)
    while found := list(settler.due(everything=True)):  # as if BigQuery had refused each of them
        for settled in found:
            for row in settled.rows:
                told = point(tier_s=int(row["tier_s"]), window_start=int(row["window_start"]), count=1)
                store.keep(
                    DeadLetter(
                        f"rollup/{row['tier_s']}",
                        -1,
                        msgspec.json.encode(told),
                        {},
                        "write_rollups",
                        Reason.REFUSED_BY_BIGQUERY,
                        "no",
                        NOW_US,
                    )
                )
            settler.forget(settled.mark_ids)
    assert run(capsys, "verify", "--grace=0")[0] == 1
    assert redrive(capsys)["letters"] == len(TIERS_S)
    verified(product, capsys, 1)


@pytest.mark.parametrize(
    ("number", "kills"), [(6_000, 3), pytest.param(100_000, 3, marks=[pytest.mark.long, pytest.mark.timeout(900)])]
)
def test_killed_at_any_instant_each_is_stored_once_and_verify_passes(
    product: Product, capsys: Any, number: int, kills: int
) -> None:
    store = Store(product.pool)
    chance = random.Random(20130711)
    for begin in range(0, number, 2000):
        letters = [
            DeadLetter(
                f"k{n}", 0, text(point(event_time=AT_MS - n, value=n)), {}, "decode", Reason.BAD_NAME, "x", NOW_US
            )
            for n in range(begin, min(number, begin + 2000))
        ]
        columns = Columns()
        columns.dead_letters += letters
        store.writer.write(columns.block())
    command = [sys.executable, "-m", "tidemark", "redrive", "--json"]
    for killed in range(1, kills + 1):
        goal = number * killed // (kills + 1) + chance.randrange(number // 10)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            until = time.monotonic() + 120
            while store.rows("SELECT count(*) FROM points")[0][0] < goal and process.poll() is None:
                assert time.monotonic() < until
                time.sleep(0.005)
            process.send_signal(signal.SIGKILL)
    two = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(2)]
    said = [json.loads(one.communicate(timeout=600)[0]) for one in two]
    assert [one.returncode for one in two] == [0, 0]
    assert sum(one["still"] for one in said) == 0
    assert store.letters() == []
    assert np.array_equal(sorted(value for _, value in store.values()), np.arange(number))
    assert store.balanced()
    verified(product, capsys, number)
