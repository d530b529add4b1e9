"""Holds the files of a deployment against the code they deploy: `python -m templates.checks [files|image|tools …]`.

Each check takes the tree's root and gives what is wrong, a sentence each.
"""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import promql_parser
import yaml
from packaging.requirements import Requirement

from pipelines import template
from templates.check_cloud_run import cloud_run
from templates.check_edge import edge, kustomize
from templates.check_kubernetes import kubernetes
from templates.check_query import query as query_service
from templates.check_query_on_cloud_run import query_on_cloud_run
from templates.check_terraform import terraform, terraform_itself
from tidemark.metrics import METRICS, NAMESPACE, Kind
from tidemark.operate import reference

ROOT: Final = Path(__file__).parents[1]
_BUILT_IN: Final = {"PROJECT_ID", "BUILD_ID", "LOCATION"}
"""Substitutions that Cloud Build has by itself."""


def metadata(root: Path) -> Iterator[str]:
    """The template's parameters are the settings."""
    path = root / "templates" / "metadata.json"
    if path.read_text() != template.text():
        yield "templates/metadata.json is stale: python -m pipelines.template > templates/metadata.json"


def reference_pages(root: Path) -> Iterator[str]:
    """The reference pages say what the code does."""
    for name, text in reference.pages().items():
        path = root / "docs" / "reference" / name
        if not path.exists() or path.read_text() != text:
            yield f"docs/reference/{name} is stale: python -m tidemark.operate.reference docs/reference"


def gcloud_takes_metadata(root: Path) -> Iterator[str]:
    """Google's own command reads the metadata; says so when it is not on this machine."""
    gcloud = shutil.which("gcloud")
    if gcloud is None:
        print("gcloud is not here: the metadata was not shown to it")
        return
    with tempfile.TemporaryDirectory() as home:
        command = [gcloud, "dataflow", "flex-template", "build", "gs://bucket/template.json", "--print-only"]
        command += ["--image=registry.example/image:1", "--sdk-language=PYTHON", "--project=checks"]
        command += [f"--metadata-file={root / 'templates' / 'metadata.json'}"]
        environment = {"PATH": "/usr/bin:/bin", "HOME": home, "CLOUDSDK_CORE_DISABLE_PROMPTS": "1"}
        done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=False)
    if done.returncode:
        yield f"gcloud refuses templates/metadata.json: {done.stderr.strip()[-300:]}"
        return
    printed = json.loads(done.stdout[done.stdout.index("{") :])
    ours = [parameter["name"] for parameter in template.metadata()["parameters"]]
    theirs = [parameter["name"] for parameter in printed["metadata"]["parameters"]]
    if ours != theirs:
        yield "gcloud understands other parameters than templates/metadata.json has"


def cloudbuild(root: Path) -> Iterator[str]:
    """Every step names files that are there, waits for steps that are there, and knows its substitutions."""
    text = (root / "cloudbuild.yaml").read_text()
    build = yaml.safe_load(text)
    steps = build["steps"]
    seen: set[str] = set()
    for step in steps:
        for earlier in step.get("waitFor", ()):
            if earlier not in seen:
                yield f"cloudbuild.yaml: step {step['id']} waits for {earlier}, which is not before it"
        seen.add(step["id"])
        for argument in step["args"]:
            yield from (
                f"cloudbuild.yaml: step {step['id']} names {path}, which is not there"
                for path in _paths(argument)
                if not (root / path).exists()
            )
    known = set(build["substitutions"]) | _BUILT_IN
    for name in sorted(set(re.findall(r"\$\{(\w+)\}", text)) - known):
        yield f"cloudbuild.yaml: ${{{name}}} is no substitution"
    for name in build["substitutions"]:
        if text.count(f"${{{name}}}") == 0:
            yield f"cloudbuild.yaml: the substitution {name} is not used"
    wanted = ["test", "image", "template"]
    if [step["id"] for step in steps] != wanted:
        yield f"cloudbuild.yaml: the steps must be {', '.join(wanted)}"
    if not any("--build-arg=IMAGE=" in argument for step in steps for argument in step["args"]):
        yield "cloudbuild.yaml: the image is not told its name (--build-arg=IMAGE=…)"


def _paths(argument: str) -> Iterator[str]:
    value = argument.rpartition("=")[2]
    if re.fullmatch(r"(scripts|templates)/[\w./-]+", value):
        yield value


def _dockerfile(root: Path) -> str:
    return (root / "templates" / "Dockerfile").read_text().replace("\\\n", " ")


