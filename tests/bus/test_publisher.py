"""Nothing is told as published that is not, and nothing is lost without being told, whatever the bus does."""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import grpc
import pytest
from google.pubsub_v1 import PublisherClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport

from tests.bus.standin import TOPIC, Bus
from tidemark.bus.messages import attribute, message
from tidemark.bus.publisher import BYTES_A_CALL, CALLS, MESSAGES_A_CALL, Publisher, async_channel
from tidemark.errors import MisconfiguredError, RefusedError, TidemarkError, UnavailableError
from tidemark.local.pubsub.faults import Change, Failure


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bus]:
    made = Bus(tmp_path / "pubsub")
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", made.address)
    yield made
    made.server.stop()


def change(bus: Bus, change: Change) -> None:
    with bus.control() as control:
        control.change(change)


def published(bus: Bus) -> list[bytes]:
    with pytest.MonkeyPatch.context() as patch:
        return [message.data for message in bus.messages(patch)]


class Item:
    """A message that remembers what became of it."""

    def __init__(self, data: bytes, attributes: bytes = b"") -> None:
        self.data, self._attributes, self.size = data, attributes, len(data)
        self.outcome: asyncio.Future[TidemarkError | None] = asyncio.get_running_loop().create_future()

    def close(self) -> bytes:
        return message(self.data, self._attributes)

    def done(self, error: TidemarkError | None) -> None:
        self.outcome.set_result(error)  # a second time would raise


class Counts(Counter[str]):
    def add(self, name: str, number: int) -> None:
        self[name] += number


@asynccontextmanager
async def publisher(counts: Counts, timeout_s: float = 10.0) -> AsyncIterator[Publisher]:
    channel = async_channel()
    try:
        yield Publisher(TOPIC, channel, timeout_s=timeout_s, count=counts.add)
    finally:
        await channel.close()


def run(what: Callable[[Publisher], Coroutine[Any, Any, None]], timeout_s: float = 10.0) -> Counts:
    counts = Counts()

    async def all_of_it() -> None:
        async with publisher(counts, timeout_s) as made:
            await what(made)
            await made.drained()

    asyncio.run(all_of_it())
    return counts


async def outcomes(made: Publisher, data: list[bytes]) -> list[TidemarkError | None]:
    items = [Item(each) for each in data]
    for item in items:
        made.put(item)
    return await asyncio.gather(*(item.outcome for item in items))


@pytest.mark.parametrize("applied", [False, True])
@pytest.mark.parametrize("code", ["UNAVAILABLE", "INTERNAL", "RESOURCE_EXHAUSTED"])
def test_a_call_of_unknown_outcome_is_made_again(bus: Bus, code: str, *, applied: bool) -> None:
    change(bus, Change(fail={"Publish": Failure(3, code, applied=applied)}))
    data = [b"%d" % number for number in range(500)]

    async def given(made: Publisher) -> None:
        assert set(await outcomes(made, data)) == {None}
        assert made.trouble is None

    counts = run(given)
    found = Counter(published(bus))
    assert found.keys() == set(data)
    assert (found.total() > len(data)) == applied
    assert (counts["published"], counts["publish_retries"]) == (500, 3)


def test_calls_are_bounded_and_in_order(bus: Bus) -> None:
    small = [b"%d" % number for number in range(2_500)]
    large = [b"%d" % number + b"x" * 3_000_000 for number in range(7)]

    async def given(made: Publisher) -> None:
        assert set(await outcomes(made, [*small, *large])) == {None}

    counts = run(given)
    assert counts["published"] == 2_507
    assert counts["publish_calls"] >= 2_500 / MESSAGES_A_CALL + 7 * 3_000_000 / BYTES_A_CALL
    assert sorted(published(bus)) == sorted([*small, *large])


