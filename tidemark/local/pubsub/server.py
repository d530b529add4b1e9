"""The gRPC side: Google's Publisher and Subscriber services, and our own for faults and figures."""

from __future__ import annotations

import json
import re
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any, Final

import grpc
from google.pubsub_v1 import types

from tidemark.local.pubsub.broker import AlreadyThereError, Broker, NotThereError, SubscriptionConfig, field, varint
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.subscription import Entry, Flow, Subscription

MAX_MESSAGES: Final = 1000
MAX_REQUEST_BYTES: Final = 10 << 20
PULL_WAIT_S: Final = 2.0
STREAM_WAIT_S: Final = 0.25
EXPIRE_EVERY_S: Final = 0.25
THREADS: Final = 64
_NAME: Final = re.compile(r"projects/[^/]+/(topics|subscriptions)/[A-Za-z][A-Za-z0-9._~+%-]{2,254}")


def _pb(name: str) -> Any:
    return getattr(types, name).pb()


def received(ack_id: str, entry: Entry) -> bytes:
    """A field `received_messages` of a PullResponse, from bytes: parsing messages to serialize them again costs twice."""
    return field(1, b"".join((field(1, ack_id.encode()), field(2, entry.raw), b"\x18", varint(entry.attempts))))


class Server:
    """Serves a broker."""

    def __init__(self, broker: Broker, faults: Faults) -> None:
        self._broker, self._faults = broker, faults
        self._stopping = threading.Event()
        self._grpc = grpc.server(
            ThreadPoolExecutor(THREADS),
            options=[
                ("grpc.max_receive_message_length", MAX_REQUEST_BYTES + 4096),
                ("grpc.max_send_message_length", -1),
                ("grpc.so_reuseport", 0),
            ],
        )
        self._grpc.add_generic_rpc_handlers(
            (
                grpc.method_handlers_generic_handler("google.pubsub.v1.Publisher", self._publisher()),
                grpc.method_handlers_generic_handler("google.pubsub.v1.Subscriber", self._subscriber()),
                grpc.method_handlers_generic_handler(
                    "tidemark.local.Control",
                    {
                        "Faults": grpc.unary_unary_rpc_method_handler(self._wish),
                        "Stats": grpc.unary_unary_rpc_method_handler(self._stats),
                    },
                ),
            )
        )

    def start(self, host: str, port: int) -> int:
        """Listen.

        Returns:
            The port.

        Raises:
            RuntimeError: the port is taken.
        """
        bound = int(self._grpc.add_insecure_port(f"{host}:{port}"))
        self._grpc.start()
        threading.Thread(target=self._expire, name="expire", daemon=True).start()
        return bound

    def stop(self) -> None:
        """Stop serving; what is acknowledged no more comes back after the next start."""
        self._stopping.set()
        self._grpc.stop(1).wait()
        self._broker.close()

    def _expire(self) -> None:
        while not self._stopping.wait(EXPIRE_EVERY_S):
            self._broker.expire()

    def _unary(self, method: str, request: str, serve: Callable[[Any, Any], bytes]) -> Any:
        def call(message: Any, context: Any) -> bytes:
            self._faults.before(method, context)
            try:
                return serve(message, context)
            except NotThereError as error:
                context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={error}).")
            except AlreadyThereError as error:
                context.abort(grpc.StatusCode.ALREADY_EXISTS, f"Resource already exists (resource={error}).")
            raise AssertionError  # abort raises

        return grpc.unary_unary_rpc_method_handler(call, request_deserializer=_pb(request).FromString)

    def _publisher(self) -> dict[str, Any]:
        return {
            name: self._unary(name, request, serve)
            for name, request, serve in (
                ("CreateTopic", "Topic", self._create_topic),
                ("GetTopic", "GetTopicRequest", self._get_topic),
                ("ListTopics", "ListTopicsRequest", self._list_topics),
                ("DeleteTopic", "DeleteTopicRequest", self._delete_topic),
                ("ListTopicSubscriptions", "ListTopicSubscriptionsRequest", self._list_topic_subscriptions),
                ("Publish", "PublishRequest", self._publish),
            )
        }

    def _subscriber(self) -> dict[str, Any]:
        handlers = {
            name: self._unary(name, request, serve)
            for name, request, serve in (
                ("CreateSubscription", "Subscription", self._create_subscription),
                ("GetSubscription", "GetSubscriptionRequest", self._get_subscription),
                ("ListSubscriptions", "ListSubscriptionsRequest", self._list_subscriptions),
                ("DeleteSubscription", "DeleteSubscriptionRequest", self._delete_subscription),
                ("Pull", "PullRequest", self._pull),
                ("Acknowledge", "AcknowledgeRequest", self._acknowledge),
                ("ModifyAckDeadline", "ModifyAckDeadlineRequest", self._modify),
            )
        }
        handlers["StreamingPull"] = grpc.stream_stream_rpc_method_handler(
            self._streaming_pull, request_deserializer=_pb("StreamingPullRequest").FromString
        )
        return handlers

    def _create_topic(self, request: Any, context: Any) -> bytes:
        _check_name(request.name, context)
        self._broker.create_topic(request.name)
        return bytes(request.SerializeToString())

    def _get_topic(self, request: Any, _context: Any) -> bytes:
        if request.topic not in self._broker.topics():
            raise NotThereError(request.topic)
        return bytes(_pb("Topic")(name=request.topic).SerializeToString())

    def _list_topics(self, request: Any, _context: Any) -> bytes:
        response = _pb("ListTopicsResponse")()
        for name in self._broker.topics():
            if name.startswith(f"{request.project}/"):
                response.topics.add(name=name)
        return bytes(response.SerializeToString())

    def _delete_topic(self, request: Any, _context: Any) -> bytes:
        self._broker.delete_topic(request.topic)
        return b""

    def _list_topic_subscriptions(self, request: Any, _context: Any) -> bytes:
        names = self._broker.subscriptions(request.topic)
        return bytes(_pb("ListTopicSubscriptionsResponse")(subscriptions=names).SerializeToString())

    def _publish(self, request: Any, context: Any) -> bytes:
        messages = request.messages
        if not 1 <= len(messages) <= MAX_MESSAGES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"A request has 1 to {MAX_MESSAGES} messages.")
        for message in messages:
            if not message.data and not message.attributes:
                context.abort(grpc.StatusCode.INVALID_ARGUMENT, "A message has data or attributes.")
        if request.ByteSize() > MAX_REQUEST_BYTES:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"A request has at most {MAX_REQUEST_BYTES} bytes.")
        numbers = self._broker.publish(request.topic, messages)
        return b"".join(field(1, str(number).encode()) for number in numbers)

    def _create_subscription(self, request: Any, context: Any) -> bytes:
        _check_name(request.name, context)
        if request.ack_deadline_seconds and not 10 <= request.ack_deadline_seconds <= 600:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds is 10 to 600.")
        config = SubscriptionConfig()
        config.CopyFrom(request)
        self._broker.create_subscription(config, request.topic)
        return bytes(config.SerializeToString())

    def _get_subscription(self, request: Any, _context: Any) -> bytes:
        return bytes(self._broker.config(request.subscription).SerializeToString())

    def _list_subscriptions(self, request: Any, _context: Any) -> bytes:
        response = _pb("ListSubscriptionsResponse")()
        for name in self._broker.subscriptions():
            if name.startswith(f"{request.project}/"):
                response.subscriptions.add().CopyFrom(self._broker.config(name))
        return bytes(response.SerializeToString())

    def _delete_subscription(self, request: Any, _context: Any) -> bytes:
        self._broker.delete_subscription(request.subscription)
        return b""

    def _pull(self, request: Any, context: Any) -> bytes:
        subscription = self._broker.subscription(request.subscription)
        if request.max_messages < 1:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "max_messages must be positive.")
        wait_s = 0.0 if request.return_immediately else PULL_WAIT_S
        leased = subscription.take(min(request.max_messages, MAX_MESSAGES), wait_s)
        if leased and not context.is_active():
            subscription.modify([ack_id for ack_id, _ in leased], 0)
            return b""
        return b"".join(received(ack_id, entry) for ack_id, entry in leased)

    def _acknowledge(self, request: Any, _context: Any) -> bytes:
        subscription = self._broker.subscription(request.subscription)
        if not self._faults.drops_acks():
            subscription.acknowledge(request.ack_ids)
        return b""

    def _modify(self, request: Any, context: Any) -> bytes:
        subscription = self._broker.subscription(request.subscription)
        if not 0 <= request.ack_deadline_seconds <= 600:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, "ack_deadline_seconds is 0 to 600.")
        subscription.modify(request.ack_ids, request.ack_deadline_seconds)
        return b""

    def _streaming_pull(self, requests: Iterator[Any], context: Any) -> Iterator[bytes]:
        self._faults.before("StreamingPull", context)
        first = next(requests)
        try:
            subscription = self._broker.subscription(first.subscription)
        except NotThereError as error:
            context.abort(grpc.StatusCode.NOT_FOUND, f"Resource not found (resource={error}).")
        flow = Flow(first.max_outstanding_messages, first.max_outstanding_bytes)
        lease_s = [first.stream_ack_deadline_seconds]
        reader = threading.Thread(target=self._hear, args=(requests, subscription, lease_s), daemon=True)
        reader.start()
        try:
            while context.is_active() and not self._stopping.is_set():
                leased = subscription.take(MAX_MESSAGES, STREAM_WAIT_S, flow, lease_s[0])
                if leased:
                    yield b"".join(received(ack_id, entry) for ack_id, entry in leased)
        finally:
            subscription.release(flow)

    def _hear(self, requests: Iterator[Any], subscription: Subscription, lease_s: list[int]) -> None:
        """Take what a stream's client says until it ends."""
        try:
            for request in requests:
                if request.ack_ids and not self._faults.drops_acks():
                    subscription.acknowledge(request.ack_ids)
                for ack_id, seconds in zip(
                    request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=False
                ):
                    subscription.modify([ack_id], seconds)
                if request.stream_ack_deadline_seconds:
                    lease_s[0] = request.stream_ack_deadline_seconds
        except grpc.RpcError:
            return  # the client is gone; its leases run out

    def _wish(self, request: bytes, context: Any) -> bytes:
        try:
            self._faults.apply(json.loads(request), self._broker.delivery)
        except (ValueError, TypeError, KeyError) as error:
            context.abort(grpc.StatusCode.INVALID_ARGUMENT, str(error))
        return b"{}"

    def _stats(self, _request: bytes, _context: Any) -> bytes:
        return json.dumps(self._broker.report()).encode()


def _check_name(name: str, context: Any) -> None:
    if not _NAME.fullmatch(name):
        context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"Invalid resource name (name={name}).")
