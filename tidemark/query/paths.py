"""The paths of the service, each with what it is for and its parameters: one table for the router, the page and OpenAPI."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Sequence
from typing import Any, Final, NamedTuple

from tidemark.edge.tokens import Grant
from tidemark.query import parameters
from tidemark.query.answers import Answer
from tidemark.query.parameters import Parameter
from tidemark.query.service import Service

Call = Callable[[Service, dict[str, Any], Grant, int], Awaitable[Answer]]


class Path(NamedTuple):
    """One of them.

    Attributes:
        path: As it is asked for.
        about: A sentence.
        parameters: Those it has.
        call: Gives the answer.
        problems: Kinds of problems beside those of every path.
    """

    path: str
    about: str
    parameters: Sequence[Parameter]
    call: Call
    problems: tuple[str, ...] = ()


_SERIES: Final = ("no-such-series", "too-many-series")
PATHS: Final = {
    each.path: each
    for each in (
        Path(
            "/v1/query",
            "What series did in each interval of a range, right as of one moment, and how complete that is.",
            parameters.QUERY,
            Service.query,
            (*_SERIES, "too-many-intervals", "too-many-points", "answer-too-large"),
        ),
        Path(
            "/v1/series",
            "Series, with their newest points.",
            parameters.SERIES,
            Service.series,
            ("too-many-series",),
        ),
        Path("/v1/metrics", "Names of metrics.", parameters.ONLY_PROJECT, Service.metrics),
        Path("/v1/projects", "Projects that the token may read.", (), Service.projects),
        Path("/v1/latest", "The newest point of each series.", parameters.LATEST, Service.latest, _SERIES),
        Path(
            "/v1/points",
            "Points as they are stored.",
            parameters.POINTS,
            Service.points,
            (*_SERIES, "too-many-points", "answer-too-large"),
        ),
        Path("/v1/sources", "How late and how silent sources are.", parameters.SOURCES, Service.sources),
        Path(
            "/v1/completeness",
            "Until when everything is there, and from what that is known.",
            parameters.ONLY_PROJECT,
            Service.complete,
        ),
        Path(
            "/v1/advice",
            "What another horizon would do: how much is complete when it is first settled, and what is corrected later.",
            parameters.ADVICE,
            Service.advice,
        ),
        Path(
            "/v1/corrections",
            "Settled values that were replaced since: was and is.",
            parameters.CORRECTIONS,
            Service.corrections,
        ),
    )
}
HEALTH: Final = "/healthz"
READY: Final = "/readyz"
OPENAPI: Final = "/openapi.json"
