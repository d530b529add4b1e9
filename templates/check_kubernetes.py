"""Holds the manifests for Flink's Kubernetes operator against the code that they deploy, and against each other."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import yaml

from pipelines.options import parse
from templates.manifests import filled, misnamed
from tidemark.errors import UsageError

PATH: Final = Path("templates", "kubernetes", "flink.yaml")
GUIDE: Final = Path("docs", "operations", "flink.md")
VARIABLES: Final = {
    "IMAGE": "registry.example/ingest:1",
    "BUCKET": "bucket",
    "SUBSCRIPTION": "projects/p/subscriptions/s",
    "DATASET": "project.dataset",
}
CLUSTER_HAS: Final = (
    "state.checkpoints.dir",
    "high-availability.type",
    "high-availability.storageDir",
    "restart-strategy.type",
    "slotmanager.redundant-taskmanager-num",
)
Found = Iterator[str]


def kubernetes(root: Path) -> Found:
    """The submission's options are ours; every name, port, version and path in one part is what another says."""
    text, guide = (root / PATH).read_text(), (root / GUIDE).read_text()
    yield from misnamed(text, PATH, VARIABLES, guide, GUIDE)
    try:
        parts = {
            (part["kind"], part["metadata"]["name"]): part["spec"]
            for part in yaml.safe_load_all(filled(text, VARIABLES))
        }
        yield from _agree(root, parts, guide)
    except yaml.YAMLError as error:
        yield f"{PATH} cannot be parsed: {str(error).splitlines()[0]}"
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        yield f"{PATH} lacks something: {error!r}"


def _agree(root: Path, parts: dict[tuple[str, str], Any], guide: str) -> Found:
    ((cluster_name, cluster),) = ((name, spec) for (kind, name), spec in parts.items() if kind == "FlinkDeployment")
    ((_, server),) = ((name, spec) for (kind, name), spec in parts.items() if kind == "Deployment")
    ((service_name, service),) = ((name, spec) for (kind, name), spec in parts.items() if kind == "Service")
    ((_, job),) = ((name, spec) for (kind, name), spec in parts.items() if kind == "Job")
    yield from _versions(root, cluster, server["template"]["spec"]["containers"][0])
    yield from (f"{PATH}: Flink has no {key}" for key in CLUSTER_HAS if key not in cluster["flinkConfiguration"])
    yield from _job_server(server, service_name, service, cluster_name)
    workers = cluster["taskManager"]["podTemplate"]["spec"]
    ports = {port["name"]: port["port"] for port in service["ports"]}
    yield from _submission(job["template"]["spec"], workers, f"{service_name}:{ports['job']}", guide)
    if f"http://{cluster_name}-rest:8081/" not in job["template"]["spec"]["initContainers"][0]["args"][0]:
        yield f"{PATH}: the submission does not wait for {cluster_name}-rest:8081"


def _job_server(server: dict[str, Any], service_name: str, service: dict[str, Any], cluster_name: str) -> Found:
    """The service leads to the job server, which knows its own name and the cluster's."""
    container = server["template"]["spec"]["containers"][0]
    flags = dict(argument.lstrip("-").split("=", 1) for argument in container["args"])
    if flags["flink-master"] != f"{cluster_name}-rest:8081":
        yield f"{PATH}: --flink-master is not {cluster_name}-rest:8081, the operator's service"
    if flags["job-host"] != service_name:
        yield f"{PATH}: --job-host is not the service {service_name}"
    labels = server["template"]["metadata"]["labels"]
    if not service["selector"].items() <= labels.items():
        yield f"{PATH}: the service selects no pod of the job server"
    if not server["selector"]["matchLabels"].items() <= labels.items():
        yield f"{PATH}: matchLabels of the job server are not those of its pods"
    listens = {port["name"]: port["containerPort"] for port in container["ports"]}
    offered = {port["name"]: port["port"] for port in service["ports"]}
    names = [port["targetPort"] for port in service["ports"]] + [container["readinessProbe"]["tcpSocket"]["port"]]
    yield from (f"{PATH}: the job server has no port {name}" for name in names if name not in listens)
    wanted = {"job": int(flags["job-port"]), "artifact": int(flags["artifact-port"])}
    if not listens == offered == wanted:
        yield f"{PATH}: ports of the job server {listens}, of its service {offered}, of its options {wanted}"


