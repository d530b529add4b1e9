"""Another version takes over: side by side with the old one for a while, or after it was drained or cancelled."""

from __future__ import annotations

import random
import time
from pathlib import Path

import pytest

from tests.integration.points import Feed, Point, Sender, everything_is_right
from tidemark.bus.puller import LEASE_S
from tidemark.local.job import Job

OLD = ("--shards=16", "--early_firing_s=2")
NEW = ("--shards=5", "--early_firing_s=1", "--lateness_slack_s=3", "--settle_every_s=0.5")


class Load(Sender):
    """2,000 points a second of 12 series, a tenth of them late, a twentieth twice."""

    rng = random.Random(7)

    def send(self) -> None:
        now = time.time_ns() // 1_000_000
        late = [self.rng.randrange(20_000) if self.rng.random() < 0.1 else 0 for _ in range(200)]
        some: list[Point] = [
            (("update", f"s{i % 12}", "m"), (now - i // 2 - behind) * 1000, float(self.rng.randrange(1000)))
            for i, behind in enumerate(late)
        ]
        self.feed.points(some, of=20)
        self.feed.points(some[:10])


@pytest.mark.long
@pytest.mark.timeout(300)
def test_versions_that_overlap_or_follow_each_other_lose_nothing(
    environment: dict[str, str], feed: Feed, tmp_path: Path
) -> None:
    load = Load(feed)
    load.start()
    old = Job(environment, tmp_path / "old.log", *OLD)
    old.wait_ready()
    time.sleep(6)
    new = Job(environment, tmp_path / "new.log", *NEW)
    new.wait_ready()
    time.sleep(6)
    assert old.latest["inserted"] > 0
    assert new.latest["inserted"] > 0, "both have work"
    old.drain()
    assert old.drained()["settled"] > 0
    time.sleep(4)
    new.kill()  # as a cancellation does: what it had taken comes again, its windows are lost
    newest = Job(environment, tmp_path / "newest.log", *NEW, f"--stop_when_idle_s={LEASE_S + 5}")
    newest.wait_ready()
    time.sleep(4)
    load.finish()
    newest.drained()
    everything_is_right(environment, feed.oracle())
