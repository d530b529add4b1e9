"""Until when everything is there, and from what that is known: asked once a second and project, however many ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from tidemark.query.answers import shown
from tidemark.query.connections import STARTED
from tidemark.query.intervals import SECOND_US
from tidemark.store.agreement import KEPT, kept_as
from tidemark.store.completeness import Completeness as Found
from tidemark.store.completeness import completeness, completeness_sql
from tidemark.store.expressions import numbered
from tidemark.wire.message import microseconds, moment

if TYPE_CHECKING:
    from tidemark.query.buckets import Store

FRESH_S: Final = 1.0
_REMEMBERED: Final = 1_000
_CLASSES: Final = ("within_1s", "within_10s", "within_1m", "within_10m", "within_1h", "within_6h", "within_1d", "later")
_SOURCES: Final = f"""
    SELECT source, first_seen, last_seen, last_event_time, points, after_window, after_horizon, most_late_s, {", ".join(_CLASSES)}
    FROM sources WHERE project = $1 AND ($2::text[] IS NULL OR source = ANY($2)) ORDER BY {{order}}, source LIMIT $3"""
_ORDERS: Final = {"late": "after_horizon::float8 / greatest(points, 1) DESC", "silent": "last_seen"}
_CORRECTIONS: Final = """
    SELECT s.source, s.metric, c.tier_s, c.window_start, c.revision, c.corrected_at,
           c.was_count, c.was_sum, c.was_min, c.was_max, c.is_count, c.is_sum, c.is_min, c.is_max
    FROM corrections c JOIN series s USING (series_id)
    WHERE s.project = $1 AND ($2::text[] IS NULL OR s.source = ANY($2)) AND c.corrected_at >= $3
    ORDER BY c.corrected_at DESC, c.series_id, c.tier_s, c.window_start LIMIT $4"""
_KNOWN: Final = completeness_sql(numbered)


class Known:
    """What is known of a project at one moment."""

    def __init__(self, found: Found | None) -> None:
        self._found = found

    def told(self, settled_us: int | None) -> dict[str, Any]:
        """As an answer has it.

        Args:
            settled_us: Of the series and the range that are asked for; None: of the whole project.
        """
        found = self._found
        if found is None:
            return {**dict.fromkeys(("complete-until", "settled-until", "ingested-until")), "ingest": "never heard of"}
        if settled_us is not None:
            # of the project it may be less, and it may be more, since that was asked a moment ago
            found = replace(found, settled_until=settled_us)
        return {
            "complete-until": shown(found.complete_until),
            "settled-until": shown(found.settled_until),
            "ingested-until": shown(found.ingested_until),
            "ingest": found.ingest,
            "expected-late": None if found.expected_late is None else round(found.expected_late, 6),
        }

    def more(self) -> dict[str, Any]:
        """What only the path of completeness tells."""
        found = self._found
        if found is None:
            return {"processes": []}
        return {
            "as-of": shown(found.now),
            "behind-s": found.behind_s,
            "horizon-s": found.horizon_s,
            "oldest-due-s": found.oldest_due_s,
            "corrections-of-the-last-hour": found.corrections,
            "processes": [
                {
                    "process": one.process,
                    "job": one.job,
                    "at": shown(one.at),
                    "idle": one.idle,
                    "written-publish-time": shown(one.written_publish_time),
                    "watermark": shown(one.watermark),
                }
                for one in found.heartbeats
            ],
        }


class Completeness:
    """Of one store; for one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, tuple[float, asyncio.Future[Known]]] = OrderedDict()

    async def look(self) -> None:
        """Whether the database answers, which server that is, and with which tiers and horizon it is written.

        Raises:
            UnavailableError, MisconfiguredError: it does not.
        """
        database = self._store.database
        row = await database.row(f"SELECT {KEPT}, {STARTED}")
        database.connections.answered_by(row[1])  # behind a pooler it may be another with the same connection
        kept = kept_as(None if row[0] is None else json.loads(row[0]))
        if kept is not None:
            self._store.tiers_s, self._store.horizon_s = kept.tiers_s, kept.horizon_s

    async def of(self, project: str) -> Known:
        """What is known of a project, a second ago or less."""
        at, found = self._known.get(project, (0.0, None))
        if found is None or time.monotonic() - at > FRESH_S or (found.done() and found.exception() is not None):
            found = asyncio.ensure_future(self._asked(project))
            # perhaps nobody else looks at it
            found.add_done_callback(lambda done: done.cancelled() or done.exception())
            self._known[project] = time.monotonic(), found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return found.result() if found.done() else await asyncio.shield(found)

    async def _asked(self, project: str) -> Known:
        return Known(completeness(tuple(await self._store.database.row(_KNOWN, project, None, None, None))))

    async def sources(
        self, project: str, only: Sequence[str], order: str, limit: int, now_us: int
    ) -> list[dict[str, Any]]:
        """Sources of a project, with how late their points were."""
        rows = await self._store.database.rows(
            _SOURCES.format(order=_ORDERS[order]), project, list(only) or None, limit
        )
        return [
            {
                "source": row["source"],
                "first-seen": shown(microseconds(row["first_seen"])),
                "last-seen": shown(microseconds(row["last_seen"])),
                "silent-s": round((now_us - microseconds(row["last_seen"])) / SECOND_US, 3),
                "last-event-time": shown(microseconds(row["last_event_time"])),
                "points": row["points"],
                "after-window": row["after_window"],
                "after-horizon": row["after_horizon"],
                "most-late-s": row["most_late_s"],
                "histogram": {name.replace("_", "-"): row[name] for name in _CLASSES},
            }
            for row in rows
        ]

    async def corrections(self, project: str, only: Sequence[str], since_us: int, limit: int) -> list[dict[str, Any]]:
        """Corrections of a project, the newest first."""
        rows = await self._store.database.rows(_CORRECTIONS, project, list(only) or None, moment(since_us), limit)
        return [
            {
                "source": row["source"],
                "metric": row["metric"],
                "interval-sec": row["tier_s"],
                "start": shown(microseconds(row["window_start"])),
                "corrected-at": shown(microseconds(row["corrected_at"])),
                "was": _summary(row, "was"),
                "is": _summary(row, "is"),
            }
            for row in rows
        ]


def _summary(row: Any, which: str) -> dict[str, Any]:
    count, total = row[f"{which}_count"], row[f"{which}_sum"]
    if not count:
        return {"count": 0, "avg": None, "min": None, "max": None}
    return {"count": count, "avg": total / count, "min": row[f"{which}_min"], "max": row[f"{which}_max"]}
