"""Which series are asked for: by their names, or by a selector over names, sources and labels."""

from __future__ import annotations

import asyncio
import re
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Final, NamedTuple

import promql_parser
import re2

from tidemark.query.database import Database
from tidemark.query.parameters import MOST_SERIES
from tidemark.query.problems import ProblemError, bad
from tidemark.wire.labels import parsed
from tidemark.wire.message import microseconds

LOOK_S: Final = 1.0
_REMEMBERED: Final = 20_000
_SCANNED: Final = 200_000
"""Series of a project that a selector looks at."""
_BESIDE: Final = 2_000
"""From so many on they are looked at beside the loop."""
_LONGEST: Final = 4096
_LONGEST_S: Final = 2.0
_LOOKS_LIKE: Final = re.compile(r"\s*(?:[A-Za-z_:][\w:]*\s*)?(?:\{.*\}\s*)?", re.DOTALL)
"""What is not like it is not given to the parser, which needs seconds for thousands of brackets."""
_SOURCE: Final = "source"
_METRIC_IN: Final = "metric = ANY({})"
_SOURCE_IN: Final = "source = ANY({})"
_NAMED_SO: Final = "(metric = {0} OR (metric > {0} || '{{' AND metric < {0} || '|'))"
_SEARCHED: Final = "(strpos(lower(metric), lower({0})) > 0 OR strpos(lower(source), lower({0})) > 0)"
_BEHIND: Final = '(metric, source) > ({}::text COLLATE "C", {}::text COLLATE "C")'
_LATEST: Final = """
    SELECT s.series_id, p.event_time, p.value FROM unnest($1::integer[]) AS s(series_id) CROSS JOIN LATERAL (
        SELECT event_time, value FROM points p WHERE p.series_id = s.series_id ORDER BY event_time DESC LIMIT 1) p"""
_METRICS: Final = """
    SELECT metric, count(*) FROM series WHERE project = $1 AND ($2::text IS NULL OR source = $2)
    GROUP BY metric ORDER BY metric LIMIT 10000"""
_PROJECTS: Final = """
    WITH RECURSIVE p AS (
        SELECT min(project) AS project FROM series
        UNION ALL
        SELECT (SELECT min(project) FROM series WHERE project > p.project) FROM p WHERE p.project IS NOT NULL
    )
    SELECT project FROM p WHERE project IS NOT NULL LIMIT 10000"""


class Series(NamedTuple):
    """One of them."""

    number: int
    source: str
    metric: str


class Matcher(NamedTuple):
    """A condition on a label's value."""

    label: str
    holds: Callable[[str], bool]


class Selector(NamedTuple):
    """A parsed one: the metric's name where that is fixed, the source where that is, and whatever else has to hold."""

    name: str | None
    source: str | None
    matchers: tuple[Matcher, ...]


