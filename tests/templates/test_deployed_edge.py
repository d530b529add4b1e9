"""Each check of the edge's deployment fails when what it looks at is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from templates.check_cloud_run import cloud_run
from templates.check_edge import edge, kustomize
from templates.check_terraform import terraform
from templates.patches import patched
from tests.templates.conftest import Broken, is_found

MANIFEST = "templates/kubernetes/edge.yaml"
SPOOL = "templates/kubernetes/spool/kustomization.yaml"
SERVICE = "terraform/edge.tf"
GUIDE = "docs/operations/edge.md"
BROKEN_MANIFEST: dict[str, tuple[str, str, str]] = {
    "its syntax": ("spec:\n", "spec\n", "parsed"),
    "a part": ("kind: Service\n", "kind: Serving\n", "lacks"),
    "a part twice": ("kind: PodDisruptionBudget", "kind: Service", "one kind"),
    "the program": ("command: [tidemark, edge]", "command: [tidemark, edgy]", "does not run"),
    "the image's own entry": ("command: [tidemark, edge]", "command: [/opt/apache/beam/boot]", "does not run"),
    "an option": ("- --drain_s", "- --drains_s", "does not take"),
    "a value": ("--drain_s=25", "--drain_s=soon", "number"),
    "the topic": ("--topic=${TOPIC}", "--topic=points-${TOPIC}", "--topic"),
    "no tokens": ("            - --tokens=file:/etc/tidemark/tokens\n", "", "--tokens"),
    "a spool": ("- --drain_s=25", "- --drain_s=25\n            - --spool_dir=/tmp/s", "StatefulSet"),
    "a variable": ("${ACCOUNT}", "${ACCOUNTS}", "ACCOUNTS"),
    "the address": ("--http_address=0.0.0.0", "--http_address=127.0.0.1", "loopback"),
    "the metrics' address": ("--metrics_address=0.0.0.0", "--metrics_address=127.0.0.1", "loopback"),
    "the port": ("containerPort: 8080", "containerPort: 8081", "ports"),
    "the metrics' port": ("--metrics_port=9400", "--metrics_port=9401", "ports"),
    "liveness": (
        "{path: /healthz, port: http}\n            periodSeconds: 10",
        "{path: /, port: http}",
        "livenessProbe",
    ),
    "liveness by readiness": ("{path: /healthz", "{path: /readyz", "startupProbe"),
    "readiness": ("{path: /readyz", "{path: /healthz", "readinessProbe"),
    "a probe's port": ("{path: /readyz, port: http}", "{path: /readyz, port: metrics}", "readinessProbe"),
    "the pause": ("[sleep, ", "[echo, ", "SIGTERM"),
    "the pause's length": ('[sleep, "15"]', '[sleep, "40"]', "terminationGrace"),
    "the grace": ("terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 40", "terminationGrace"),
    "the drain": ("--drain_s=25", "--drain_s=45", "terminationGrace"),
    "a drain without answers": ("--drain_s=25", "--drain_s=10", "--publish_timeout_s"),
    "the memory": ("memory: 384Mi", "memory: 200Mi", "memory"),
    "the bodies in flight": ("--inflight_bytes=67108864", "--inflight_bytes=671088640", "memory"),
    "the CPU": ('cpu: "1"', 'cpu: "2"', "CPU"),
    "privileges": ("allowPrivilegeEscalation: false", "allowPrivilegeEscalation: true", "the container may"),
    "the file system": ("readOnlyRootFilesystem: true", "readOnlyRootFilesystem: false", "the container may"),
    "capabilities": ("drop: [ALL]", "drop: [KILL]", "the container may"),
    "a capability": ("drop: [ALL]", "drop: [ALL], add: [NET_ADMIN]", "the container may"),
    "root": ("runAsNonRoot: true", "runAsNonRoot: false", "the pod may"),
    "Kubernetes' own token": (
        "automountServiceAccountToken: false",
        "automountServiceAccountToken: true",
        "the pod may",
    ),
    "the tokens' file": ("mountPath: /etc/tidemark,", "mountPath: /etc,", "mounted"),
    "the tokens' directory": ("mountPath: /etc/tidemark,", "mountPath: /etc/tidemark, subPath: tokens,", "mounted"),
    "the tokens' secret": ("secretName: tidemark-t", "secretName: t", "guide does not make"),
    "what the deployment selects": ("matchLabels: {app: t", "matchLabels: {app: x", "Deployment selects"),
    "what the service selects": ("  selector: {app: t", "  selector: {app: x", "Service selects"),
    "the pods' label": ("      labels: {app: t", "      labels: {app: x", "selects"),
    "the service's target": ("targetPort: http", "targetPort: metrics", "service leads"),
    "the account": ("serviceAccountName: tidemark-edge", "serviceAccountName: default", "service account"),
    "the budget": ("  maxUnavailable: 1\n", "  minAvailable: 1\n", "Budget"),
    "the update": ("maxUnavailable: 0", "maxUnavailable: 1", "update"),
    "the number": ("spec:\n  # how", "spec:\n  replicas: 1\n  # how", "autoscaler"),
    "what is scaled": ("kind: Deployment, name: tidemark-edge}", "kind: Deployment, name: edge}", "autoscaler"),
    "the least number": ("minReplicas: 2", "minReplicas: 1", "minReplicas"),
}
REMOVAL = (
    "$patch: delete\n      apiVersion: autoscaling/v2\n      kind: HorizontalPodAutoscaler\n      "
    "metadata: {name: tidemark-edge}\n"
)
BROKEN_SPOOL: dict[str, tuple[str, str, str]] = {
    "its syntax": ("patches:\n", "patches\n", "parsed"),
    "what is patched": (
        "{kind: Deployment, name: tidemark-edge}",
        "{kind: Deployment, name: edge}",
        "no Deployment edge",
    ),
    "a path": ("path: /spec/strategy", "path: /spec/strategies", "strategies"),
    "a path that is made": ("{op: replace, path: /kind", "{op: replace, path: /king", "not known"),
    "the removal": ("$patch: delete", "$patch: erase", "not known"),
    "the autoscaler": (REMOVAL, "[]", "an autoscaler leaves"),
    "the kind": ("value: StatefulSet", "value: Deployment", "lacks"),
    "the number": ("path: /spec/replicas, value: 3", "path: /spec/replicas, value: 2", "fewer than two"),
    "the directory": ("mountPath: /var/spool/tidemark}", "mountPath: /var/spool/t}", "no volume"),
    "the mount": ("{name: spool, mountPath", "{name: tokens, mountPath", "no volume"),
    "no directory": ("--spool_dir=/var/spool/tidemark/edge", "--access_log_share=0", "StatefulSet"),
    "the volume's name": ("metadata: {name: spool}", "metadata: {name: spools}", "no volume"),
    "who mounts it": ("ReadWriteOncePod", "ReadWriteMany", "another process"),
    "its size": ("storage: 15Gi", "storage: 11Gi", "smaller"),
    "the spool's size": ("--spool_bytes=10", "--spool_bytes=20", "smaller"),
}
WIDE = """resource "google_project_iam_member" "edge" {
  role   = "roles/editor"
  member = "serviceAccount:${google_service_account.edge[0].email}"
}

