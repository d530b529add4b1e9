"""A load is submitted to Dataflow, whole and offline; archives lie in a bucket, of a stand-in, and are read from there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from apache_beam.portability.api import beam_runner_api_pb2

from pipelines.archive_plan import planned
from tests.integration.archives import load, points
from tests.integration.points import body, query
from tests.pipelines.dataflow import BUCKET, IMAGE, JOB_ID, Google, google
from tidemark.errors import UsageError
from tidemark.local.stack import Stack

BEGIN_MS = 1_735_689_600_000
STAGES = [
    "all parts",
    "apart",
    "decode/ParDo(_Decode)",
    "parts",
    "read/ParDo(_Read)",
    "settle/ParDo(_Settle)",
    "write raw/ParDo(_Write)",
]


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    with google(tmp_path_factory.mktemp("google") / "storage.log") as made:
        yield made


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory, cloud: Google) -> Iterator[dict[str, str]]:
    stack = Stack(tmp_path_factory.mktemp("stack"))
    stack.up()
    yield {
        **stack.environment(),
        "STORAGE_EMULATOR_HOST": f"http://127.0.0.1:{cloud.storage_port}",
    }
    stack.down(purge=True)


def launch(
    cloud: Google, environment: dict[str, str], tmp_path: Path, *arguments: str
) -> subprocess.CompletedProcess[str]:
    """As a person submits one: with a secret, not with a URL."""
    secret = tmp_path / "secret"
    secret.write_text(environment["TIDEMARK_DATABASE_URL"])
    given = {name: value for name, value in environment.items() if name != "TIDEMARK_DATABASE_URL"}
    return subprocess.run(
        [sys.executable, "-m", "pipelines.backfill", *cloud.options(), f"--database_secret=file:{secret}", *arguments],
        env={**os.environ, **given, "TIDEMARK_IMAGE": IMAGE},
        capture_output=True,
        text=True,
        timeout=90,
        check=False,
    )


@pytest.mark.long  # each program waits 20 s for credentials that are not there
def test_a_job_has_the_parts_of_all_files(cloud: Google, environment: dict[str, str], tmp_path: Path) -> None:
    for number in range(3):
        cloud.put(f"old/{number}.jsonl", body(points(number, 10, BEGIN_MS)))
    before = cloud.staged().keys()
    done = launch(cloud, environment, tmp_path, f"gs://{BUCKET}/old/*.jsonl", "--again")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "submitted", "job": JOB_ID, "files": 3}
    assert cloud.posted[-1]["type"] in ("JOB_TYPE_BATCH", 1)
    (text,) = [b for name, b in cloud.staged().items() if name.endswith("pipeline.pb") and name not in before]
    graph = beam_runner_api_pb2.Pipeline.FromString(text)
    roots = graph.root_transform_ids
    names = {t.unique_name for name, t in graph.components.transforms.items() if name not in roots}
    assert [name for name in STAGES if name not in names] == [], sorted(names)
    assert {name.split("/")[0] for name in names - {""}} == {name.split("/")[0] for name in STAGES}
    assert environment["TIDEMARK_DATABASE_URL"].encode() not in text


@pytest.mark.parametrize("argument", [__file__, "-"])
def test_what_other_machines_cannot_read_is_not_submitted(
    cloud: Google, environment: dict[str, str], tmp_path: Path, argument: str
) -> None:
    before = len(cloud.posted)
    done = launch(cloud, environment, tmp_path, argument)
    assert (done.returncode, len(done.stderr.splitlines())) == (2, 1), done.stderr
    assert "is to be read on others" in done.stderr
    assert len(cloud.posted) == before


@pytest.mark.long  # each program waits 20 s for credentials that are not there
def test_what_is_not_in_a_bucket_is_one_sentence(
    cloud: Google, environment: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("STORAGE_EMULATOR_HOST", environment["STORAGE_EMULATOR_HOST"])
    cloud.put("there/a.jsonl", body(points(1, 1, BEGIN_MS)))
    cloud.put("there/a.zip", b"PK\3\4")
    assert [one.file for one in planned([f"gs://{BUCKET}/there/*.jsonl"], remote=True)] == [
        f"gs://{BUCKET}/there/a.jsonl"
    ]
    for argument, said in (
        (f"gs://{BUCKET}/no/*.jsonl", f"gs://{BUCKET}/no/*.jsonl is not there."),
        (f"gs://{BUCKET}/no.jsonl", f"gs://{BUCKET}/no.jsonl is not there."),
        (f"gs://{BUCKET}/there/*", f"gs://{BUCKET}/there/a.zip: It is a zip: unpack it and give its files."),
        ("gs://no-such-bucket/a", "gs://no-such-bucket/a is not there."),
        ("gs://", "gs:// cannot be found: GCS path must be in the form"),
    ):
        with pytest.raises(UsageError) as wrong:
            planned([argument], remote=True)
        assert str(wrong.value).startswith(said)
        assert "\n" not in str(wrong.value)


@pytest.mark.long  # each program waits 20 s for credentials that are not there
def test_archives_in_a_bucket_are_loaded_and_gone_on_with(cloud: Google, environment: dict[str, str]) -> None:
    some = points(7, 2000, BEGIN_MS)
    out = pa.BufferOutputStream()
    table = {
        "project": [key[0] for key, _, _ in some],
        "source": [key[1] for key, _, _ in some],
        "metric": [key[2] for key, _, _ in some],
        "event_time": pa.array([us for _, us, _ in some], pa.timestamp("us", "UTC")),
        "value": [value for _, _, value in some],
    }
    pq.write_table(pa.table(table), out, row_group_size=300)
    cloud.put("new/a.parquet", bytes(out.getvalue()))
    cloud.put("new/b.jsonl", body(some))
    first = load(environment, f"gs://{BUCKET}/new/*")
    assert first.status == 0, first.said
    assert (first.told["files"], first.told["received"]) == (2, 2 * len(some))
    second = load(environment, f"gs://{BUCKET}/new/a.parquet", f"gs://{BUCKET}/new/b.jsonl")
    assert (second.status, second.told["files_before"], second.told["received"]) == (0, 2, 0)
    kept = query(environment["TIDEMARK_DATABASE_URL"], "SELECT count(*) FROM points WHERE publish_time <> event_time")
    assert kept[0][0] == 0
