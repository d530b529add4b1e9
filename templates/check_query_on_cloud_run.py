"""Holds the query service on Cloud Run, and the way to it, against the code that it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from templates.check_cloud_run import TOKENS, Found, Service, bounded, held, parts, probed, reference, roomy, secret
from templates.check_edge import options
from templates.check_query import GUIDE, LEAST_MIB
from templates.check_terraform import QUERY, Files
from tidemark.errors import UsageError
from tidemark.query.paths import HEALTH, READY
from tidemark.settings import SERVE, Values

READER: Final = "google_secret_manager_secret.reader"
JOB: Final = "google_dataflow_flex_template_job.ingest"
WAY_S: Final = 60
"""What the way to the network may take after a start: https://cloud.google.com/run/docs/configuring/vpc-direct-vpc#limitations"""
LONGEST_START_S: Final = 240
"""https://cloud.google.com/run/docs/configuring/healthchecks"""
OF_QUERY: Final = Service(
    "query", QUERY, "${local.queries}", READER, frozenset({secret(READER), secret(TOKENS)}), GUIDE
)


def query_on_cloud_run(root: Path) -> Found:
    """It runs the query service with options that it takes, may no more than it needs, and is reached one way."""
    yield from held(root, OF_QUERY, _query)


def _query(service: dict[str, Any], files: Files) -> Found:
    template, container, command = parts(service)
    if command[:2] != ["tidemark", "serve"]:
        yield "the container does not run tidemark serve"
    secrets = {reference(f"{name}.name"): f"projects/p/secrets/{name.rpartition('.')[2]}" for name in (READER, TOKENS)}
    given = command[2:]
    for name, filled in secrets.items():
        given = [text.replace(name, filled) for text in given]
    try:
        values = options(given, "serve", SERVE, ("tokens", "database_secret"))
    except UsageError as error:
        yield str(error)
        return
    if values.database_url is not None:
        yield "the database's URL stands in the file"
    for name, wanted in (("database_secret", READER), ("tokens", TOKENS)):
        if getattr(values, name) != f"{secrets[reference(f'{wanted}.name')]}/versions/latest":
            yield f"--{name} is not the newest version of {wanted}"
    yield from bounded(template, container, values, values.query_timeout_s + values.client_timeout_s)
    if values.query_timeout_s >= values.drain_s:
        yield "--drain_s is not more than --query_timeout_s: what is asked is not answered at the end"
    yield from roomy(container, LEAST_MIB)
    yield from _at_once(template, values, files)
    yield from probed(container, startup_probe=READY, liveness_probe=HEALTH)
    yield from _started(container["startup_probe"][0])
    yield from _connected(template, files.resources[JOB])
    if f'service_name=\\"{service["name"]}\\' not in files.values["answers"]:
        yield "the alert watches another service (local.answers)"


def _at_once(template: dict[str, Any], values: Values, files: Files) -> Found:
    """An instance is given no more than it takes, and enough for its connections; how many those are is said."""
    at_once, executed = template["max_instance_request_concurrency"], values.database_pool_size
    if at_once > executed + values.max_waiting:
        yield "an instance says 429 where another would answer (max_instance_request_concurrency)"
    if at_once < executed:
        yield "an instance is asked for less than it has connections (max_instance_request_concurrency)"
    if f"at most {executed} connections" not in files.variables["query_max_instances"]["description"]:
        yield f"query_max_instances does not say that an instance has {executed} connections"


def _started(probe: dict[str, Any]) -> Found:
    if not WAY_S < probe["period_seconds"] * probe["failure_threshold"] <= LONGEST_START_S:
        yield f"a start is given no more than {WAY_S} s, or more than {LONGEST_START_S} s (startup_probe)"
    if probe["timeout_seconds"] > probe["period_seconds"]:
        yield "timeout_seconds is more than period_seconds (startup_probe)"


def _connected(template: dict[str, Any], job: dict[str, Any]) -> Found:
    """It is in the network in which the job's workers reach the database."""
    (access,) = template["vpc_access"]
    (interface,) = access["network_interfaces"]
    subnetwork = job["subnetwork"].removeprefix("${").removesuffix("}")
    if interface != {"network": job["network"], "subnetwork": reference(f"basename({subnetwork})")}:
        yield "it is in another network than the job (vpc_access)"
    if access["egress"] != "PRIVATE_RANGES_ONLY":
        yield "what is not in the network, such as Secret Manager, needs a way out of it (egress)"
