"""The Pub/Sub stand-in, through the official client."""

from __future__ import annotations

import queue
import shutil
import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound, ServiceUnavailable
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tidemark.local.processes import free_port, listens, start, wait_ready
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import PubSub

GOOGLE = sorted(
    path
    for root in ("/usr/lib/google-cloud-sdk", "/opt/google-cloud-sdk", str(Path.home() / "google-cloud-sdk"))
    for path in Path(root).glob("platform/pubsub-emulator/lib/cloud-pubsub-emulator-*-all.jar")
    if shutil.which("java")
)
TOPIC, SUBSCRIPTION = "projects/p/topics/points", "projects/p/subscriptions/points"


class Clients:
    def __init__(self, address: str) -> None:
        self.channel = grpc.insecure_channel(address)
        self.publisher = PublisherClient(transport=PublisherGrpcTransport(channel=self.channel))
        self.subscriber = SubscriberClient(transport=SubscriberGrpcTransport(channel=self.channel))

    def publish(self, *bodies: bytes) -> list[str]:
        return list(self.publisher.publish(topic=TOPIC, messages=[{"data": body} for body in bodies]).message_ids)

    def pull(self, limit: int = 100) -> list:
        request = {"subscription": SUBSCRIPTION, "max_messages": limit}
        return list(self.subscriber.pull(request=request, timeout=15).received_messages)

    def pull_all(self, number: int) -> list:
        found: list = []
        until = time.monotonic() + 20
        while len(found) < number and time.monotonic() < until:
            found += self.pull()
        return found


@pytest.fixture
def server(tmp_path: Path) -> Iterator[PubSub]:
    made = PubSub(tmp_path / "pubsub")
    made.start()
    yield made
    made.stop()


@pytest.fixture
def clients(server: PubSub) -> Iterator[Clients]:
    yield from made_ready(f"127.0.0.1:{server.port()}")


@pytest.fixture(scope="module")
def google(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of Google's emulator."""
    if not GOOGLE:
        pytest.skip("Google's Pub/Sub emulator is not on this machine")
    directory, port = tmp_path_factory.mktemp("google"), free_port()
    command: list[str | Path] = ["java", "-jar", GOOGLE[0], "--host=127.0.0.1", f"--port={port}"]
    process = start(command, directory / "log")
    wait_ready(process, directory / "log", lambda: listens(port), "Google's emulator")
    yield f"127.0.0.1:{port}"
    process.stop()


@pytest.fixture(params=["ours", "google"])
def either(request: pytest.FixtureRequest) -> Iterator[Clients]:
    """Our server, and Google's: what a test says of one must hold of the other."""
    if request.param == "google":
        yield from made_ready(request.getfixturevalue("google"))
    else:
        yield request.getfixturevalue("clients")


def made_ready(address: str) -> Iterator[Clients]:
    made = Clients(address)
    made.publisher.create_topic(name=TOPIC)
    made.subscriber.create_subscription(request={"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": 10})
    yield made
    made.subscriber.delete_subscription(subscription=SUBSCRIPTION)
    made.publisher.delete_topic(topic=TOPIC)
    made.channel.close()


def test_what_is_published_is_pulled_once_and_acknowledged(either: Clients) -> None:
    ids = either.publish(b"a", b"b")
    got = either.pull_all(2)
    assert [(one.message.message_id, one.message.data) for one in got] == list(zip(ids, (b"a", b"b"), strict=True))
    either.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[one.ack_id for one in got])
    either.publish(b"c")
    assert [one.message.data for one in either.pull_all(1)] == [b"c"]


def test_a_nack_delivers_again_at_once(either: Clients) -> None:
    either.publish(b"a")
    (one,) = either.pull_all(1)
    either.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], ack_deadline_seconds=0)
    (again,) = either.pull_all(1)
    assert again.message.message_id == one.message.message_id


def test_a_lease_expires_and_delivers_again(either: Clients) -> None:
    either.publish(b"a")
    (one,) = either.pull_all(1)
    either.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], ack_deadline_seconds=1)
    (again,) = either.pull_all(1)
    assert again.message.message_id == one.message.message_id
    assert again.ack_id != one.ack_id


def test_attributes_and_publish_time_come_with_the_message(either: Clients) -> None:
    before = time.time()
    either.publisher.publish(topic=TOPIC, messages=[{"data": b"", "attributes": {"event_time": "1", "ü": "ß"}}])
    (one,) = either.pull_all(1)
    assert dict(one.message.attributes) == {"event_time": "1", "ü": "ß"}
    assert before - 1 <= one.message.publish_time.timestamp() <= time.time() + 1


def test_a_message_without_data_and_attributes_is_refused(either: Clients) -> None:
    with pytest.raises(InvalidArgument):
        either.publisher.publish(topic=TOPIC, messages=[{"data": b""}])


def test_a_stream_delivers_and_is_acknowledged_on_the_way(either: Clients) -> None:
    sent = [f"{i}".encode() for i in range(50)]
    either.publish(*sent)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    requests.put({"subscription": SUBSCRIPTION, "stream_ack_deadline_seconds": 10})
    stream = either.subscriber.streaming_pull(requests=iter(requests.get, None), timeout=20)
    got = []
    for response in stream:
        got += [one.message.data for one in response.received_messages]
        requests.put({"ack_ids": [one.ack_id for one in response.received_messages]})
        if len(got) >= len(sent):
            break
    assert sorted(got) == sorted(sent)
    either.publish(b"last")
    assert [one.message.data for response in [next(stream)] for one in response.received_messages] == [b"last"]
    requests.put(None)
    stream.cancel()


