"""What becomes of bodies: the edge's verdict is the pipeline's, and the value that was accepted last is the one that stays."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from typing import Any

import pytest

from tests.edge.conftest import TOPIC, Bus
from tests.wire import fuzz
from tidemark.bus.publisher import Publisher, async_channel
from tidemark.edge.intake import ForbiddenError, Intake, TooLargeError, Verdict, none_accepted
from tidemark.edge.tokens import Grant
from tidemark.errors import TidemarkError
from tidemark.local.pubsub.faults import Change, Failure
from tidemark.wire.block import Columns
from tidemark.wire.decode import Decoder
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from tidemark.wire.reasons import Reason

WINDOW_S = 60
GRANT = Grant("p", frozenset({"write"}))
Outcomes = list[bool | TidemarkError]


@asynccontextmanager
async def intake(limits: Limits) -> AsyncIterator[Intake]:
    channel = async_channel()
    made = Intake(Publisher(TOPIC, channel), limits, WINDOW_S)
    try:
        yield made
        await made.drained()
    finally:
        await channel.close()


def points(columns: Columns) -> Counter[tuple[object, ...]]:
    rows = zip(columns.series, columns.event_time, columns.value, columns.attributes, strict=True)
    return Counter((columns.keys[series], at, value, attributes) for series, at, value, attributes in rows)


def read(messages: list[Message], limits: Limits) -> Columns:
    """What the pipeline makes of them."""
    into = Columns()
    for message in messages:
        Decoder(limits).decode(message, into, message.publish_time)
    return into


@pytest.mark.parametrize(
    ("seed", "limits", "number"),
    [(0, Limits(), 1500), (1, Limits(max_message_bytes=1024), 700), (2, Limits(max_name_bytes=1), 300)],
    ids=["", "short messages", "short names"],
)
def test_the_verdict_is_the_pipelines_and_what_is_accepted_is_no_dead_letter(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, seed: int, limits: Limits, number: int
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", bus.address)
    chance = random.Random(seed)
    accepted: Counter[tuple[object, ...]] = Counter()
    of_all: Outcomes = []

    async def given() -> None:
        async with intake(limits) as edge:
            for _ in range(number):
                made = fuzz.body(chance)
                encoding = made.attributes.get("content_encoding", "")
                packed = decoded(made.data, made.attributes, limits)
                verdict = taken(edge, made.data, encoding, of_all.append)
                if verdict is None:
                    assert any(key.project != "p" for key in packed.keys), made
                    continue
                assert verdict.accepted == len(packed.series), made
                assert sum(verdict.refused.values()) == sum(letter.points for letter in packed.dead_letters), made
                if (
                    not made.attributes
                ):  # how much is told of refused points one by one depends on the size of the message
                    assert [(one.at, one.reason) for one in verdict.rejected] == [
                        (None if letter.position < 0 else letter.position, letter.reason)
                        for letter in packed.dead_letters[:100]
                    ], made
                accepted.update(points(packed))
                await asyncio.sleep(0)

    asyncio.run(given())
    assert set(of_all) == {False}
    found = read(bus.messages(monkeypatch), limits)
    assert found.dead_letters == []
    assert points(found) == accepted
    assert accepted.total() > number


def decoded(data: bytes, attributes: Mapping[str, str], limits: Limits) -> Columns:
    into = Columns()
    now = time.time_ns() // 1000
    Decoder(limits).decode(Message(data, {"project": "p", **attributes}, now, ""), into, now)
    return into


def taken(edge: Intake, data: bytes, encoding: str, told: Callable[[bool | TidemarkError], None]) -> Verdict | None:
    """As the door does it; None: it is another project's."""
    try:
        text = edge.unpack(data, encoding)
        if isinstance(text, Verdict):
            return text
        verdict, kept = edge.take(text, GRANT)
    except TooLargeError:
        return none_accepted(Reason.MESSAGE_TOO_LARGE, "")
    except ForbiddenError:
        return None
    if kept is not None:
        kept.then(told)
    return verdict


def test_a_point_at_the_latest_moment_that_is_taken_stays_good_however_slow_the_bus_is(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", bus.address)
    limits = Limits(max_future_us=60_000_000)
    accepted = 0

    async def given() -> None:
        nonlocal accepted
        async with intake(limits) as edge:
            for number in range(400):
                at = time.time_ns() // 1_000_000 + 60_000 - number % 3
                body = json.dumps({"source": "s", "metric": f"m{number}", "event_time": at, "value": 1}).encode()
                verdict, _ = edge.take(body, GRANT)
                accepted += verdict.accepted
                await asyncio.sleep(0.002)

    with bus.control() as control:
        control.change(Change(delay_s={"Publish": 0.2}))
        asyncio.run(given())
    found = read(bus.messages(monkeypatch), limits)
    assert found.dead_letters == []
    assert len(found.series) == accepted > 100


def body(chance: random.Random, number: int, last: dict[tuple[str, int], float]) -> bytes:
    """One of the forms in which bodies come: joined, alone, over windows, half of it refused; `last` are its values."""
    some: list[dict[str, object]] = []
    for metric in chance.sample("abc", chance.randrange(1, 3)):
        at = 1_769_860_800_000 + number // 5 + chance.choice((0, 0, 0, 61_000, 3_600_000))
        last[metric, at * 1000] = value = float(chance.randrange(1000))
        some.append({"source": "s", "metric": metric, "event_time": at, "value": value})
    form = chance.randrange(6)
    if form == 0:
        some.insert(chance.randrange(len(some) + 1), {"source": "s"})
    elif form == 1:
        some[0]["ignored"] = "x" * 70_000
    elif form == 2 and len(some) == 1:
        return json.dumps(some[0], indent=2).encode()
    return json.dumps(some).encode() if form < 4 else b"\n".join(json.dumps(one).encode() for one in some)


@pytest.mark.parametrize("seed", range(2))
def test_the_value_that_was_accepted_last_is_the_one_that_stays(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", bus.address)
    chance = random.Random(seed)
    last: dict[tuple[str, int], float] = {}

    async def given(control: Any) -> None:
        async with intake(Limits()) as edge:
            for number in range(300):
                edge.take(body(chance, number, last), GRANT)
                if chance.random() < 0.05:
                    applied = chance.random() < 0.5
                    control.change(
                        Change(
                            fail={"Publish": Failure(chance.randrange(1, 3), applied=applied)},
                            delay_s={"Publish": chance.choice((0.0, 0.0, 0.05))},
                        )
                    )
                await asyncio.sleep(chance.choice((0, 0, 0.001, 0.006)))

    with bus.control() as control:
        asyncio.run(given(control))
    messages = bus.messages(monkeypatch)
    chance.shuffle(messages)
    stored: dict[tuple[str, int], tuple[int, float]] = {}
    for message in messages:
        columns = read([message], Limits())
        for series, at, value in zip(columns.series, columns.event_time, columns.value, strict=True):
            key = columns.keys[series].metric, at
            stored[key] = max(stored.get(key, (0, 0.0)), (message.publish_time, value))  # as the store does
    assert {key: value for key, (_, value) in stored.items()} == last
