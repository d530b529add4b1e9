"""Holds terraform's files against the template that they launch, and against each other."""

from __future__ import annotations

import re
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, NamedTuple

import hcl2

from pipelines import template

EDGE: Final = "edge.tf"
QUERY: Final = "query.tf"
SERVICES: Final = (EDGE, QUERY)
"""`templates.check_cloud_run` and `templates.check_query_on_cloud_run` hold what is in them against the services."""
GUIDE: Final = Path("docs", "operations", "dataflow.md")


class Files(NamedTuple):
    """What some of terraform's files declare, names and texts without their quotes."""

    text: str
    resources: dict[str, Any]
    variables: dict[str, Any]
    values: dict[str, Any]


def read(root: Path, pattern: str = "*.tf") -> Files:
    """Parse them.

    Raises:
        ValueError: one sentence which of them cannot be parsed, and why.
    """
    found = Files("", {}, {}, {})
    for path in sorted((root / "terraform").glob(pattern)):
        text = path.read_text()
        try:
            parsed = _plain(hcl2.loads(text))
        except Exception as error:  # noqa: BLE001  # the parser has its own family of errors
            raise ValueError(f"terraform/{path.name} cannot be parsed: {str(error).splitlines()[0]}") from None
        found = found._replace(text=found.text + text)
        for block in parsed.get("resource", ()):
            found.resources.update({f"{kind}.{n}": body for kind, named in block.items() for n, body in named.items()})
        for into, kind in ((found.variables, "variable"), (found.values, "locals")):
            for block in parsed.get(kind, ()):
                into.update(block)
    return found


def _plain(value: Any) -> Any:
    """Without the quotes and marks that the parser leaves in it."""
    if isinstance(value, dict):
        return {_plain(name): _plain(each) for name, each in value.items() if name != "__is_block__"}
    if isinstance(value, list):
        return [_plain(each) for each in value]
    return value.strip('"') if isinstance(value, str) else value


def terraform(root: Path) -> Iterator[str]:
    """It parses, refers to what it declares, and gives the job the parameters that the template has."""
    try:
        text, resources, variables, values = read(root)
        of_services = {name for file in SERVICES for name in read(root, file).resources}
    except ValueError as error:
        yield str(error)
        return
    used = set(re.findall(r"\bvar\.(\w+)", text))
    yield from (f"terraform: var.{name} is not declared" for name in sorted(used - set(variables)))
    yield from (f"terraform: the variable {name} is not used" for name in sorted(set(variables) - used))
    yield from (f"terraform: the variable {n} is not described" for n, b in variables.items() if "description" not in b)
    for name in sorted(set(re.findall(r"(?<![\w.])(google_\w+\.\w+)\b", re.sub(r"data\.google_\w+\.\w+", "", text)))):
        if name not in resources:
            yield f"terraform: {name} is referred to and not declared"
    parameters = set(values["job_parameters"])
    known = {parameter["name"]: parameter for parameter in template.metadata()["parameters"]}
    yield from (f"terraform: the template has no parameter {name}" for name in sorted(parameters - set(known)))
    required = {name for name, parameter in known.items() if not parameter["isOptional"]}
    yield from (f"terraform: the parameter {name} is missing" for name in sorted(required - parameters))
    if resources.get("google_dataflow_flex_template_job.ingest", {}).get("on_delete") != "drain":
        yield "terraform: the job must drain (on_delete)"
    table = (root / GUIDE).read_text()
    roles = {body["role"] for name, body in resources.items() if "_iam_member" in name and name not in of_services}
    yield from (f"{GUIDE} does not say why {role}" for role in sorted(roles) if role not in table)


def terraform_itself(root: Path) -> Iterator[str]:
    """Terraform's own opinion; says so when it, or Google's provider, cannot be had."""
    program = shutil.which("terraform")
    if program is None:
        print("terraform is not here: its files were only parsed")
        return
    with tempfile.TemporaryDirectory() as scratch:
        shutil.copytree(root / "terraform", scratch, dirs_exist_ok=True, ignore=shutil.ignore_patterns(".terraform*"))

        def run(*arguments: str) -> subprocess.CompletedProcess[str]:
            command = [program, *arguments]
            return subprocess.run(command, cwd=scratch, capture_output=True, text=True, timeout=120, check=False)

        formatted = run("fmt", "-check", "-diff", "-no-color")
        if formatted.returncode:
            yield f"terraform fmt would change: {(formatted.stdout or formatted.stderr).strip()[:500]}"
        if run("init", "-backend=false", "-input=false", "-no-color").returncode:
            print("terraform cannot download Google's provider: its files were parsed and formatted, not validated")
            return
        validated = run("validate", "-no-color")
        if validated.returncode:
            yield f"terraform validate: {validated.stderr.strip()[:500]}"
