"""Beam's FlinkRunner starts a job server for a submission, which ends with it; the job goes on without."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.flink.cluster import JOB_SERVER_JAR, Cluster
from tests.flink.test_flink import POINTS, SECONDS, Traffic, settled
from tests.integration.points import Feed, everything_is_right
from tidemark.local.pubsub.control import Control


def command_lines() -> Iterator[bytes]:
    """Of every process that is still there when it is looked at."""
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with suppress(OSError):
            yield path.read_bytes()


@pytest.mark.timeout(600)
def test_a_job_outlives_the_job_server_of_its_submission(
    cluster: Cluster, environment: dict[str, str], feed: Feed, control: Control
) -> None:
    job = cluster.submit(environment["TIDEMARK_DATABASE_URL"], "--job_name=outlives", own_job_server=True)
    assert cluster.rest(f"/jobs/{job}")["name"] == "outlives"
    assert not [line for line in command_lines() if JOB_SERVER_JAR.encode() in line]
    traffic = Traffic(feed, 13, POINTS // 5, SECONDS / 2)
    traffic.start()
    time.sleep(5)
    cluster.kill_busy_task_manager()
    traffic.finish()
    settled(environment, control)
    everything_is_right(environment, feed.oracle())
    assert cluster.running() == [job]
    cluster.cancel(job)
