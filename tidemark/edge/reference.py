"""What the edge answers, for readers and for programs: docs/reference/edge.md, and the same as OpenAPI."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Final

from tidemark.edge.contract import ANYWHERE, ENCODINGS, LISTED, MEDIA_TYPES, PATHS, POINTS, REASONS, Path, Status
from tidemark.version import VERSION
from tidemark.wire.limits import DEFAULT, MAX_VALUE
from tidemark.wire.message import LEAST_MS
from tidemark.wire.reasons import Reason

_ELSEWHERE: Final = (Reason.BAD_PUBLISH_TIME, Reason.REFUSED_BY_DATABASE, Reason.REFUSED_BY_BIGQUERY)
"""Reasons that only the pipeline comes to."""
_HEADERS: Final = {
    Status.UNAUTHORIZED: ("WWW-Authenticate", '`Bearer realm="tidemark"`'),
    Status.METHOD: ("Allow", "The path's methods."),
    Status.MEDIA_TYPE: ("Accept-Encoding", "The encodings that are known, where it is the encoding that is not."),
    Status.SPOOLED: ("X-Tidemark-Durability", "`spool`."),
}


def page(note: str) -> Iterator[str]:
    """The lines of docs/reference/edge.md.

    Args:
        note: Says that it is made.
    """
    yield "# The edge's answers"
    yield ""
    yield note
    yield ""
    yield (
        "Also as [OpenAPI](edge.openapi.json). A token is given as `Authorization: Bearer TOKEN` (or `Token TOKEN`, or as the "
        f"password of `Basic`). A body is called one of {_listed(MEDIA_TYPES)}, or nothing, and is "
        f"[JSON](../sending.md#the-body) in each case; `Content-Encoding` is one of {_listed(ENCODINGS)}."
    )
    for path in PATHS.values():
        yield ""
        yield f"## {_listed(path.methods)} `{path.path}`"
        yield ""
        yield path.about
        yield ""
        yield "| status | when | then |"
        yield "|---|---|---|"
        for status in path.statuses:
            yield _row(status, path)
    yield ""
    yield "## Any path"
    yield ""
    yield "| status | when | then |"
    yield "|---|---|---|"
    for status in ANYWHERE:
        yield _row(status)
    yield ""
    yield "## Bodies of answers"
    yield ""
    yield (
        'Of 200, 202, and of a 400 about points: `{"accepted":498,"rejected":[{"index":7,"reason":"bad_value","detail":"…"}],'
        f'"more":0}}`. `index` counts the elements of the body from 0, and is null where it is all of it; at most {LISTED} are '
        'listed, and `more` says how many others are refused. Of the others: `{"error":"…"}`, one sentence.'
    )
    yield ""
    yield (
        "Reasons are [those of dead letters](../sending.md#what-is-refused), since the edge reads as the pipeline does: "
        f"{_listed(_reasons())}. Two are its own:"
    )
    yield ""
    yield "| reason | when |"
    yield "|---|---|"
    for reason, when in REASONS.items():
        yield f"| `{reason}` | {when} |"


def openapi() -> str:
    """The same as an OpenAPI 3.1 document."""
    document = {
        "openapi": "3.1.0",
        "info": {"title": "Tidemark edge", "version": VERSION, "description": "Takes points over HTTP."},
        "paths": {
            path.path: {
                method.lower(): _operation(path, method) for method in path.methods if method not in ("OPTIONS", "HEAD")
            }
            for path in PATHS.values()
        },
        "components": {"securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}, "schemas": _schemas()},
    }
    return json.dumps(document, indent=2, ensure_ascii=False) + "\n"


def _row(status: Status, path: Path | None = None) -> str:
    when = "it is so" if status is Status.OK and path is not POINTS else status.when
    return f"| {int(status)} | {when}{'; `Retry-After`' if status.later else ''} | {status.then if path is POINTS or path is None else ''} |"


def _listed(names: Any) -> str:
    return ", ".join(f"`{name}`" for name in names)


def _reasons() -> list[str]:
    return [reason.value for reason in Reason if reason not in _ELSEWHERE]


def _operation(path: Path, method: str) -> dict[str, Any]:
    statuses = sorted({*path.statuses, *ANYWHERE} - {Status.NO_CONTENT})
    found: dict[str, Any] = {
        "summary": path.about,
        "responses": {str(int(status)): _response(status, path) for status in statuses},
    }
    if path is not POINTS:
        return found
    body = {"$ref": "#/components/schemas/Body"}
    return {
        **found,
        "operationId": f"{method.lower()}Points",
        "security": [{"token": []}],
        "parameters": [
            {"name": "Content-Encoding", "in": "header", "required": False, "schema": {"enum": list(ENCODINGS)}}
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": body}}},
    }


def _response(status: Status, path: Path) -> dict[str, Any]:
    schema = "Problem"
    if path is POINTS and status in (Status.OK, Status.SPOOLED):
        schema = "Accepted"
    elif path is POINTS and status is Status.REFUSED:
        schema = "Refused"
    headers = {}
    if status.later:
        headers["Retry-After"] = {"description": "Seconds.", "schema": {"type": "integer"}}
    if status in _HEADERS:
        name, about = _HEADERS[status]
        headers[name] = {"description": about, "schema": {"type": "string"}}
    found: dict[str, Any] = {"description": status.when}
    if path is POINTS or status is not Status.OK:
        found["content"] = {"application/json": {"schema": {"$ref": f"#/components/schemas/{schema}"}}}
    if headers:
        found["headers"] = headers
    return found


def _schemas() -> dict[str, Any]:
    name = {"type": "string", "minLength": 1, "maxLength": DEFAULT.max_name_bytes}
    sample = {
        "metric": {"type": "string", "minLength": 1, "maxLength": DEFAULT.max_metric_bytes},
        "event_time": {
            "oneOf": [{"type": "integer", "minimum": LEAST_MS}, {"type": "string", "format": "date-time"}],
            "description": "Milliseconds since 1970, or RFC 3339 with a zone.",
        },
        "value": {"type": "number", "minimum": -MAX_VALUE, "maximum": MAX_VALUE},
        "attributes": {"type": ["object", "null"]},
    }
    needed = ["metric", "event_time", "value"]
    point = {
        "type": "object",
        "required": ["source", *needed],
        "properties": {"project": name, "source": name, **sample},
    }
    points = {"type": "array", "minItems": 1, "items": {"type": "object", "required": needed, "properties": sample}}
    batch = {
        "type": "object",
        "required": ["source", "points"],
        "properties": {"project": name, "source": name, "points": points},
    }
    element = {"oneOf": [{"$ref": "#/components/schemas/Point"}, {"$ref": "#/components/schemas/Batch"}]}
    rejected = {
        "type": "object",
        "required": ["index", "reason", "detail"],
        "properties": {
            "index": {"type": ["integer", "null"], "minimum": 0},
            "reason": {"enum": [*_reasons(), *REASONS]},
            "detail": {"type": "string"},
        },
    }
    number = {"type": "integer", "minimum": 0}
    return {
        "Point": point,
        "Batch": batch,
        "Body": {"oneOf": [element, {"type": "array", "minItems": 1, "items": element}]},
        "Accepted": {
            "type": "object",
            "required": ["accepted", "rejected"],
            "properties": {"accepted": {"type": "integer", "minimum": 1}, "rejected": {"type": "array", "maxItems": 0}},
        },
        "Refused": {
            "oneOf": [
                {
                    "type": "object",
                    "required": ["accepted", "rejected", "more"],
                    "properties": {
                        "accepted": number,
                        "rejected": {"type": "array", "minItems": 1, "maxItems": LISTED, "items": rejected},
                        "more": number,
                    },
                },
                {"$ref": "#/components/schemas/Problem"},
            ]
        },
        "Problem": {"type": "object", "required": ["error"], "properties": {"error": {"type": "string"}}},
    }
