"""How far a reader believes that all is stored: never past what waits, whatever order it comes in."""

from __future__ import annotations

import random

from hypothesis import given
from hypothesis import strategies as st

from tidemark.bus.frontier import GIVEN_BACK_S, GUARD_US, SPAN_S, Frontier

S = 1_000_000


class Clock:
    """Stands still unless it is moved."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    @property
    def us(self) -> int:
        return round(self.now * S)


def test_nothing_is_known_at_first() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    frontier.came(5, 9)
    assert frontier.stored_before(5) is None
    assert frontier.stored_before(None) is None
    assert not frontier.quiet()


def test_it_follows_what_comes_by_as_much_as_that_was_out_of_order() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    for _ in range(20):
        clock.now += 1
        frontier.came(clock.us - 3 * S, clock.us - 1 * S)
    least, greatest = clock.us - 3 * S - int(SPAN_S) * S, clock.us - 1 * S
    assert frontier.stored_before(None) == least - (greatest - least)


def test_what_is_held_holds_it_and_what_is_stored_does_not() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    frontier.nothing_waited(clock.us)
    assert frontier.stored_before(clock.us - 100 * S) == clock.us - 100 * S
    assert frontier.stored_before(None) == clock.us - GUARD_US


def test_what_was_given_back_holds_it_until_it_has_had_the_time_to_come_again() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    frontier.gave_back(clock.us - 30 * S)
    frontier.begin()
    asked = clock.us
    frontier.nothing_waited(asked)
    assert frontier.stored_before(None) == clock.us - 30 * S
    clock.now += GIVEN_BACK_S - 1
    assert frontier.stored_before(None) == asked - 30 * S
    clock.now += 2
    assert frontier.stored_before(None) == asked - GUARD_US


def test_it_is_quiet_once_nothing_came_for_a_while() -> None:
    clock = Clock()
    frontier = Frontier(clock)
    clock.now += SPAN_S
    assert frontier.quiet()
    frontier.came(1, 2)
    assert not frontier.quiet()
    clock.now += SPAN_S + 0.1
    assert frontier.quiet()


@given(seed=st.integers(0, 10**6), backlog_s=st.integers(0, 4000), a_pull=st.integers(10, 200))
def test_a_backlog_in_any_order_is_never_passed(seed: int, backlog_s: int, a_pull: int) -> None:
    """Messages come all the time; those of the outage wait, and are handed out beside the new ones, in no order."""
    rng = random.Random(seed)
    clock = Clock()
    clock.now += 10_000
    known_before = clock.us - backlog_s * S
    waiting = [clock.us - round(rng.uniform(0, backlog_s) * S) for _ in range(backlog_s)]
    frontier = Frontier(clock)
    frontier.nothing_waited(known_before)
    for _ in range(400):
        clock.now += 0.25
        waiting += [clock.us - round(rng.uniform(0, 0.25) * S) for _ in range(5)]
        rng.shuffle(waiting)
        pulled, waiting = waiting[:a_pull], waiting[a_pull:]
        frontier.came(min(pulled), max(pulled))
        told = frontier.stored_before(min(pulled))
        assert told is not None
        assert told <= min([*waiting, *pulled, clock.us])
        told = frontier.stored_before(None)
        assert told is not None
        assert told <= min([*waiting, clock.us])
    if not waiting:
        assert told > clock.us - 3 * SPAN_S * S, "it has caught up"
