"""What is answered at each path, from parsed parameters to an answer in whichever form."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Sequence
from typing import Any, Final

import msgspec

from tidemark.edge.tokens import Grant
from tidemark.query.advice import STEP, advised
from tidemark.query.answers import Answer, encoded, shown
from tidemark.query.buckets import Store, Wanted, buckets
from tidemark.query.catalogue import Catalogue
from tidemark.query.completeness import Completeness
from tidemark.query.intervals import SECOND_US, Asked, axis, time_us
from tidemark.query.lines import answered
from tidemark.query.problems import ProblemError, bad
from tidemark.query.samples import points as read_points
from tidemark.wire.labels import parsed

Values = dict[str, Any]
_OF_THE_MOMENT: Final = frozenset({"age-s", "silent-s", "as-of", "behind-s", "oldest-due-s"})


class Service:
    """Answers; one for a process."""

    def __init__(self, store: Store, catalogue: Catalogue, completeness: Completeness) -> None:
        self.store, self.catalogue, self.completeness = store, catalogue, completeness

    async def query(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/query`."""
        project, sources = _allowed(values, grant)
        asked = Asked(
            time_us("from", values["from"], now_us),
            time_us("until", values["until"], now_us),
            values["interval-sec"],
            values["max-points"],
            values["tz"],
            values["align"] == "from",
        )
        if values["across"] != "none" and values["columns"]:
            raise bad("columns", "`columns` are of single series: leave `across` out.")
        over = axis(asked)
        # before the data: what it says is true of a later snapshot as well
        known = await self.completeness.of(project)
        series = await self.catalogue.asked(project, values["metric"], sources, values["match"])
        wanted = Wanted(
            tuple(values["aggregation"]),
            tuple(values["columns"]),
            values["across"],
            values["fill"],
            values["quantiles"],
        )
        found = await buckets(self.store, series, over, wanted)
        return await answered(values, over, found, known.told(found.settled_us))

    async def series(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/series`."""
        project, sources = _allowed(values, grant)
        match = values["match"]
        found, following = await self.catalogue.page(
            project,
            values["metric"],
            sources,
            match,
            values["search"],
            _unpacked(values["after"], tuple[str, str]),
            values["limit"],
        )
        latest = await self.catalogue.latest([each.number for each in found])
        rows = []
        for each in found:
            name, labels = parsed(each.metric)
            last = latest.get(each.number)
            rows.append(
                {
                    "source": each.source,
                    "metric": each.metric,
                    "name": name,
                    "labels": labels,
                    "last-time": shown(last[0]) if last else None,
                    "last-value": last[1] if last else None,
                    "age-s": round((now_us - last[0]) / SECOND_US, 3) if last else None,
                }
            )
        told: Values = {"project": project, "series": rows}
        if following is not None:
            told["next"] = _packed([following.metric, following.source])
        return _table(told, rows, ("source", "metric", "last-time", "last-value", "age-s"))

    async def latest(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/latest`."""
        project, sources = _allowed(values, grant)
        series = await self.catalogue.asked(project, values["metric"], sources, values["match"])
        latest = await self.catalogue.latest([each.number for each in series])
        rows = [
            {
                "source": each.source,
                "metric": each.metric,
                "time": shown(last[0]) if last else None,
                "value": last[1] if last else None,
                "age-s": round((now_us - last[0]) / SECOND_US, 3) if last else None,
            }
            for each, last in ((each, latest.get(each.number)) for each in series)
        ]
        return _table({"project": project, "latest": rows}, rows, ("source", "metric", "time", "value", "age-s"))

    async def points(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/points`."""
        project, sources = _allowed(values, grant)
        start, end = time_us("from", values["from"], now_us), time_us("until", values["until"], now_us)
        if start >= end:
            raise bad("from", "`from` has to be before `until`.")
        series = await self.catalogue.asked(project, values["metric"], sources, values["match"])
        after = _unpacked(values["after"], tuple[int, int])
        if after is not None and values["downsample"]:
            raise bad("after", "`after` and `downsample` exclude each other.")
        rows, following = await read_points(self.store.database, series, start, end, values, after)
        told: Values = {"project": project, "from": shown(start), "until": shown(end), "points": rows}
        if values["attribute"]:
            told["attributes"] = "of points: rollups do not know them"
        if following is not None:
            told["next"] = _packed(following)
        return _table(told, rows, ("source", "metric", "time", "value", "publish-time", "attributes"))

    async def metrics(self, values: Values, grant: Grant, _now_us: int) -> Answer:
        """`/v1/metrics`."""
        project, sources = _allowed(values, grant)
        rows = await self.catalogue.metrics(project, sources[0] if sources else None)
        return _table({"project": project, "metrics": rows}, rows, ("metric", "series"))

    async def projects(self, _values: Values, grant: Grant, _now_us: int) -> Answer:
        """`/v1/projects`."""
        names = [grant.project] if grant.project else await self.catalogue.projects()
        rows = [{"project": name} for name in names]
        return _table({"projects": names}, rows, ("project",))

    async def sources(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/sources`."""
        project, only = _allowed(values, grant)
        rows = await self.completeness.sources(project, only, values["order"], values["limit"], now_us)
        header = tuple(rows[0]) if rows else ("source",)
        return _table({"project": project, "sources": rows}, rows, header)

    async def complete(self, values: Values, grant: Grant, _now_us: int) -> Answer:
        """`/v1/completeness`."""
        project, _ = _allowed(values, grant)
        known = await self.completeness.of(project)
        told = {"project": project, **known.told(None), **known.more()}
        return _table(told, [told], tuple(name for name, value in told.items() if not isinstance(value, list)))

    async def advice(self, values: Values, grant: Grant, _now_us: int) -> Answer:
        """`/v1/advice`."""
        project, only = _allowed(values, grant)
        told = await advised(self.store.database, project, only, values["window-sec"], values["days"])
        return _table(told, told["horizons"], STEP)

    async def corrections(self, values: Values, grant: Grant, now_us: int) -> Answer:
        """`/v1/corrections`."""
        project, only = _allowed(values, grant)
        since = time_us("since", values["since"], now_us)
        rows = await self.completeness.corrections(project, only, since, values["limit"])
        header = tuple(rows[0]) if rows else ("source",)
        return _table({"project": project, "since": shown(since), "corrections": rows}, rows, header)


def _allowed(values: Values, grant: Grant) -> tuple[str, list[str]]:
    """The project and the sources that are asked for, where they may be."""
    project: str = values["project"]
    if grant.project and project != grant.project:
        raise ProblemError("forbidden", "The token is for another project.", parameter="project")
    sources: list[str] = list(values.get("source") or [])
    if grant.source is None:
        return project, sources
    if any(source != grant.source for source in sources):
        raise ProblemError("forbidden", "The token is for another source.", parameter="source")
    if values.get("match"):
        raise ProblemError("forbidden", "The token is for one source: name it, without `match`.", parameter="match")
    return project, [grant.source]


def _table(told: Values, rows: Sequence[Values], header: Sequence[str]) -> Answer:
    of_the_data = encoded([[value for name, value in row.items() if name not in _OF_THE_MOMENT] for row in rows])
    return Answer(told, header, ([_flat(row.get(name)) for name in header] for row in rows), of_the_data, len(rows))


def _flat(value: Any) -> Any:
    return msgspec.json.encode(value).decode() if isinstance(value, (dict, list)) else value


def _packed(key: Any) -> str:
    return base64.urlsafe_b64encode(msgspec.json.encode(key)).decode().rstrip("=")


def _unpacked(text: str | None, shape: Any) -> Any:
    """What `_packed` has packed, of this shape.

    Raises:
        ProblemError: it is nothing of that kind.
    """
    if text is None:
        return None
    try:
        found = msgspec.json.decode(base64.urlsafe_b64decode(text + "=" * (-len(text) % 4)), type=shape)
    except (binascii.Error, ValueError, msgspec.DecodeError):
        raise bad("after", "`after` has to be `next` of an answer.") from None
    if any(isinstance(part, str) and "\0" in part for part in found):
        raise bad("after", "`after` has a NUL.")
    return found
