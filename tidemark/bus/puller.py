"""Pulls messages ahead of their use, keeps their leases alive, and acknowledges them when told to.

For the engines that have no Pub/Sub reader of their own. What is held, pulled but not yet acknowledged, is bounded
in messages and bytes, so a stage that waits for its database stops the pulling instead of filling the memory.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import grpc
from google.protobuf import empty_pb2
from google.pubsub_v1 import types

from tidemark.bus.channel import channel
from tidemark.bus.codes import TRANSIENT
from tidemark.bus.frontier import Frontier
from tidemark.errors import MisconfiguredError, TidemarkError, UnavailableError
from tidemark.logs import log
from tidemark.retry import FIRST_WAIT_S, LONGEST_WAIT_S, kind
from tidemark.wire.message import Message, delivered

LEASE_S: Final = 20
"""What a lease is extended to: so long at most does Pub/Sub wait before it gives a dead reader's messages to another."""
SHORTEST_ACK_DEADLINE_S: Final = 10
"""Pub/Sub's least: what a lease can be counted on to last before its first extension."""
LONGEST_DONE_S: Final = 3600
"""Messages that were stored so long ago, and are not acknowledged, are given back: their bundle was forgotten."""
EXTEND_AHEAD_S: Final = 6
KEEPER_TICK_S: Final = 2
IDS_A_REQUEST: Final = 2500
BYTES_A_REQUEST: Final = 480_000
"""Pub/Sub takes 512 KiB; acknowledgement ids are about 200 bytes, and nobody says how long they may be."""
HALVINGS: Final = 5
"""Of a request that Pub/Sub takes for wrong: one id of it may be, and the others have to get through."""
PULL_MESSAGES: Final = 1000
_RPC_TIMEOUT_S: Final = 30
_ASK_TIMEOUT_S: Final = 3

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


@dataclass(frozen=True)
class Pulled:
    """The messages of one pull, with what acknowledges them."""

    ack_ids: list[str]
    messages: list[Message]
    published: list[int]
    """When Pub/Sub accepted each of them, in microseconds since 1970."""
    size: int


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


