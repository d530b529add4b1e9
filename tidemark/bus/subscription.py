"""The calls of Pub/Sub that a reader of one subscription makes, and what their errors mean."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from tidemark.bus.channel import channel
from tidemark.bus.codes import TRANSIENT
from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.retry import FIRST_WAIT_S

IDS_A_REQUEST: Final = 2500
BYTES_A_REQUEST: Final = 480_000
"""Pub/Sub takes 512 KiB; acknowledgement ids are about 200 bytes, and nobody says how long they may be."""
HALVINGS: Final = 5
"""Of a request that Pub/Sub takes for wrong: one id of it may be, and the others have to get through."""
RPC_TIMEOUT_S: Final = 30
_ASK_TIMEOUT_S: Final = 3
_ID_BYTES: Final = 5
"""Most that the protocol adds to an id: a tag and a length."""

_PULL, _PULLED, _ACK, _MODIFY, _GET, _SUBSCRIPTION = (
    getattr(types, name).pb()
    for name in (
        "PullRequest",
        "PullResponse",
        "AcknowledgeRequest",
        "ModifyAckDeadlineRequest",
        "GetSubscriptionRequest",
        "Subscription",
    )
)


def translate(error: grpc.RpcError, subscription: str) -> TidemarkError:
    """The Tidemark error for what gRPC says."""
    code = error.code()
    if code in TRANSIENT:
        return UnavailableError(f"Pub/Sub does not serve {subscription} just now: {code.name}: {error.details()}.")
    if code == grpc.StatusCode.NOT_FOUND:
        return MisconfiguredError(
            f"The subscription {subscription} does not exist: create it, or correct --subscription."
        )
    return MisconfiguredError(f"Pub/Sub refuses {subscription}: {code.name}: {error.details()}.")


class Subscription:
    """One subscription, by its full name; safe between threads."""

    def __init__(self, name: str) -> None:
        self.name = name
        pubsub = channel()
        service = "/google.pubsub.v1.Subscriber/"
        self._pull = pubsub.unary_unary(service + "Pull", _PULL.SerializeToString, _PULLED.FromString)
        self._ack = pubsub.unary_unary(service + "Acknowledge", _ACK.SerializeToString, empty_pb2.Empty.FromString)
        self._modify = pubsub.unary_unary(
            service + "ModifyAckDeadline", _MODIFY.SerializeToString, empty_pb2.Empty.FromString
        )
        self._get = pubsub.unary_unary(service + "GetSubscription", _GET.SerializeToString, _SUBSCRIPTION.FromString)

    def check(self) -> None:
        """Ask once whether it is there.

        Raises:
            UnavailableError, MisconfiguredError: one sentence why not.
        """
        try:
            self._get(_GET(subscription=self.name), timeout=RPC_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                return  # reading needs less than looking; the first pull will tell
            raise translate(error, self.name) from error

    def pull(self, messages: int) -> Sequence[Any]:
        """At most so many received messages, as the protocol has them; none when the long poll found nothing.

        Raises:
            UnavailableError, MisconfiguredError: one sentence why not.
        """
        try:
            answer = self._pull(_PULL(subscription=self.name, max_messages=messages), timeout=RPC_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                return ()
            raise translate(error, self.name) from error
        return list(answer.received_messages)

    def waiting(self, messages: int) -> Sequence[Any] | None:
        """What waits there now, without waiting for any; None: it does not say."""
        request = _PULL(subscription=self.name, max_messages=messages, return_immediately=True)
        try:
            return list(self._pull(request, timeout=_ASK_TIMEOUT_S).received_messages)
        except grpc.RpcError:
            return None  # the pulls that are open tell why

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Acknowledge; what Pub/Sub does not hear of is delivered again, which is harmless."""
        for some in requests(ack_ids):
            self._tell(self._ack, lambda ids: _ACK(subscription=self.name, ack_ids=ids), some)

    def modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> bool:
        """Whether Pub/Sub has heard that the leases of all of them last so long from now; 0 gives them back."""

        def made(ids: list[str]) -> Any:
            return _MODIFY(subscription=self.name, ack_ids=ids, ack_deadline_seconds=seconds)

        done = True
        for some in requests(ack_ids):
            done &= self._tell(self._modify, made, some)
        return done

    def _tell(
        self, call: Callable[..., Any], made: Callable[[list[str]], Any], ack_ids: list[str], halvings: int = HALVINGS
    ) -> bool:
        """Call, a few times if need be; False when Pub/Sub did not hear it of all. It then delivers again."""
        request, wait = made(ack_ids), FIRST_WAIT_S
        for attempt in range(4):
            try:
                call(request, timeout=RPC_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT and halvings and len(ack_ids) > 1:
                    half = len(ack_ids) // 2
                    parts = (ack_ids[:half], ack_ids[half:])
                    return sum(self._tell(call, made, part, halvings - 1) for part in parts) == len(parts)
                if error.code() not in TRANSIENT or attempt == 3:
                    log.warning("%s The messages will be delivered again.", translate(error, self.name))
                    return False
                time.sleep(wait)
                wait *= 4
            else:
                return True
        return False


def requests(ack_ids: Sequence[str]) -> Iterator[list[str]]:
    """Cut ids into lists that fit into a request each."""
    if len(ack_ids) <= IDS_A_REQUEST and sum(map(len, ack_ids)) + _ID_BYTES * len(ack_ids) <= BYTES_A_REQUEST:
        if ack_ids:
            yield list(ack_ids)
        return
    some: list[str] = []
    size = 0
    for ack_id in ack_ids:
        own = len(ack_id) + _ID_BYTES
        if some and (len(some) == IDS_A_REQUEST or size + own > BYTES_A_REQUEST):
            yield some
            some, size = [], 0
        some.append(ack_id)
        size += own
    if some:
        yield some
