"""Holds the edge's service on Cloud Run, and the way to it, against the code that it runs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

from templates.check_edge import ANYWHERE, GUIDE, VARIABLES, drained, least_memory_mib, options
from templates.check_terraform import EDGE, read
from tidemark.edge.contract import HEALTH
from tidemark.errors import UsageError
from tidemark.settings import Values

PATH: Final = Path("terraform", EDGE)
SERVICE: Final = "google_cloud_run_v2_service.edge"
GRACE_S: Final = 10
"""Between SIGTERM and SIGKILL: https://cloud.google.com/run/docs/container-contract#instance-shutdown"""
LONGEST_REQUEST_MIB: Final = 32
"""Of HTTP/1: https://cloud.google.com/run/quotas"""
ACCOUNT: Final = "google_service_account.edge[0].email"
MAY: Final = {
    ("google_pubsub_topic_iam_member", "google_pubsub_topic.points.id", "roles/pubsub.publisher"),
    (
        "google_secret_manager_secret_iam_member",
        "google_secret_manager_secret.tokens.id",
        "roles/secretmanager.secretAccessor",
    ),
}
"""All that the account may: a kind of grant, on what, and the role."""
EVERYBODY: Final = {("google_cloud_run_v2_service_iam_member", f"{SERVICE}[0].name", "roles/run.invoker")}
PROXY: Final = "google_compute_target_https_proxy"
WAY: Final = {
    "google_compute_global_forwarding_rule": f"{PROXY}.edge[0].id",
    PROXY: "google_compute_url_map.edge[0].id",
    "google_compute_url_map": "google_compute_backend_service.edge[0].id",
    "google_compute_backend_service": "google_compute_region_network_endpoint_group.edge[0].id",
    "google_compute_region_network_endpoint_group": f"{SERVICE}[0].name",
}
"""From the address to the service: each leads to the next."""
STAYS: Final = "google_secret_manager_secret.tokens"
Found = Iterator[str]


def cloud_run(root: Path) -> Found:
    """It runs the edge with options that the edge takes, may no more than it needs, and is reached one way."""
    try:
        resources, of_edge = read(root).resources, read(root, EDGE).resources
    except ValueError as error:
        yield str(error)
        return
    try:
        yield from (f"{PATH}: {text}" for text in _service(resources[SERVICE]))
        yield from (f"{PATH}: {text}" for text in _rights(resources))
        yield from (f"{PATH}: {text}" for text in _way(of_edge))
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        yield f"{PATH} lacks something: {error!r}"
        return
    for name, body in of_edge.items():
        if body.get("count") != ("${local.edges}" if name != STAYS else None):
            yield f"{PATH}: {name} does not come and go with the edge (count), or {STAYS} does"
    guide = (root / GUIDE).read_text()
    roles = {body["role"] for name, body in of_edge.items() if "_iam_member" in name}
    yield from (f"{GUIDE} does not say why {role}" for role in sorted(roles) if f"`{role}`" not in guide)


def _service(service: dict[str, Any]) -> Found:
    (template,) = service["template"]
    (container,) = template["containers"]
    command = [_filled(text) for text in [*container["command"], *container["args"]]]
    if command[:2] != ["tidemark", "edge"]:
        yield "the container does not run tidemark edge"
    try:
        values = options(command[2:])
    except UsageError as error:
        yield str(error)
        return
    yield from _limits(template, container, values)
    if values.http_address != ANYWHERE or container["ports"] != [{"container_port": values.http_port}]:
        yield "the container's port is not that of its options"
    for probe in ("startup_probe", "liveness_probe"):
        if container[probe][0]["http_get"] != [{"path": HEALTH.path}]:
            yield f"the {probe} is not {HEALTH.path}"
    if template["service_account"] != _reference(ACCOUNT):
        yield "the service runs as another account than the edge's"
    if container["resources"][0]["cpu_idle"] is not False:
        yield "without a CPU between requests messages are confirmed late (cpu_idle)"
    if service["ingress"] != "INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER":
        yield "the service is reached past the load balancer (ingress)"
    if service["deletion_protection"] is not False:
        yield "an edge that edge_domain no longer wants cannot go (deletion_protection)"


def _limits(template: dict[str, Any], container: dict[str, Any], values: Values) -> Found:
    if values.drain_s >= GRACE_S:
        yield f"--drain_s is not less than the {GRACE_S} s between SIGTERM and SIGKILL"
    yield from drained(values)
    if int(template["timeout"].removesuffix("s")) < values.client_timeout_s + values.publish_timeout_s:
        yield "timeout is less than --client_timeout_s and --publish_timeout_s"
    if values.max_message_bytes > LONGEST_REQUEST_MIB << 20:
        yield f"--max_message_bytes is more than the {LONGEST_REQUEST_MIB} MiB that come through"
    if values.spool_dir is not None:
        yield "no disk outlives an instance (--spool_dir)"
    memory, least = container["resources"][0]["limits"]["memory"], least_memory_mib(values)
    if int(memory.removesuffix("Mi")) < least:
        yield f"the memory is less than {least} MiB"


def _rights(resources: dict[str, Any]) -> Found:
    """Each grant by its kind, what it is on, and its role; of the edge's account and of everybody."""
    given: dict[str, set[tuple[str, str, str]]] = {ACCOUNT: set(), "allUsers": set()}
    for name, body in resources.items():
        kind = name.partition(".")[0]
        if re.search(r"_iam_(binding|policy)$", kind):
            yield f"{name} takes away what others grant"
        for who, grants in given.items():
            if "_iam_member" in kind and who in body["member"]:
                on = next((body[key] for key in ("topic", "secret_id", "name") if key in body), "the project")
                grants.add((kind, on.removeprefix("${").removesuffix("}"), body["role"]))
    for who, may in ((ACCOUNT, MAY), ("allUsers", EVERYBODY)):
        yield from (f"{who} has {role} on {on}, not wanted" for _, on, role in sorted(given[who] - may))
        yield from (f"{who} lacks {role} on {on}" for _, on, role in sorted(may - given[who]))


def _way(resources: dict[str, Any]) -> Found:
    for kind, to in WAY.items():
        if _reference(to) not in str(resources[f"{kind}.edge"]):
            yield f"{kind}.edge does not lead to {to}"
    if any(name.startswith("google_compute_target_http_proxy.") for name in resources):
        yield "a token would be sent without TLS (google_compute_target_http_proxy)"
    if resources["google_compute_global_forwarding_rule.edge"]["port_range"] != "443":
        yield "the address has another port than 443"
    if resources["google_compute_managed_ssl_certificate.edge"]["managed"] != [
        {"domains": [_reference("var.edge_domain")]}
    ]:
        yield "the certificate is not of edge_domain"
    if _reference("google_compute_managed_ssl_certificate.edge[0].id") not in str(resources[f"{PROXY}.edge"]):
        yield "the address has another certificate"


def _reference(name: str) -> str:
    return f"${{{name}}}"


def _filled(text: str) -> str:
    topic, tokens = _reference("google_pubsub_topic.points.id"), _reference(f"{STAYS}.name")
    return text.replace(topic, VARIABLES["TOPIC"]).replace(tokens, "projects/p/secrets/s")
