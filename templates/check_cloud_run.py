"""Holds the edge's service on Cloud Run, and the way to it, against the code that it runs; and what every such service is."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

from templates.check_edge import ANYWHERE, GUIDE, VARIABLES, drained, least_memory_mib, options
from templates.check_terraform import EDGE, SERVICES, Files, read
from tidemark.edge.contract import HEALTH
from tidemark.errors import UsageError
from tidemark.settings import Values

GRACE_S: Final = 10
"""Between SIGTERM and SIGKILL: https://cloud.google.com/run/docs/container-contract#instance-shutdown"""
LONGEST_REQUEST_MIB: Final = 32
"""Of HTTP/1: https://cloud.google.com/run/quotas"""
TOKENS: Final = "google_secret_manager_secret.tokens"
PROXY: Final = "google_compute_target_https_proxy"
WAY: Final = {
    "google_compute_global_forwarding_rule": f"{PROXY}.{{}}[0].id",
    PROXY: "google_compute_url_map.{}[0].id",
    "google_compute_url_map": "google_compute_backend_service.{}[0].id",
    "google_compute_backend_service": "google_compute_region_network_endpoint_group.{}[0].id",
    "google_compute_region_network_endpoint_group": "google_cloud_run_v2_service.{}[0].name",
}
"""From the address to the service: each leads to the next."""
Grant = tuple[str, str, str]
"""Its kind, what it is on, and the role."""
Found = Iterator[str]


class Service(NamedTuple):
    """One of them.

    Attributes:
        name: Of all its resources; its variables begin with it.
        file: Where they are, in `terraform/`.
        count: Of each, but of the secret that stays.
        stays: The secret that is there without the service.
        may: All that its account may.
        guide: Says why.
    """

    name: str
    file: str
    count: str
    stays: str
    may: frozenset[Grant]
    guide: Path

    @property
    def account(self) -> str:
        """Who it is."""
        return f"google_service_account.{self.name}[0].email"


def secret(name: str) -> Grant:
    """To read a secret."""
    return ("google_secret_manager_secret_iam_member", f"{name}.id", "roles/secretmanager.secretAccessor")


OF_EDGE: Final = Service(
    "edge",
    EDGE,
    "${local.edges}",
    TOKENS,
    frozenset(
        {
            ("google_pubsub_topic_iam_member", "google_pubsub_topic.points.id", "roles/pubsub.publisher"),
            secret(TOKENS),
        }
    ),
    GUIDE,
)


def cloud_run(root: Path) -> Found:
    """It runs the edge with options that the edge takes, may no more than it needs, and is reached one way."""
    yield from held(root, OF_EDGE, _edge)


def held(root: Path, of: Service, runs: Callable[[dict[str, Any], Files], Found]) -> Found:
    """What is wrong with a service.

    Args:
        root: The tree's.
        of: The service.
        runs: What is wrong with its own resource, given beside all files.
    """
    path = Path("terraform", of.file)
    try:
        files, own = read(root), read(root, of.file).resources
        elsewhere = {name for file in SERVICES if file != of.file for name in read(root, file).resources}
    except ValueError as error:
        yield str(error)
        return
    try:
        service = files.resources[f"google_cloud_run_v2_service.{of.name}"]
        yield from (f"{path}: {text}" for text in runs(service, files))
        yield from (f"{path}: {text}" for text in _around(service, of))
        yield from (f"{path}: {text}" for text in _rights(files.resources, of, elsewhere))
        yield from (f"{path}: {text}" for text in _way(own, of))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        yield f"{path} lacks something: {error!r}"
        return
    for name, body in own.items():
        if body.get("count") != (of.count if name != of.stays else None):
            yield f"{path}: {name} does not come and go with the {of.name} (count), or {of.stays} does"
    guide = (root / of.guide).read_text()
    roles = {body["role"] for name, body in own.items() if "_iam_member" in name}
    yield from (f"{of.guide} does not say why {role}" for role in sorted(roles) if f"`{role}`" not in guide)


def _edge(service: dict[str, Any], _: Files) -> Found:
    template, container, command = parts(service)
    if command[:2] != ["tidemark", "edge"]:
        yield "the container does not run tidemark edge"
    topic, tokens = reference("google_pubsub_topic.points.id"), reference(f"{TOKENS}.name")
    given = [text.replace(topic, VARIABLES["TOPIC"]).replace(tokens, "projects/p/secrets/s") for text in command[2:]]
    try:
        values = options(given)
    except UsageError as error:
        yield str(error)
        return
    yield from bounded(template, container, values, values.client_timeout_s + values.publish_timeout_s)
    yield from drained(values)
    yield from probed(container, startup_probe=HEALTH.path, liveness_probe=HEALTH.path)
    if values.max_message_bytes > LONGEST_REQUEST_MIB << 20:
        yield f"--max_message_bytes is more than the {LONGEST_REQUEST_MIB} MiB that come through"
    if values.spool_dir is not None:
        yield "no disk outlives an instance (--spool_dir)"
    yield from roomy(container, least_memory_mib(values))


