"""What the edge answers, as data: paths, statuses, reasons. The code answers from these and the reference page shows them."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple

from tidemark.wire.reasons import Reason


class Status(IntEnum):
    """The statuses of HTTP that are answered."""

    OK = 200
    SPOOLED = 202
    NO_CONTENT = 204
    REFUSED = 400
    UNAUTHORIZED = 401
    FORBIDDEN = 403
    NOT_FOUND = 404
    METHOD = 405
    TIMEOUT = 408
    TOO_LARGE = 413
    MEDIA_TYPE = 415
    EXPECTATION = 417
    QUOTA = 429
    HEAD_TOO_LARGE = 431
    UNAVAILABLE = 503
    VERSION = 505
    FULL = 507


class Meaning(NamedTuple):
    """What a status means, and what its receiver does."""

    when: str
    then: str


STATUSES: Final[dict[Status, Meaning]] = {
    Status.OK: Meaning("every point is in the bus, which keeps it", "forget them"),
    Status.SPOOLED: Meaning(
        "every point is kept on this machine's disk, since the bus is away; `X-Tidemark-Durability: spool` says so",
        "forget them, or keep them until a later 200 where a disk is not enough",
    ),
    Status.NO_CONTENT: Meaning("a preflight of a browser was answered", "send the request"),
    Status.REFUSED: Meaning(
        "at least one point is refused: `rejected` says which and why; **the others are kept and need not be sent again**. "
        "Or nothing could be read: `accepted` is 0. Or it is no HTTP/1.1 request",
        "mend what is named; sent again as it is, it is refused again",
    ),
    Status.UNAUTHORIZED: Meaning("no token, or one that is not known", "give one that is"),
    Status.FORBIDDEN: Meaning("a point of another project, or of another source than the token's", "use its own token"),
    Status.NOT_FOUND: Meaning("no such path", "correct it"),
    Status.METHOD: Meaning("not this method; `Allow` has those that are", "correct it"),
    Status.TIMEOUT: Meaning("the head or the body came too slowly", "send it again"),
    Status.TOO_LARGE: Meaning("the body is too large, as sent or unpacked (`max_message_bytes`)", "send it in parts"),
    Status.MEDIA_TYPE: Meaning(
        "a media type that is no JSON, or an encoding that is neither gzip nor zstd", "correct it"
    ),
    Status.EXPECTATION: Meaning("another expectation than `100-continue`", "leave it out"),
    Status.QUOTA: Meaning("the token's quota of points a second is used up; `Retry-After` says for how long", "wait"),
    Status.HEAD_TOO_LARGE: Meaning("the request line and headers are too large", "send fewer"),
    Status.UNAVAILABLE: Meaning(
        "the bus does not take points just now, or the edge is full or about to stop; `Retry-After` says when to come again",
        "send it again then",
    ),
    Status.VERSION: Meaning("another version of HTTP than 1.0 and 1.1", "speak 1.1"),
    Status.FULL: Meaning("the bus is away and the spool, or its disk, is full", "send it again later"),
}


class Path(NamedTuple):
    """A path, its methods and what it is for."""

    path: str
    methods: tuple[str, ...]
    what: str


POINTS: Final = Path("/v1/points", ("POST", "OPTIONS"), "Points in any form that docs/sending.md tells.")
HEALTH: Final = Path("/healthz", ("GET", "HEAD"), "200 while the process works.")
READY: Final = Path(
    "/readyz", ("GET", "HEAD"), "200 while points are taken; 503 while the bus refuses them, or while draining."
)
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
REASONS: Final = {
    **{
        reason.value: "as the pipeline refuses it: docs/sending.md"
        for reason in Reason
        if reason not in (Reason.REFUSED_BY_DATABASE, Reason.REFUSED_BY_BIGQUERY)
    },
    SERIES_LIMIT: "a new series of a project that has `max_series` already; points of known ones are taken",
}
LISTED: Final = 100
"""Refused points that are told one by one; `more` says how many others there are."""
