"""The gRPC side: each method of the protocol as a function from request bytes to response bytes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from functools import partial
from typing import Any, Final, TypeVar

import grpc
import msgspec
from google.pubsub_v1 import types

from tidemark.errors import LocalError, RefusedError, TidemarkError
from tidemark.local.pubsub import control
from tidemark.local.pubsub.broker import Broker, check_modified
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.messages import parsed, project
from tidemark.local.pubsub.streaming import Stream
from tidemark.local.pubsub.subscription import RESPONSE_BYTES, Subscription

PULL_WAIT_S: Final = 5.0
"""An empty pull is answered after this long, or shortly before the caller's own deadline."""
ACK_REQUEST_BYTES: Final = 524_288
STOP_GRACE_S: Final = 0.2
_OPTIONS: Final = [
    ("grpc.max_receive_message_length", -1),  # Pub/Sub's own limits are checked by name, with INVALID_ARGUMENT
    ("grpc.max_send_message_length", -1),
    ("grpc.so_reuseport", 0),  # a second server on the port is an error
    ("grpc.http2.min_ping_interval_without_data_ms", 5_000),
    ("grpc.keepalive_permit_without_calls", 1),
]
_Item = TypeVar("_Item")
Method = Callable[[bytes, Any], "bytes | Awaitable[bytes]"]


def _type(name: str) -> Any:
    return getattr(types, name).pb()


class Publisher:
    """google.pubsub.v1.Publisher."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.methods: dict[str, Method] = {
            "CreateTopic": self._create,
            "GetTopic": self._get,
            "ListTopics": self._list,
            "DeleteTopic": self._delete,
            "ListTopicSubscriptions": self._list_subscriptions,
            "Publish": lambda request, _: broker.publish(request),
        }

    def _create(self, request: bytes, _: Any) -> bytes:
        return _bytes(self._broker.create_topic(parsed(_type("Topic"), request)))

    def _get(self, request: bytes, _: Any) -> bytes:
        return _bytes(self._broker.topic(parsed(_type("GetTopicRequest"), request).topic))

    def _list(self, request: bytes, _: Any) -> bytes:
        asked = parsed(_type("ListTopicsRequest"), request)
        page, following = _page(self._broker.topics(project(asked.project)), asked, lambda topic: topic.name)
        return _bytes(_type("ListTopicsResponse")(topics=page, next_page_token=following))

    def _delete(self, request: bytes, _: Any) -> bytes:
        self._broker.delete_topic(parsed(_type("DeleteTopicRequest"), request).topic)
        return b""

    def _list_subscriptions(self, request: bytes, _: Any) -> bytes:
        asked = parsed(_type("ListTopicSubscriptionsRequest"), request)
        page, following = _page(self._broker.subscription_names(asked.topic), asked, str)
        return _bytes(_type("ListTopicSubscriptionsResponse")(subscriptions=page, next_page_token=following))


class Subscriber:
    """google.pubsub.v1.Subscriber, but for StreamingPull."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self.methods: dict[str, Method] = {
            "CreateSubscription": self._create,
            "GetSubscription": self._get,
            "ListSubscriptions": self._list,
            "DeleteSubscription": self._delete,
            "Pull": self._pull,
            "Acknowledge": self._acknowledge,
            "ModifyAckDeadline": self._modify,
        }

    def _create(self, request: bytes, _: Any) -> bytes:
        return _bytes(self._broker.create_subscription(parsed(_type("Subscription"), request)))

    def _get(self, request: bytes, _: Any) -> bytes:
        return _bytes(self._broker.subscription(parsed(_type("GetSubscriptionRequest"), request).subscription).proto)

    def _list(self, request: bytes, _: Any) -> bytes:
        asked = parsed(_type("ListSubscriptionsRequest"), request)
        found = self._broker.subscriptions(project(asked.project))
        page, following = _page(found, asked, lambda subscription: subscription.name)
        return _bytes(_type("ListSubscriptionsResponse")(subscriptions=page, next_page_token=following))

    def _delete(self, request: bytes, _: Any) -> bytes:
        self._broker.delete_subscription(parsed(_type("DeleteSubscriptionRequest"), request).subscription)
        return b""

    async def _pull(self, request: bytes, context: Any) -> bytes:
        asked = parsed(_type("PullRequest"), request)
        subscription = self._broker.subscription(asked.subscription)
        if asked.max_messages < 1:
            raise RefusedError("max_messages must be at least 1.", code="INVALID_ARGUMENT")
        taken = _taken(subscription, asked.max_messages)
        if taken is None and not asked.return_immediately:
            remaining = context.time_remaining()
            wait_s = PULL_WAIT_S if remaining is None else min(PULL_WAIT_S, remaining * 0.8)
            taken = await self._wait(subscription, asked.max_messages, wait_s)
        return b"" if taken is None else taken

    @staticmethod
    async def _wait(subscription: Subscription, limit: int, wait_s: float) -> bytes | None:
        taken = None
        try:
            with subscription.waiting() as may_take:
                async with asyncio.timeout(wait_s):
                    while taken is None:
                        await may_take.wait()
                        may_take.clear()
                        subscription.check_there()
                        taken = _taken(subscription, limit)
        except TimeoutError:
            return taken
        return taken

    def _acknowledge(self, request: bytes, _: Any) -> bytes:
        asked = parsed(_type("AcknowledgeRequest"), request)
        subscription = self._broker.subscription(asked.subscription)
        _check_ids(request, asked.ack_ids)
        self._broker.ack(subscription, asked.ack_ids)
        return b""

    def _modify(self, request: bytes, _: Any) -> bytes:
        asked = parsed(_type("ModifyAckDeadlineRequest"), request)
        subscription = self._broker.subscription(asked.subscription)
        _check_ids(request, asked.ack_ids)
        check_modified([asked.ack_deadline_seconds])
        subscription.modify(dict.fromkeys(asked.ack_ids, asked.ack_deadline_seconds))
        return b""


