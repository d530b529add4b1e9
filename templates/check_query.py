"""Holds the query service's manifest for Kubernetes against the code that it deploys."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import yaml

from templates.check_edge import Found, Parts, bounded, ended, numbered, options, selected, served, tokens
from templates.manifests import filled, misnamed
from tidemark.errors import UsageError
from tidemark.settings import SERVE

PATH: Final = Path("templates", "kubernetes", "query.yaml")
GUIDE: Final = Path("docs", "operations", "query.md")
VARIABLES: Final = {
    "IMAGE": "registry.example/ingest:1",
    "SECRET": "projects/p/secrets/s/versions/latest",
    "ACCOUNT": "query@p.iam.gserviceaccount.com",
}
LEAST_MIB: Final = 600
"""With many series and requests that are refused it needs 266 MB (`bench/query.py memory`); 500 were seen while eight asked at once
for a million values as NDJSON, which is refused when it is 64 MiB long."""


def query(root: Path) -> Found:
    """Its options are the service's, and what is around it leads to what they say."""
    text, guide = (root / PATH).read_text(), (root / GUIDE).read_text()
    yield from misnamed(text, PATH, VARIABLES, guide, GUIDE)
    try:
        yield from (f"{PATH}: {found}" for found in _agree(list(yaml.safe_load_all(filled(text, VARIABLES))), guide))
    except yaml.YAMLError as error:
        yield f"{PATH} cannot be parsed: {str(error).splitlines()[0]}"
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        yield f"{PATH} lacks something: {error!r}"


def _agree(parts: Parts, guide: str) -> Found:
    by_kind = {part["kind"]: part for part in parts}
    runs = by_kind["Deployment"]
    pod = runs["spec"]["template"]["spec"]
    (container,) = pod["containers"]
    if container["command"] != ["tidemark", "serve"]:
        yield "the container does not run tidemark serve"
    try:
        values = options(container["args"], "serve", SERVE, ("tokens",))
    except UsageError as error:
        yield str(error)
        return
    if values.database_secret is None:
        yield "the database's URL stands in the manifest"
    yield from served(container, values)
    yield from ended(pod, container, values)
    yield from bounded(pod, container, LEAST_MIB)
    yield from tokens(pod, container, values.tokens, guide)
    yield from selected(by_kind, runs, container)
    yield from numbered(by_kind, runs)
