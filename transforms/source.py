"""Reads messages: Pub/Sub's own reader where the engine has one, a splittable DoFn everywhere else.

    Dataflow        ReadFromPubSub(timestamp_attribute)  one message an element, acknowledged by the service
    Prism, Flink    _Pull                                one pull an element, acknowledged when the bundle is committed

An element is some messages: a list of one, or the columns of a pull. Its timestamp is the earliest `event_time`
attribute in it, so that the watermark is one of event time.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, Final

import apache_beam as beam
from apache_beam.io.gcp.pubsub import PubsubMessage, ReadFromPubSub
from apache_beam.io.restriction_trackers import OffsetRange, OffsetRestrictionTracker
from apache_beam.io.watermark_estimators import ManualWatermarkEstimator
from apache_beam.transforms.core import RestrictionProvider
from apache_beam.transforms.window import TimestampedValue
from apache_beam.utils.timestamp import MAX_TIMESTAMP, Duration, Timestamp

from tidemark.bus.frontier import Frontier
from tidemark.bus.leases import Pulled
from tidemark.bus.puller import Puller
from tidemark.failpoints import reach
from tidemark.wire.message import Message, delivered, microseconds
from tidemark.wire.messages import Messages
from transforms.counters import count, gauge
from transforms.heartbeat import Heart, State
from transforms.watermark import EventTimeWatermark

_END: Final = 2**62
BUNDLE_S: Final = 0.3
"""How long one bundle gathers, unless told otherwise."""
BUNDLE_MESSAGES: Final = 20_000
IDLE_WAIT_S: Final = 0.2


@dataclass(eq=False)
class ReadMessages(beam.PTransform):
    """Messages of a subscription, some an element.

    Guarantee: a message is acknowledged only after the bundle it is in was committed by the engine, and with it every
    stage that is fused to this one.

    Args:
        subscription: Full name.
        native: Use the engine's own Pub/Sub reader.
        max_messages, max_bytes, threads: See `tidemark.bus.puller.Puller`.
        idle_timeout_s: Without messages for this long the watermark follows the clock, this far behind.
        span_s: The watermark is the least event time pulled in this many seconds.
        max_lateness_s: A message later than this does not hold the watermark.
        run: `Reading.run` when the graph was built.
        bundle_s: How long one bundle gathers: a message is acknowledged late by at most this, and the cost of a bundle
            is spread over it.
        heart: Where the process says that it reads, unless the engine has the reader.
    """

    subscription: str
    native: bool
    max_messages: int
    max_bytes: int
    threads: int
    idle_timeout_s: float
    span_s: float
    max_lateness_s: float
    run: int = 0
    bundle_s: float = BUNDLE_S
    heart: Heart | None = None

    def __post_init__(self) -> None:
        super().__init__()

    def expand(self, pbegin: Any) -> Any:
        """One of the two readers."""
        if self.native:
            return (
                pbegin
                | "pubsub"
                >> ReadFromPubSub(
                    subscription=self.subscription, with_attributes=True, timestamp_attribute="event_time"
                )
                | "as message" >> beam.Map(_as_messages).with_output_types(list[Message])
            )
        return (
            pbegin
            | "subscription" >> beam.Create([self.subscription])
            | "pull" >> beam.ParDo(_Pull(self)).with_output_types(Messages)
        )


def _as_messages(message: PubsubMessage) -> list[Message]:
    attributes = message.attributes or {}
    published = microseconds(message.publish_time)
    return [delivered(message.data or b"", attributes, published, message.message_id)]


class Reading:
    """What this process reads: one puller, its watermark, and the wish to stop."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._puller: Puller | None = None
        self._watermark: EventTimeWatermark | None = None
        self._frontier = Frontier()
        self.run = 0
        """Counts the restarts of the pipeline in this process."""
        self.draining = threading.Event()
        self.last_message = time.monotonic()

    def open(self, config: ReadMessages) -> tuple[Puller, EventTimeWatermark] | None:
        """The puller and watermark, started at the first call.

        None for a pipeline that has failed and was replaced by another one: its engine may still start a bundle, which
        would take messages that nobody acknowledges or gives back.
        """
        with self._lock:
            if config.run != self.run:
                return None
            if self._puller is None or self._watermark is None:
                self._puller = puller = Puller(
                    config.subscription, config.max_messages, config.max_bytes, config.threads, count, self._frontier
                )
                self._watermark = EventTimeWatermark(config.span_s, config.idle_timeout_s, config.max_lateness_s)
                self._puller.start()
                self.last_message = time.monotonic()
                if config.heart is not None:
                    config.heart.start(lambda: self.state(puller))
            return self._puller, self._watermark

    def state(self, of: Puller) -> State | None:
        """What is known of the reading; None once this puller is closed."""
        with self._lock:
            puller, watermark = self._puller, self._watermark
        if puller is not of or watermark is None:
            return None
        return State(puller.stored_before(), watermark.last or None, puller.quiet())

    def started(self) -> bool:
        """Messages are being pulled."""
        return self._puller is not None

    def idle_s(self) -> float:
        """Seconds since the last message; 0 while any is held."""
        with self._lock:
            puller = self._puller
        if puller is None or puller.held():
            return 0.0
        return time.monotonic() - self.last_message

    def held(self) -> int:
        """Messages that were pulled and are not yet acknowledged."""
        with self._lock:
            puller = self._puller
        return 0 if puller is None else puller.held()

    def drain(self) -> None:
        """Pull no more; what was pulled is worked off, and the source then ends."""
        self.draining.set()
        with self._lock:
            puller = self._puller
        if puller is not None:
            puller.stop()

    def close(self) -> None:
        """Give everything back; a new `open` starts afresh, except after `drain`."""
        with self._lock:
            puller, self._puller, self._watermark = self._puller, None, None
            self.run += 1
        if puller is not None:
            puller.close()