def _taken(subscription: Subscription, limit: int) -> bytes | None:
    taken = subscription.take(limit, RESPONSE_BYTES, subscription.proto.ack_deadline_seconds)
    return None if taken is None else taken[0]


def _check_ids(request: bytes, ids: Sequence[str]) -> None:
    if not ids:
        raise RefusedError("No ack ids given.", code="INVALID_ARGUMENT")
    if len(request) > ACK_REQUEST_BYTES:
        raise RefusedError(
            f"The request has {len(request)} bytes, over the {ACK_REQUEST_BYTES} allowed.", code="INVALID_ARGUMENT"
        )


def _bytes(message: Any) -> bytes:
    result: bytes = message.SerializeToString()
    return result


def _page(found: Sequence[_Item], asked: Any, name: Callable[[_Item], str]) -> tuple[list[_Item], str]:
    """The page that a list request asks for, and the token of the next: the last name of this one."""
    rest = [item for item in found if name(item) > asked.page_token]
    size = asked.page_size or 100
    return rest[:size], name(rest[size - 1]) if len(rest) > size else ""


def _status(error: TidemarkError) -> Any:
    return grpc.StatusCode[error.code] if isinstance(error, RefusedError) else grpc.StatusCode.UNAVAILABLE


def _unary(faults: Faults, name: str, method: Method) -> Any:
    async def handle(request: bytes, context: Any) -> bytes:
        failure = await faults.before(name)
        response = b""
        if failure is None or failure.applied:
            try:
                result = method(request, context)
                response = result if isinstance(result, bytes) else await result
            except TidemarkError as error:
                await context.abort(_status(error), str(error))
        if failure is not None:
            await context.abort(grpc.StatusCode[failure.code], "A fault asked for.")
        return response

    return grpc.unary_unary_rpc_method_handler(handle)


def _streaming_pull(broker: Broker, faults: Faults) -> Any:
    async def handle(requests: AsyncIterator[bytes], context: Any) -> AsyncIterator[bytes]:
        failure = await faults.before("StreamingPull")
        if failure is not None:
            await context.abort(grpc.StatusCode[failure.code], "A fault asked for.")
        opening = await anext(requests, None)
        try:
            if opening is not None:
                async for response in Stream(broker, opening).responses(requests):
                    yield response
        except TidemarkError as error:
            await context.abort(_status(error), str(error))

    return grpc.stream_stream_rpc_method_handler(handle)


async def start(broker: Broker, faults: Faults, host: str, port: int) -> tuple[Any, int]:
    """A running server, and its port.

    Raises:
        LocalError: the port cannot be used.
    """
    unary = partial(_unary, faults)
    publisher = {name: unary(name, method) for name, method in Publisher(broker).methods.items()}
    subscriber = {name: unary(name, method) for name, method in Subscriber(broker).methods.items()}
    controls = {
        "Faults": unary("Faults", lambda request, _: faults.change(request)),
        "Stats": unary("Stats", lambda _, __: msgspec.json.encode(broker.stats())),
    }
    server = grpc.aio.server(options=_OPTIONS)
    server.add_generic_rpc_handlers(
        (
            grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", publisher),
            grpc.method_handlers_generic_handler(
                "google.pubsub.v1.Subscriber", subscriber | {"StreamingPull": _streaming_pull(broker, faults)}
            ),
            grpc.method_handlers_generic_handler(control.SERVICE, controls),
        )
    )
    try:
        bound: int = server.add_insecure_port(f"{host}:{port}")
    except RuntimeError:
        raise LocalError(f"Cannot listen on {host}:{port}: give a --port that is free, or --port 0.") from None
    await server.start()
    return server, bound
