"""What is pulled ahead stays leased and bounded, however long the work on it takes."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator

import apache_beam as beam
import grpc
import pytest
from apache_beam.runners.portability.fn_api_runner import FnApiRunner
from google.pubsub_v1 import AcknowledgeRequest, PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tidemark.bus import puller as module
from tidemark.bus import subscription
from tidemark.bus.puller import Puller
from tidemark.bus.subscription import Subscription
from tidemark.local.pubsub.control import Control, Stats
from tidemark.local.stack import PubSub
from tidemark.settings import INGEST
from tidemark.settings import read as read_settings
from tidemark.wire.block import Block
from tidemark.wire.limits import Limits
from tidemark.wire.message import Message
from transforms.decode import DecodeMessages
from transforms.source import READING, ReadMessages

TOPIC, SUBSCRIPTION = "projects/p/topics/held", "projects/p/subscriptions/held"
MOST = 500
VALUES = read_settings(INGEST, {}, environment={})


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    made = PubSub(tmp_path_factory.mktemp("pubsub"))
    made.start()
    yield f"127.0.0.1:{made.port()}"
    made.stop()


@pytest.fixture
def stats(server: str) -> Iterator[Callable[[], Stats]]:
    """3,000 messages wait in a new subscription."""
    with grpc.insecure_channel(server) as channel, Control(server) as control:
        publisher = PublisherClient(transport=PublisherGrpcTransport(channel=channel))
        subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=channel))
        publisher.create_topic(name=TOPIC)
        subscriber.create_subscription(request={"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": 10})
        for _ in range(3):
            publisher.publish(topic=TOPIC, messages=[{"data": b"x" * 100}] * 1000)
        yield lambda: control.stats()[SUBSCRIPTION]
        subscriber.delete_subscription(subscription=SUBSCRIPTION)
        publisher.delete_topic(topic=TOPIC)


@pytest.fixture
def puller(server: str, stats: object, monkeypatch: pytest.MonkeyPatch) -> Iterator[Puller]:
    """One whose leases are extended twice a second, and which forgets after a second."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server)
    monkeypatch.setattr(module, "LONGEST_DONE_S", 1.0)
    monkeypatch.setattr(module, "KEEPER_TICK_S", 0.5)
    monkeypatch.setattr(module, "EXTEND_AHEAD_S", module.LEASE_S)
    made = Puller(SUBSCRIPTION, MOST, 1 << 20, threads=1)
    made.start()
    yield made
    made.close()


class FailsAtOnce(beam.DoFn):
    """Fails once it has more than `MOST` messages, which are those of several pulls."""

    def __init__(self) -> None:
        self.seen = 0

    def process(self, messages: list[Message]) -> None:
        self.seen += len(messages)
        if self.seen > MOST:
            raise ValueError("not stored")


class Stage(beam.DoFn):
    """Stores nothing: waits, then fails when it is told to. `DecodeMessages` before it passes on most of what it has when
    the bundle ends."""

    def __init__(self, takes_s: float, *, fails: bool) -> None:
        self._takes_s, self._fails = takes_s, fails

    def process(self, _block: Block) -> None:
        time.sleep(self._takes_s)
        if self._fails:
            raise ValueError("not stored")


def wait(until: Callable[[], bool]) -> None:
    limit = time.monotonic() + 20
    while not until():
        assert time.monotonic() < limit
        time.sleep(0.05)


def test_work_that_takes_long_keeps_its_messages_and_its_place(puller: Puller, stats: Callable[[], Stats]) -> None:
    taken = puller.take(10)
    assert taken is not None
    wait(lambda: puller.held() >= MOST)
    held = puller.held()
    time.sleep(3)  # three times as long as what is done may wait for its acknowledgement
    assert (puller.held(), stats().delivered) == (held, held), "neither more is pulled, nor anything given back"
    assert stats().nacked == stats().expired == 0
    puller.acknowledge(taken)
    wait(lambda: stats().acked == len(taken.ack_ids))
    assert stats().ignored_acks == 0