def _submission(pod: dict[str, Any], task_manager: dict[str, Any], endpoint: str, guide: str) -> Found:
    """Ingest takes its options, and they lead to the job server, the workers and the secret."""
    (submission,) = pod["containers"]
    workers = _named(task_manager["containers"], "workers")
    if submission["command"] != ["python", "-m", "pipelines.ingest"]:
        yield f"{PATH}: the submission does not run pipelines.ingest"
    try:
        options, values = parse(submission["args"])
    except UsageError as error:
        yield f"{PATH}: the submission is refused: {error}"
        return
    given = options.get_all_options()
    if given["job_endpoint"] != endpoint:
        yield f"{PATH}: --job_endpoint is not {endpoint}"
    host, _, port = given["environment_config"].rpartition(":")
    if host != "localhost" or f"--service_port={port}" not in workers["command"]:
        yield f"{PATH}: the workers do not listen where --environment_config says"
    if workers["command"][:3] != ["python", "-m", "pipelines.worker_pool"]:
        yield f"{PATH}: the workers' container does not run pipelines.worker_pool"
    if {"name": "metrics", "containerPort": values.metrics_port} not in workers["ports"]:
        yield f"{PATH}: the workers' port metrics is not --metrics_port"
    if values.metrics_address != "0.0.0.0":  # noqa: S104  # the pod's, which a scraper reaches
        yield f"{PATH}: --metrics_address keeps metrics from whoever is not in the pod"
    yield from _secret("workers", workers, task_manager, values.database_secret, guide)
    yield from _secret("submission", submission, pod, values.database_secret, guide)


def _named(containers: list[dict[str, Any]], name: str) -> dict[str, Any]:
    found = {container["name"]: container for container in containers}
    return found[name]


def _versions(root: Path, cluster: dict[str, Any], serving: dict[str, Any]) -> Found:
    """One Flink everywhere, and the job server of the Beam that is locked."""
    flink = re.match(r"flink:((\d+)\.(\d+)\.\d+)-", cluster["image"])
    if flink is None or cluster["flinkVersion"] != f"v{flink[2]}_{flink[3]}":
        yield f"{PATH}: flinkVersion {cluster['flinkVersion']} is not that of {cluster['image']}"
        return
    lock = (root / "templates" / "requirements.lock").read_text()
    beam = re.search(r"^apache-beam==([^\s;\\]+)", lock, re.MULTILINE)
    wanted = f"apache/beam_flink{flink[2]}.{flink[3]}_job_server:{beam[1] if beam else '?'}"
    if serving["image"] != wanted:
        yield f"{PATH}: the job server is {serving['image']}, not {wanted}"
    for what, of in (("job manager", cluster), ("task managers", cluster["taskManager"])):
        container = _named(of["podTemplate"]["spec"]["containers"], "flink-main-container")
        plugins = [variable["value"] for variable in container["env"] if variable["name"] == "ENABLE_BUILT_IN_PLUGINS"]
        if plugins != [f"flink-gs-fs-hadoop-{flink[1]}.jar"]:
            yield f"{PATH}: the plugin of the {what} is {plugins}, Flink is {flink[1]}"


def _secret(what: str, container: dict[str, Any], pod: dict[str, Any], secret: str, guide: str) -> Found:
    """The file with the database's URL is mounted, from the secret that the guide makes."""
    path = Path(secret.removeprefix("file:"))
    volumes = [mount["name"] for mount in container["volumeMounts"] if Path(mount["mountPath"]) == path.parent]
    names = [volume["secret"]["secretName"] for volume in pod["volumes"] if volume["name"] in volumes]
    if not names:
        yield f"{PATH}: {path} is not mounted for the {what}"
    for name in names:
        if f"create secret generic {name} --from-literal={path.name}=" not in guide:
            yield f"{GUIDE} does not make the secret {name} with {path.name}"
