"""One campaign: traffic of a bad day while everything is killed at seeded instants; then the reckoning."""

from __future__ import annotations

import os
import random
import subprocess
import sys
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np

from tests.chaos.oracle import Oracle, oracle, stored, unexplained
from tests.chaos.traffic import DOOMED, SERIES, Traffic, Witness
from tests.integration.oracle import differences
from tests.store.corrections import chained
from tests.store.faults import Proxy
from tidemark.bus.puller import LEASE_S
from tidemark.errors import LocalError
from tidemark.local.job import Job
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import DATASET, Stack
from tidemark.operate.verify import verify
from tidemark.store.connection import make_engine
from tidemark.warehouse.clients import rest
from tidemark.warehouse.read import latest

HORIZON_S = 5
TIERS_S = (2, 60, 600)
SETTINGS = {
    "TIDEMARK_TIERS_S": ",".join(map(str, TIERS_S)),
    "TIDEMARK_HORIZON_S": str(HORIZON_S),
    "TIDEMARK_DEBOUNCE_S": "1",
    "TIDEMARK_EARLY_FIRING_S": "2",
    "TIDEMARK_IDLE_TIMEOUT_S": "3",
}
START_S = 5.0
"""The first fault comes after this; the pipeline is at work by then."""


@dataclass(frozen=True)
class Plan:
    """How much of what.

    Attributes:
        seed: Of the traffic and of the instants.
        points: In all, without repetitions.
        seconds: Over which they come.
        kills: Of pipeline, postgres, bigquery and pubsub.
        cuts: Of all connections between pipeline and database.
    """

    seed: int
    points: int
    seconds: float
    kills: dict[str, int]
    cuts: int

    def faults(self) -> list[tuple[float, str]]:
        """(seconds after the start, what), in order."""
        rng = random.Random(self.seed)
        what = [name for name, number in self.kills.items() for _ in range(number)] + ["cut"] * self.cuts
        return sorted([*((rng.uniform(START_S, self.seconds), w) for w in what), (self.seconds * 0.6, "delete")])


@dataclass
class Outcome:
    """What the reckoning found."""

    figures: dict[str, Any] = field(default_factory=dict)
    wrong: list[str] = field(default_factory=list)

    def hold(self, truth: bool, sentence: str) -> None:
        """Write down what is not as it must be."""
        if not truth:
            self.wrong.append(sentence)


def run(plan: Plan, state: Path, say: Any = print) -> Outcome:
    """Run a campaign on stand-ins of its own in `state`."""
    stack = Stack(state / "stack")
    environment = {**stack.up(ack_deadline_s=10), **SETTINGS}
    proxy = Proxy(stack.postgres.port())
    try:
        # for what is opened in this process
        with patch.dict(os.environ, {"BIGQUERY_EMULATOR_HOST": environment["BIGQUERY_EMULATOR_HOST"]}):
            outcome = _Campaign(plan, stack, environment, proxy, state / "ingest.log", say).run()
    finally:
        proxy.close()
        stack.down(purge=True)
    return outcome