def test_what_was_worked_off_and_forgotten_is_given_back(puller: Puller, stats: Callable[[], Stats]) -> None:
    taken = puller.take(10)
    assert taken is not None
    puller.done(taken)
    wait(lambda: stats().nacked >= len(taken.ack_ids))
    wait(lambda: puller.held() >= MOST)
    puller.done(taken)  # of nobody's any more
    held = puller.held()
    time.sleep(2)
    assert puller.held() == held


def test_stopping_gives_back_what_nobody_took(puller: Puller, stats: Callable[[], Stats]) -> None:
    taken = puller.take(10)
    assert taken is not None
    puller.stop()
    assert puller.held() == len(taken.ack_ids)
    puller.acknowledge(taken)
    assert puller.held() == 0
    wait(lambda: stats().unacked == 3000 - len(taken.ack_ids))


def read(bundle_s: float) -> ReadMessages:
    return ReadMessages(SUBSCRIPTION, False, 10_000, 1 << 20, 1, 1, 1, 60, READING.run, bundle_s=bundle_s)


@pytest.mark.parametrize("stage", [FailsAtOnce(), None])
def test_a_bundle_that_fails_gives_its_messages_back_at_once(
    server: str, stats: Callable[[], Stats], monkeypatch: pytest.MonkeyPatch, stage: beam.DoFn | None
) -> None:
    """Engines that run on with another bundle in the same worker never tell this one."""
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server)
    monkeypatch.setattr(module, "PULL_MESSAGES", MOST)
    try:
        pipeline = beam.Pipeline(runner=FnApiRunner())
        messages = pipeline | read(2)
        if stage is None:
            messages | DecodeMessages(Limits.of(VALUES)) | beam.ParDo(Stage(0, fails=True))
        else:
            messages | beam.ParDo(stage)
        with pytest.raises(Exception, match="not stored"):
            pipeline.run().wait_until_finish()
        wait(lambda: stats().nacked > MOST)
        assert stats().acked == 0
    finally:
        READING.close()


def test_a_bundle_that_waits_for_its_database_keeps_its_messages(
    server: str, stats: Callable[[], Stats], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PUBSUB_EMULATOR_HOST", server)
    monkeypatch.setattr(module, "LONGEST_DONE_S", 1.0)
    monkeypatch.setattr(module, "KEEPER_TICK_S", 0.5)
    monkeypatch.setattr(module, "EXTEND_AHEAD_S", module.LEASE_S)
    pipeline = beam.Pipeline(runner=FnApiRunner())
    pipeline | read(1) | DecodeMessages(Limits.of(VALUES)) | beam.ParDo(Stage(6, fails=False))
    running = threading.Thread(target=lambda: pipeline.run().wait_until_finish(), daemon=True)
    running.start()
    try:
        time.sleep(5.5)  # gathered in one second, and not stored for six
        assert (stats().nacked, stats().expired, stats().acked) == (0, 0, 0)
        wait(lambda: stats().acked > 0)
    finally:
        READING.drain()
        running.join(30)
        READING.close()
        READING.draining.clear()
    assert not running.is_alive()
    assert stats().nacked == 0


@pytest.mark.parametrize("length", [20, 200, 220, 400, 1000, 100_000])
def test_requests_are_cut_by_ids_and_by_bytes(length: int) -> None:
    ids = [f"{i}".rjust(length, "x") for i in range(6000)] if length < 10_000 else ["x" * length] * 20
    cut = list(subscription.requests(ids))
    assert [one for some in cut for one in some] == ids
    assert max(map(len, cut)) <= subscription.IDS_A_REQUEST
    sizes = [AcknowledgeRequest.pb()(subscription="s" * 300, ack_ids=some).ByteSize() for some in cut]
    assert max(sizes) < 512 << 10


def test_long_ids_are_acknowledged_and_extended(
    puller: Puller, stats: Callable[[], Stats], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    long = ["x" * 300] * 3000
    bus = Subscription(SUBSCRIPTION)
    bus.acknowledge(long)
    monkeypatch.setattr(subscription, "BYTES_A_REQUEST", 10 << 20)  # as if the limit were another one than is known
    bus.acknowledge(long)
    assert bus.modify_deadline(long, 20)
    assert caplog.records == []
    pulled = puller.take(10)
    assert pulled is not None
    bus.acknowledge([*long, *pulled.ack_ids])
    wait(lambda: stats().acked == len(pulled.ack_ids))