class Catalogue:
    """Looks up series; what was found is remembered for a moment, the numbers of named ones for longer."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._numbers: OrderedDict[tuple[str, str, str], Series] = OrderedDict()
        self._lists: OrderedDict[tuple[Any, ...], tuple[float, list[Series]]] = OrderedDict()

    async def asked(
        self, project: str, metrics: Sequence[str], sources: Sequence[str], match: str | None, most: int = MOST_SERIES
    ) -> list[Series]:
        """The series of a request.

        Args:
            project: Whose.
            metrics: Their names; none: any.
            sources: The same.
            match: A selector instead.
            most: More are refused.

        Raises:
            ProblemError: there is none of them, or too many.
        """
        if match is not None:
            if metrics or sources:
                raise bad("match", "`match` stands instead of `metric` and `source`.")
            found = await self._matching(project, match, most)
        elif not metrics:
            raise bad("metric", "`metric` is missing, or `match` in its place.")
        else:
            found = await self._named(project, metrics, sources, most)
        if len(found) > most:
            raise ProblemError(
                "too-many-series", f"That is of more than {most:,} series: name the sources, or fewer metrics."
            )
        return found

    async def _named(self, project: str, metrics: Sequence[str], sources: Sequence[str], most: int) -> list[Series]:
        if sources:
            known = [self._numbers.get((project, source, metric)) for metric in metrics for source in sources]
            if all(known):
                return sorted((series for series in known if series is not None), key=lambda each: each[:0:-1])
        key = (project, tuple(metrics), tuple(sources), most)
        found = self._fresh(key)
        if found is None:
            series = await self._listed(project, most + 1, (_METRIC_IN, metrics), (_SOURCE_IN, sources))
            found = self._remember(key, project, series)
        for kind, names, there in (
            ("metric", metrics, {series.metric for series in found}),
            ("source", sources, {series.source for series in found}),
        ):
            missing = [name for name in names if name not in there]
            if missing and len(found) <= most:
                raise ProblemError(
                    "no-such-series", f"No series of the project has the {kind} {missing[0][:200]!r}.", parameter=kind
                )
        return found

    async def _matching(self, project: str, match: str, most: int) -> list[Series]:
        selector = parse_selector(match)
        key = (project, match, most)
        found = self._fresh(key)
        if found is None:
            sources = [] if selector.source is None else [selector.source]
            series = await self._listed(project, _SCANNED + 1, (_NAMED_SO, selector.name), (_SOURCE_IN, sources))
            if len(series) > _SCANNED:
                raise ProblemError(
                    "too-many-series", f"The selector looks at more than {_SCANNED:,} series: name the metric."
                )
            if len(series) < _BESIDE:
                chosen = matching(series, selector.matchers)
            else:
                loop = asyncio.get_running_loop()
                chosen = await loop.run_in_executor(None, matching, series, selector.matchers)
            found = self._remember(key, project, chosen)
        if not found:
            raise ProblemError("no-such-series", "No series of the project is like that.", parameter="match")
        return found

    def _fresh(self, key: tuple[Any, ...]) -> list[Series] | None:
        at, found = self._lists.get(key, (0.0, []))
        return found if time.monotonic() - at < LOOK_S else None

    def _remember(self, key: tuple[Any, ...], project: str, found: list[Series]) -> list[Series]:
        self._lists[key] = time.monotonic(), found
        while len(self._lists) > 64:
            self._lists.popitem(last=False)
        for series in found[:MOST_SERIES]:
            self._numbers[project, series.source, series.metric] = series
        while len(self._numbers) > _REMEMBERED:
            self._numbers.popitem(last=False)
        return found

    async def page(
        self,
        project: str,
        metrics: Sequence[str],
        sources: Sequence[str],
        match: str | None,
        search: str | None,
        after: Sequence[Any] | None,
        limit: int,
    ) -> tuple[list[Series], Series | None]:
        """Series in the order of metric and source, and the last of them where others follow.

        Args:
            project: Whose.
            metrics: Their names; none: any.
            sources: The same.
            match: A selector instead.
            search: A text that has to stand in metric or source.
            after: Metric and source; only what comes after these.
            limit: So many at most.

        Raises:
            ProblemError: the selector is none, or looks at too many.
        """
        behind = [str(part) for part in after] if after is not None else None
        if match is not None:
            if metrics or sources:
                raise bad("match", "`match` stands instead of `metric` and `source`.")
            every = await self._matching(project, match, _SCANNED)
            text = (search or "").lower()
            found = [
                each
                for each in every
                if (behind is None or [each.metric, each.source] > behind)
                and (not text or text in each.metric.lower() or text in each.source.lower())
            ]
        else:
            wanted = (_METRIC_IN, metrics), (_SOURCE_IN, sources), (_SEARCHED, search), (_BEHIND, *(behind or (None,)))
            found = await self._listed(project, limit + 1, *wanted)
        return found[:limit], found[limit - 1] if len(found) > limit else None

    async def _listed(self, project: str, limit: int, *wanted: tuple[Any, ...]) -> list[Series]:
        """Series for which conditions hold, in the order of metric and source.

        Each has a statement of its own, so that a plan knows which there are.

        Args:
            project: Whose.
            limit: So many at most.
            wanted: Conditions, each with its values; one whose first is empty or None is none.
        """
        arguments: list[Any] = [project]
        conditions = ["project = $1"]
        for text, *values in wanted:
            if values[0] is not None and values[0] != [] and values[0] != ():
                conditions.append(text.format(*(f"${len(arguments) + n}" for n in range(1, len(values) + 1))))
                arguments += values
        arguments.append(limit)
        statement = f"""
            SELECT series_id, source, metric FROM series WHERE {" AND ".join(conditions)}
            ORDER BY metric, source LIMIT ${len(arguments)}"""
        return [Series(*row) for row in await self._database.rows(statement, *arguments)]

    async def latest(self, numbers: Sequence[int]) -> dict[int, tuple[int, float]]:
        """The newest point of each series: its event time in microseconds, and its value."""
        rows = await self._database.rows(_LATEST, list(numbers))
        return {row[0]: (microseconds(row[1]), row[2]) for row in rows}

    async def metrics(self, project: str, source: str | None) -> list[dict[str, Any]]:
        """Names of metrics, and how many series each has."""
        rows = await self._database.rows(_METRICS, project, source)
        return [{"metric": row[0], "series": row[1]} for row in rows]

    async def projects(self) -> list[str]:
        """All of them."""
        return [row[0] for row in await self._database.rows(_PROJECTS)]


def matching(series: Sequence[Series], matchers: Sequence[Matcher]) -> list[Series]:
    """Those for which all matchers hold; each matcher looks at each value once.

    Raises:
        ProblemError: it takes too long.
    """
    until = time.monotonic() + _LONGEST_S
    seen: list[dict[str, bool]] = [{} for _ in matchers]
    found = []
    for each in series:
        name, labels = parsed(each.metric)
        values = {**labels, "__name__": name, _SOURCE: each.source}
        for matcher, known in zip(matchers, seen, strict=True):
            value = values.get(matcher.label, "")
            holds = known.get(value)
            if holds is None:
                if time.monotonic() > until:
                    raise ProblemError(
                        "too-many-series", "The selector takes too long for so many series: name the metric."
                    )
                holds = known[value] = matcher.holds(value)
            if not holds:
                break
        else:
            found.append(each)
    return found


def parse_selector(text: str) -> Selector:
    """A selector as PromQL writes it.

    Raises:
        ProblemError: it is none.
    """
    if len(text) > _LONGEST or not _LOOKS_LIKE.fullmatch(text):
        raise bad("match", f'`match` has to be a selector, fps{{source=~"gw-.*"}}, of {_LONGEST:,} characters at most.')
    try:
        found = promql_parser.parse(text)
    except ValueError as error:
        raise bad("match", f"`match` is no selector: {str(error)[:300]}.") from None
    if not isinstance(found, promql_parser.VectorSelector) or found.offset is not None or found.at is not None:
        raise bad("match", '`match` has to be a selector and nothing else: fps{source=~"gw-.*"}.')
    if found.matchers.or_matchers:
        raise bad("match", "`match` has no `or`.")
    name, source, matchers = found.name, None, []
    for each in found.matchers.matchers:
        if each.op == promql_parser.MatchOp.Equal and each.name == "__name__" and each.value:
            name = each.value
        elif each.op == promql_parser.MatchOp.Equal and each.name == _SOURCE and each.value:
            source = each.value
        matchers.append(Matcher(each.name, _condition(each.op, each.value)))
    if name is not None:
        matchers.append(Matcher("__name__", name.__eq__))
    return Selector(name, source, tuple(matchers))


def _condition(op: Any, value: str) -> Callable[[str], bool]:
    if op == promql_parser.MatchOp.Equal:
        return value.__eq__
    if op == promql_parser.MatchOp.NotEqual:
        return value.__ne__
    options = re2.Options()
    options.log_errors = False
    options.max_mem = 8 << 20  # with less some need a hundred times as long
    options.dot_nl = True  # a dot is any character, as Prometheus has it
    try:
        pattern = re2.compile(value, options)
    except re2.error as error:
        raise bad("match", f"{value[:100]!r} is no regular expression of RE2: {_said(error)}.") from None
    if op == promql_parser.MatchOp.Re:
        return lambda text: pattern.fullmatch(text) is not None
    return lambda text: pattern.fullmatch(text) is None


def _said(error: Exception) -> str:
    found = error.args[0] if error.args else "it cannot be read"
    return (found.decode("utf-8", "replace") if isinstance(found, bytes) else str(found))[:200]
