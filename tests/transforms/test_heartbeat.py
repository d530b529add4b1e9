"""What a process says of its reading where the engine has the reader, and that saying it harms nothing."""

from __future__ import annotations

import threading
import time
from pathlib import Path

from transforms import resources
from transforms.counters import tally
from transforms.heartbeat import HANDED_S, Handed, Heart, State
from transforms.resources import Store

S = 1_000_000


class Clock:
    """Goes with the clock, and as much further as it is told to."""

    def __init__(self) -> None:
        self.ahead_s = 0.0

    def __call__(self) -> float:
        return time.monotonic() + self.ahead_s


def test_what_is_being_stored_is_not_and_what_failed_comes_again() -> None:
    clock = Clock()
    handed = Handed(clock)
    now_us = time.time_ns() // 1000
    assert handed.state() == State(None, None, False)
    clock.ahead_s += 5
    one = handed.taken(now_us - 3 * S, now_us - 2 * S)
    assert handed.state().written == now_us - 4 * S, "as far before what came as that reached back"
    two = handed.taken(now_us - 60 * S, now_us)
    assert handed.state().written == now_us - 60 * S
    handed.stored(one)
    handed.failed(two)
    clock.ahead_s += 6
    assert handed.state().written == now_us - 60 * S, "it has not come again"
    clock.ahead_s += 55
    assert handed.state().written == now_us - 4 * S


def test_a_minute_without_anything_is_taken_for_one_in_which_nothing_waited() -> None:
    clock = Clock()
    handed = Handed(clock)
    number = handed.taken(0, 1)
    clock.ahead_s += 2 * HANDED_S
    assert not handed.state().idle, "it waits for the database"
    handed.stored(number)
    clock.ahead_s += HANDED_S - 1
    assert not handed.state().idle
    clock.ahead_s += 1
    state = handed.state()
    assert state.idle
    assert state.written is not None
    assert 0 < time.time_ns() // 1000 - state.written - HANDED_S * S < 10 * S


def test_a_database_that_is_away_is_counted_and_no_more(tmp_path: Path) -> None:
    secret = tmp_path / "url"
    secret.write_text("postgresql://nobody@127.0.0.1:1/nowhere?connect_timeout=1")
    heart = Heart(Store(f"file:{secret}", 2, (60,), 1, 1), "job")
    before = tally().get("heartbeats_missed", 0)
    try:
        heart.beat(State(None, None, True))
    finally:
        resources.close()
    assert tally()["heartbeats_missed"] == before + 1


def test_it_ends_with_what_it_tells_of(tmp_path: Path) -> None:
    asked = threading.Event()

    def state() -> None:
        asked.set()

    Heart(Store(f"file:{tmp_path}/none", 2, (60,), 1, 1), "job").start(state)
    assert asked.wait(10)
    for thread in threading.enumerate():
        if thread.name == "heartbeat":
            thread.join(10)
            assert not thread.is_alive()
