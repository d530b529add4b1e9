"""What the service answers to, for readers and for programs: docs/reference/query.md, and the same as OpenAPI 3.1."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tidemark.query.answers import CSV, JSON, NDJSON
from tidemark.query.parameters import Parameter
from tidemark.query.paths import HEALTH, PATHS, READY, Path
from tidemark.query.problems import TITLES
from tidemark.query.shapes import SHAPES
from tidemark.version import VERSION

_EVERYWHERE: Final = (
    "bad-parameter",
    "unauthorized",
    "forbidden",
    "no-such-path",
    "method-not-allowed",
    "not-acceptable",
    "body-not-allowed",
    "too-many-requests",
    "failed",
    "unavailable",
    "too-slow",
)
"""Kinds of problems of every path; the others are named by theirs."""
_PROBLEM: Final = {"$ref": "#/components/schemas/Problem"}


def page(note: str) -> Iterator[str]:
    """The lines of docs/reference/query.md.

    Args:
        note: Says that it is made.
    """
    yield "# The query service's answers"
    yield ""
    yield note
    yield ""
    yield (
        "Also as [OpenAPI](query.openapi.json), which the service gives at `/openapi.json`. A token is given as `Authorization: "
        "Bearer TOKEN` (or `Token TOKEN`, or as the password of `Basic`), and has the right `read`. Answers are JSON, or CSV or "
        f"NDJSON by `Accept: {CSV}` or `{NDJSON}`; packed by `Accept-Encoding: zstd` or `gzip`. `ETag` is of the data, not of the "
        "moment: `If-None-Match` is answered with 304 while they are the same."
    )
    for path in PATHS.values():
        yield ""
        yield f"## `GET {path.path}`"
        yield ""
        yield path.about
        if path.parameters:
            yield ""
            yield "| parameter | | default |"
            yield "|---|---|---|"
            for parameter in path.parameters:
                yield _row(parameter)
        if path.problems:
            yield ""
            yield f"Its own problems: {', '.join(f'`{kind}`' for kind in path.problems)}."
    yield ""
    yield "## Problems"
    yield ""
    yield (
        "Whatever is not answered is told as `application/problem+json` (RFC 9457): `type`, `title`, `status`, `detail` in a "
        "sentence, and `parameter` where it is about one. 429 and 503 have `Retry-After`."
    )
    yield ""
    yield "| `type` is `urn:tidemark:` and | status | |"
    yield "|---|---|---|"
    for kind, (status, title) in TITLES.items():
        yield f"| `{kind}` | {status} | {title} |"
    yield ""
    yield f"`{HEALTH}` is 200 while the process serves, `{READY}` while the database answers."


def openapi() -> str:
    """The same as an OpenAPI 3.1 document."""
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Tidemark query service",
            "version": VERSION,
            "description": "Answers, and how complete they are.",
        },
        "security": [{"token": []}],
        "paths": {path.path: {"get": _operation(path)} for path in PATHS.values()},
        "components": {
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
            "schemas": {"Problem": _problem()},
        },
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(parameter: Parameter) -> str:
    choices = parameter.shape.get("enum")
    more = f" One of {', '.join(f'`{choice}`' for choice in choices)}." if choices else ""
    name = f"`{parameter.name}`" + (", repeatable" if parameter.repeats else "")
    default = "required" if parameter.required else f"`{parameter.default}`" if parameter.default else ""
    return f"| {name} | {parameter.help}{more} | {default} |"


def _operation(path: Path) -> dict[str, Any]:
    kinds = (*_EVERYWHERE, *path.problems)
    statuses = sorted({TITLES[kind][0] for kind in kinds})
    return {
        "summary": path.about,
        "operationId": path.path.removeprefix("/v1/"),
        "parameters": [_parameter(parameter) for parameter in path.parameters],
        "responses": {
            "200": {
                "description": path.about,
                "headers": {"ETag": {"schema": {"type": "string"}}},
                "content": {
                    JSON: {"schema": SHAPES[path.path]},
                    CSV: {"schema": {"type": "string"}},
                    NDJSON: {"schema": {"type": "string"}},
                },
            },
            "304": {"description": "The data are those of `If-None-Match`."},
            **{str(status): _refusal(status, kinds) for status in statuses},
        },
    }


def _parameter(parameter: Parameter) -> dict[str, Any]:
    shape = dict(parameter.shape)
    if parameter.default is not None and not parameter.repeats:
        shape["default"] = int(parameter.default) if shape.get("type") == "integer" else parameter.default
    if parameter.repeats:
        shape = {"type": "array", "items": shape}
    return {
        "name": parameter.name,
        "in": "query",
        "description": parameter.help,
        "required": parameter.required,
        "schema": shape,
        **({"style": "form", "explode": True} if parameter.repeats else {}),
    }


def _refusal(status: int, kinds: tuple[str, ...]) -> dict[str, Any]:
    titles = " ".join(dict.fromkeys(TITLES[kind][1] for kind in kinds if TITLES[kind][0] == status))
    headers = {"Retry-After": {"schema": {"type": "integer"}}} if status in (429, 503) else {}
    return {
        "description": titles,
        **({"headers": headers} if headers else {}),
        "content": {"application/problem+json": {"schema": _PROBLEM}},
    }


def _problem() -> dict[str, Any]:
    return {
        "type": "object",
        "required": ["type", "title", "status", "detail"],
        "properties": {
            "type": {"enum": [f"urn:tidemark:{kind}" for kind in TITLES]},
            "title": {"type": "string"},
            "status": {"type": "integer"},
            "detail": {"type": "string"},
            "parameter": {"type": "string"},
            "least-interval-sec": {"type": "integer"},
        },
    }
