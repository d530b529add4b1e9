"""What the edge answers to, and with. docs/operations/edge.md says what each status means."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple


class Status(IntEnum):
    """Those of HTTP that requests are answered with; `tidemark.http` answers what is no request."""

    OK = 200
    SPOOLED = 202
    NO_CONTENT = 204
    REFUSED = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    METHOD = 405
    TOO_LARGE = 413
    MEDIA_TYPE = 415
    EXPECTATION = 417
    QUOTA = 429
    UNAVAILABLE = 503
    FULL = 507


class Path(NamedTuple):
    """A path and its methods."""

    path: str
    methods: tuple[str, ...]


POINTS: Final = Path("/v1/points", ("POST", "OPTIONS"))
HEALTH: Final = Path("/healthz", ("GET", "HEAD"))
READY: Final = Path("/readyz", ("GET", "HEAD"))
PATHS: Final = {path.path: path for path in (POINTS, HEALTH, READY)}

MEDIA_TYPES: Final = (
    "application/json",
    "application/jsonl",
    "application/x-ndjson",
    "application/ndjson",
    "application/octet-stream",
    "application/x-www-form-urlencoded",
    "text/plain",
)
"""What a body may be called; what is in it is JSON whatever it is called, and `curl -d` calls everything a form."""
ENCODINGS: Final = ("gzip", "zstd", "identity")

SERIES_LIMIT: Final = "series_limit"
"""A reason that the pipeline does not have: a new series of a project that has all it may."""
REFUSED_BY_BUS: Final = "refused_by_bus"
"""Another one: Pub/Sub does not take the message, now or later."""
LISTED: Final = 100
"""Refused points that are told one by one; `more` says how many others there are."""
