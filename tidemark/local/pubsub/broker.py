"""Topics and subscriptions, and what the journal needs to bring them back. Knows nothing of gRPC."""

from __future__ import annotations

import time
from collections.abc import Iterable
from typing import Any, Final

from google.pubsub_v1 import types

from tidemark.errors import LocalError, RefusedError, TidemarkError
from tidemark.local.pubsub import messages as wire
from tidemark.local.pubsub.control import Stats
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.journal import Journal, Kind
from tidemark.local.pubsub.messages import Message
from tidemark.local.pubsub.recovery import Recovery, numbered, published, records, remove_topic, subscriptions_of
from tidemark.local.pubsub.subscription import Subscription

DEFAULT_ACK_DEADLINE_S: Final = 10
ACK_DEADLINES_S: Final = range(10, 601)
MODIFIED_DEADLINES_S: Final = range(601)
DEFAULT_ATTEMPTS: Final = 5
ATTEMPTS: Final = range(5, 101)
_NOT_IMITATED: Final = (
    "bigquery_config",
    "cloud_storage_config",
    "enable_exactly_once_delivery",
    "filter",
    "message_transforms",
    "retry_policy",
)


class Broker:
    """The state of one server. What a method has done is in the journal before it returns."""

    def __init__(self, journal: Journal, faults: Faults) -> None:
        """Bring back what the journal has.

        Raises:
            LocalError: the journal cannot be written.
        """
        self._journal = journal
        self._faults = faults
        recovery = Recovery(lambda proto: Subscription(proto, faults, self._bury))
        recovery.replay(journal)
        self._topics = recovery.topics
        self._subscriptions = recovery.subscriptions
        self._next = max(recovery.last + 1, time.time_ns() // 1000)
        """The next message id: 16 digits, and new after a restart, since nobody publishes 1,000,000 a second for long."""
        journal.rewrite(records(self._topics, self._subscriptions))
        for subscription in self._subscriptions.values():
            subscription.requeue_all()

    def create_topic(self, topic: Any) -> Any:
        """Raises RefusedError: it exists, or its name is invalid."""
        wire.named(topic.name, "topics")
        if topic.name in self._topics:
            raise RefusedError(f"The topic {topic.name} exists.", code="ALREADY_EXISTS")
        self._journal.append(Kind.TOPIC, topic.SerializeToString())
        self._topics[topic.name] = topic
        return topic

    def topic(self, name: str) -> Any:
        """Raises RefusedError: there is none of that name."""
        topic = self._topics.get(name)
        if topic is None:
            wire.named(name, "topics")
            raise RefusedError(f"The topic {name} does not exist.", code="NOT_FOUND")
        return topic

    def topics(self, project: str) -> list[Any]:
        """Those of a project, by name."""
        return [topic for name, topic in sorted(self._topics.items()) if name.startswith(f"{project}/")]

    def delete_topic(self, name: str) -> None:
        """Its subscriptions stay, with what they hold.

        Raises:
            RefusedError: there is none of that name.
        """
        self.topic(name)
        self._journal.append(Kind.TOPIC_GONE, name.encode())
        remove_topic(name, self._topics, self._subscriptions)

    def subscription_names(self, topic: str) -> list[str]:
        """Raises RefusedError: there is no such topic."""
        self.topic(topic)
        return sorted(subscription.name for subscription in subscriptions_of(topic, self._subscriptions))

    def publish(self, request: bytes) -> bytes:
        """A PublishResponse.

        Raises:
            RefusedError: there is no such topic, or the request or a message is over a limit.
            UnavailableError: the disk does not take it.
        """
        parsed = wire.parsed(wire.PublishRequest, request)
        self.topic(parsed.topic)
        wire.check(parsed, len(request))
        now_ns = time.time_ns()
        messages = wire.stamped(parsed.messages, self._next, now_ns)
        if targets := subscriptions_of(parsed.topic, self._subscriptions):
            self._journal.append(Kind.PUBLISHED, published(self._next, now_ns, request))
        self._next += len(messages)
        for subscription in targets:
            subscription.put(messages)
        self._rewrite_if_due()
        return wire.published(messages)

    def create_subscription(self, proto: Any) -> Any:
        """Raises RefusedError: it exists, its topic does not, a value is out of bounds or something is not imitated."""
        wire.named(proto.name, "subscriptions")
        self.topic(proto.topic)
        if proto.name in self._subscriptions:
            raise RefusedError(f"The subscription {proto.name} exists.", code="ALREADY_EXISTS")
        refused = [name for name in _NOT_IMITATED if name in {field.name for field, _ in proto.ListFields()}]
        if proto.push_config.push_endpoint:
            refused.append("push_config")
        if refused:
            raise RefusedError(f"The stand-in does not imitate {', '.join(refused)}.", code="UNIMPLEMENTED")
        proto.ack_deadline_seconds = proto.ack_deadline_seconds or DEFAULT_ACK_DEADLINE_S
        _check_deadline(proto.ack_deadline_seconds, ACK_DEADLINES_S)
        policy = proto.dead_letter_policy
        if proto.HasField("dead_letter_policy"):
            wire.named(policy.dead_letter_topic, "topics")
            policy.max_delivery_attempts = policy.max_delivery_attempts or DEFAULT_ATTEMPTS
            if policy.max_delivery_attempts not in ATTEMPTS:
                raise RefusedError("max_delivery_attempts must be 5 to 100.", code="INVALID_ARGUMENT")
        proto.state = types.Subscription.State.ACTIVE
        self._journal.append(Kind.SUBSCRIPTION, proto.SerializeToString())
        self._subscriptions[proto.name] = Subscription(proto, self._faults, self._bury)
        return proto

    def subscription(self, name: str) -> Subscription:
        """Raises RefusedError: there is none of that name."""
        subscription = self._subscriptions.get(name)
        if subscription is None:
            wire.named(name, "subscriptions")
            raise RefusedError(f"The subscription {name} does not exist.", code="NOT_FOUND")
        return subscription

    def subscriptions(self, project: str) -> list[Any]:
        """Those of a project, by name."""
        found = sorted(self._subscriptions.items())
        return [subscription.proto for name, subscription in found if name.startswith(f"{project}/")]

    def delete_subscription(self, name: str) -> None:
        """With all it holds.

        Raises:
            RefusedError: there is none of that name.
        """
        self.subscription(name)
        self._journal.append(Kind.SUBSCRIPTION_GONE, name.encode())
        self._subscriptions.pop(name).close()

    def ack(self, subscription: Subscription, ack_ids: Iterable[str]) -> None:
        """Acknowledge deliveries, except those that a fault drops.

        Raises:
            UnavailableError: the disk does not take it: a restart would bring the messages back.
        """
        done = subscription.ack(self._faults.heard(list(ack_ids)))
        if done:
            self._journal.append(Kind.ACKED, numbered(subscription.name, done))
            self._rewrite_if_due()

    def _bury(self, subscription: Subscription, message: Message, attempts: int) -> bool:
        topic = self._topics.get(subscription.proto.dead_letter_policy.dead_letter_topic)
        if topic is None:
            return False
        copy = wire.as_published(message)
        copy.attributes.update(
            {
                "CloudPubSubDeadLetterSourceDeliveryCount": str(attempts),
                "CloudPubSubDeadLetterSourceSubscription": subscription.name.split("/")[3],
                "CloudPubSubDeadLetterSourceSubscriptionProject": subscription.name.split("/")[1],
                "CloudPubSubDeadLetterSourceTopicPublishTime": copy.publish_time.ToJsonString(),
            }
        )
        copy.ClearField("message_id")
        copy.ClearField("publish_time")
        try:
            self.publish(wire.PublishRequest(topic=topic.name, messages=[copy]).SerializeToString())
            self._journal.append(Kind.ACKED, numbered(subscription.name, [message.number]))
        except TidemarkError:
            return False
        return True

    def stats(self) -> dict[str, Stats]:
        """By subscription."""
        return {name: subscription.stats() for name, subscription in self._subscriptions.items()}

    def _rewrite_if_due(self) -> None:
        if self._journal.wants_rewrite:
            try:
                self._journal.rewrite(records(self._topics, self._subscriptions))
            except LocalError:
                return  # the long file serves as well; it is tried again when that has grown


def check_modified(deadlines_s: Iterable[int]) -> None:
    """Raises RefusedError: a deadline of a delivery is not 0 to 600 s."""
    for deadline_s in set(deadlines_s):
        _check_deadline(deadline_s, MODIFIED_DEADLINES_S)


def _check_deadline(deadline_s: int, allowed: range) -> None:
    if deadline_s not in allowed:
        raise RefusedError(
            f"An ack deadline must be {allowed[0]} to {allowed[-1]} s, not {deadline_s}.", code="INVALID_ARGUMENT"
        )


def check_stream_deadline(deadline_s: int) -> None:
    """Raises RefusedError: the deadline of a stream is not 10 to 600 s."""
    _check_deadline(deadline_s, ACK_DEADLINES_S)
