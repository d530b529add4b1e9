"""Our own source's watermark, on a clock that the test moves."""

from __future__ import annotations

import numpy as np
import pytest

from tidemark.wire.message import Message, delivered
from tidemark.wire.messages import Messages, Micros
from transforms import watermark as module
from transforms.watermark import EventTimeWatermark

NOON_S = 1_767_268_800.0
SPAN_S, IDLE_S, LATENESS_S = 2.0, 10.0, 180.0
HOUR_S = 3600


class Clock:
    """`time_ns` can be set, `monotonic` only goes on."""

    def __init__(self) -> None:
        self.wall_s, self.steady_s = NOON_S, 100.0

    def time_ns(self) -> int:
        return round(self.wall_s * 1e9)

    def monotonic(self) -> float:
        return self.steady_s

    def passes(self, seconds: float) -> None:
        self.wall_s += seconds
        self.steady_s += seconds


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    made = Clock()
    monkeypatch.setattr(module, "time", made)
    return made


@pytest.fixture
def watermark(clock: Clock) -> EventTimeWatermark:
    assert clock.wall_s == NOON_S
    return EventTimeWatermark(SPAN_S, IDLE_S, LATENESS_S)


def sent(clock: Clock, *lateness_s: float | None) -> tuple[Messages, Micros]:
    """Published now, each so late; None: without a stated event time."""
    now = round(clock.wall_s * 1e6)
    messages = [Message(b"", {}, now, "1", None if late is None else now - round(late * 1e6)) for late in lateness_s]
    return Messages.of(messages), np.full(len(messages), now)


def behind_s(clock: Clock, watermark: EventTimeWatermark) -> float:
    return clock.wall_s - watermark.micros() / 1e6


def test_nothing_is_known_before_the_first_message(clock: Clock, watermark: EventTimeWatermark) -> None:
    assert watermark.micros() == 0
    watermark.observe(*sent(clock, 5, 30, None))
    assert behind_s(clock, watermark) == 30


def test_it_is_the_least_of_the_last_while(clock: Clock, watermark: EventTimeWatermark) -> None:
    watermark.observe(*sent(clock, 30))
    clock.passes(1)
    watermark.observe(*sent(clock, 1))
    assert behind_s(clock, watermark) == 31
    clock.passes(1.5)
    watermark.observe(*sent(clock, 1))
    assert behind_s(clock, watermark) == 2.5, "the first one has gone"


def test_it_never_goes_back(clock: Clock, watermark: EventTimeWatermark) -> None:
    watermark.observe(*sent(clock, 1))
    before = watermark.micros()
    clock.passes(3)
    watermark.observe(*sent(clock, 100))
    assert watermark.micros() == before


def test_a_device_far_behind_does_not_hold_it(clock: Clock, watermark: EventTimeWatermark) -> None:
    for _ in range(10):
        watermark.observe(*sent(clock, 40 * 60, 1, 56 * 365 * 24 * HOUR_S))
        clock.passes(1)
    assert behind_s(clock, watermark) <= 1 + SPAN_S + 1, "its own second, the span, the second that passed"


def test_a_device_ahead_does_not_push_it(clock: Clock, watermark: EventTimeWatermark) -> None:
    watermark.observe(*sent(clock, -540))
    assert behind_s(clock, watermark) == 0


def test_while_idle_it_follows_the_clock(clock: Clock, watermark: EventTimeWatermark) -> None:
    watermark.observe(*sent(clock, 100))
    clock.passes(IDLE_S - 0.1)
    assert behind_s(clock, watermark) > 100
    clock.passes(0.1)
    assert behind_s(clock, watermark) == IDLE_S


def test_one_message_a_minute_after_idling(clock: Clock, watermark: EventTimeWatermark) -> None:
    for _ in range(5):
        clock.passes(60)
        before = watermark.micros()
        watermark.observe(*sent(clock, 2))
        assert before <= watermark.micros() <= clock.wall_s * 1e6
        clock.passes(IDLE_S)
        assert behind_s(clock, watermark) == IDLE_S


def test_a_backlog_of_an_hour_after_idling_is_late_and_moves_nothing_back(
    clock: Clock, watermark: EventTimeWatermark
) -> None:
    watermark.observe(*sent(clock, 0))
    clock.passes(HOUR_S)
    before = watermark.micros()
    published = round((clock.wall_s - HOUR_S) * 1e6)
    times = [published + i for i in range(1000)]
    watermark.observe(Messages.of([Message(b"", {}, at, "1", at) for at in times]), np.array(times))
    assert watermark.micros() == before
    clock.passes(SPAN_S + 0.1)
    watermark.observe(*sent(clock, 1))
    assert behind_s(clock, watermark) == 1, "the backlog does not hold it for longer than the span"


def test_a_clock_that_steps_forward_and_back_again(clock: Clock, watermark: EventTimeWatermark) -> None:
    watermark.observe(*sent(clock, 0))
    clock.passes(IDLE_S)
    clock.wall_s += HOUR_S
    ahead = watermark.micros()
    assert behind_s(clock, watermark) == IDLE_S
    clock.wall_s -= HOUR_S
    watermark.observe(*sent(clock, 0))
    assert watermark.micros() == ahead, "never back; points are late for previews until the clock has caught up"
    clock.passes(HOUR_S + 1)
    assert watermark.micros() > ahead


def test_what_a_publisher_had_kept_for_long_does_not_hold_it(clock: Clock, watermark: EventTimeWatermark) -> None:
    now = round(clock.wall_s * 1e6)
    hour_ago = now - HOUR_S * 1_000_000
    kept = delivered(
        b"", {"event_time": str(hour_ago // 1000 - 1000), "accepted_time": str(hour_ago)}, published=now, message_id="1"
    )
    assert kept.publish_time == hour_ago
    messages, published = sent(clock, 5)
    watermark.observe(Messages.of([kept, *messages]), np.array([now, *published]))
    assert behind_s(clock, watermark) == 5
