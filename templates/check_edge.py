"""Holds the edge's manifest for Kubernetes, without a spool and with one, against the code that it deploys."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import yaml

from templates.manifests import filled, misnamed
from templates.patches import patched
from tidemark import cli
from tidemark.arguments import read_settings
from tidemark.edge.contract import HEALTH, READY
from tidemark.errors import UsageError
from tidemark.settings import EDGE, Setting, Values, require

PATH: Final = Path("templates", "kubernetes", "edge.yaml")
SPOOL: Final = Path("templates", "kubernetes", "spool", "kustomization.yaml")
GUIDE: Final = Path("docs", "operations", "edge.md")
VARIABLES: Final = {
    "IMAGE": "registry.example/ingest:1",
    "TOPIC": "projects/p/topics/t",
    "ACCOUNT": "edge@p.iam.gserviceaccount.com",
}
ANYWHERE: Final = "0.0.0.0"  # noqa: S104  # the pod's
BESIDE_BODIES_MIB: Final = 150
"""Most memory of the process beyond --inflight_bytes; 136 were seen with 64 MiB of points in flight."""
BESIDE_DRAIN_S: Final = 5
DISK_SHARE: Final = 0.9
"""Of a volume; the rest is the file system's own."""
Parts = list[dict[str, Any]]
Found = Iterator[str]


def edge(root: Path) -> Found:
    """Its options are the edge's, and what is around it leads to what they say."""
    text, guide = (root / PATH).read_text(), (root / GUIDE).read_text()
    yield from misnamed(text, PATH, VARIABLES, guide, GUIDE)
    for path in (PATH, SPOOL):
        try:
            yield from (f"{path}: {found}" for found in _agree(_parts(root, spool=path == SPOOL), guide))
        except yaml.YAMLError as error:
            yield f"{path} cannot be parsed: {str(error).splitlines()[0]}"
            return
        except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
            yield f"{path} lacks something: {error!r}"
            return