def copies(root: Path) -> Iterator[str]:
    """What the image copies is there and not ignored."""
    text = _dockerfile(root)
    ignored = (root / ".dockerignore").read_text().splitlines()
    for line in text.splitlines():
        if line.startswith("COPY ") and "--from=" not in line:
            for source in line.split()[1:-1]:
                if not (root / source).exists():
                    yield f"templates/Dockerfile copies {source}, which is not there"
                if f"!{source.split('/')[0]}" not in ignored:
                    yield f"templates/Dockerfile copies {source}, which .dockerignore leaves out"
    stages = set(re.findall(r"^FROM \S+ AS (\w+)$", text, re.MULTILINE))
    for stage in re.findall(r"--from=(\w+)", text):
        if stage not in stages:
            yield f"templates/Dockerfile copies from {stage}, which is no stage"


def dockerfile(root: Path) -> Iterator[str]:
    """The image's versions are the locked ones, its entry file is copied, and nothing is installed at launch."""
    text = _dockerfile(root)
    arguments = dict(re.findall(r"^ARG (\w+)=(\S+)$", text, re.MULTILINE))
    locked = _locked(root / "templates" / "requirements.lock").get("apache-beam")
    if arguments.get("BEAM_VERSION") != locked:
        yield f"templates/Dockerfile has Beam {arguments.get('BEAM_VERSION')}, locked is {locked}"
    python = arguments.get("PYTHON_VERSION", "")
    if f"python{python.replace('.', '')}-template-launcher-base" not in text:
        yield f"templates/Dockerfile: the launcher's base is not that of Python {python}"
    entry = re.search(r"FLEX_TEMPLATE_PYTHON_PY_FILE=(\S+)", text)
    if entry is None or f" {entry[1]}\n" not in text:
        yield "templates/Dockerfile: FLEX_TEMPLATE_PYTHON_PY_FILE names no file that is copied"
    if "FLEX_TEMPLATE_PYTHON_REQUIREMENTS_FILE" in text or "FLEX_TEMPLATE_PYTHON_SETUP_FILE" in text:
        yield "templates/Dockerfile: nothing may be installed at launch"
    for needed in ("TIDEMARK_IMAGE=${IMAGE}", "--require-hashes", "pip check", '["/opt/apache/beam/boot"]'):
        if needed not in text:
            yield f"templates/Dockerfile lacks {needed}"


def lock(root: Path) -> Iterator[str]:
    """The image's packages are those that were tested, and are all that the project asks for."""
    tested, image = _locked(root / "requirements.lock"), _locked(root / "templates" / "requirements.lock")
    for name, version in image.items():
        if tested.get(name) != version:
            yield f"templates/requirements.lock has {name} {version}, tested is {tested.get(name)}: scripts/lock"
    project = tomllib.loads((root / "pyproject.toml").read_text())["project"]
    for text in project["dependencies"]:
        wanted = Requirement(text)
        found = image.get(wanted.name.lower().replace("_", "-"))
        if found is None or found not in wanted.specifier:
            yield f"templates/requirements.lock has {wanted.name} {found}, pyproject.toml asks for {text}: scripts/lock"


def _locked(path: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9][a-z0-9._-]*)==([^\s;\\]+)", path.read_text(), re.MULTILINE))


def alerts(root: Path) -> Iterator[str]:
    """Alerts watch metrics that there are, and each has its heading in the runbook, where no other stands."""
    text = (root / "terraform" / "alerts.tf").read_text()
    for name in re.findall(r'local\.counter\}\\"(\w+)\\"', text):
        if name not in METRICS or METRICS[name].kind is not Kind.COUNTER or METRICS[name].labels:
            yield f"terraform/alerts.tf watches {name}, which is no counter of tidemark.metrics"
    named = re.findall(r'^  display_name\s+= "([^"]+)"', text, re.MULTILINE)
    policies = set(named)
    told = re.findall(r'^    content = "\$\{local\.runbook\}#([a-z-]+)"$', text, re.MULTILINE)
    if told != [name.lower().replace(" ", "-") for name in named] or text.count("resource ") != len(named):
        yield "terraform/alerts.tf: an alert does not say what to do, or what to do about another one"
    begun = dict(re.findall(r'^  (counter|answers) = "(.+)"$', text, re.MULTILINE))
    for query in re.findall(r'^\s+query\s+= "(.+)"$', text, re.MULTILINE):
        whole = re.sub(r"\$\{local\.(\w+)\}", lambda match: begun[match[1]], query).replace('\\"', '"')
        yield from _query("terraform/alerts.tf", re.sub(r"\$\{var\.\w+\}", "1", whole))
    runbook = (root / "docs" / "operations" / "runbook.md").read_text()
    headings = set(re.findall(r"^## (.+)$", runbook, re.MULTILINE)) - {"What is promised"}
    rules, problems = _rules(root)
    yield from problems
    names = policies | rules
    yield from (f"docs/operations/runbook.md has no heading {name}" for name in sorted(names - headings))
    yield from (f"there is no alert {name}, of which the runbook speaks" for name in sorted(headings - names))


