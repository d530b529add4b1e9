"""What the records of the journal contain: writing them, and the topics and subscriptions they bring back."""

from __future__ import annotations

import struct
from array import array
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Final

from google.pubsub_v1 import types

from tidemark.local.pubsub.journal import Journal, Kind
from tidemark.local.pubsub.messages import Message, PublishRequest, restored, stamped
from tidemark.local.pubsub.subscription import Subscription

DELETED_TOPIC: Final = "_deleted-topic_"
_STAMP: Final = struct.Struct("<QQ")
_NAME_SIZE: Final = struct.Struct("<H")
_BODIES_A_RECORD: Final = 1000
_Topic, _Subscription = types.Topic.pb(), types.Subscription.pb()


def published(first: int, now_ns: int, request: bytes) -> bytes:
    """The payload of PUBLISHED."""
    return _STAMP.pack(first, now_ns) + request


def numbered(subscription: str, numbers: Iterable[int]) -> bytes:
    """The payload of ACKED and HELD."""
    name = subscription.encode()
    return _NAME_SIZE.pack(len(name)) + name + array("Q", numbers).tobytes()


def _read_numbered(payload: bytes) -> tuple[str, array[int]]:
    start = _NAME_SIZE.size + _NAME_SIZE.unpack_from(payload)[0]
    numbers = array("Q")
    numbers.frombytes(payload[start:])
    return payload[_NAME_SIZE.size : start].decode(), numbers


def subscriptions_of(topic: str, subscriptions: dict[str, Subscription]) -> list[Subscription]:
    """Those that a message of the topic goes to."""
    return [subscription for subscription in subscriptions.values() if subscription.proto.topic == topic]


def remove_topic(name: str, topics: dict[str, Any], subscriptions: dict[str, Subscription]) -> None:
    """Delete a topic; its subscriptions stay without one."""
    del topics[name]
    for subscription in subscriptions_of(name, subscriptions):
        subscription.proto.topic = DELETED_TOPIC


def records(topics: dict[str, Any], subscriptions: dict[str, Subscription]) -> Iterator[tuple[Kind, bytes]]:
    """All there is, in the fewest records."""
    for topic in topics.values():
        yield Kind.TOPIC, topic.SerializeToString()
    kept: dict[int, Message] = {}
    for subscription in subscriptions.values():
        yield Kind.SUBSCRIPTION, subscription.proto.SerializeToString()
        kept |= subscription.unacked
    bodies = [message.body for message in kept.values()]
    for start in range(0, len(bodies), _BODIES_A_RECORD):
        yield Kind.KEPT, b"".join(bodies[start : start + _BODIES_A_RECORD])
    for name, subscription in subscriptions.items():
        if subscription.unacked:
            yield Kind.HELD, numbered(name, subscription.unacked)


class Recovery:
    """The state at the end of a journal."""

    def __init__(self, subscription: Callable[[Any], Subscription]) -> None:
        """`subscription` makes one from its Subscription message."""
        self.topics: dict[str, Any] = {}
        self.subscriptions: dict[str, Subscription] = {}
        self.last = 0
        """The greatest message id."""
        self._subscription = subscription
        self._kept: dict[int, Message] = {}

    def replay(self, journal: Journal) -> None:
        """Do again what the journal says."""
        actions: dict[Kind, Callable[[bytes], None]] = {
            Kind.TOPIC: self._topic,
            Kind.TOPIC_GONE: lambda name: remove_topic(name.decode(), self.topics, self.subscriptions),
            Kind.SUBSCRIPTION: self._add,
            Kind.SUBSCRIPTION_GONE: lambda name: self.subscriptions.pop(name.decode()).close(),
            Kind.PUBLISHED: self._published,
            Kind.ACKED: self._acked,
            Kind.KEPT: lambda bodies: self._kept.update((message.number, message) for message in restored(bodies)),
            Kind.HELD: self._held,
        }
        for kind, payload in journal.read():
            actions[kind](payload)
        self._kept.clear()

    def _topic(self, payload: bytes) -> None:
        topic = _Topic.FromString(payload)
        self.topics[topic.name] = topic

    def _add(self, payload: bytes) -> None:
        proto = _Subscription.FromString(payload)
        self.subscriptions[proto.name] = self._subscription(proto)

    def _published(self, payload: bytes) -> None:
        request = PublishRequest.FromString(payload[_STAMP.size :])
        messages = stamped(request.messages, *_STAMP.unpack_from(payload))
        self.last = max(self.last, messages[-1].number)
        for subscription in subscriptions_of(request.topic, self.subscriptions):
            subscription.unacked.update((message.number, message) for message in messages)

    def _acked(self, payload: bytes) -> None:
        name, numbers = _read_numbered(payload)
        if subscription := self.subscriptions.get(name):
            subscription.forget(numbers)

    def _held(self, payload: bytes) -> None:
        name, numbers = _read_numbered(payload)
        self.subscriptions[name].unacked.update((number, self._kept[number]) for number in numbers)
        last = max(numbers)
        self.last = max(self.last, last)
