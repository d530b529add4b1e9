"""The Pub/Sub stand-in as a process of a test, with a topic and a subscription."""

from __future__ import annotations

import contextlib
import os
import signal
from collections.abc import Iterator
from pathlib import Path

import grpc
import pytest
from google.pubsub_v1 import AcknowledgeRequest, PublisherClient, PubsubMessage, PullRequest, SubscriberClient
from google.pubsub_v1.services.publisher.transports import PublisherGrpcTransport
from google.pubsub_v1.services.subscriber.transports import SubscriberGrpcTransport

from tidemark.bus.puller import Puller
from tidemark.local.pubsub.control import Control
from tidemark.local.stack import PubSub
from tidemark.wire.message import Message

TOPIC, SUBSCRIPTION = "projects/p/topics/edge", "projects/p/subscriptions/edge"


class Bus:
    """One of them."""

    def __init__(self, directory: Path) -> None:
        self.server = PubSub(directory)
        self.server.start()
        self.address = f"127.0.0.1:{self.server.port()}"
        with grpc.insecure_channel(self.address) as channel:
            PublisherClient(transport=PublisherGrpcTransport(channel=channel)).create_topic(name=TOPIC)
            SubscriberClient(transport=SubscriberGrpcTransport(channel=channel)).create_subscription(
                name=SUBSCRIPTION, topic=TOPIC
            )

    def control(self) -> Control:
        return Control(self.address)

    @contextlib.contextmanager
    def slow(self, delay_s: float) -> Iterator[None]:
        """Publishing takes so long meanwhile."""
        with self.control() as control:
            control.delay("Publish", delay_s)
            try:
                yield
            finally:
                control.clear()

    @contextlib.contextmanager
    def stopped(self) -> Iterator[None]:
        """It stands still meanwhile."""
        process = self.server.process()
        assert process is not None
        os.kill(process.pid, signal.SIGSTOP)
        try:
            yield
        finally:
            os.kill(process.pid, signal.SIGCONT)

    def pulled(self) -> list[PubsubMessage]:
        """All that were published and are not acknowledged, as they are; now they are."""
        found: list[PubsubMessage] = []
        with grpc.insecure_channel(self.address) as channel:
            service = SubscriberGrpcTransport(channel=channel)
            request = PullRequest(subscription=SUBSCRIPTION, max_messages=1000, return_immediately=True)
            while messages := service.pull(request).received_messages:
                found += [one.message for one in messages]
                ids = [one.ack_id for one in messages]
                service.acknowledge(AcknowledgeRequest(subscription=SUBSCRIPTION, ack_ids=ids))
        return found

    def messages(self, monkeypatch: pytest.MonkeyPatch, wait_s: float = 1.0) -> list[Message]:
        """All that were published, as the pipeline's own reader has them."""
        monkeypatch.setenv("PUBSUB_EMULATOR_HOST", self.address)
        puller = Puller(SUBSCRIPTION, 1_000_000, 1 << 30, threads=1)
        puller.start()
        found: list[Message] = []
        while (pulled := puller.take(wait_s)) is not None:
            found += pulled.messages
            puller.acknowledge(pulled)
        puller.close()
        return found
