"""Until when everything is there, and from what that is known: asked once a second and project, however many ask."""

from __future__ import annotations

import asyncio
import json
import time
from collections import OrderedDict
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

from tidemark.query.answers import shown
from tidemark.query.intervals import SECOND_US
from tidemark.store.agreement import KEPT, kept_as
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
_KNOWN: Final = """
    SELECT clock_timestamp() AS at,
           (SELECT min(CASE WHEN h.idle THEN h.at ELSE h.written_publish_time END) FROM heartbeats h
            WHERE h.at > clock_timestamp() - interval '60 seconds') AS ingested,
           (SELECT max(h.at) FROM heartbeats h) AS heard,
           (SELECT sum(after_horizon)::float8 / nullif(sum(points), 0) FROM sources WHERE project = $1) AS expected_late,
           (SELECT min(window_from) FROM marks m WHERE NOT m.closing
            AND (m.series_id IS NULL OR EXISTS (SELECT FROM series s WHERE s.series_id = m.series_id AND s.project = $1))) AS owed,
           (SELECT extract(epoch FROM clock_timestamp() - min(ready_at))::float8 FROM marks) AS oldest_due_s"""


class Known:
    """What is known of a project at one moment."""

    def __init__(self, row: Any, base_s: int, horizon_s: float) -> None:
        self._base_us, self._horizon_us = base_s * SECOND_US, round(horizon_s * SECOND_US)
        self._at = microseconds(row["at"])
        self._ingested = None if row["ingested"] is None else microseconds(row["ingested"])
        self._heard = None if row["heard"] is None else microseconds(row["heard"])
        self._late = row["expected_late"]
        self._owed = None if row["owed"] is None else microseconds(row["owed"])
        self._oldest_due_s = row["oldest_due_s"]

    def told(self, settled_us: int | None) -> dict[str, Any]:
        """As an answer has it; `settled_us` is of the series and the range that are asked for."""
        if settled_us is None:
            settled_us = (self._at - self._horizon_us) // self._base_us * self._base_us
            settled_us = settled_us if self._owed is None else min(settled_us, self._owed)
        complete = None
        if self._ingested is not None:
            complete = min(settled_us, (self._ingested - self._horizon_us) // self._base_us * self._base_us)
        silent = "never heard" if self._heard is None else f"silent since {shown(self._heard)}"
        return {
            "complete-until": shown(complete),
            "settled-until": shown(settled_us),
            "ingested-until": shown(self._ingested),
            "ingest": "live" if self._ingested is not None else silent,
            "expected-late": None if self._late is None else round(self._late, 6),
        }

    def more(self) -> dict[str, Any]:
        """What only the path of completeness tells."""
        return {"as-of": shown(self._at), "oldest-due-s": max(0.0, self._oldest_due_s or 0.0)}


class Completeness:
    """Of one store; for one process."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._known: OrderedDict[str, tuple[float, asyncio.Future[Known]]] = OrderedDict()

    async def look(self) -> None:
        """Whether the database answers, and with which tiers and horizon it is written.

        Raises:
            UnavailableError, MisconfiguredError: it does not.
        """
        row = await self._store.database.row(f"SELECT {KEPT}")
        kept = kept_as(None if row[0] is None else json.loads(row[0]))
        if kept is not None:
            self._store.tiers_s, self._store.horizon_s = kept.tiers_s, kept.horizon_s

    async def of(self, project: str) -> Known:
        """What is known of a project, a second ago or less."""
        at, found = self._known.get(project, (0.0, None))
        if found is None or time.monotonic() - at > FRESH_S or (found.done() and found.exception() is not None):
            found = asyncio.ensure_future(self._asked(project))
            self._known[project] = time.monotonic(), found
            if len(self._known) > _REMEMBERED:
                self._known.popitem(last=False)
        return await asyncio.shield(found)

    async def _asked(self, project: str) -> Known:
        row = await self._store.database.row(_KNOWN, project)
        return Known(row, self._store.tiers_s[0], self._store.horizon_s)

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
