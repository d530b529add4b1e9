"""Each check of the query service's deployment fails when what it looks at is broken."""

from __future__ import annotations

from pathlib import Path

import pytest

from templates.check_cloud_run import cloud_run
from templates.check_query import query
from templates.check_query_on_cloud_run import query_on_cloud_run
from templates.check_terraform import terraform
from templates.checks import alerts
from tests.templates.conftest import ROOT, Broken, Check, is_found

MANIFEST = "templates/kubernetes/query.yaml"
SERVICE = "terraform/query.tf"
GUIDE = "docs/operations/query.md"
ALERTS = "terraform/alerts.tf"
VARIABLES = "terraform/variables.tf"
BROKEN_MANIFEST: dict[str, tuple[str, str, str]] = {
    "its syntax": ("spec:\n", "spec\n", "parsed"),
    "a part": ("kind: Service\n", "kind: Serving\n", "lacks"),
    "the program": ("command: [tidemark, serve]", "command: [tidemark, edge]", "does not run"),
    "an option": ("- --drain_s", "- --drains_s", "does not take"),
    "a value": ("--drain_s=25", "--drain_s=soon", "number"),
    "no tokens": ("            - --tokens=file:/etc/tidemark/tokens\n", "", "--tokens"),
    "the database": ("--database_secret=${SECRET}", "--database_url=postgresql://u@h/${SECRET}", "stands in"),
    "a variable": ("${ACCOUNT}", "${ACCOUNTS}", "ACCOUNTS"),
    "the address": ("--http_address=0.0.0.0", "--http_address=127.0.0.1", "loopback"),
    "the port": ("containerPort: 8090", "containerPort: 8091", "ports"),
    "the end": ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "more than"),
    "the memory": ("limits: {memory: 1024Mi}", "limits: {memory: 512Mi}", "memory"),
    "the rights": ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "more than it needs"),
    "the tokens": ("mountPath: /etc/tidemark,", "mountPath: /etc/others,", "mounted"),
    "the selector": ("selector: {app: tidemark-query}", "selector: {app: tidemark-edge}", "selects"),
    "the scaler": ("minReplicas: 2", "minReplicas: 1", "fewer"),
}
ROLE = '  role      = "roles/secretmanager.secretAccessor"'
READER = "google_secret_manager_secret.reader"
WIDE = """resource "google_project_iam_member" "query" {
  role   = "roles/cloudsql.client"
  member = "serviceAccount:${google_service_account.query[0].email}"
}

"""
BROKEN_SERVICE: dict[str, tuple[str, str, str]] = {
    "the syntax": ("{", "", "parsed"),
    "the program": ('command = ["tidemark"]', 'command = ["boot"]', "does not run"),
    "another program": ('        "serve",', '        "edge",', "does not run"),
    "an option": ("--http_port", "--https_port", "does not take"),
    "a value": ("--drain_s=8", "--drain_s=eight", "number"),
    "no secret": (f'        "--database_secret=${{{READER}.name}}/versions/latest",\n', "", "--database_secret"),
    "no tokens": (
        '        "--tokens=${google_secret_manager_secret.tokens.name}/versions/latest",\n',
        "",
        "--tokens is missing",
    ),
    "a URL beside the secret": (
        '        "--http_port=8080"',
        '        "--database_url=postgresql://u@h/d", "--http_port=8080"',
        "URL stands in",
    ),
    "the writer's URL": (
        f"--database_secret=${{{READER}.name}}",
        "--database_secret=${google_secret_manager_secret.database.name}",
        "--database_secret",
    ),
    "the secrets the wrong way round": (
        f"--database_secret=${{{READER}.name}}",
        "--database_secret=${google_secret_manager_secret.tokens.name}",
        "--database_secret is not",
    ),
    "tokens that are the URL": (
        "--tokens=${google_secret_manager_secret.tokens.name}",
        f"--tokens=${{{READER}.name}}",
        "--tokens is not",
    ),
    "one version of the secret": (f"{READER}.name}}/versions/latest", f"{READER}.name}}/versions/1", "newest version"),
    "the drain": ("--drain_s=8", "--drain_s=10", "SIGKILL"),
    "a drain without answers": ("--query_timeout_s=7", "--query_timeout_s=8", "--query_timeout_s"),
    "the usual time for a query": ('        "--query_timeout_s=7",', "", "--query_timeout_s"),
    "the time-out": ('"60s"', '"15s"', "timeout"),
    "too many at once": ("max_instance_request_concurrency = 32", "max_instance_request_concurrency = 80", "429"),
    "fewer that wait": ('        "--http_port=8080"', '        "--max_waiting=16", "--http_port=8080"', "429"),
    "too few at once": (
        "max_instance_request_concurrency = 32",
        "max_instance_request_concurrency = 4",
        "is asked for",
    ),
    "the connections": ("--database_pool_size=8", "--database_pool_size=12", "12 connections"),
    "the memory": ('"1024Mi"', '"512Mi"', "memory"),
    "the address": ("--http_address=0.0.0.0", "--http_address=127.0.0.1", "port"),
    "the port": ("container_port = 8080", "container_port = 8081", "port"),
    "a start that does not ask for the database": ('path = "/readyz"', 'path = "/healthz"', "startup_probe"),
    "a life that hangs on the database": ('path = "/healthz"', 'path = "/readyz"', "liveness_probe"),
    "another port's probe": ('path = "/readyz"', 'path = "/readyz"\n          port = 9400', "startup_probe"),
    "a short start": ("failure_threshold = 90", "failure_threshold = 20", "a start is given"),
    "a long start": ("failure_threshold = 90", "failure_threshold = 900", "a start is given"),
    "a probe that takes long": ("timeout_seconds   = 2", "timeout_seconds   = 4", "period_seconds"),
    "the network": ("network    = var.network", 'network    = "default"', "another network"),
    "the subnetwork": ("basename(var.subnetwork)", "var.network", "another network"),
    "no way to the database": ("    vpc_access {", "    vpc_accesses {", "lacks something"),
    "the way to all else": ("PRIVATE_RANGES_ONLY", "ALL_TRAFFIC", "egress"),
    "the number": ("= var.query_max_instances", "= 100", "scaling"),
    "the CPU": ("cpu_idle          = false", "cpu_idle          = true", "CPU"),
    "the way past": ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", "INGRESS_TRAFFIC_ALL", "past"),
    "its end": ("deletion_protection = false", "deletion_protection = true", "cannot go"),
    "the account": (
        "service_account                  = google_service_account.query[0]",
        "service_account                  = google_service_account.worker",
        "another account",
    ),
    "a wider role": (ROLE, ROLE.replace("secretAccessor", "admin"), "not wanted"),
    "a missing role": (ROLE, ROLE.replace("secretAccessor", "admin"), "lacks roles/secretmanager.secretAccessor"),
    "a role that nobody explains": (ROLE, ROLE.replace("secretAccessor", "admin"), "does not say why"),
    "the writer's secret": (
        f"secret_id = {READER}.id",
        "secret_id = google_secret_manager_secret.database.id",
        "database.id, not wanted",
    ),
    "a role of the project": ("# --- the service -", f"{WIDE}# --- the service -", "client on the project, not wanted"),
    "a grant that is the only one": (
        'resource "google_secret_manager_secret_iam_member"',
        'resource "google_secret_manager_secret_iam_binding"',
        "takes away",
    ),
    "who may call": ('"allUsers"', '"allAuthenticatedUsers"', "allUsers lacks roles/run.invoker"),
    "what everybody may": ('"roles/run.invoker"', '"roles/run.admin"', "allUsers has roles/run.admin"),
    "which service everybody may call": (
        "name     = google_cloud_run_v2_service.query[0].name",
        "name     = google_cloud_run_v2_service.edge[0].name",
        "allUsers lacks roles/run.invoker on google_cloud_run_v2_service.query",
    ),
    "the way": ("google_compute_backend_service.query[0].id", "google_compute_backend_service.edge[0].id", "lead to"),
    "the way's end": (
        "service = google_cloud_run_v2_service.query[0].name",
        "service = google_cloud_run_v2_service.edge[0].name",
        "lead to google_cloud_run_v2_service.query",
    ),
    "a port without TLS": ('port_range            = "443"', 'port_range            = "80"', "443"),
    "a proxy without TLS": (
        'resource "google_compute_url_map"',
        'resource "google_compute_target_http_proxy" "query" {\n  count = local.queries\n}\n\nresource "google_compute_url_map"',
        "without TLS",
    ),
    "the domain": ("[var.query_domain]", "[var.edge_domain]", "not of query_domain"),
    "the certificate": ("[google_compute_managed_ssl_certificate.query[0].id]", "[]", "another certificate"),
    "what is made with the edge": ("count    = local.queries", "count    = local.edges", "does not come and go"),
    "a secret that goes with the service": (
        'resource "google_secret_manager_secret" "reader" {',
        'resource "google_secret_manager_secret" "reader" {\n  count = local.queries',
        "reader does",
    ),
    "what the alert watches": (
        '"${var.name}-query"\n  location',
        '"${var.name}-serve"\n  location',
        "the alert watches",
    ),
    "a block": ("startup_probe {", "start_probe {", "lacks something"),
}
BROKEN: dict[str, Broken] = {
    **{f"manifest: {what}": (query, MANIFEST, *change) for what, change in BROKEN_MANIFEST.items()},
    **{f"Cloud Run: {what}": (query_on_cloud_run, SERVICE, *change) for what, change in BROKEN_SERVICE.items()},
    "an unexplained role": (query_on_cloud_run, GUIDE, "`roles/run.invoker`", "`roles/run`", "roles/run.invoker"),
    "how many connections": (query_on_cloud_run, VARIABLES, "at most 8 conn", "at most 6 conn", "8 connections"),
    "where the job is": (query_on_cloud_run, "terraform/main.tf", "= var.network\n", '= "other"\n', "another network"),
    "an alert of another service": (query_on_cloud_run, ALERTS, '}-query\\"', '}-edge\\"', "the alert watches"),
    "an alert's query": (alerts, ALERTS, "100 * sum(increase(${local.answers}", "100 * sum(${local.answers}", "PromQL"),
    "an alert's advice": (alerts, ALERTS, "runbook}#queries-fail", "runbook}#queries", "what to do"),
    "an alert's heading": (
        alerts,
        "docs/operations/runbook.md",
        "## Queries fail",
        "## Queries",
        "heading Queries fail",
    ),
    "the edge's account": (
        cloud_run,
        SERVICE,
        "${google_service_account.query[0].email}",
        "${google_service_account.edge[0].email}",
        "reader.id, not wanted",
    ),
    "an undeclared variable": (terraform, SERVICE, "var.query_max_", "var.queries_max_", "queries_max_instances"),
    "an unused variable": (terraform, SERVICE, "var.query_min_instances", "1", "query_min_instances is not used"),
    "an undeclared resource": (terraform, SERVICE, '_url_map" "query"', '_url_map" "queries"', "url_map.query is"),
    "an output": (terraform, "terraform/outputs.tf", "secret.reader.id", "secret.read.id", "secret.read is"),
}


@pytest.mark.parametrize("check", [query, query_on_cloud_run])
def test_the_files_are_right(check: Check) -> None:
    assert list(check(ROOT)) == []


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_found(tree: Path, what: str) -> None:
    is_found(tree, BROKEN[what])
