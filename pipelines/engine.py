"""Which engine runs a pipeline, and whether it can."""

from __future__ import annotations

from typing import Any

import apache_beam as beam
from apache_beam.options.pipeline_options import GoogleCloudOptions, PipelineOptions, StandardOptions
from apache_beam.pipeline import ExternalTransformFinder, PipelineVisitor
from apache_beam.testing.test_stream import TestStream
from apache_beam.transforms import userstate
from apache_beam.transforms.timeutil import TimeDomain
from apache_beam.transforms.window import Sessions

from pipelines import flink
from pipelines.local_engine import LocalEngine
from pipelines.options import LOCAL_RUNNERS
from tidemark.errors import UsageError
from tidemark.local.prism import find_or_build
from tidemark.settings import Values
from transforms.source import BUNDLE_S


def is_local(options: PipelineOptions) -> bool:
    """This process runs the engine itself."""
    runner: str = options.view_as(StandardOptions).runner
    return runner in LOCAL_RUNNERS


def reads_pubsub(options: PipelineOptions) -> bool:
    """The engine has a Pub/Sub reader of its own."""
    runner: str = options.view_as(StandardOptions).runner
    return runner == "DataflowRunner"


def job_name(options: PipelineOptions, values: Values) -> str:
    """What the job is called; without a name of its own as its subscription is."""
    own: str | None = options.view_as(GoogleCloudOptions).job_name
    return own or str(values.subscription).rpartition("/")[2]


def bundle_s(options: PipelineOptions) -> float:
    """How long the reader of our own gathers for one bundle."""
    return flink.BUNDLE_S if flink.chosen(options) else BUNDLE_S


def local(values: Values) -> LocalEngine:
    """The engine on this machine; its binary is found, or built.

    Raises:
        LocalError: there is no Prism and none can be made.
    """
    return LocalEngine(find_or_build(values.prism_location))


def refuse(pipeline: beam.Pipeline) -> None:
    """Refuse what the local engine cannot do.

    `DirectRunner` hands a streaming pipeline to Prism only when it finds nothing that Prism cannot do, and otherwise
    falls back, without a word, on runners that never acknowledge or lose late data. So Prism is started here by name,
    and what it cannot do is refused.

    Raises:
        UsageError: the local engine cannot run this pipeline.
    """
    reasons = refusals(pipeline)
    if reasons:
        raise UsageError(f"The local engine cannot run this pipeline: {'; '.join(reasons)}.")


def refusals(pipeline: beam.Pipeline) -> list[str]:
    """What Prism cannot do in this pipeline; the list is that of Beam 2.77's `DirectRunner`."""
    visitor = _Visitor()
    pipeline.visit(visitor)
    if pipeline.allow_unsafe_triggers:
        visitor.found.append("it allows unsafe triggers")
    if ExternalTransformFinder.contains_external_transforms(pipeline):
        visitor.found.append("it has a transform of another language")
    return visitor.found


class _Visitor(PipelineVisitor):
    def __init__(self) -> None:
        self.found: list[str] = []

    def visit_transform(self, transform_node: Any) -> None:
        transform, label = transform_node.transform, transform_node.full_label
        if isinstance(transform, TestStream):
            self.found.append(f"{label} is a TestStream")
        if isinstance(transform, beam.WindowInto) and isinstance(transform.get_windowing("").windowfn, Sessions):
            self.found.append(f"{label} has session windows")
        if isinstance(transform, beam.ParDo):
            dofn = transform.dofn
            if isinstance(dofn, beam.transforms.core._ExceptionHandlingWrapperDoFn):  # noqa: SLF001  # no public name
                self.found.append(f"{label} has an exception handler")
            if userstate.is_stateful_dofn(dofn):
                states, timers = userstate.get_dofn_specs(dofn)
                if any(timer.time_domain == TimeDomain.REAL_TIME for timer in timers):
                    self.found.append(f"{label} has a real-time timer")
                if any(isinstance(state, userstate.CombiningValueStateSpec) for state in states):
                    self.found.append(f"{label} has combining state")
