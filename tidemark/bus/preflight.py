"""Looks at a subscription before a job reads it."""

from __future__ import annotations

import statistics
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any, Final

import grpc
from google.pubsub_v1 import types

from tidemark.bus.channel import channel
from tidemark.bus.subscription import translate
from tidemark.findings import Finding, passed, refused, warned
from tidemark.wire.block import Columns
from tidemark.wire.message import Message, delivered

Decode = Callable[[Message, Columns, int], object]
"""Appends a message's points and dead letters, as the pipeline would; the last is the clock in microseconds."""
TIMEOUT_S: Final = 8
SHORT_DEADLINE_S: Final = 30
LEAST_RETENTION_S: Final = 3600
SHORT_RETENTION_S: Final = 86_400
DEFAULT_RETENTION_S: Final = 7 * 86_400
DELETED_TOPIC: Final = "_deleted-topic_"
SAMPLE_LIMIT: Final = 1000
_SERVICE: Final = "/google.pubsub.v1.Subscriber/"


def _call(address_channel: Any, method: str, request: Any, response: Any) -> Any:
    call = address_channel.unary_unary(_SERVICE + method, type(request).SerializeToString, response.FromString)
    return call(request, timeout=TIMEOUT_S)


def subscription(name: str) -> Iterator[Finding]:
    """What a subscription is like, and what that means for a pipeline.

    Raises:
        UnavailableError: Pub/Sub does not answer.
        MisconfiguredError: there is no such subscription, or it may not be looked at.
    """
    made = channel()
    try:
        found = _call(
            made,
            "GetSubscription",
            types.GetSubscriptionRequest.pb()(subscription=name),
            types.Subscription.pb(),
        )
    except grpc.RpcError as error:
        if error.code() == grpc.StatusCode.NOT_FOUND:
            yield refused(
                "subscription", f"{name} does not exist", f"gcloud pubsub subscriptions create {name} --topic=…"
            )
            return
        if error.code() == grpc.StatusCode.PERMISSION_DENIED:
            yield refused(
                "subscription",
                f"{name} may not be looked at",
                "grant roles/pubsub.viewer and roles/pubsub.subscriber to the worker's service account",
            )
            return
        raise translate(error, name) from error
    finally:
        made.close()
    yield passed("subscription", f"{name} of {found.topic}")
    yield from _source(found, name)
    yield from _times(found, name)
    yield from _delivery(found, name)


def _source(found: Any, name: str) -> Iterator[Finding]:
    """Where its messages come from, and where they go."""
    if found.topic == DELETED_TOPIC or found.detached:
        yield refused(
            "topic",
            "the topic is gone or the subscription detached: nothing will ever come",
            f"create a topic, and {name} anew under it",
        )
    if found.push_config.push_endpoint or found.HasField("bigquery_config") or found.HasField("cloud_storage_config"):
        yield refused(
            "delivery type",
            "the subscription delivers by itself (push, BigQuery or Cloud Storage)",
            "give the job a pull subscription of its own",
        )
    if found.filter:
        yield warned(
            "filter",
            f"messages that do not match {found.filter!r} are dropped by Pub/Sub, uncounted",
            "take the filter away unless these messages are for another job",
        )


def _times(found: Any, name: str) -> Iterator[Finding]:
    """Deadline, retention, expiration."""
    deadline_s = found.ack_deadline_seconds or 10
    if deadline_s < SHORT_DEADLINE_S:
        yield warned(
            "ack deadline",
            f"{deadline_s} s: a worker that pauses has its messages delivered again",
            f"gcloud pubsub subscriptions update {name} --ack-deadline=60",
        )
    else:
        yield passed("ack deadline", f"{deadline_s} s")
    kept_s = found.message_retention_duration.seconds or DEFAULT_RETENTION_S
    remedy = f"gcloud pubsub subscriptions update {name} --message-retention-duration=7d"
    if kept_s < LEAST_RETENTION_S:
        yield refused("retention", f"{kept_s} s: an hour without the database loses points", remedy)
    elif kept_s < SHORT_RETENTION_S:
        yield warned("retention", f"{kept_s / 3600:g} h: a longer outage of the database loses points", remedy)
    else:
        yield passed("retention", f"{kept_s / 86_400:g} days")
    ttl_s = found.expiration_policy.ttl.seconds
    if ttl_s:
        yield warned(
            "expiration",
            f"without a reader for {ttl_s / 86_400:g} days the subscription is deleted, with what it holds",
            f"gcloud pubsub subscriptions update {name} --expiration-period=never",
        )