class Puller:
    """Messages of one subscription; one for a process, safe between threads."""

    def __init__(
        self,
        subscription: str,
        max_messages: int,
        max_bytes: int,
        threads: int = 2,
        count: Callable[[str], None] = lambda _name: None,
        frontier: Frontier | None = None,
    ) -> None:
        """Nothing is pulled before `start`.

        Args:
            subscription: Full name.
            max_messages: Most messages held between the pull and the acknowledgement.
            max_bytes: Most bytes of their bodies.
            threads: Pulls kept open at once.
            count: Told `retries_unavailable` or `retries_misconfigured` when a pull fails.
            frontier: Of an earlier puller of the same subscription.
        """
        self._count = count
        self.subscription = subscription
        self._max_messages, self._max_bytes = max_messages, max_bytes
        pubsub = channel()
        service = "/google.pubsub.v1.Subscriber/"
        self._pull = pubsub.unary_unary(service + "Pull", _PULL.SerializeToString, _PULLED.FromString)
        self._ack = pubsub.unary_unary(service + "Acknowledge", _ACK.SerializeToString, empty_pb2.Empty.FromString)
        self._modify = pubsub.unary_unary(
            service + "ModifyAckDeadline", _MODIFY.SerializeToString, empty_pb2.Empty.FromString
        )
        self._get = pubsub.unary_unary(service + "GetSubscription", _GET.SerializeToString, _SUBSCRIPTION.FromString)
        self._ready: collections.deque[Pulled] = collections.deque()
        self._leases: dict[str, float] = {}
        self._done_at: dict[str, float] = {}
        self._sizes: dict[str, int] = {}
        self._bytes = 0
        self._unstored: dict[str, int] = {}
        self._frontier = frontier or Frontier()
        self._frontier.begin()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._workers = [threading.Thread(target=self._pull_ahead, name="pull", daemon=True) for _ in range(threads)]
        self._keeper = threading.Thread(target=self._keep_leases, name="leases", daemon=True)

    def check(self) -> None:
        """Ask once whether the subscription is there.

        Raises:
            UnavailableError, MisconfiguredError: one sentence why not.
        """
        try:
            self._get(_GET(subscription=self.subscription), timeout=_RPC_TIMEOUT_S)
        except grpc.RpcError as error:
            if error.code() == grpc.StatusCode.PERMISSION_DENIED:
                return  # reading needs less than looking; the first pull will tell
            raise translate(error, self.subscription) from error

    def start(self) -> None:
        """Begin to pull ahead."""
        for worker in [*self._workers, self._keeper]:
            worker.start()

    def take(self, timeout_s: float) -> Pulled | None:
        """The next messages, or None when there are none within `timeout_s`.

        They stay leased however long the work on them takes, until `acknowledge`, `release` or, an hour after it,
        `done`.
        """
        with self._changed:
            if not self._ready:
                self._changed.wait(timeout_s)
            return self._ready.popleft() if self._ready else None

    def held(self) -> int:
        """Messages pulled and not yet acknowledged."""
        with self._changed:
            return len(self._leases)

    def acknowledge(self, ack_ids: Sequence[str]) -> None:
        """Acknowledge what is stored; what Pub/Sub does not hear of is delivered again, which is harmless."""
        for some in requests(ack_ids):
            self._tell(self._ack, lambda ids: _ACK(subscription=self.subscription, ack_ids=ids), some)
        self._let_go(ack_ids, stored=True)

    def done(self, ack_ids: Sequence[str]) -> None:
        """Note that messages are stored: what remains is that the engine commits, which takes it seconds or never."""
        now = time.monotonic()
        with self._changed:
            self._done_at.update((ack_id, now) for ack_id in ack_ids if ack_id in self._leases)
            for ack_id in ack_ids:
                self._unstored.pop(ack_id, None)

    def quiet(self) -> bool:
        """Nothing is held that is not stored, and nothing came lately."""
        with self._changed:
            return not self._unstored and self._frontier.quiet()

    def stored_before(self) -> int | None:
        """What was published before this, in microseconds since 1970, is stored, as `Frontier` believes; None: not known."""
        if self.quiet():
            self._ask()
        with self._changed:
            return self._frontier.stored_before(min(self._unstored.values(), default=None))

    def _ask(self) -> None:
        """Whether anything waits; the pulls that are open say nothing until something does, or are cut off."""
        with self._changed:
            if self._full() or self._stopping.is_set():
                return
        at_us = time.time_ns() // 1000
        request = _PULL(subscription=self.subscription, max_messages=PULL_MESSAGES, return_immediately=True)
        try:
            response = self._pull(request, timeout=_ASK_TIMEOUT_S)
        except grpc.RpcError:
            return  # the pulls that are open tell why
        if response.received_messages:
            self._add(response.received_messages)
        else:
            with self._changed:
                self._frontier.nothing_waited(at_us)

    def release(self, ack_ids: Sequence[str]) -> None:
        """Give messages back, to be delivered again at once; what is not held any more is left alone."""
        held = self._let_go(ack_ids, stored=False)
        if held:
            self._modify_deadline(held, 0)

    def stop(self) -> None:
        """Pull no more, and give back what nobody has taken; what was taken stays leased until it is acknowledged."""
        self._stopping.set()
        with self._changed:
            untaken = [i for pulled in self._ready for i in pulled.ack_ids]
            self._ready.clear()
            self._changed.notify_all()
        self.release(untaken)
        for worker in self._workers:
            worker.join(_RPC_TIMEOUT_S)

    def close(self) -> None:
        """Stop, and let every lease go."""
        self.stop()
        with self._changed:
            left = list(self._leases)
        self.release(left)
        self._closed.set()
        self._keeper.join(_RPC_TIMEOUT_S)

    def _full(self) -> bool:
        return len(self._leases) >= self._max_messages or self._bytes >= self._max_bytes

    def _pull_ahead(self) -> None:
        wait = FIRST_WAIT_S
        request = _PULL(subscription=self.subscription, max_messages=min(PULL_MESSAGES, self._max_messages))
        while not self._stopping.is_set():
            with self._changed:
                while self._full() and not self._stopping.is_set():
                    self._changed.wait(1)
            if self._stopping.is_set():
                return
            try:
                response = self._pull(request, timeout=_RPC_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() == grpc.StatusCode.DEADLINE_EXCEEDED:
                    continue  # a long poll that found nothing
                told = translate(error, self.subscription)
                self._count(f"retries_{kind(told)}")
                log.warning("%s Waiting.", told)
                self._stopping.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
                continue
            wait = FIRST_WAIT_S
            if response.received_messages:
                self._add(response.received_messages)

    def _add(self, received: Any) -> None:
        ack_ids, messages, times, total = [], [], [], 0
        now = time.monotonic()
        for one in received:
            message = one.message
            attributes = dict(message.attributes)
            published = message.publish_time
            data = message.data
            ack_ids.append(one.ack_id)
            times.append(published.seconds * 1_000_000 + published.nanos // 1000)
            messages.append(delivered(data, attributes, times[-1], message.message_id))
            total += len(data)
        pulled = Pulled(ack_ids, messages, times, total)
        with self._changed:
            for ack_id, message in zip(ack_ids, messages, strict=True):
                self._leases[ack_id] = now + SHORTEST_ACK_DEADLINE_S
                self._sizes[ack_id] = len(message.data)
            self._unstored.update(zip(ack_ids, times, strict=True))
            self._frontier.came(min(times), max(times))
            self._bytes += total
            if not self._stopping.is_set():
                self._ready.append(pulled)
                self._changed.notify()
                return
        self.release(ack_ids)

    def _let_go(self, ack_ids: Sequence[str], *, stored: bool) -> list[str]:
        """Forget messages; those that were held."""
        with self._changed:
            held = [ack_id for ack_id in ack_ids if ack_id in self._leases]
            unstored = [self._unstored.pop(ack_id) for ack_id in ack_ids if ack_id in self._unstored]
            if unstored and not stored:
                self._frontier.gave_back(min(unstored))
            for ack_id in held:
                del self._leases[ack_id]
                self._done_at.pop(ack_id, None)
                self._bytes -= self._sizes.pop(ack_id, 0)
            self._changed.notify_all()
        return held

    def _keep_leases(self) -> None:
        while not self._closed.wait(KEEPER_TICK_S):
            now = time.monotonic()
            with self._changed:
                ending = [ack_id for ack_id, until in self._leases.items() if until < now + EXTEND_AHEAD_S]
                forgotten = [i for i in ending if now - self._done_at.get(i, now) > LONGEST_DONE_S]
            if forgotten:
                log.warning(
                    "%d messages were stored, but not acknowledged in an hour: they are given back.", len(forgotten)
                )
                self.release(forgotten)
                ending = [ack_id for ack_id in ending if ack_id in self._leases]
            if ending and self._modify_deadline(ending, LEASE_S):
                until = time.monotonic() + LEASE_S
                with self._changed:
                    for ack_id in ending:
                        if ack_id in self._leases:
                            self._leases[ack_id] = until

    def _modify_deadline(self, ack_ids: Sequence[str], seconds: int) -> bool:
        done = True
        for some in requests(ack_ids):
            done &= self._tell(
                self._modify,
                lambda ids: _MODIFY(subscription=self.subscription, ack_ids=ids, ack_deadline_seconds=seconds),
                some,
            )
        return done

    def _tell(
        self, call: Callable[..., Any], made: Callable[[list[str]], Any], ack_ids: list[str], halvings: int = HALVINGS
    ) -> bool:
        """Call, a few times if need be; False when Pub/Sub did not hear it of all. It then delivers again."""
        request, wait = made(ack_ids), FIRST_WAIT_S
        for attempt in range(4):
            try:
                call(request, timeout=_RPC_TIMEOUT_S)
            except grpc.RpcError as error:
                if error.code() is grpc.StatusCode.INVALID_ARGUMENT and halvings and len(ack_ids) > 1:
                    half = len(ack_ids) // 2
                    parts = (ack_ids[:half], ack_ids[half:])
                    return sum(self._tell(call, made, part, halvings - 1) for part in parts) == len(parts)
                if error.code() not in TRANSIENT or attempt == 3:
                    log.warning("%s The messages will be delivered again.", translate(error, self.subscription))
                    return False
                time.sleep(wait)
                wait *= 4
            else:
                return True
        return False


def requests(ack_ids: Sequence[str]) -> Iterator[list[str]]:
    """Cut ids into lists that fit into a request each."""
    some: list[str] = []
    size = 0
    for ack_id in ack_ids:
        own = len(ack_id) + 5  # with a tag and a length
        if some and (len(some) == IDS_A_REQUEST or size + own > BYTES_A_REQUEST):
            yield some
            some, size = [], 0
        some.append(ack_id)
        size += own
    if some:
        yield some