@dataclass
class _Campaign:
    plan: Plan
    stack: Stack
    environment: dict[str, str]
    proxy: Proxy
    log: Path
    say: Any
    happened: Counter[str] = field(default_factory=Counter)

    def run(self) -> Outcome:
        url = self.environment["TIDEMARK_DATABASE_URL"]
        address = self.environment["PUBSUB_EMULATOR_HOST"]
        self.through_proxy = {**self.environment, "TIDEMARK_DATABASE_URL": self.proxy.url(url)}
        assert self.through_proxy["TIDEMARK_DATABASE_URL"] != url
        witness = Witness(address)
        witness.start()
        self.job = self._job()
        try:
            return self._run(address, witness)
        finally:
            if self.job.status() is None:
                self.job.kill()

    def _run(self, address: str, witness: Witness) -> Outcome:
        self.job.wait_ready()
        traffic = Traffic(address, self.plan.seed, self.plan.points, self.plan.seconds, HORIZON_S)
        traffic.start()
        self._break_things(traffic)
        traffic.join(self.plan.seconds + 600)
        assert traffic.error is None, traffic.error
        assert not traffic.is_alive()
        witness.has_all_of(traffic)
        began = time.monotonic()
        self.job.kill()
        self.job = self._job(f"--stop_when_idle_s={LEASE_S + 5}")
        self.job.drained(1200)
        # what was redelivered after the first deletion may have come back
        self._delete(DOOMED)
        self._delete(SERIES[0], *self._minute(traffic))
        self.job = self._job("--stop_when_idle_s=1")
        counters = self.job.drained(600)
        drained_s = time.monotonic() - began
        return self._reckon(traffic, witness, {"drained_s": round(drained_s), "last_run": counters})

    def _job(self, *options: str) -> Job:
        return Job(self.through_proxy, self.log, *options)

    def _break_things(self, traffic: Traffic) -> None:
        began = time.monotonic()
        faults = self.plan.faults()
        with Control(self.environment["PUBSUB_EMULATOR_HOST"]) as control:
            for at, what in faults:
                while (left := began + at - time.monotonic()) > 0:
                    assert traffic.error is None, traffic.error
                    time.sleep(min(left, 1))
                self.say(f"{time.monotonic() - began:7.1f} s  {what}")
                self.happened[what] += 1
                if what == "pipeline":
                    self.job.kill()
                    self.job = self._job()
                elif what == "cut":
                    self.proxy.cut()
                elif what == "delete":
                    self._delete(DOOMED)
                else:
                    server = getattr(self.stack, what)
                    server.kill()
                    server.start()
                self._redeliver(control, traffic.messages // 10 // len(faults))

    def _redeliver(self, control: Control, messages: int) -> None:
        """5 % of the messages come again, beside those that a kill brings back; the witness's share counts as well."""
        try:
            control.drop_acks(ids=messages)
        except LocalError as error:  # it was killed just now
            self.say(f"           no acknowledgements dropped: {error}")

    def _delete(self, series: tuple[str, str, str], *options: str) -> None:
        project, source, _ = series
        command = ["tidemark", "delete", f"--series_project={project}", f"--source={source}", *options, "--yes"]
        for _ in range(20):  # the database may be away just now
            done = subprocess.run(
                [sys.executable, "-m", *command],
                check=False,
                env={**os.environ, **self.environment},
                capture_output=True,
                text=True,
            )
            if not done.returncode:
                self.say(f"           {done.stdout.strip()}")
                return
            time.sleep(1)
        raise AssertionError(done.stderr)

    def _minute(self, traffic: Traffic) -> tuple[str, str]:
        """Ten seconds from the middle of the run; what was sent."""
        middle = int(traffic.sent[len(traffic.sent) // 2].event_ms.max()) // 1000
        self._cut_out = (middle * 1_000_000, (middle + 10) * 1_000_000)
        return f"--from={_rfc3339(middle)}", f"--to={_rfc3339(middle + 10)}"

    def _reckon(self, traffic: Traffic, witness: Witness, figures: dict[str, Any]) -> Outcome:
        outcome = Outcome()
        every = oracle(traffic.sent, witness.accepted)
        start, end = self._cut_out
        gone = every.of(DOOMED)
        event = every.points["event"]
        gone |= every.of(SERIES[0]) & (event >= start) & (event < end)
        right = every.without(gone)
        pool = make_engine(self.environment["TIDEMARK_DATABASE_URL"], 2, 600)
        connection = pool.raw_connection()
        try:
            found = stored(connection.driver_connection, right.names)
            cursor = connection.cursor()
            cursor.execute("SELECT message_id FROM dead_letters")
            dead = sorted(row[0] for row in cursor.fetchall())
            corrections = chained(pool)
        finally:
            connection.close()
            pool.dispose()
        off = unexplained(right.points, found)
        outcome.hold(off == 0, f"{off} points unexplained")
        bad = sorted(message for message, (name, _) in witness.accepted.items() if not name.isdigit())
        outcome.hold(dead == bad, f"{len(dead)} dead letters, {len(bad)} malformed messages")
        wrong_rollups = self._rollups(right, outcome)
        report = verify(self.environment["TIDEMARK_DATABASE_URL"], DATASET, TIERS_S)
        outcome.hold(report.passed, f"verify: {report}")
        outcome.hold(not report.ledger_unbalanced and not report.ledger_off_by, "the ledger does not balance")
        outcome.figures = {
            "seed": self.plan.seed,
            "points": int(sum(len(one.value) for one in traffic.sent)),
            "points_stored": len(found),
            "points_unexplained": off,
            "points_deleted": int(np.count_nonzero(gone)),
            "messages_accepted": len(witness.accepted),
            "messages_again": traffic.again,
            "messages_late": traffic.late,
            "messages_overwriting": traffic.overwriting,
            "dead_letters": len(dead),
            "faults": dict(self.happened),
            "rollups_wrong": wrong_rollups,
            "corrections": corrections,
            "rollups_compared": report.rollups,
            "verify": "PASS" if report.passed else "FAIL",
            **self._shares(),
            **figures,
        }
        return outcome

    def _rollups(self, right: Oracle, outcome: Outcome) -> dict[str, int]:
        client = rest(DATASET, self.environment["BIGQUERY_EMULATOR_HOST"])
        wrong = {}
        for tier_s in TIERS_S:
            rows = list(latest(client, DATASET, 0, 4_000_000_000_000_000, tier_s))
            off = differences(right.rollups(tier_s, TIERS_S[0]), rows)
            wrong[str(tier_s)] = len(off)
            outcome.hold(not off, f"{len(off)} rollups of {tier_s} s are wrong: {off[:3]}")
            previews = sum(row.pane != "settled" for row in rows)
            outcome.hold(not previews, f"{previews} rollups of {tier_s} s are still previews")
        return wrong

    def _shares(self) -> dict[str, float]:
        """Of the base tier's windows of a series: how many had an on-time preview, and were settled again differently."""
        client = rest(DATASET, self.environment["BIGQUERY_EMULATOR_HOST"])
        query = f"""
            SELECT count(*), countif(on_time > 0), countif(settled > 1) FROM (
                SELECT countif(pane = 'on_time') AS on_time,
                       count(DISTINCT if(pane = 'settled', concat(CAST(count AS STRING), ' ', CAST(sum AS STRING)), NULL))
                           AS settled
                FROM `{DATASET}.rollups` WHERE tier_s = {TIERS_S[0]}
                GROUP BY project, source, metric, window_start)"""
        windows, on_time, corrected = next(iter(client.query_and_wait(query)))
        return {
            "windows": windows,
            "on_time_share": round(on_time / windows, 3),
            "corrected_share": round(corrected / windows, 3),
        }


def _rfc3339(seconds: int) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
