"""A job is submitted to Dataflow, whole and offline, by the command that the template's launcher runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from apache_beam.internal import pickler
from apache_beam.portability import common_urns
from apache_beam.portability.api import beam_runner_api_pb2

from tests.pipelines.dataflow import BUCKET, IMAGE, JOB_ID, Google, google
from tidemark.mapping.program import Program

SUBSCRIPTION = "projects/demo-project/subscriptions/ingest"
OURS = (
    f"--subscription={SUBSCRIPTION}",
    "--rollup_dataset=demo-project.tidemark",
    "--database_secret=projects/demo-project/secrets/database/versions/latest",
    "--preflight=false",
)
STREAMING = ("JOB_TYPE_STREAMING", 2)
"""By name, or by the number of the enumeration."""
STAGES = [
    "decode/ParDo(_Decode)",
    "preview/fold",
    "preview/window",
    "read/as message",
    "read/pubsub/Read",
    "settle/settle due",
    "settle/start/Impulse",
    "settle/tick",
    "write previews",
    "write previews/written",
    "write raw/ParDo(_Write)",
    "write settled",
    "write settled/written",
]
"""By these an update matches the state of a running job. A rename goes into CHANGELOG.md with the
`--transform_name_mapping` that it needs."""


@pytest.fixture(scope="module")
def cloud(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Google]:
    with google(tmp_path_factory.mktemp("google") / "storage.log") as made:
        yield made


@pytest.fixture(scope="module")
def submitted(cloud: Google) -> tuple[dict, beam_runner_api_pb2.Pipeline]:
    before = cloud.staged().keys()
    done = cloud.launch(*OURS, "--max_num_workers=4", "--machine_type=n2-standard-2")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "submitted", "job": JOB_ID}
    (graph,) = [b for name, b in cloud.staged().items() if name.endswith("pipeline.pb") and name not in before]
    return cloud.posted[-1], beam_runner_api_pb2.Pipeline.FromString(graph)


def stages(graph: beam_runner_api_pb2.Pipeline) -> dict[str, beam_runner_api_pb2.PTransform]:
    return {
        t.unique_name: t
        for name, t in graph.components.transforms.items()
        if t.unique_name and name not in graph.root_transform_ids
    }


def test_the_job_is_a_streaming_one_and_runs_our_image(submitted: tuple[dict, beam_runner_api_pb2.Pipeline]) -> None:
    job, graph = submitted
    assert job["type"] in STREAMING
    pools = job["environment"]["workerPools"]
    images = {image["containerImage"] for pool in pools for image in pool.get("sdkHarnessContainerImages", ())}
    assert images == {IMAGE}
    payloads = [
        beam_runner_api_pb2.DockerPayload.FromString(environment.payload)
        for environment in graph.components.environments.values()
        if environment.urn == common_urns.environments.DOCKER.urn
    ]
    assert {payload.container_image for payload in payloads} == {IMAGE}


def test_pubsub_is_read_natively_by_event_time(submitted: tuple[dict, beam_runner_api_pb2.Pipeline]) -> None:
    reads = [t for t in stages(submitted[1]).values() if t.spec.urn == common_urns.composites.PUBSUB_READ.urn]
    (payload,) = [beam_runner_api_pb2.PubSubReadPayload.FromString(t.spec.payload) for t in reads]
    assert payload.subscription == SUBSCRIPTION
    assert payload.timestamp_attribute == "event_time"
    assert payload.id_attribute == ""
    assert payload.with_attributes


def test_the_stages_keep_their_names(submitted: tuple[dict, beam_runner_api_pb2.Pipeline]) -> None:
    found = stages(submitted[1])
    assert [name for name in STAGES if name not in found] == [], sorted(found)
    assert {name.split("/")[0] for name in found} == {name.split("/")[0] for name in STAGES}


def test_worker_options_are_ours(submitted: tuple[dict, beam_runner_api_pb2.Pipeline]) -> None:
    job, _ = submitted
    options = job["environment"]["sdkPipelineOptions"]["options"]
    assert options["number_of_worker_harness_threads"] == 12
    assert options["max_num_workers"] == 4
    assert options["sdk_location"] == "container"
    assert "streaming_mode_at_least_once" in options["dataflow_service_options"]
    assert options["database_secret"].startswith("projects/")
    pool = job["environment"]["workerPools"][0]
    assert pool["autoscalingSettings"]["maxNumWorkers"] == 4
    assert pool["machineType"] == "n2-standard-2"


def test_nothing_of_the_launching_process_travels(
    cloud: Google, submitted: tuple[dict, beam_runner_api_pb2.Pipeline]
) -> None:
    names = [name.rsplit("/", 1)[-1] for name in cloud.staged()]
    assert {name for name in names if not name.startswith("job_object") and not name.endswith(".jq")} <= {
        "pipeline.pb",
        "submission_environment_dependencies.txt",
    }
    assert not any("main_session" in name for name in names)
    text = submitted[1].SerializeToString()
    assert b"__main__" not in text


MAPPING = '.body | {source: .gw, metric: "é", event_time: (.ts * 1000), value: .fps}'


@pytest.mark.long  # each program waits 20 s for credentials that are not there
def test_a_mapping_in_a_bucket_travels_with_the_job(cloud: Google) -> None:
    before = cloud.staged().keys()
    location = cloud.put("mappings/gateway.jq", MAPPING.encode())
    done = cloud.launch(*OURS, f"--mapping={location}")
    assert done.returncode == 0, done.stderr
    (graph,) = [b for name, b in cloud.staged().items() if name.endswith("pipeline.pb") and name not in before]
    decode = stages(beam_runner_api_pb2.Pipeline.FromString(graph))["decode/ParDo(_Decode)"]
    payload = beam_runner_api_pb2.ParDoPayload.FromString(decode.spec.payload)
    (program,) = _programs(pickler.loads(payload.do_fn.payload))
    assert (program.text, program.name) == (MAPPING, location)


def _programs(found: Any, deep: int = 5) -> list[Program]:
    """Wherever they are in what was pickled."""
    if isinstance(found, Program):
        return [found]
    inside = found if isinstance(found, (tuple, list)) else vars(found).values() if hasattr(found, "__dict__") else ()
    return [program for one in inside if deep for program in _programs(one, deep - 1)]


@pytest.mark.long  # each program waits 20 s for credentials that are not there
@pytest.mark.parametrize(
    ("location", "said"),
    [
        (f"gs://{BUCKET}/mappings/missing.jq", "cannot be read: there is no such object."),
        ("gs://no-such-bucket/gateway.jq", "cannot be read: there is no such object."),
        ("gs://", "cannot be read: GCS path must be in the form"),
        ("ftp://a/b.jq", "cannot be read: Unable to get filesystem"),
        ("/nowhere/gateway.jq", "cannot be read: No such file or directory."),
        (f"gs://{BUCKET}/wrong.jq", "cannot be compiled: line 1, column"),
        (f"gs://{BUCKET}/latin.jq", "is no UTF-8: byte 8."),
    ],
)
def test_a_mapping_that_cannot_be_read_is_told_in_one_sentence(cloud: Google, location: str, said: str) -> None:
    cloud.put("wrong.jq", b".body | {")
    cloud.put("latin.jq", b".body # \xe9")
    before = len(cloud.posted)
    done = cloud.launch(*OURS, f"--mapping={location}")
    assert done.returncode == 2, done.stderr
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith((f"The mapping {location} ", f"{location} "))
    assert said in done.stderr
    assert len(cloud.posted) == before


def test_as_a_template_the_job_is_written_to_where_the_launcher_says(cloud: Google) -> None:
    before = len(cloud.posted)
    location = "launches/1/job_object"
    done = cloud.launch(*OURS, f"--template_location=gs://{BUCKET}/{location}", "--streaming_mode=exactly_once")
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout.splitlines()[-1]) == {"event": "submitted", "job": None}
    assert len(cloud.posted) == before
    job = json.loads(cloud.staged()[location])
    assert job["type"] in STREAMING
    assert "streaming_mode_at_least_once" not in json.dumps(job["environment"])


@pytest.mark.parametrize(
    ("option", "said"),
    [
        ("--save_main_session", "--save_main_session"),
        ("--database_url=postgresql://u:canary@h/d", "--database_secret"),
        ("--streaming_mode=sometimes", "--streaming_mode"),
        ("--horizn_s=1", "--horizn_s"),
    ],
)
def test_a_wrong_option_submits_nothing(cloud: Google, option: str, said: str) -> None:
    before = len(cloud.posted)
    done = cloud.launch(*OURS, option)
    assert done.returncode == 2
    assert said in done.stderr
    assert "canary" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    assert len(cloud.posted) == before


def test_without_an_image_nothing_is_submitted(cloud: Google) -> None:
    done = cloud.launch(*OURS, environment={"TIDEMARK_IMAGE": ""})
    assert done.returncode == 2
    assert "--sdk_container_image is missing" in done.stderr
