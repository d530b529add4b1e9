"""A new version on a real Flink: from a savepoint, beside the old one, or afresh; nothing is lost, and it shows what of
open windows is."""

from __future__ import annotations

import time

import pytest

from tests.flink.cluster import Cluster
from tests.flink.test_flink import SECONDS, Traffic, settled, until
from tests.integration.points import Feed, everything_is_right
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import DATASET
from tidemark.warehouse.clients import rest

KEY = ("versions", "s", "m")
WIDE_S = 600


@pytest.mark.timeout(600)
def test_a_version_beside_the_old_one_and_one_from_its_savepoint_lose_nothing(
    cluster: Cluster, environment: dict[str, str], feed: Feed, control: Control
) -> None:
    url = environment["TIDEMARK_DATABASE_URL"]
    old = cluster.submit(url, "--shards=16")
    traffic = Traffic(feed, 5, seconds=2 * SECONDS)
    traffic.start()
    time.sleep(8)
    new = cluster.submit(url, "--shards=5", "--early_firing_s=1")
    time.sleep(8)
    assert set(cluster.working()) == {old, new}
    cluster.cancel(old)
    # both task managers share a pool here, in which their workers have the same name: the new job's is stopped with the
    # old one's, and Flink starts the job again
    time.sleep(8)
    until(lambda: cluster.working() == [new], "the new version runs again", 60)
    time.sleep(3)
    savepoint = cluster.stop(new)
    newest = cluster.submit(url, "--shards=5", "--early_firing_s=3", f"--savepoint_path={savepoint}")
    assert cluster.checkpoints(newest)["latest"]["restored"]["external_path"] == savepoint
    traffic.finish()
    settled(environment, control)
    everything_is_right(environment, feed.oracle())
    cluster.cancel(newest)


@pytest.mark.timeout(600)
def test_previews_of_open_windows_go_on_from_a_savepoint_and_begin_anew_without(
    cluster: Cluster, environment: dict[str, str], feed: Feed
) -> None:
    url = environment["TIDEMARK_DATABASE_URL"]
    client = rest(DATASET, environment["BIGQUERY_EMULATOR_HOST"])
    options = (f"--tiers_s={WIDE_S}", "--early_firing_s=1")
    left_s = WIDE_S - time.time() % WIDE_S
    if left_s < 150:
        time.sleep(left_s + 1)
    window = int(time.time()) // WIDE_S * WIDE_S

    def counts(table: str) -> list[int]:
        sql = f"SELECT count FROM `{DATASET}.{table}` WHERE tier_s = {WIDE_S} AND source = 's' ORDER BY emitted_at"
        return [row[0] for row in client.query_and_wait(sql)]

    def shown(number: int) -> None:
        until(lambda: counts("rollups")[-1:] == [number], lambda: f"{number} after {counts('rollups')}", 40)

    def publish(first: int, number: int) -> None:
        feed.points([(KEY, (window + first + i) * 1_000_000, 1.0) for i in range(number)])

    job = cluster.submit(url, *options)
    publish(0, 100)
    shown(100)
    savepoint = cluster.stop(job)
    job = cluster.submit(url, *options, f"--savepoint_path={savepoint}")
    publish(100, 1)
    shown(101)
    cluster.cancel(job)
    job = cluster.submit(url, *options)
    publish(101, 1)
    shown(1)
    assert counts("rollups_latest") == [101], "of two previews the one that saw more is served"
    cluster.cancel(job)
