"""What the edge answers to, and with: the one table that the code and docs/reference/edge.md are made from."""

from __future__ import annotations

from enum import IntEnum
from typing import Final, NamedTuple, Self


class Status(IntEnum):
    """Every status that is answered with: when, and what its sender does then."""

    when: str
    then: str

    def __new__(cls, number: int, when: str, then: str = "correct it") -> Self:
        """As HTTP has it, and what it means here."""
        made = int.__new__(cls, number)
        made._value_ = number
        made.when, made.then = when, then
        return made

    @property
    def later(self) -> bool:
        """The same request may be taken later: Retry-After says when."""
        return self in (Status.QUOTA, Status.UNAVAILABLE, Status.FULL)

    OK = 200, "every point is in the bus", "forget them"
    SPOOLED = (
        202,
        "every point is on this machine's disk, since the bus is away (`--spool_dir`); `X-Tidemark-Durability: spool`",
        "forget them",
    )
    NO_CONTENT = 204, "`OPTIONS`: what a page of another origin may send (`--cors_origins`)", "send it"
    REFUSED = (
        400,
        "a point is refused; **the others are kept**. Or nothing of the body can be read. Or it is no request of HTTP/1.1",
        "mend what is named; sent again as it is, it is refused again",
    )
    UNAUTHORIZED = 401, "no token, or one that is not known", "use the right one"
    FORBIDDEN = (
        403,
        "points of another project or source than the token's, or a token that may not write; nothing is kept",
        "use the right token, or leave the project out",
    )
    NOT_FOUND = 404, "there is no such path"
    METHOD = 405, "the path has no such method; `Allow` names those it has"
    TIMEOUT = 408, "the head or the body took too long (`--client_timeout_s`)", "send it again"
    TOO_LARGE = 413, "the body is longer than `--max_message_bytes`, as sent or unpacked", "send it in parts"
    MEDIA_TYPE = (
        415,
        "another media type than JSON's, or another `Content-Encoding` than gzip, zstd and identity",
    )
    EXPECTATION = 417, "another `Expect` than `100-continue`"
    QUOTA = 429, "the token's own quota is used up", "wait"
    LONG_HEAD = 431, "the head is longer than 16 KiB"
    BROKEN = 500, "an error of the edge itself, which is in its log", "send it again, and tell us"
    CODING = 501, "another `Transfer-Encoding` than chunked"
    UNAVAILABLE = (
        503,
        "the bus is away and there is no spool; no room (`--inflight_bytes`, `--max_connections`); the edge is about to stop",
        "send it again then",
    )
    VERSION = 505, "another version than HTTP/1.1 and HTTP/1.0"
    FULL = 507, "the bus is away, and the spool or its disk is full", "send it again then"


ANYWHERE: Final = (
    Status.REFUSED,
    Status.NOT_FOUND,
    Status.METHOD,
    Status.TIMEOUT,
    Status.LONG_HEAD,
    Status.BROKEN,
    Status.CODING,
    Status.UNAVAILABLE,
    Status.VERSION,
)
"""What a request may be answered with whatever its path is."""


class Path(NamedTuple):
    """A path, its methods, what it is for, and the statuses that it has beside those of any path."""

    path: str
    methods: tuple[str, ...]
    about: str
    statuses: tuple[Status, ...]


POINTS: Final = Path(
    "/v1/points",
    ("POST", "OPTIONS"),
    "Takes points, and answers when they are kept.",
    (
        Status.OK,
        Status.SPOOLED,
        Status.NO_CONTENT,
        Status.UNAUTHORIZED,
        Status.FORBIDDEN,
        Status.TOO_LARGE,
        Status.MEDIA_TYPE,
        Status.EXPECTATION,
        Status.QUOTA,
        Status.FULL,
    ),
)
HEALTH: Final = Path("/healthz", ("GET", "HEAD"), "The process serves.", (Status.OK,))
READY: Final = Path(
    "/readyz", ("GET", "HEAD"), "Points are taken: 503 while the bus refuses them, and once it stops.", (Status.OK,)
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
REFUSED_BY_BUS: Final = "refused_by_bus"
REASONS: Final = {
    SERIES_LIMIT: "a new series of a project that has as many as it may (`max_series` of the token, or `--max_series`)",
    REFUSED_BY_BUS: "Pub/Sub does not take the message, now or later",
}
"""Those that the pipeline does not have."""
FORBIDDEN: Final = "forbidden"
BAD_TOPIC: Final = "bad_topic"
NOT_KEPT: Final = "not_kept"
DEVICE_REASONS: Final = {
    FORBIDDEN: "points of another project or source than the token's; over HTTP the whole body is 403 then",
    BAD_TOPIC: "MQTT: the message's topic is not one of those that have a meaning, or, with a mapping, too long",
    NOT_KEPT: "UDP: the bus did not take it, and there is no spool, or it is full",
}
"""Those that only devices meet."""
LISTED: Final = 100
"""Refused points that are told one by one; `more` says how many others there are."""
