"""StreamingPull: deliveries one way, acknowledgements and deadlines the other, within the stream's flow control."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from google.pubsub_v1 import types

from tidemark.errors import RefusedError
from tidemark.local.pubsub.broker import Broker, check_modified, check_stream_deadline
from tidemark.local.pubsub.messages import parsed
from tidemark.local.pubsub.subscription import RESPONSE_BYTES, RESPONSE_MESSAGES, Holder, Subscription

_Request, _Response = types.StreamingPullRequest.pb(), types.StreamingPullResponse.pb()


class Stream:
    """One open stream. What it holds when it ends stays leased until its deadline."""

    def __init__(self, broker: Broker, opening: bytes) -> None:
        """From the first request.

        Raises:
            RefusedError: there is no such subscription, or a value is out of bounds.
        """
        request = parsed(_Request, opening)
        self._broker = broker
        self._subscription: Subscription = broker.subscription(request.subscription)
        self._deadline_s: int = self._subscription.proto.ack_deadline_seconds
        self._max_messages: int = request.max_outstanding_messages
        self._max_bytes: int = request.max_outstanding_bytes
        self._apply(request)

    def _apply(self, request: Any) -> None:
        if request.stream_ack_deadline_seconds:
            check_stream_deadline(request.stream_ack_deadline_seconds)
            self._deadline_s = request.stream_ack_deadline_seconds
        if len(request.modify_deadline_ack_ids) != len(request.modify_deadline_seconds):
            raise RefusedError("Each modified delivery needs one deadline.", code="INVALID_ARGUMENT")
        check_modified(request.modify_deadline_seconds)
        if request.ack_ids:
            self._broker.ack(self._subscription, request.ack_ids)
        if request.modify_deadline_ack_ids:
            deadlines = zip(request.modify_deadline_ack_ids, request.modify_deadline_seconds, strict=True)
            self._subscription.modify(dict(deadlines))

    async def responses(self, requests: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
        """Serialized responses until the client ends the stream.

        Raises:
            RefusedError: the subscription is deleted, or the client sent what it must not.
            UnavailableError: the disk does not take an acknowledgement.
        """
        ordered = self._subscription.proto.enable_message_ordering
        yield _Response(subscription_properties={"message_ordering_enabled": ordered}).SerializeToString()
        with self._subscription.waiting() as may_take:
            holder = Holder(may_take.set)
            reader = asyncio.create_task(self._read(requests, may_take))
            try:
                while not reader.done():
                    self._subscription.check_there()
                    may_take.clear()
                    taken = self._take(holder)
                    if taken is None:
                        await may_take.wait()
                    else:
                        yield taken
                reader.result()
            finally:
                reader.cancel()

    async def _read(self, requests: AsyncIterator[bytes], finished: asyncio.Event) -> None:
        try:
            async for raw in requests:
                request = parsed(_Request, raw)
                if request.subscription:
                    raise RefusedError("Only the first request names the subscription.", code="INVALID_ARGUMENT")
                self._apply(request)
        finally:
            finished.set()

    def _take(self, holder: Holder) -> bytes | None:
        messages = self._max_messages - holder.messages if self._max_messages > 0 else RESPONSE_MESSAGES
        size = self._max_bytes - holder.bytes if self._max_bytes > 0 else RESPONSE_BYTES
        if messages <= 0 or size <= 0:
            return None
        taken = self._subscription.take(messages, min(size, RESPONSE_BYTES), self._deadline_s, holder)
        return None if taken is None else taken[0]