def test_a_slow_bus_is_waited_for_and_has_no_more_than_so_many_calls(bus: Bus) -> None:
    change(bus, Change(delay_s={"Publish": 2.0}))
    began = time.monotonic()

    async def given(made: Publisher) -> None:
        found: list[asyncio.Task[list[TidemarkError | None]]] = []
        for number in range(200):
            found.append(asyncio.get_running_loop().create_task(outcomes(made, [b"%d" % number])))
            await asyncio.sleep(0.01)
        assert all(result == [None] for result in await asyncio.gather(*found))

    counts = run(given)
    assert len(published(bus)) == 200
    assert counts["publish_retries"] == 0
    assert counts["publish_calls"] <= CALLS * ((time.monotonic() - began) / 2 + 1)


def test_a_bus_that_comes_back_in_time_is_waited_for(bus: Bus) -> None:
    async def given(made: Publisher) -> None:
        assert await outcomes(made, [b"before"]) == [None]
        bus.server.kill()
        waiting = asyncio.get_running_loop().create_task(outcomes(made, [b"meanwhile"]))
        await asyncio.sleep(1)
        assert not waiting.done()
        await asyncio.get_running_loop().run_in_executor(None, bus.server.start)
        assert await waiting == [None]

    run(given, timeout_s=30)
    assert {*published(bus)} == {b"before", b"meanwhile"}


def test_a_bus_that_stays_away_is_told_in_time_and_found_when_it_is_back(bus: Bus) -> None:
    async def given(made: Publisher) -> None:
        assert await outcomes(made, [b"before"]) == [None]
        bus.server.kill()
        began = time.monotonic()
        (error,) = await outcomes(made, [b"meanwhile"])
        assert isinstance(error, UnavailableError)
        assert time.monotonic() - began < 3
        await asyncio.sleep(1)
        assert isinstance(made.trouble, UnavailableError)
        await made.probe()
        assert isinstance(made.trouble, UnavailableError)
        await asyncio.get_running_loop().run_in_executor(None, bus.server.start)
        while made.trouble is not None:
            await made.probe()
        assert await outcomes(made, [b"after"]) == [None]

    run(given, timeout_s=1)
    assert {*published(bus)} - {b"meanwhile"} == {b"before", b"after"}


def test_a_bus_that_does_not_answer_is_no_different_from_one_that_is_away(bus: Bus) -> None:
    change(bus, Change(delay_s={"Publish": 30.0}))

    async def given(made: Publisher) -> None:
        began = time.monotonic()
        (error,) = await outcomes(made, [b"a"])
        assert isinstance(error, UnavailableError)
        assert time.monotonic() - began < 3

    run(given, timeout_s=1)


def test_a_topic_that_is_missing_is_told_at_once_and_found_when_it_is_there(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def given(made: Publisher) -> None:
        with grpc.insecure_channel(bus.address) as channel:
            client = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
            client.delete_topic(topic=TOPIC)
            began = time.monotonic()
            (error,) = await outcomes(made, [b"a"])
            assert isinstance(error, MisconfiguredError)
            assert TOPIC in str(error)
            assert time.monotonic() - began < 2
            assert made.trouble is error
            await made.probe()
            assert isinstance(made.trouble, MisconfiguredError)
            client.create_topic(name=TOPIC)
        assert await outcomes(made, [b"b"]) == [None]
        assert made.trouble is None

    run(given)


def test_one_message_that_is_never_taken_holds_up_no_other(bus: Bus) -> None:
    bad = {17, 80}

    async def given(made: Publisher) -> None:
        items = [Item(b"%d" % n, attribute("too_long", "x" * 2_000) if n in bad else b"") for n in range(100)]
        for item in items:
            made.put(item)
        found = await asyncio.gather(*(item.outcome for item in items))
        assert {n for n, error in enumerate(found) if isinstance(error, RefusedError)} == bad
        assert {error for n, error in enumerate(found) if n not in bad} == {None}
        assert made.trouble is None

    run(given)
    assert sorted(map(int, published(bus))) == sorted({*range(100)} - bad)