def kustomize(root: Path) -> Found:
    """The patches make of the manifest what kubectl makes of it; says so when it is not on this machine."""
    kubectl = shutil.which("kubectl")
    if kubectl is None:
        print("kubectl is not here: the patches for a spool were not shown to it")
        return
    command = [kubectl, "kustomize", "--load-restrictor=LoadRestrictionsNone", str((root / SPOOL).parent)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield f"kubectl refuses {SPOOL}: {done.stderr.strip()[-300:]}"
    elif _sorted(yaml.safe_load_all(filled(done.stdout, VARIABLES))) != _sorted(_parts(root, spool=True)):
        yield f"kubectl understands {SPOOL} otherwise than this check"


def _sorted(parts: Any) -> list[str]:
    return sorted(json.dumps(part, sort_keys=True) for part in parts)


def _parts(root: Path, *, spool: bool) -> Parts:
    parts = list(yaml.safe_load_all(filled((root / PATH).read_text(), VARIABLES)))
    return patched(parts, yaml.safe_load((root / SPOOL).read_text())) if spool else parts


def options(
    arguments: Sequence[str],
    command: str = "edge",
    group: Iterable[Setting] = EDGE,
    needed: Sequence[str] = ("topic", "tokens"),
) -> Values:
    """What a command makes of its arguments.

    Raises:
        UsageError: it refuses them.
    """
    try:
        parsed = cli.parser([command]).parse_args([command, *arguments])
    except SystemExit:
        raise UsageError(f"tidemark {command} does not take {' '.join(arguments)}") from None
    values = read_settings(parsed, group)
    require(values, *needed)
    return values


def least_memory_mib(values: Values) -> int:
    """That of a process with these settings."""
    return int(values.inflight_bytes >> 20) + BESIDE_BODIES_MIB


def drained(values: Values) -> Found:
    """Whoever waits for Pub/Sub at SIGTERM is answered."""
    if values.drain_s <= values.publish_timeout_s:
        yield "--drain_s is not more than --publish_timeout_s"


def _agree(parts: Parts, guide: str) -> Found:
    by_kind = {part["kind"]: part for part in parts}
    if len(by_kind) != len(parts):
        yield "two parts are of one kind"
    runs = by_kind["Deployment" if "Deployment" in by_kind else "StatefulSet"]
    pod = runs["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if container["command"] != ["tidemark", "edge"]:
        yield "the container does not run tidemark edge"
    try:
        values = options(container["args"])
    except UsageError as error:
        yield str(error)
        return
    yield from served(container, values)
    yield from ended(pod, container, values)
    yield from drained(values)
    yield from bounded(pod, container, least_memory_mib(values))
    yield from tokens(pod, container, values.tokens, guide)
    yield from selected(by_kind, runs, container)
    yield from numbered(by_kind, runs)
    yield from _spooled(runs, container, values)


def served(container: dict[str, Any], values: Values) -> Found:
    """Its probes and ports are those of its options."""
    if not values.http_address == values.metrics_address == ANYWHERE:
        yield "what is served on the loopback interface is reached by nobody outside the pod"
    ports = {port["name"]: port["containerPort"] for port in container["ports"]}
    if ports != {"http": values.http_port, "metrics": values.metrics_port}:
        yield f"the container's ports {ports} are not those of its options"
    for probe, path in (("startupProbe", HEALTH), ("readinessProbe", READY), ("livenessProbe", HEALTH)):
        if container[probe]["httpGet"] != {"path": path.path, "port": "http"}:
            yield f"the {probe} is not {path.path} at the port http"


def ended(pod: dict[str, Any], container: dict[str, Any], values: Values) -> Found:
    """It has time to end in order."""
    program, pause_s = container["lifecycle"]["preStop"]["exec"]["command"]
    if program != "sleep":
        yield "nothing waits before SIGTERM until it is known that the pod ends"
    if pod["terminationGracePeriodSeconds"] < float(pause_s) + values.drain_s + BESIDE_DRAIN_S:
        yield f"terminationGracePeriodSeconds is not {BESIDE_DRAIN_S} s more than the pause and --drain_s"


def bounded(pod: dict[str, Any], container: dict[str, Any], least: int) -> Found:
    """No more memory (`least` MiB), CPU and rights than it needs, and no less."""
    if int(container["resources"]["limits"]["memory"].removesuffix("Mi")) < least:
        yield f"the memory's limit is less than {least}Mi"
    if container["resources"]["requests"]["cpu"] != "1":
        yield "the autoscaler takes shares of another CPU than the one that a process uses"
    may = container["securityContext"]
    if may["allowPrivilegeEscalation"] or not may["readOnlyRootFilesystem"] or may["capabilities"] != {"drop": ["ALL"]}:
        yield "the container may more than it needs"
    if not pod["securityContext"]["runAsNonRoot"] or pod["automountServiceAccountToken"]:
        yield "the pod may more than it needs"


def tokens(pod: dict[str, Any], container: dict[str, Any], tokens: str, guide: str) -> Found:
    """Their file is mounted as a directory, so that a changed secret is seen; the guide makes it."""
    path = Path(tokens.removeprefix("file:"))
    mounts = [mount for mount in container["volumeMounts"] if Path(mount["mountPath"]) == path.parent]
    names = [v["secret"]["secretName"] for v in pod["volumes"] if any(m["name"] == v["name"] for m in mounts)]
    if not names or any("subPath" in mount for mount in mounts):
        yield f"{path} is not mounted by its directory"
    for name in names:
        if f"create secret generic {name} --from-file={path.name}" not in guide:
            yield f"its guide does not make the secret {name} with {path.name}"


def selected(parts: dict[str, dict[str, Any]], runs: dict[str, Any], container: dict[str, Any]) -> Found:
    """What selects pods selects its own."""
    pod = runs["spec"]["template"]
    (spread,) = pod["spec"]["topologySpreadConstraints"]
    service = parts["Service"]["spec"]
    for what, selector in (
        (runs["kind"], runs["spec"]["selector"]["matchLabels"]),
        ("spread", spread["labelSelector"]["matchLabels"]),
        ("Service", service["selector"]),
        ("PodDisruptionBudget", parts["PodDisruptionBudget"]["spec"]["selector"]["matchLabels"]),
    ):
        if not selector.items() <= pod["metadata"]["labels"].items():
            yield f"the {what} selects no pod of it"
    if [port["targetPort"] for port in service["ports"]] != ["http"] or container["ports"][0]["name"] != "http":
        yield "the service leads to another port than http"
    if pod["spec"]["serviceAccountName"] != parts["ServiceAccount"]["metadata"]["name"]:
        yield "the pod's service account is not the one that is made"


def numbered(parts: dict[str, dict[str, Any]], runs: dict[str, Any]) -> Found:
    """There are two pods or more, whatever is updated or moved; who decides how many is one."""
    if parts["PodDisruptionBudget"]["spec"].get("maxUnavailable") != 1:
        yield "the PodDisruptionBudget does not move one pod at a time"
    if runs["kind"] == "StatefulSet":
        if runs["spec"]["replicas"] < 3 or "HorizontalPodAutoscaler" in parts:
            yield "an autoscaler leaves volumes behind, or fewer than two pods are left during an update"
        return
    if runs["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] != 0:
        yield "an update takes a pod away before another is ready (maxUnavailable)"
    scaler = parts["HorizontalPodAutoscaler"]["spec"]
    scaled = {"apiVersion": runs["apiVersion"], "kind": runs["kind"], "name": runs["metadata"]["name"]}
    if scaler["scaleTargetRef"] != scaled or "replicas" in runs["spec"]:
        yield f"the autoscaler does not decide how many pods {scaled['name']} has"
    if scaler["minReplicas"] < 2:
        yield "there are fewer than two pods (minReplicas)"


def _spooled(runs: dict[str, Any], container: dict[str, Any], values: Values) -> Found:
    """A spool is on a volume of its pod's own, which has room for it; without one nothing asks for a volume."""
    claims = {claim["metadata"]["name"]: claim["spec"] for claim in runs["spec"].get("volumeClaimTemplates", ())}
    if (values.spool_dir is None) != (runs["kind"] == "Deployment"):
        yield "a spool, and only a spool, is a StatefulSet's"
        return
    if values.spool_dir is None:
        return
    directory = Path(values.spool_dir)
    mounts = [m["name"] for m in container["volumeMounts"] if Path(m["mountPath"]) in (directory, *directory.parents)]
    if not mounts or mounts[0] not in claims:
        yield f"{directory} is on no volume that outlives the pod"
        return
    claim = claims[mounts[0]]
    if claim["accessModes"] != ["ReadWriteOncePod"]:
        yield "another process could use the spool (accessModes)"
    room = int(claim["resources"]["requests"]["storage"].removesuffix("Gi")) << 30
    if room * DISK_SHARE < values.spool_bytes + values.spool_free_bytes:
        yield "the volume is smaller than --spool_bytes and --spool_free_bytes"
