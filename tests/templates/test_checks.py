"""The deployment files agree with the code, and every check fails when its file is broken."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from templates import checks
from tests.templates.conftest import ROOT, Broken, Check, is_found


@pytest.mark.parametrize("check", [check for group in ("files", "tools") for check in checks.CHECKS[group]])
def test_the_files_agree_with_the_code(check: Check) -> None:
    assert list(check(ROOT)) == []


def test_the_image_installs_in_a_fresh_environment(tree: Path) -> None:
    assert list(checks.installs(tree)) == []
    (tree / "templates" / "launch.py").write_text("import apache_beam as beam\n\nclass Here(beam.DoFn):\n    pass\n")
    assert any("Here" in text for text in checks.installs(tree))


MANIFEST = "templates/kubernetes/flink.yaml"
RULES = "templates/prometheus/alerts.yaml"
BROKEN_MANIFEST: dict[str, tuple[str, str, str]] = {
    "the manifest's syntax": ("spec:\n", "spec\n", "parsed"),
    "a part of the manifest": ("kind: Service\n", "kind: Serving\n", "lacks"),
    "an option of the submission": ("--parallelism", "--paralelism", "--paralelism"),
    "a setting of the submission": ("--metrics_port=9400", "--metrics_port=x", "number"),
    "the submission's program": ("pipelines.ingest", "pipelines.ingester", "ingest"),
    "the workers' program": ("pipelines.worker_pool", "pipelines.pool", "worker_pool"),
    "the workers' port": ("--service_port=50000", "--service_port=5000", "listen"),
    "the metrics' address": ("--metrics_address=0.0.0.0", "--metrics_address=127.0.0.1", "metrics_address"),
    "the metrics' port": ("containerPort: 9400", "containerPort: 9401", "metrics"),
    "the job server's port": ("port: 8099", "port: 8097", "8097"),
    "the job server's name": ("endpoint=tidemark-job", "endpoint=tidemark-jobs", "endpoint"),
    "the job server's host": ("--job-host=tidemark", "--job-host=tide", "--job-host"),
    "the job server's Beam": ("job_server:2.77.0", "job_server:2.70.0", "2.77.0"),
    "the cluster's address": ("master=tidemark-flink-rest", "master=tidemark-flink", "flink-master"),
    "Flink's version": ("v1_19", "v1_20", "flinkVersion"),
    "Flink's plugin": ("hadoop-1.19.3", "hadoop-1.19.2", "plugin"),
    "the checkpoints": ("state.checkpoints.dir", "state.checkpoint.dir", "checkpoints"),
    "what the service selects": ("selector: {app: t", "selector: {app: x", "selects"),
    "the secret's file": ("mountPath: /etc/tidemark,", "mountPath: /etc,", "mounted"),
    "the secret's name": ("secretName: tidemark-d", "secretName: d", "docs/operations"),
    "the workers' container": ("name: workers", "name: pool", "lacks"),
    "an empty part": ("restartPolicy: Never", "---\n---", "lacks"),
    "the workers' host": ("config=localhost:", "config=workers:", "listen"),
    "what the deployment selects": ("matchLabels: {app: t", "matchLabels: {app: x", "match"),
    "the probe's port": ("tcpSocket: {port: job}", "tcpSocket: {port: jobs}", "port jobs"),
    "the service's target": ("targetPort: artifact", "targetPort: art", "port art"),
    "what the submission waits for": ("http://tidemark-flink-", "http://flink-", "wait for"),
    "a variable of the manifest": ("${BUCKET}", "${BUCKETS}", "BUCKETS"),
}
BROKEN: dict[str, Broken] = {
    "a parameter's default": (checks.metadata, "templates/metadata.json", '"120"', '"121"', "stale"),
    "a setting's bound": (checks.reference_pages, "docs/reference/settings.md", "2 to 100", "2 to 101", "settings.md"),
    "an SQLSTATE": (checks.reference_pages, "docs/reference/database-errors.md", "53100", "53101", "database-errors"),
    "a parameter's help": (checks.gcloud_takes_metadata, "templates/metadata.json", '"helpText"', '"help"', "gcloud"),
    "a step's script": (checks.cloudbuild, "cloudbuild.yaml", "scripts/test", "scripts/tests", "scripts/tests"),
    "a step's file": (checks.cloudbuild, "cloudbuild.yaml", "templates/metadata.json", "templates/meta.json", "meta"),
    "an order of steps": (checks.cloudbuild, "cloudbuild.yaml", "[test]", "[template]", "not before"),
    "a substitution": (checks.cloudbuild, "cloudbuild.yaml", "${_TAG}.json", "${_TAGG}.json", "_TAGG"),
    "the image's name": (checks.cloudbuild, "cloudbuild.yaml", "--build-arg=IMAGE=", "--build-arg=NAME=", "its name"),
    "a copied file": (checks.copies, "templates/Dockerfile", "setup.py README", "setup.cfg README", "setup.cfg"),
    "Beam's version": (checks.dockerfile, "templates/Dockerfile", "VERSION=2.77.0", "VERSION=2.70.0", "2.70.0"),
    "a stage": (checks.copies, "templates/Dockerfile", "--from=beam", "--from=beamer", "beamer"),
    "Python's version": (checks.dockerfile, "templates/Dockerfile", "VERSION=3.11", "VERSION=3.12", "3.12"),
    "the entry file": (
        checks.dockerfile,
        "templates/Dockerfile",
        "PY_FILE=/opt/tidemark/l",
        "PY_FILE=/opt/l",
        "PY_FILE",
    ),
    "what is ignored": (checks.copies, ".dockerignore", "!transforms\n", "", "transforms"),
    "a locked version": (checks.lock, "templates/requirements.lock", "\npg8000==", "\npg8000==0.", "pg8000"),
    "a missing package": (checks.lock, "templates/requirements.lock", "\nzstandard==", "\n#zstandard==", "zstandard"),
    "Terraform's syntax": (checks.terraform, "terraform/main.tf", "{", "", "parsed"),
    "a variable": (checks.terraform, "terraform/main.tf", "var.max_workers", "var.most_workers", "most_workers"),
    "a resource": (
        checks.terraform,
        "terraform/main.tf",
        "= google_pubsub_topic.points.id",
        "= google_pubsub_topic.p.id",
        "topic.p ",
    ),
    "a parameter's name": (
        checks.terraform,
        "terraform/main.tf",
        "streaming_mode     =",
        "stream_mode     =",
        "stream_mode",
    ),
    "a needed parameter": (
        checks.terraform,
        "terraform/main.tf",
        "    subscription       = ",
        "    #",
        "subscription is missing",
    ),
    "the drain": (checks.terraform, "terraform/main.tf", '"drain"', '"cancel"', "drain"),
    "a role's reason": (
        checks.terraform,
        "docs/operations/dataflow.md",
        "roles/pubsub.viewer",
        "roles/pubsub.see",
        "viewer",
    ),
    "a metric's sentence": (
        checks.reference_pages,
        "docs/reference/metrics.md",
        "Points stored",
        "Points",
        "metrics.md",
    ),
    "an alert's metric": (checks.alerts, "terraform/alerts.tf", '\\"due_age_s', '\\"due_age', "watches due_age,"),
    "an alert's name": (checks.alerts, "terraform/alerts.tf", '"Nobody settles"', '"Nobody"', "no heading Nobody"),
    "a heading": (checks.alerts, "docs/operations/runbook.md", "## Messages wait", "## Messages", "no alert Messages"),
    "an alert's query": (checks.alerts, "terraform/alerts.tf", "(sum(rate", "(sum((rate", "not PromQL"),
    "a rule's metric": (checks.alerts, RULES, "tidemark_due_age_s_total", "tidemark_due_age_s", "nobody serves"),
    "a rule's gauge": (checks.alerts, RULES, "(tidemark_watermark)", "(tidemark_watermark_total)", "nobody serves"),
    "a rule's query": (checks.alerts, RULES, "or vector(0))", "or vector(0)", "not PromQL"),
    "a rule's name": (checks.alerts, RULES, "alert: Checkpoints grow", "alert: Checkpoints", "no heading Checkpoints"),
    "a rule's advice": (checks.alerts, RULES, "md#nobody-settles", "md#nobody", "what to do"),
    "a rule's syntax": (checks.alerts, RULES, "groups:", "groups", "cannot be parsed"),
    "a rule's part": (checks.alerts, RULES, "        expr: max", "        exp: max", "lacks expr"),
    "an alert's advice": (
        checks.alerts,
        "terraform/alerts.tf",
        "runbook}#nobody-settles",
        "runbook}#nobody",
        "what to do",
    ),
    "an unexplained variable": (checks.kubernetes, "docs/operations/flink.md", "DATASET=", "DATA=", "DATASET="),
    "an unused variable": (checks.terraform, "terraform/main.tf", "= var.machine_type", '= "x"', "machine_type"),
    **{what: (checks.kubernetes, MANIFEST, *change) for what, change in BROKEN_MANIFEST.items()},
}


@pytest.mark.parametrize("what", BROKEN)
def test_a_broken_file_is_found(tree: Path, what: str) -> None:
    if BROKEN[what][0] is checks.gcloud_takes_metadata and shutil.which("gcloud") is None:
        pytest.skip("gcloud is not on this machine")
    is_found(tree, BROKEN[what])