def test_messages_of_an_ordering_key_keep_their_order_over_a_redelivery(clients: Clients) -> None:
    """Pub/Sub promises it; its emulator goes on with the next message instead."""
    name = "projects/p/subscriptions/ordered"
    clients.subscriber.create_subscription(
        request={"name": name, "topic": TOPIC, "ack_deadline_seconds": 10, "enable_message_ordering": True}
    )
    try:
        messages = [{"data": f"{key}{i}".encode(), "ordering_key": key} for i in range(20) for key in "ab"]
        clients.publisher.publish(topic=TOPIC, messages=messages)
        seen: dict[str, list[int]] = {"a": [], "b": []}
        nacked, until = False, time.monotonic() + 30
        while min(len(numbers) for numbers in seen.values()) < 20 and time.monotonic() < until:
            request = {"subscription": name, "max_messages": 7}
            received = list(clients.subscriber.pull(request=request, timeout=15).received_messages)
            ids = [one.ack_id for one in received]
            if not nacked and received:
                nacked = True
                clients.subscriber.modify_ack_deadline(subscription=name, ack_ids=ids, ack_deadline_seconds=0)
                continue
            for one in received:
                seen[one.message.ordering_key].append(int(one.message.data[1:]))
            if ids:
                clients.subscriber.acknowledge(subscription=name, ack_ids=ids)
        assert seen == {"a": list(range(20)), "b": list(range(20))}
    finally:
        clients.subscriber.delete_subscription(subscription=name)


def test_after_too_many_attempts_a_message_goes_to_the_dead_letter_topic(clients: Clients) -> None:
    """Pub/Sub's emulator moves it too, after some ten seconds."""
    dead, worked, left = (f"projects/p/{kind}" for kind in ("topics/dead", "subscriptions/tried", "subscriptions/dead"))
    clients.publisher.create_topic(name=dead)
    clients.subscriber.create_subscription(request={"name": left, "topic": dead})
    policy = {"dead_letter_topic": dead, "max_delivery_attempts": 5}
    clients.subscriber.create_subscription(request={"name": worked, "topic": TOPIC, "dead_letter_policy": policy})
    try:
        clients.publish(b"poison")
        attempts, until = [], time.monotonic() + 30
        while time.monotonic() < until and len(attempts) < 5:
            request = {"subscription": worked, "max_messages": 1}
            for one in clients.subscriber.pull(request=request, timeout=15).received_messages:
                attempts.append(one.delivery_attempt)
                clients.subscriber.modify_ack_deadline(
                    subscription=worked, ack_ids=[one.ack_id], ack_deadline_seconds=0
                )
        assert attempts == [1, 2, 3, 4, 5]
        request = {"subscription": left, "max_messages": 1}
        (one,) = clients.subscriber.pull(request=request, timeout=15).received_messages
        assert one.message.data == b"poison"
    finally:
        for name in (worked, left):
            clients.subscriber.delete_subscription(subscription=name)
        clients.publisher.delete_topic(topic=dead)


def test_flow_control_holds_a_stream_back(clients: Clients) -> None:
    clients.publish(*[b"x"] * 30)
    requests: queue.SimpleQueue = queue.SimpleQueue()
    opening = {"subscription": SUBSCRIPTION, "stream_ack_deadline_seconds": 10, "max_outstanding_messages": 10}
    requests.put(opening)
    stream = clients.subscriber.streaming_pull(requests=iter(requests.get, None), timeout=20)
    held: list[str] = []
    while len(held) < 10:
        held += [one.ack_id for one in next(stream).received_messages]
    assert len(held) == 10
    requests.put({"ack_ids": held[:4]})
    assert len(next(stream).received_messages) == 4
    requests.put(None)
    stream.cancel()


def test_a_kill_loses_nothing_that_was_published_and_brings_back_nothing_acknowledged(
    server: PubSub, clients: Clients
) -> None:
    clients.publish(b"done", b"left", b"leased")
    got = {one.message.data: one.ack_id for one in clients.pull_all(3)}
    clients.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[got[b"done"]])
    server.kill()
    server.start()
    fresh = Clients(f"127.0.0.1:{server.port()}")
    assert {one.message.data for one in fresh.pull_all(2)} == {b"left", b"leased"}
    fresh.channel.close()


def test_faults_by_request(server: PubSub, clients: Clients) -> None:
    with Control(f"127.0.0.1:{server.port()}") as control:
        control.fail("Acknowledge", 1)
        clients.publish(b"a")
        (one,) = clients.pull_all(1)
        with pytest.raises(ServiceUnavailable):
            clients.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], retry=None)
        clients.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[one.ack_id])
        control.twice()
        clients.publish(b"b")
        assert [one.message.data for one in clients.pull_all(2)] == [b"b", b"b"]


def test_names_that_are_wrong_taken_or_missing(either: Clients) -> None:
    with pytest.raises(AlreadyExists):
        either.publisher.create_topic(name=TOPIC)
    with pytest.raises(InvalidArgument):
        either.publisher.create_topic(name="projects/p/topics/1")
    with pytest.raises(NotFound):
        either.subscriber.pull(request={"subscription": SUBSCRIPTION + "x", "max_messages": 1})
