from __future__ import annotations

import pytest
from apache_beam.options.pipeline_options import DebugOptions, GoogleCloudOptions, PortableOptions

from pipelines.flink import FlinkOptions, parallelism
from pipelines.options import parse
from tidemark.errors import UsageError

GOOD = (
    "--subscription=projects/p/subscriptions/s",
    "--rollup_dataset=project.dataset",
    "--database_secret=file:/tmp/url",
)


def test_good_options_are_taken() -> None:
    _, values = parse([*GOOD, "--tiers_s=60,3600"])
    assert values.tiers_s == (60, 3600)


@pytest.mark.parametrize(
    ("wrong", "named"),
    [
        ("--horizn_s=5", "--horizn_s"),
        ("--horizon_s=soon", "--horizon_s"),
        ("--horizon_s=-1", "--horizon_s"),
        ("--tiers_s=60,90", "--tiers_s"),
        ("--subscription=mine", "--subscription"),
        ("--rollup_dataset=nodots", "--rollup_dataset"),
    ],
)
def test_a_wrong_option_is_one_sentence_that_names_it(wrong: str, named: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse([*GOOD, wrong])
    assert named in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_database_url_is_refused_on_dataflow_and_never_repeated() -> None:
    url = "postgresql://u:canary@h/d"
    with pytest.raises(UsageError) as caught:
        parse([*GOOD, f"--database_url={url}", "--runner=DataflowRunner", "--project=p"])
    assert "canary" not in str(caught.value)


def test_a_missing_subscription_is_named() -> None:
    with pytest.raises(UsageError, match="--subscription is missing"):
        parse(GOOD[1:])


FLINK = (
    *GOOD,
    "--runner=PortableRunner",
    "--job_endpoint=localhost:8099",
    "--environment_type=EXTERNAL",
    "--environment_config=localhost:50000",
)


def test_flink_gets_what_it_needs_and_what_is_given_wins() -> None:
    flink = parse(FLINK)[0].view_as(FlinkOptions)
    assert flink.checkpointing_interval == 1000
    assert flink.finish_bundle_before_checkpointing is True
    assert flink.max_bundle_time_mills == 100
    assert parse(FLINK)[1].prefetch_messages == 100_000
    assert parse([*FLINK, "--prefetch_messages=7"])[1].prefetch_messages == 7
    assert parse(GOOD)[1].prefetch_messages == 20_000
    options = parse(
        [*FLINK, "--checkpointing_interval=5000", "--finish_bundle_before_checkpointing=false", "--parallelism=3"]
    )[0]
    assert options.view_as(FlinkOptions).checkpointing_interval == 5000
    assert options.view_as(FlinkOptions).finish_bundle_before_checkpointing is False
    assert parallelism(options) == (3, 1)
    assert parse(FLINK)[0].view_as(DebugOptions).lookup_experiment("disable_logging_submission_environment")
    assert parse(FLINK)[0].view_as(GoogleCloudOptions).job_name.startswith("tidemark-ingest-")
    assert parse([*FLINK, "--job_name=mine"])[0].view_as(GoogleCloudOptions).job_name == "mine"
    assert parse(GOOD)[0].view_as(FlinkOptions).checkpointing_interval is None, "nothing of it reaches other engines"


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ([*FLINK, "--checkpointing_interval=0"], "--checkpointing_interval"),
        ([*FLINK, "--checkpointing_interval=soon"], "checkpointing_interval"),
        ([*FLINK, "--finish_bundle_before_checkpointing=maybe"], "finish_bundle_before_checkpointing: needs true or"),
        ([*FLINK, "--checkpointing_intervall=5"], "--checkpointing_intervall is not an option"),
        ([*FLINK, "--shutdown_sources_after_idle_ms=0"], "--shutdown_sources_after_idle_ms=0"),
        ([*FLINK, "--database_url=postgresql://u:canary@h/d"], "--database_secret"),
        ([*GOOD, "--runner=PortableRunner"], "--job_endpoint is missing"),
        ([*GOOD, "--runner=FlinkRunner"], "--flink_master is missing"),
        ([*GOOD, "--runner=FlinkRunner", "--flink_master=h:8081"], "--environment_type is missing"),
        ([*GOOD, "--runner=SparkRunner"], "--runner=SparkRunner"),
    ],
)
def test_what_would_not_run_on_flink_is_one_sentence(
    options: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("TIDEMARK_IMAGE", raising=False)
    with pytest.raises(UsageError) as caught:
        parse(options)
    assert said in str(caught.value)
    assert "\n" not in str(caught.value)
    assert "canary" not in str(caught.value)


def test_an_image_that_names_itself_is_what_flink_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TIDEMARK_IMAGE", "registry.example/tidemark:1")
    options = parse([*GOOD, "--runner=FlinkRunner", "--flink_master=h:8081"])[0].view_as(PortableOptions)
    assert (options.environment_type, options.environment_config) == ("DOCKER", "registry.example/tidemark:1")
