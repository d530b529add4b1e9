"""The local engine refuses what it cannot do, and the graph keeps its labels."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Callable

import apache_beam as beam
import pytest
from apache_beam.options.pipeline_options import PipelineOptions
from apache_beam.testing import test_stream as streams
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import Sessions

from pipelines.engine import refusals, refuse
from pipelines.ingest import build
from pipelines.options import parse
from tidemark.errors import UsageError

OPTIONS = (
    "--subscription=projects/p/subscriptions/s",
    "--rollup_dataset=project.dataset",
    "--database_secret=file:/nowhere",
)
LABELS = [
    "read",
    "read/subscription",
    "read/pull",
    "decode",
    "write raw",
    "preview",
    "preview/window",
    "preview/fold",
    "write previews",
    "write previews/written",
    "settle",
    "settle/start",
    "settle/tick",
    "settle/settle due",
    "write settled",
    "write settled/written",
]


class RealTime(beam.DoFn):
    TIMER = userstate.TimerSpec("t", TimeDomain.REAL_TIME)

    def process(self, element: object, timer: object = beam.DoFn.TimerParam(TIMER)) -> None:
        """Does nothing."""

    @userstate.on_timer(TIMER)
    def expire(self) -> None:
        """Does nothing."""


class Combining(beam.DoFn):
    STATE = userstate.CombiningValueStateSpec("s", sum)

    def process(self, element: object, state: object = beam.DoFn.StateParam(STATE)) -> None:
        """Does nothing."""


BAD: dict[str, Callable[[beam.Pipeline], object]] = {
    "TestStream": lambda p: p | streams.TestStream(),
    "session windows": lambda p: p | beam.Create([1]) | beam.WindowInto(Sessions(5)),
    "an exception handler": lambda p: p | beam.Create([1]) | beam.Map(abs).with_exception_handling(),
    "a real-time timer": lambda p: p | beam.Create([(1, 1)]) | beam.ParDo(RealTime()),
    "combining state": lambda p: p | beam.Create([(1, 1)]) | beam.ParDo(Combining()),
}


@pytest.mark.parametrize("reason", BAD)
def test_what_the_local_engine_cannot_do_is_refused_by_name(reason: str) -> None:
    pipeline = beam.Pipeline(options=PipelineOptions(["--streaming"]))
    BAD[reason](pipeline)
    with pytest.raises(UsageError, match=reason):
        refuse(pipeline)


def labels(*more: str) -> tuple[beam.Pipeline, list[str]]:
    options, values = parse([*OPTIONS, *more])
    pipeline = beam.Pipeline(options=options)
    build(pipeline, options, values)
    seen: list[str] = []

    class Visitor(beam.pipeline.PipelineVisitor):
        def enter_composite_transform(self, node: object) -> None:
            seen.append(node.full_label)  # type: ignore[attr-defined]

        def visit_transform(self, node: object) -> None:
            seen.append(node.full_label)  # type: ignore[attr-defined]

    pipeline.visit(Visitor())
    return pipeline, seen


def test_labels_are_stable_since_engines_match_state_by_them() -> None:
    pipeline, seen = labels()
    assert [label for label in LABELS if label not in seen] == []
    assert {label.split("/")[0] for label in seen if label} == {label.split("/")[0] for label in LABELS}
    assert refusals(pipeline) == []


def test_without_previews_all_other_stages_have_the_same_labels() -> None:
    pipeline, seen = labels("--previews=false")
    left_out = ("preview", "write previews")
    assert [label for label in LABELS if label not in seen] == [one for one in LABELS if one.startswith(left_out)]
    assert [label for label in seen if label.startswith(left_out)] == []
    assert refusals(pipeline) == []


def ingest(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipelines.ingest", *arguments],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def test_the_program_says_in_one_sentence_which_option_is_wrong() -> None:
    done = ingest(*OPTIONS, "--horizn_s=4")
    assert done.returncode == 2
    assert done.stdout == ""
    assert "--horizn_s" in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_an_option_can_come_from_the_environment_and_the_command_line_wins() -> None:
    done = ingest(*OPTIONS, TIDEMARK_HORIZON_S="never")
    assert done.returncode == 2
    assert "TIDEMARK_HORIZON_S" in done.stderr or "--horizon_s" in done.stderr
    assert parse([*OPTIONS, "--horizon_s=7"])[1].horizon_s == 7


def test_help_names_every_option_with_its_variable() -> None:
    done = ingest("--help")
    assert done.returncode == 0
    for name in ("--subscription", "--horizon_s", "TIDEMARK_DEBOUNCE_S", "--stop_when_idle_s"):
        assert name in done.stdout