def parts(service: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """The template, its container, and the command with its arguments."""
    (template,) = service["template"]
    (container,) = template["containers"]
    return template, container, [*container["command"], *container["args"]]


def bounded(template: dict[str, Any], container: dict[str, Any], values: Values, longest_s: float) -> Found:
    """It ends in time, no request is cut off before `longest_s`, and it listens where it is asked."""
    if values.drain_s >= GRACE_S:
        yield f"--drain_s is not less than the {GRACE_S} s between SIGTERM and SIGKILL"
    if int(template["timeout"].removesuffix("s")) < longest_s:
        yield f"timeout is less than the {longest_s:g} s that a request may take"
    if values.http_address != ANYWHERE or container["ports"] != [{"container_port": values.http_port}]:
        yield "the container's port is not that of its options"


def probed(container: dict[str, Any], **paths: str) -> Found:
    """Its probes ask for what they are to ask, at its own port."""
    for probe, path in paths.items():
        if container[probe][0]["http_get"] != [{"path": path}]:
            yield f"the {probe} is not {path}"


def roomy(container: dict[str, Any], least: int) -> Found:
    """It has `least` MiB of memory or more."""
    if int(container["resources"][0]["limits"]["memory"].removesuffix("Mi")) < least:
        yield f"the memory is less than {least} MiB"


def _around(service: dict[str, Any], of: Service) -> Found:
    template, container, _ = parts(service)
    if template["service_account"] != reference(of.account):
        yield f"the service runs as another account than the {of.name}'s"
    if container["resources"][0]["cpu_idle"] is not False:
        yield "what is done beside requests is late without a CPU between them (cpu_idle)"
    if service["ingress"] != "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER":
        yield "the service is reached past the load balancer (ingress)"
    if service["deletion_protection"] is not False:
        yield f"what {of.name}_domain no longer wants cannot go (deletion_protection)"
    (scaling,) = template["scaling"]
    if scaling != {f"{end}_instance_count": reference(f"var.{of.name}_{end}_instances") for end in ("min", "max")}:
        yield "how many instances there are is not what the variables say (scaling)"


def _rights(resources: dict[str, Any], of: Service, elsewhere: set[str]) -> Found:
    """The service's account may what it needs and no more, and everybody may call the service."""
    for name in resources:
        if re.search(r"_iam_(binding|policy)$", name.partition(".")[0]):
            yield f"{name} takes away what others grant"
    call = (
        "google_cloud_run_v2_service_iam_member",
        f"google_cloud_run_v2_service.{of.name}[0].name",
        "roles/run.invoker",
    )
    here = {name: body for name, body in resources.items() if name not in elsewhere}
    for who, has, may in (
        (of.account, _granted(resources, of.account), of.may),
        ("allUsers", _granted(here, "allUsers"), {call}),
    ):
        yield from (f"{who} has {role} on {on}, not wanted" for _, on, role in sorted(has - may))
        yield from (f"{who} lacks {role} on {on}" for _, on, role in sorted(may - has))


def _granted(resources: dict[str, Any], who: str) -> set[Grant]:
    found = set()
    for name, body in resources.items():
        kind = name.partition(".")[0]
        if "_iam_member" in kind and who in body["member"]:
            on = next((body[key] for key in ("topic", "secret_id", "name") if key in body), "the project")
            found.add((kind, on.removeprefix("${").removesuffix("}"), body["role"]))
    return found


def _way(own: dict[str, Any], of: Service) -> Found:
    for kind, leads in WAY.items():
        to = leads.format(of.name)
        if reference(to) not in str(own[f"{kind}.{of.name}"]):
            yield f"{kind}.{of.name} does not lead to {to}"
    if any(name.startswith("google_compute_target_http_proxy.") for name in own):
        yield "a token would be sent without TLS (google_compute_target_http_proxy)"
    if own[f"google_compute_global_forwarding_rule.{of.name}"]["port_range"] != "443":
        yield "the address has another port than 443"
    certificate = f"google_compute_managed_ssl_certificate.{of.name}"
    if own[certificate]["managed"] != [{"domains": [reference(f"var.{of.name}_domain")]}]:
        yield f"the certificate is not of {of.name}_domain"
    if reference(f"{certificate}[0].id") not in str(own[f"{PROXY}.{of.name}"]):
        yield "the address has another certificate"


def reference(name: str) -> str:
    """A text that is what `name` is."""
    return f"${{{name}}}"
