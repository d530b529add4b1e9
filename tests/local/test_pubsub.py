"""The Pub/Sub stand-in, through the official client."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.api_core.exceptions import AlreadyExists, InvalidArgument, NotFound, ServiceUnavailable
from google.pubsub_v1 import PublisherClient, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tidemark.local.pubsub.control import Control
from tidemark.local.stack import PubSub

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
    made = Clients(f"127.0.0.1:{server.port()}")
    made.publisher.create_topic(name=TOPIC)
    made.subscriber.create_subscription(request={"name": SUBSCRIPTION, "topic": TOPIC, "ack_deadline_seconds": 10})
    yield made
    made.channel.close()


def test_what_is_published_is_pulled_once_and_acknowledged(clients: Clients) -> None:
    ids = clients.publish(b"a", b"b")
    got = clients.pull_all(2)
    assert [(one.message.message_id, one.message.data) for one in got] == list(zip(ids, (b"a", b"b"), strict=True))
    clients.subscriber.acknowledge(subscription=SUBSCRIPTION, ack_ids=[one.ack_id for one in got])
    clients.publish(b"c")
    assert [one.message.data for one in clients.pull_all(1)] == [b"c"]


def test_a_nack_delivers_again_at_once(clients: Clients) -> None:
    clients.publish(b"a")
    (one,) = clients.pull_all(1)
    clients.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], ack_deadline_seconds=0)
    (again,) = clients.pull_all(1)
    assert again.message.message_id == one.message.message_id


def test_a_lease_expires_and_delivers_again(clients: Clients) -> None:
    clients.publish(b"a")
    (one,) = clients.pull_all(1)
    clients.subscriber.modify_ack_deadline(subscription=SUBSCRIPTION, ack_ids=[one.ack_id], ack_deadline_seconds=1)
    (again,) = clients.pull_all(1)
    assert again.ack_id != one.ack_id


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


def test_names_that_are_wrong_taken_or_missing(clients: Clients) -> None:
    with pytest.raises(AlreadyExists):
        clients.publisher.create_topic(name=TOPIC)
    with pytest.raises(InvalidArgument):
        clients.publisher.create_topic(name="projects/p/topics/1")
    with pytest.raises(NotFound):
        clients.subscriber.pull(request={"subscription": SUBSCRIPTION + "x", "max_messages": 1})