READING: Final = Reading()


class _OneReader(OffsetRestrictionTracker):
    """Agrees to a split only at its own position, a checkpoint: an engine that splits on would start a second reader."""

    def try_split(self, fraction_of_remainder: float) -> Any:
        return super().try_split(0) if fraction_of_remainder == 0 else None


class _ForEver(RestrictionProvider):
    def initial_restriction(self, _element: Any) -> OffsetRange:
        return OffsetRange(0, _END)

    def create_tracker(self, restriction: OffsetRange) -> OffsetRestrictionTracker:
        return _OneReader(restriction)

    def restriction_size(self, _element: Any, _restriction: OffsetRange) -> int:
        return 1

    def split(self, _element: Any, restriction: OffsetRange) -> Iterator[OffsetRange]:
        yield restriction

    def truncate(self, _element: Any, _restriction: OffsetRange) -> None:
        """Nothing is left to do when the engine drains: what was pulled is in a bundle."""


FOR_EVER: Final = _ForEver()


class _Pull(beam.DoFn):
    """One claim is one pull is one element; a bundle takes what comes within `bundle_s`.

    Beam uses an instance for the next bundle only when the stages that are fused to it are through with the last one,
    and tears it down when one of them has failed: nobody will commit that bundle.
    """

    def __init__(self, config: ReadMessages) -> None:
        self._config = config
        self._bundle: list[tuple[Puller, Pulled]] = []

    def start_bundle(self) -> None:
        for puller, pulled in self._bundle:
            puller.done(pulled)
        self._bundle.clear()

    def teardown(self) -> None:
        for puller, pulled in self._bundle:
            puller.release(pulled)
        self._bundle.clear()

    @beam.DoFn.unbounded_per_element()
    def process(
        self,
        _subscription: str,
        finalizer: Any = beam.DoFn.BundleFinalizerParam,
        tracker: Any = beam.DoFn.RestrictionParam(FOR_EVER),
        watermark: Any = beam.DoFn.WatermarkEstimatorParam(ManualWatermarkEstimator.default_provider()),
    ) -> Iterator[TimestampedValue]:
        # the engine asks to finalize every bundle, and a bundle without a call is an error
        finalizer.register(_nothing)
        opened = READING.open(self._config)
        if opened is None:
            tracker.try_claim(_END - 1)
            return
        puller, estimator = opened
        position, taken = tracker.current_restriction().start, 0
        until = time.monotonic() + self._config.bundle_s
        while taken < BUNDLE_MESSAGES and (left := until - time.monotonic()) > 0:
            if READING.draining.is_set():
                pulled = puller.take(0)
                if pulled is None:
                    tracker.try_claim(_END - 1)
                    watermark.set_watermark(MAX_TIMESTAMP)
                    return
            else:
                pulled = puller.take(min(left, IDLE_WAIT_S))
            if pulled is None:
                if taken:
                    break
                continue
            self._bundle.append((puller, pulled))
            if not tracker.try_claim(position):
                puller.release(pulled)
                return
            position += 1
            taken += len(pulled.messages)
            READING.last_message = time.monotonic()
            finalizer.register(_Acknowledge(puller, pulled))
            estimator.observe(pulled.messages, pulled.published)
            count("messages", len(pulled.messages))
            yield TimestampedValue(pulled.messages, Timestamp(micros=int(pulled.messages.earliest().min())))
        _advance(watermark, estimator.micros())
        tracker.defer_remainder(Duration(seconds=0))


def _advance(watermark: Any, micros: int) -> None:
    if micros:
        moment = Timestamp(micros=micros)
        current = watermark.current_watermark()
        if current is None or moment > current:
            watermark.set_watermark(moment)
        gauge("watermark", micros / 1e6)


def _nothing() -> None:
    """Called when a bundle without messages is durable."""


class _Acknowledge:
    """What the engine calls when the bundle is durable."""

    def __init__(self, puller: Puller, pulled: Pulled) -> None:
        self._puller, self._pulled = puller, pulled

    def __call__(self) -> None:
        try:
            reach("source.finalize")
            self._puller.acknowledge(self._pulled)
        except Exception:
            # the engine only logs this: unless given back, the messages would be kept from everybody
            self._puller.release(self._pulled)
            raise
        count("acknowledged", len(self._pulled.ack_ids))