RULES: Final = Path("templates", "prometheus", "alerts.yaml")
_OTHERS: Final = frozenset({"flink_jobmanager_job_lastCheckpointSize"})
"""What is watched beside our own."""


def _rules(root: Path) -> tuple[set[str], list[str]]:
    """The names of the rules for Prometheus, and what is wrong with them."""
    known = {f"{NAMESPACE}_{m.name}{'_total' if m.kind is Kind.COUNTER else ''}" for m in METRICS.values()} | _OTHERS
    names: set[str] = set()
    problems: list[str] = []
    try:
        rules = [rule for group in yaml.safe_load((root / RULES).read_text())["groups"] for rule in group["rules"]]
    except (yaml.YAMLError, KeyError, TypeError) as error:
        return names, [f"{RULES} cannot be parsed: {str(error).splitlines()[0]}"]
    for rule in rules:
        if missing := {"alert", "expr", "labels", "annotations"} - set(rule):
            problems.append(f"{RULES}: a rule lacks {', '.join(sorted(missing))}")
            continue
        name = rule["alert"]
        names.add(name)
        problems += _query(str(RULES), rule["expr"])
        watched = set(re.findall(r"\b(?:tidemark|flink)_\w+", rule["expr"]))
        problems += [f"{RULES} watches {metric}, which nobody serves" for metric in sorted(watched - known)]
        if rule["annotations"].get("runbook") != f"docs/operations/runbook.md#{name.lower().replace(' ', '-')}":
            problems.append(f"{RULES}: {name} does not say what to do")
    return names, problems


def _query(where: str, text: str) -> Iterator[str]:
    try:
        promql_parser.parse(text)
    except ValueError as error:
        yield f"{where}: {text!r} is not PromQL: {error}"


def installs(root: Path) -> Iterator[str]:
    """The steps of the image, in a fresh virtual environment: locked packages, wheel, `pip check`, entry file."""
    uv = Path(sys.executable).with_name("uv")
    with tempfile.TemporaryDirectory() as scratch:
        source, target = Path(scratch, "source"), Path(scratch, "environment")
        source.mkdir()
        names = ("pyproject.toml", "setup.py", "README.md", "LICENSE", "pipelines", "transforms", "tidemark")
        for name in names:
            path = root / name
            if path.is_dir():
                shutil.copytree(path, source / name, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(path, source / name)
        python = str(target / "bin" / "python")
        install = [uv, "pip", "install", "--quiet", "--python", python]
        steps: list[Sequence[Any]] = [
            [uv, "venv", "--quiet", "--python", "3.11", target],
            [*install, "--require-hashes", "-r", root / "templates" / "requirements.lock"],
            [*install, "--no-deps", source],
            [uv, "pip", "check", "--quiet", "--python", python],
            [python, "-I", "-c", _ENTRY, str(root / "templates" / "launch.py")],
        ]
        for step in steps:
            done = subprocess.run(step, cwd=scratch, capture_output=True, text=True, timeout=300, check=False)
            if done.returncode:
                yield f"{' '.join(map(str, step[:4]))} …: {done.stderr.strip()[-400:]}"
                return


_ENTRY: Final = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("launch", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
import apache_beam, tidemark.store.migrate
defined = [n for n, v in vars(module).items() if isinstance(v, type) and issubclass(v, apache_beam.DoFn)]
assert not defined, f"the entry file defines {defined}"
assert tidemark.store.migrate.newest()
"""

CHECKS: Final[dict[str, tuple[Callable[[Path], Iterator[str]], ...]]] = {
    "files": (
        metadata,
        reference_pages,
        cloudbuild,
        terraform,
        cloud_run,
        query_on_cloud_run,
        alerts,
        kubernetes,
        edge,
        query_service,
        copies,
        dockerfile,
        lock,
    ),
    "image": (copies, dockerfile, lock, installs),
    "tools": (gcloud_takes_metadata, kustomize, terraform_itself),
}


def main() -> int:
    """0 when nothing is wrong."""
    wrong = [text for name in sys.argv[1:] or ["files"] for check in CHECKS[name] for text in check(ROOT)]
    for text in wrong:
        print(text, file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
