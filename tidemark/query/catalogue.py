"""Which series are asked for: by their names, or by a selector over names, sources and labels."""

from __future__ import annotations

import asyncio
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import Any, Final, NamedTuple

from tidemark.query.database import Database
from tidemark.query.parameters import MOST_SERIES
from tidemark.query.problems import ProblemError, bad
from tidemark.query.selectors import matching, parse_selector
from tidemark.store.series import PROJECTS
from tidemark.wire.message import microseconds

LOOK_S: Final = 1.0
_REMEMBERED: Final = 20_000
_SCANNED: Final = 200_000
"""Series of a project that a selector looks at."""
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


class Series(NamedTuple):
    """One of them."""

    number: int
    source: str
    metric: str


class Catalogue:
    """Looks up series; what was found is remembered for a moment, the numbers of named ones for longer.

    All is forgotten when another server answers: one that was promoted may lack the newest series, and give their numbers to
    others.
    """

    def __init__(self, database: Database) -> None:
        self._database = database
        self._server = 0
        self._numbers: OrderedDict[tuple[str, str, str], Series] = OrderedDict()
        self._lists: OrderedDict[tuple[Any, ...], tuple[float, list[Series]]] = OrderedDict()
        self._turn = asyncio.Lock()

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
        self._forget_others()
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
            chosen = await matching(series, selector.matchers, self._turn)
            found = self._remember(key, project, chosen)
        if not found:
            raise ProblemError("no-such-series", "No series of the project is like that.", parameter="match")
        return found

    def _fresh(self, key: tuple[Any, ...]) -> list[Series] | None:
        at, found = self._lists.get(key, (0.0, []))
        return found if time.monotonic() - at < LOOK_S else None

    def _forget_others(self) -> None:
        """What another server than this one said."""
        server = self._database.connections.server
        if server != self._server:
            self._server = server
            self._numbers.clear()
            self._lists.clear()

    def _remember(self, key: tuple[Any, ...], project: str, found: list[Series]) -> list[Series]:
        if self._server != self._database.connections.server:  # who of them has said it?
            return found
        if len(found) <= MOST_SERIES:  # longer ones would be gigabytes
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
        self._forget_others()
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
        return [row[0] for row in await self._database.rows(PROJECTS)]
