"""Options of the pipelines: Beam's own and Tidemark's, all checked before a graph is built."""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import (
    DebugOptions,
    GoogleCloudOptions,
    PipelineOptions,
    SetupOptions,
    StandardOptions,
    WorkerOptions,
)

from pipelines import flink
from tidemark.errors import UsageError
from tidemark.settings import DATABASE_URL, INGEST, Setting, Values, read, refuse_unknown, require

LOCAL_RUNNERS = frozenset({"DirectRunner", "PrismRunner"})
REMOTE_RUNNERS = frozenset({"DataflowRunner", *flink.RUNNERS})
IMAGE_VARIABLE = flink.IMAGE_VARIABLE
"""The image sets it to its own name, so that workers run what the launcher runs."""
WORKER_THREADS = 12
"""Bundles that one worker process works on at once: they wait for the database more than they compute."""
_BEAM_HAS = frozenset({"prism_location"})


class IngestOptions(PipelineOptions):
    """The settings of ingest as pipeline options; a Dataflow template's parameters bear the same names."""

    @classmethod
    def _add_argparse_args(cls, parser: argparse.ArgumentParser) -> None:
        for setting in INGEST:
            if setting.name not in _BEAM_HAS:
                parser.add_argument(f"--{setting.name}", help=_help(setting))


def _help(setting: Setting) -> str:
    default = "" if setting.default is None else f" Default: {setting.default}."
    return f"{setting.help}{default}".replace("%", "%%")


def parse(argv: Sequence[str], settings: Sequence[Setting] = INGEST) -> tuple[PipelineOptions, Values]:
    """Beam's options and Tidemark's checked values.

    A database URL goes into this process's environment and not into the options, which travel with the job.

    Raises:
        UsageError: an option is unknown, missing or wrong, in one sentence that names it.
    """
    known_parser().refuse_unknown(argv)
    refuse_unknown()
    parser = Parser(add_help=False, allow_abbrev=False)
    for setting in settings:
        parser.add_argument(f"--{setting.name}")
    own, beams = parser.parse_known_args(list(argv))
    if flink.chosen(PipelineOptions(beams)):
        settings = [replace(one, default=flink.SETTINGS.get(one.name, one.default)) for one in settings]
    values = read(settings, vars(own))
    require(values, "subscription", "rollup_dataset")
    options = PipelineOptions([*beams, *public(values, settings)])
    FileSystems.set_options(options)  # a mapping in a bucket is read before a pipeline does it
    check_runner(options, values)
    return options, values


def public(values: Values, settings: Sequence[Setting]) -> list[str]:
    """The values that may travel with the job, as arguments."""
    arguments = []
    for setting in settings:
        value = getattr(values, setting.name)
        if value is None or setting.secret:
            continue
        text = ",".join(map(str, value)) if isinstance(value, tuple) else str(value)
        arguments.append(f"--{setting.name}={text}")
    return arguments


def check_runner(options: PipelineOptions, values: Values, *, streaming: bool = True) -> None:
    """Set what follows from the runner, and see that it has what it needs.

    Raises:
        UsageError: it has not.
    """
    standard = options.view_as(StandardOptions)
    standard.runner = standard.runner or "DirectRunner"
    standard.streaming = streaming
    if standard.runner in REMOTE_RUNNERS:
        if values.database_url is not None:
            raise UsageError(
                "--database_url would end up in the job, with its password: give --database_secret on remote runners."
            )
        require(values, "database_secret")
        if flink.chosen(options):
            flink.prepare(options)
        else:
            _prepare_dataflow(options, values)
    elif standard.runner not in LOCAL_RUNNERS:
        known = ", ".join(sorted(LOCAL_RUNNERS | REMOTE_RUNNERS))
        raise UsageError(f"--runner={standard.runner} is none that Tidemark runs on: {known}.")
    elif values.database_url is not None:
        os.environ[DATABASE_URL.variable] = values.database_url
    elif values.database_secret is None:
        raise UsageError("--database_url or --database_secret is missing: give one, or set TIDEMARK_DATABASE_URL.")


def _prepare_dataflow(options: PipelineOptions, values: Values) -> None:
    """Set what follows from ours in Beam's options for Dataflow."""
    cloud, workers, setup = (options.view_as(view) for view in (GoogleCloudOptions, WorkerOptions, SetupOptions))
    debug = options.view_as(DebugOptions)
    if cloud.project is None:
        raise UsageError("--project is missing: it names the Google project the job runs in.")
    if setup.save_main_session:
        raise UsageError("--save_main_session is not needed: the workers run the image that launches the job.")
    workers.sdk_container_image = workers.sdk_container_image or os.environ.get(IMAGE_VARIABLE)
    if not workers.sdk_container_image:
        raise UsageError(f"--sdk_container_image is missing: give the image, or set {IMAGE_VARIABLE}.")
    setup.sdk_location = "container"
    debug.number_of_worker_harness_threads = debug.number_of_worker_harness_threads or WORKER_THREADS
    if options.view_as(StandardOptions).streaming and values.streaming_mode == "at_least_once":
        services = cloud.dataflow_service_options or []
        cloud.dataflow_service_options = [*services, "streaming_mode_at_least_once"]


def known_parser() -> Parser:
    """Knows every option, Beam's and ours; Beam keeps what it does not know in silence, and a misspelt one would be lost."""
    parser = Parser(add_help=False, allow_abbrev=False, conflict_handler="resolve")
    for option_class in _all_subclasses(PipelineOptions):
        option_class._add_argparse_args(parser)  # noqa: SLF001  # Beam's own way to collect its options
    return parser


def _all_subclasses(cls: type[Any]) -> list[type[Any]]:
    return [found for child in cls.__subclasses__() for found in (child, *_all_subclasses(child))]


class Parser(argparse.ArgumentParser):
    """Raises instead of leaving the program."""

    def error(self, message: str) -> Any:
        """Say what is wrong.

        Raises:
            UsageError: always.
        """
        raise UsageError(f"{message[:1].upper()}{message[1:]}.")

    def refuse_unknown(self, argv: Sequence[str]) -> argparse.Namespace:
        """Read all arguments.

        Raises:
            UsageError: one of them is none.
        """
        found, unknown = self.parse_known_args(list(argv))
        if unknown:
            raise UsageError(f"{unknown[0].split('=')[0]} is not an option; --help lists them.")
        return found