def _delivery(found: Any, name: str) -> Iterator[Finding]:
    """Features that cost without a use here, or that take messages away."""
    if found.enable_exactly_once_delivery:
        yield warned(
            "exactly-once delivery",
            "on: slower and dearer, and every write here can be repeated anyway",
            f"gcloud pubsub subscriptions update {name} --no-enable-exactly-once-delivery",
        )
    if found.enable_message_ordering:
        yield warned(
            "message ordering",
            "on: keys wait for each other, and order does not matter here",
            "create the subscription without ordering",
        )
    policy = found.dead_letter_policy
    if policy.dead_letter_topic:
        yield warned(
            "dead-letter policy",
            f"after {policy.max_delivery_attempts} deliveries good messages leave: a long outage uses them up, and what "
            "cannot be decoded is kept in the database anyway",
            f"gcloud pubsub subscriptions update {name} --clear-dead-letter-policy, and publish again what is there",
        )


def sample(name: str, number: int, decode: Decode) -> Iterator[Finding]:
    """Lease a few messages, give them back at once, and say what is wrong with them.

    Args:
        name: Of the subscription.
        number: Of messages.
        decode: As the pipeline will.

    Raises:
        UnavailableError, MisconfiguredError: they cannot be had.
    """
    made = channel()
    try:
        request = types.PullRequest.pb()(
            subscription=name, max_messages=min(number, SAMPLE_LIMIT), return_immediately=True
        )
        received = _call(made, "Pull", request, types.PullResponse.pb()).received_messages
        if received:
            back = types.ModifyAckDeadlineRequest.pb()(
                subscription=name, ack_ids=[one.ack_id for one in received], ack_deadline_seconds=0
            )
            _call(made, "ModifyAckDeadline", back, _empty())
    except grpc.RpcError as error:
        raise translate(error, name) from error
    finally:
        made.close()
    messages = [
        delivered(
            one.message.data,
            dict(one.message.attributes),
            one.message.publish_time.seconds * 1_000_000 + one.message.publish_time.nanos // 1000,
            one.message.message_id,
        )
        for one in received
    ]
    if not messages:
        yield warned("sample", "no message was waiting", "publish one and look again")
        return
    yield from judge(messages, decode)


def _empty() -> Any:
    from google.protobuf import empty_pb2  # noqa: PLC0415

    return empty_pb2.Empty


def judge(messages: list[Message], decode: Decode) -> Iterator[Finding]:
    """What a sample of messages says about their senders."""
    columns = Columns()
    now_us = time.time_ns() // 1000
    for message in messages:
        decode(message, columns, now_us)
    block = columns.block()
    yield passed("sample", f"{len(messages)} messages, {len(block.points)} points; all given back")
    unstated = sum(message.stated is None for message in messages)
    if unstated:
        yield warned(
            "event_time attribute",
            f"{unstated} of {len(messages)} have none: their publish time steers the watermark, and previews are late",
            "publish each message with event_time, the earliest in its body",
        )
    if block.dead_letters:
        reasons = Counter(letter.reason for letter in block.dead_letters).most_common(3)
        told = ", ".join(f"{reason} ({times})" for reason, times in reasons)
        yield warned(
            "bodies", f"would become dead letters: {told}", "mend the senders, or raise the limit that is named"
        )
    ahead = [(m.stated - m.publish_time) / 1e6 for m in messages if m.stated is not None]
    if ahead and max(ahead) > 5:
        yield warned(
            "clocks",
            f"event times up to {max(ahead):.0f} s after their publish time (median {statistics.median(ahead):.0f} s)",
            "set the senders' clocks (NTP), and see that the unit is milliseconds",
        )
