"""No number of before `complete until` changes, but by points later than the horizon, whatever is killed meanwhile."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Engine

from tests.chaos.campaign import HORIZON_S, SETTINGS, TIERS_S
from tests.chaos.oracle import oracle
from tests.chaos.promises import US, Promises, kept, late, settled, wrong
from tests.chaos.traffic import DOOMED, Traffic, Witness
from tests.store.faults import Proxy
from tidemark.bus.puller import LEASE_S
from tidemark.errors import TidemarkError
from tidemark.local.job import Job
from tidemark.local.stack import Stack
from tidemark.store.connection import make_engine, transaction
from tidemark.store.heartbeats import COUNTS_S

SEED = int(os.environ.get("TEST_SEED", "20130711"))


@dataclass(frozen=True)
class Plan:
    """How long traffic comes, how often what is killed, and for how long ingest is dead then.

    Attributes:
        hurried: What a process said last counts until its messages have come again, not for `COUNTS_S`.
    """

    points: int
    seconds: float
    kills: dict[str, int]
    dead_s: float
    hurried: bool

    def faults(self, seed: int) -> list[tuple[float, str]]:
        """(seconds after the start, what), in order; ingest dies at equal distances, and the rest at any time."""
        rng = random.Random(seed)
        number = self.kills["ingest"]
        found = [(self.seconds * (i + 0.4) / number, "ingest") for i in range(number)]
        found += [(rng.uniform(4, self.seconds), w) for w, n in self.kills.items() if w != "ingest" for _ in range(n)]
        return sorted([*found, (self.seconds * 0.6, "delete")])


EVERYDAY = Plan(60_000, 45, {"ingest": 1, "postgres": 1, "bigquery": 1, "pubsub": 1, "cut": 2}, 6, hurried=True)
LONG = Plan(400_000, 400, {"ingest": 3, "postgres": 4, "bigquery": 2, "pubsub": 4, "cut": 10}, 30, hurried=False)


@pytest.fixture
def stack(tmp_path: Path) -> Iterator[Stack]:
    made = Stack(tmp_path / "state")
    yield made
    made.down(purge=True)


class Campaign:
    def __init__(self, plan: Plan, stack: Stack, log: Path) -> None:
        self.plan, self.stack, self.log = plan, stack, log
        self.environment = {**stack.up(ack_deadline_s=10), **SETTINGS}
        url = self.environment["TIDEMARK_DATABASE_URL"]
        self.proxy = Proxy(stack.postgres.port())
        self.through_proxy = {**self.environment, "TIDEMARK_DATABASE_URL": self.proxy.url(url)}
        self.pool: Engine = make_engine(url, 2, 60)
        self.forget_at: list[tuple[float, float]] = []

    def job(self) -> Job:
        return Job(self.through_proxy, self.log)

    def break_things(self, job: Job, traffic: Traffic, promises: Promises) -> Job:
        began = time.monotonic()
        for at, what in self.plan.faults(SEED):
            while (left := began + at - time.monotonic()) > 0:
                assert traffic.error is None, traffic.error
                self.forget_the_dead()
                time.sleep(min(left, 0.5))
            print(f"{time.monotonic() - began:7.1f} s  {what}")
            if what == "ingest":
                promises.wait_for_advances(2, 180)  # one that has promised nothing breaks no promise
                job.kill()
                if self.plan.hurried:
                    self.forget_at.append((time.monotonic() + LEASE_S + 5, time.time()))
                time.sleep(self.plan.dead_s)
                job = self.job()
            elif what == "cut":
                self.proxy.cut()
            elif what == "delete":
                self.delete()
            else:
                server = getattr(self.stack, what)
                server.kill()
                server.start()
        return job

    def forget_the_dead(self) -> None:
        """What a dead process held has come again by now, or waits: as if `COUNTS_S` were over."""
        while self.forget_at and time.monotonic() >= self.forget_at[0][0]:
            try:
                with transaction(self.pool) as connection:
                    connection.exec_driver_sql(
                        "UPDATE heartbeats SET at = at - %s * interval '1 second' WHERE at < to_timestamp(%s)",
                        (COUNTS_S, self.forget_at[0][1]),
                    )
            except TidemarkError:
                return  # the database was killed just now
            self.forget_at.pop(0)

    def delete(self) -> None:
        project, source, _ = DOOMED
        command = ["tidemark", "delete", f"--series_project={project}", f"--source={source}", "--yes"]
        for _ in range(20):  # the database may be away just now
            done = subprocess.run(
                [sys.executable, "-m", *command],
                check=False,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
            )
            if not done.returncode:
                return
            time.sleep(1)
        raise AssertionError(done.stderr)


@pytest.mark.parametrize("plan", [EVERYDAY, pytest.param(LONG, marks=pytest.mark.long)], ids=["short", "long"])
@pytest.mark.timeout(1800)
def test_what_is_complete_stays_as_it_is(plan: Plan, stack: Stack, tmp_path: Path) -> None:
    print(f"seed {SEED}")
    campaign = Campaign(plan, stack, tmp_path / "ingest.log")
    witness = Witness(campaign.environment["PUBSUB_EMULATOR_HOST"])
    witness.start()
    promises = Promises(campaign.pool)
    promises.start()
    job = campaign.job()
    try:
        job.wait_ready()
        address = campaign.environment["PUBSUB_EMULATOR_HOST"]
        traffic = Traffic(address, SEED, plan.points, plan.seconds, HORIZON_S)
        traffic.start()
        job = campaign.break_things(job, traffic, promises)
        traffic.join(plan.seconds + 60)
        assert traffic.error is None, traffic.error
        witness.has_all_of(traffic)
        last_us = max(int(one.event_ms.max()) for one in traffic.sent) * 1000
        until = time.monotonic() + LEASE_S + 10
        while campaign.forget_at and time.monotonic() < until:
            campaign.forget_the_dead()
            time.sleep(0.2)
        promises.wait_until(last_us + max(TIERS_S[0], 2) * US, COUNTS_S + 120)
        promises.stop()
        job.drain()
        job.drained(300)
        excused = late(traffic.sent, witness.accepted, TIERS_S, HORIZON_S)
        found = kept(campaign.pool, promises, excused, {DOOMED})
        right = oracle(traffic.sent, witness.accepted)
        off = wrong(settled(campaign.pool), promises.until_us, right, TIERS_S, {DOOMED})
    finally:
        promises.stopping.set()
        if job.status() is None:
            job.kill()
        campaign.proxy.close()
        campaign.pool.dispose()
    print(found, f"{promises.looks} looks, {promises.advances} advances, {len(excused)} windows had late points")
    assert found.broken == []
    assert not off, (len(off), off[:3])
    assert promises.not_final == 0
    assert promises.advances >= 3
    assert found.promised > plan.points / 50
    assert 0 < found.changed < found.corrections
