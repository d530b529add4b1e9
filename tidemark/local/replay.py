"""Publishes a day of flights again, faster, at the pace at which it became known."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any, Final

from google.cloud import pubsub_v1

from tidemark.local.flights import DATE, PROJECT, FlightEvent
from tidemark.wire.message import moment

_MIDNIGHT: Final = datetime.fromisoformat(DATE).replace(tzinfo=UTC)


class Replay(threading.Thread):
    """Publishes each event at its actual time, `speed` times as fast, with the official client.

    `event_time = T0 + (scheduled - first) / speed`, plus a microsecond more for each flight, so that no two points of a
    series share one; the original times are in the attributes.
    """

    def __init__(self, events: Sequence[FlightEvent], topic: str, speed: float) -> None:
        """Nothing is published before `start`.

        Args:
            events: In the order of their actual times.
            topic: Full name.
            speed: How much faster than it happened.
        """
        super().__init__(name="replay", daemon=True)
        self.events, self._topic, self._speed = events, topic, speed
        self._first = min(event.scheduled for event in events)
        self.first_scheduled = _MIDNIGHT + timedelta(minutes=self._first)
        """In UTC, of the day itself."""
        self._start_us = time.time_ns() // 1000
        self._publisher = pubsub_v1.PublisherClient(batch_settings=pubsub_v1.types.BatchSettings(max_latency=0.02))
        self._pending: list[Any] = []
        self.published = 0
        self.error: Exception | None = None

    @property
    def began(self) -> datetime:
        """When it was started, and what `first_scheduled` was moved to."""
        return moment(self._start_us)

    def keys(self) -> int:
        """Distinct points: series and event time."""
        return len({(e.source, e.metric, self._event_us(i, e)) for i, e in enumerate(self.events)})

    def _event_us(self, number: int, event: FlightEvent) -> int:
        return self._start_us + round((event.scheduled - self._first) * 60_000_000 / self._speed) + number

    def run(self) -> None:
        """Publish all; what fails is in `error`."""
        try:
            self._publish_all()
        except Exception as error:  # noqa: BLE001  # handed to the thread that waits
            self.error = error

    def _publish_all(self) -> None:
        for number, event in enumerate(self.events):
            due_us = self._start_us + (event.actual - self._first) * 60_000_000 / self._speed
            pause = due_us / 1e6 - time.time()
            if pause > 0:
                time.sleep(pause)
            event_us = self._event_us(number, event)
            future = self._publisher.publish(
                self._topic,
                json.dumps(_body(event, event_us)).encode(),
                event_time=moment(event_us).isoformat(),
                content_type="application/json",
                project=PROJECT,
            )
            future.add_done_callback(self._count)
            self._pending.append(future)
        for future in self._pending:
            future.result(60)

    def _count(self, _future: Any) -> None:
        self.published += 1


def _body(event: FlightEvent, event_us: int) -> dict[str, Any]:
    return {
        "project": PROJECT,
        "source": event.source,
        "metric": event.metric,
        "event_time": moment(event_us).isoformat(),
        "value": event.delay_min,
        "attributes": {
            "flight": event.flight,
            "scheduled": (_MIDNIGHT + timedelta(minutes=event.scheduled)).isoformat(),
            "actual": (_MIDNIGHT + timedelta(minutes=event.actual)).isoformat(),
        },
    }
