"""Topics and subscriptions, and the journal that remembers them."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Final

from google.pubsub_v1 import types

from tidemark.local.pubsub import journal as record
from tidemark.local.pubsub.journal import Journal, remember
from tidemark.local.pubsub.subscription import DEFAULT_ACK_DEADLINE_S, Delivery, Entry, Subscription

Message: Final = types.PubsubMessage.pb()
SubscriptionConfig: Final = types.Subscription.pb()
DELETED_TOPIC: Final = "_deleted-topic_"


def varint(number: int) -> bytes:
    """Protocol buffers' varint."""
    out = bytearray()
    while number > 0x7F:
        out.append(number & 0x7F | 0x80)
        number >>= 7
    out.append(number)
    return bytes(out)


def field(number: int, data: bytes) -> bytes:
    """A length-delimited field."""
    return bytes([number << 3 | 2]) + varint(len(data)) + data


class NotThereError(Exception):
    """There is no topic or subscription of this name."""


class AlreadyThereError(Exception):
    """There is one already."""


class Broker:
    """All that the server knows; safe between threads."""

    def __init__(self, state: Path) -> None:
        """Remember what `state`/journal says; the file is written anew without what was acknowledged.

        Raises:
            OSError: the directory cannot be written.
        """
        self.delivery = Delivery()
        self._lock = threading.RLock()
        self._topics: dict[str, list[Subscription]] = {}
        self._subscriptions: dict[str, Subscription] = {}
        self._configs: dict[str, Any] = {}
        path = state / "journal"
        remembered = remember(path)
        self._number = remembered.last_number
        fresh = state / "journal.new"
        fresh.unlink(missing_ok=True)
        self._journal = Journal(fresh)
        for topic in remembered.topics:
            self.create_topic(topic)
        for name, serialized in remembered.subscriptions.items():
            topic = remembered.topic_of[name]
            topic = topic if topic in self._topics else DELETED_TOPIC
            subscription = self.create_subscription(SubscriptionConfig.FromString(serialized), topic)
            pending = remembered.pending[name]
            entries = [Entry(number, raw, _ordering_key(raw, subscription)) for number, raw in sorted(pending.items())]
            subscription.put(entries)
            self._journal.restore(name, ((e.number, e.raw) for e in entries))
        fresh.replace(path)

    def create_topic(self, name: str) -> None:
        """Make a topic.

        Raises:
            AlreadyThereError: there is one.
        """
        with self._lock:
            if name in self._topics:
                raise AlreadyThereError(name)
            self._topics[name] = []
            self._journal.name(record.TOPIC, name)

    def delete_topic(self, name: str) -> None:
        """Delete a topic; its subscriptions keep what they have."""
        with self._lock:
            for subscription in self._listeners(name):
                subscription.topic = DELETED_TOPIC
            del self._topics[name]
            self._journal.name(record.DELETE_TOPIC, name)

    def topics(self) -> list[str]:
        """Names of all topics."""
        with self._lock:
            return sorted(self._topics)

    def subscriptions(self, topic: str | None = None) -> list[str]:
        """Names of all subscriptions, or of a topic's."""
        with self._lock:
            return sorted(self._subscriptions if topic is None else [s.name for s in self._listeners(topic)])

    def create_subscription(self, config: Any, topic: str) -> Subscription:
        """Make a subscription as `config` (a `google.pubsub.v1.Subscription`) says.

        Raises:
            AlreadyThereError, NotThereError: the subscription is, or its topic is not.
        """
        with self._lock:
            if config.name in self._subscriptions:
                raise AlreadyThereError(config.name)
            listeners = self._topics.get(topic)
            if listeners is None:
                if topic != DELETED_TOPIC:
                    raise NotThereError(topic)
                listeners = []
            config.ack_deadline_seconds = config.ack_deadline_seconds or DEFAULT_ACK_DEADLINE_S
            policy = config.dead_letter_policy
            name = config.name
            subscription = Subscription(
                name=name,
                topic=topic,
                ack_deadline_s=config.ack_deadline_seconds,
                ordered=config.enable_message_ordering,
                max_attempts=(policy.max_delivery_attempts or 5) if policy.dead_letter_topic else 0,
                dead_letter=lambda entry: self._dead_letter(policy.dead_letter_topic, entry, name),
                forget=lambda numbers: self._forget(name, numbers),
                delivery=self.delivery,
            )
            listeners.append(subscription)
            self._subscriptions[name] = subscription
            self._configs[name] = config
            self._journal.name(record.SUBSCRIPTION, name, topic.encode() + b"\0" + config.SerializeToString())
            return subscription

    def delete_subscription(self, name: str) -> None:
        """Delete a subscription and what it has."""
        with self._lock:
            subscription = self.subscription(name)
            if subscription.topic in self._topics:
                self._topics[subscription.topic].remove(subscription)
            del self._subscriptions[name], self._configs[name]
            self._journal.name(record.DELETE_SUBSCRIPTION, name)

    def subscription(self, name: str) -> Subscription:
        """A subscription.

        Raises:
            NotThereError: there is none.
        """
        found = self._subscriptions.get(name)
        if found is None:
            raise NotThereError(name)
        return found

    def config(self, name: str) -> Any:
        """A subscription as it was made."""
        self.subscription(name)
        return self._configs[name]

    def publish(self, topic: str, messages: Sequence[Any]) -> list[int]:
        """Accept messages; they are in the journal when this returns.

        Returns:
            Their numbers, which are their ids.
        """
        now = time.time_ns()
        seconds, nanos = divmod(now, 1_000_000_000)
        stamp = field(4, b"\x08" + varint(seconds) + b"\x10" + varint(nanos))
        with self._lock:
            listeners = self._listeners(topic)
            first = self._number + 1
            self._number += len(messages)
            raws = [
                (number, b"".join((m.SerializeToString(), field(3, str(number).encode()), stamp)))
                for number, m in enumerate(messages, first)
            ]
            self._journal.publish(topic, raws)
            for subscription in listeners:
                if subscription.ordered:
                    entries = [Entry(n, raw, m.ordering_key) for (n, raw), m in zip(raws, messages, strict=True)]
                else:
                    entries = [Entry(number, raw, "") for number, raw in raws]
                subscription.put(entries)
        return list(range(first, first + len(messages)))

    def expire(self) -> None:
        """Give back every lease that ran out."""
        for subscription in list(self._subscriptions.values()):
            subscription.expire()

    def report(self) -> dict[str, dict[str, float]]:
        """Figures of every subscription."""
        return {name: subscription.report() for name, subscription in list(self._subscriptions.items())}

    def close(self) -> None:
        """Close the journal."""
        with self._lock:
            self._journal.close()

    def _listeners(self, topic: str) -> list[Subscription]:
        found = self._topics.get(topic)
        if found is None:
            raise NotThereError(topic)
        return found

    def _forget(self, subscription: str, numbers: Iterable[int]) -> None:
        with self._lock:
            self._journal.acknowledge(subscription, numbers)

    def _dead_letter(self, topic: str, entry: Entry, subscription: str) -> None:
        message = Message.FromString(entry.raw)
        message.ClearField("message_id")
        message.ClearField("publish_time")
        message.attributes["CloudPubSubDeadLetterSourceSubscription"] = subscription.rpartition("/")[2]
        message.attributes["CloudPubSubDeadLetterSourceDeliveryCount"] = str(entry.attempts)
        # not in this thread, which holds the lock of its subscription
        threading.Thread(target=self._publish_if_there, args=(topic, message), daemon=True).start()

    def _publish_if_there(self, topic: str, message: Any) -> None:
        if topic in self._topics:
            self.publish(topic, [message])


def _ordering_key(raw: bytes, subscription: Subscription) -> str:
    return str(Message.FromString(raw).ordering_key) if subscription.ordered else ""