"""
BROKEN_SERVICE: dict[str, tuple[str, str, str]] = {
    "the syntax": ("{", "", "parsed"),
    "the program": ('command = ["tidemark"]', 'command = ["boot"]', "does not run"),
    "an option": ("--http_port", "--https_port", "does not take"),
    "a value": ("--drain_s=8", "--drain_s=eight", "number"),
    "the topic": ("--topic=${google_pubsub_topic.points.id}", "--topic=${google_pubsub_topic.points.name}", "--topic"),
    "the tokens": ("/versions/latest", "", "--tokens"),
    "the drain": ("--drain_s=8", "--drain_s=10", "SIGKILL"),
    "a drain without answers": ("--publish_timeout_s=5", "--publish_timeout_s=8", "--publish_timeout_s"),
    "a spool": ('        "--http_port=8080"', '        "--spool_dir=/tmp/s", "--http_port=8080"', "outlives"),
    "the longest body": (
        '        "--http_port=8080"',
        '        "--max_message_bytes=50000000", "--http_port=8080"',
        "32",
    ),
    "the time-out": ('"60s"', '"10s"', "timeout"),
    "the memory": ('"512Mi"', '"128Mi"', "memory"),
    "the address": ("--http_address=0.0.0.0", "--http_address=127.0.0.1", "port"),
    "the port": ("container_port = 8080", "container_port = 8081", "port"),
    "a probe": ('path = "/healthz"', 'path = "/readyz"', "startup_probe"),
    "another port's probe": ('path = "/healthz"', 'path = "/healthz"\n          port = 9400', "startup_probe"),
    "the CPU": ("cpu_idle          = false", "cpu_idle          = true", "CPU"),
    "the way past": ("INGRESS_TRAFFIC_INTERNAL_LOAD_BALANCER", "INGRESS_TRAFFIC_ALL", "past"),
    "its end": ("deletion_protection = false", "deletion_protection = true", "cannot go"),
    "the account": (
        "service_account                  = google_service_account.edge[0]",
        "service_account                  = google_service_account.worker",
        "another account",
    ),
    "a wider role": ("roles/pubsub.publisher", "roles/pubsub.editor", "not wanted"),
    "a missing role": ("roles/pubsub.publisher", "roles/pubsub.editor", "lacks roles/pubsub.publisher"),
    "a role that nobody explains": ("roles/pubsub.publisher", "roles/pubsub.editor", "does not say why"),
    "another secret": (
        "secret_id = google_secret_manager_secret.tokens.id",
        "secret_id = google_secret_manager_secret.database.id",
        "database.id, not wanted",
    ),
    "a role of the project": ("# --- the service -", f"{WIDE}# --- the service -", "editor on the project, not wanted"),
    "a grant that is the only one": (
        'resource "google_pubsub_topic_iam_member"',
        'resource "google_pubsub_topic_iam_binding"',
        "takes away",
    ),
    "who may call": ('"allUsers"', '"allAuthenticatedUsers"', "allUsers lacks roles/run.invoker"),
    "what everybody may": ('"roles/run.invoker"', '"roles/run.admin"', "allUsers has roles/run.admin"),
    "the way": ("google_compute_backend_service.edge[0].id", "google_compute_backend_service.edge[0].name", "lead to"),
    "the way's end": (
        "service = google_cloud_run_v2_service.edge[0].name",
        'service = "ingest"',
        "lead to google_cloud_run_v2_service",
    ),
    "a port without TLS": ('port_range            = "443"', 'port_range            = "80"', "443"),
    "a proxy without TLS": (
        'resource "google_compute_url_map"',
        'resource "google_compute_target_http_proxy" "edge" {\n  count = local.edges\n}\n\nresource "google_compute_url_map"',
        "without TLS",
    ),
    "the domain": ("[var.edge_domain]", '["points.example.com"]', "not of edge_domain"),
    "the certificate": (
        "[google_compute_managed_ssl_certificate.edge[0].id]",
        "[]",
        "another certificate",
    ),
    "what is made without a domain": (
        'resource "google_compute_global_address" "edge" {\n  count      = local.edges',
        'resource "google_compute_global_address" "edge" {\n  count      = 1',
        "google_compute_global_address.edge does not come and go",
    ),
    "tokens that go with the edge": (
        'resource "google_secret_manager_secret" "tokens" {',
        'resource "google_secret_manager_secret" "tokens" {\n  count = local.edges',
        "tokens does",
    ),
    "a block": ("startup_probe {", "start_probe {", "lacks something"),
}
BROKEN: dict[str, Broken] = {
    **{f"manifest: {what}": (edge, MANIFEST, *change) for what, change in BROKEN_MANIFEST.items()},
    **{f"spool: {what}": (edge, SPOOL, *change) for what, change in BROKEN_SPOOL.items()},
    **{f"Cloud Run: {what}": (cloud_run, SERVICE, *change) for what, change in BROKEN_SERVICE.items()},
    "an unexplained variable": (edge, GUIDE, "ACCOUNT=", "MEMBER=", "ACCOUNT="),
    "an unexplained role": (cloud_run, GUIDE, "`roles/run.invoker`", "`roles/run`", "roles/run.invoker"),
    "an undeclared variable": (terraform, SERVICE, "var.edge_max_", "var.edges_max_", "edges_max_instances"),
    "an unused variable": (terraform, SERVICE, "var.edge_min_instances", "1", "edge_min_instances is not used"),
    "an undeclared resource": (terraform, SERVICE, '_url_map" "edge"', '_url_map" "edges"', "url_map.edge is"),
    "an output": (terraform, "terraform/outputs.tf", "secret.tokens.id", "secret.token.id", "secret.token is"),
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_found(tree: Path, what: str) -> None:
    is_found(tree, BROKEN[what])


def test_patches_that_kubectl_understands_otherwise_are_found(tree: Path) -> None:
    if shutil.which("kubectl") is None:
        pytest.skip("kubectl is not on this machine")
    path = tree / SPOOL
    text = path.read_text()
    path.write_text(text.replace("patches:\n", "namePrefix: x-\npatches:\n"))
    assert any("otherwise" in said for said in kustomize(tree))
    path.write_text(text.replace("resources: [../edge.yaml]", "resources: [../edges.yaml]"))
    assert any("refuses" in said for said in kustomize(tree))


def test_a_patch_adds_replaces_and_removes() -> None:
    parts = [
        {"kind": "A", "metadata": {"name": "a"}, "list": [{"x": 1}], "z": 5},
        {"kind": "B", "metadata": {"name": "b"}},
    ]
    operations = (
        "[{op: add, path: /list/-, value: 2}, {op: replace, path: /list/0/x, value: 3}, {op: add, path: /y, value: 4}, "
        "{op: remove, path: /z}]"
    )
    patches = [
        {"target": {"kind": "A", "name": "a"}, "patch": operations},
        {"target": {"kind": "B", "name": "b"}, "patch": "$patch: delete"},
    ]
    assert patched(parts, {"patches": patches}) == [
        {"kind": "A", "metadata": {"name": "a"}, "list": [{"x": 3}, 2], "y": 4}
    ]
