"""One subscription: a queue, leases that end by acknowledgement, by a nack or by expiry, and the counts of all that."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Final

from tidemark.errors import RefusedError
from tidemark.local.pubsub.control import Stats
from tidemark.local.pubsub.faults import Faults
from tidemark.local.pubsub.messages import Message, ack_ids, received
from tidemark.local.pubsub.ordering import Lanes

RESPONSE_MESSAGES: Final = 1000
RESPONSE_BYTES: Final = 20_000_000
"""Most bytes of messages in one response; a single message is always let through."""
_PROCESS: Final = secrets.token_hex(4)
"""In every ack id, so that one from before a restart acknowledges nothing."""
_batches: Final = count()


class Holder:
    """What one stream has in its hands, for its flow control."""

    def __init__(self, room_made: Callable[[], None]) -> None:
        self.messages = 0
        self.bytes = 0
        self._room_made = room_made

    def take(self, messages: Sequence[Message]) -> None:
        """It was given messages."""
        self.messages += len(messages)
        self.bytes += sum(len(message.body) for message in messages)

    def release(self, message: Message) -> None:
        """It has one less."""
        self.messages -= 1
        self.bytes -= len(message.body)
        self._room_made()


@dataclass(slots=True, eq=False)
class _Lease:
    """Deliveries that expire together."""

    pending: dict[str, Message]
    holder: Holder | None
    timer: asyncio.TimerHandle


@dataclass(slots=True)
class _Counts:
    published: int = 0
    delivered: int = 0
    acked: int = 0
    nacked: int = 0
    expired: int = 0
    dead_lettered: int = 0
    ignored_acks: int = 0


@dataclass(eq=False)
class Subscription:
    """The messages of one subscription that are not acknowledged: memory holds these and nothing else.

    Args:
        proto: The Subscription it was created from.
        faults: Those of the server.
        bury: Moves a message that was delivered too often, after so many attempts, to the dead-letter topic and
            acknowledges it; False when it cannot.
    """

    proto: Any
    faults: Faults
    bury: Callable[[Subscription, Message, int], bool]
    unacked: dict[int, Message] = field(default_factory=dict)
    """By number, in the order of publishing."""

    def __post_init__(self) -> None:
        self.name: str = self.proto.name
        self.max_attempts: int = self.proto.dead_letter_policy.max_delivery_attempts
        self._queue: deque[Message] = deque()
        self._lanes: Lanes | None = Lanes() if self.proto.enable_message_ordering else None
        self._leases: dict[str, _Lease] = {}
        self._attempts: dict[int, int] = {}
        self._doubled: set[int] = set()
        self._waiters: dict[asyncio.Event, None] = {}
        self._counts = _Counts()
        self._deleted = False

    def put(self, messages: Sequence[Message]) -> None:
        """New messages."""
        self._counts.published += len(messages)
        self.unacked.update((message.number, message) for message in messages)
        self._enqueue(messages)

    def _enqueue(self, messages: Sequence[Message]) -> None:
        if self._lanes is None:
            self._queue.extend(messages)
        else:
            for message in messages:
                if message.key:
                    self._lanes.put(message)
                else:
                    self._queue.append(message)
        self._wake()

    def forget(self, numbers: Iterable[int]) -> None:
        """Acknowledgements read from the journal, before anything is queued."""
        for number in numbers:
            self.unacked.pop(number, None)

    def requeue_all(self) -> None:
        """Queue what a restart has found unacknowledged."""
        self._enqueue(list(self.unacked.values()))

    def take(
        self, limit: int, limit_bytes: int, deadline_s: float, holder: Holder | None = None
    ) -> tuple[bytes, int] | None:
        """Lease messages: the `received_messages` of a response and their number; None when nothing can be delivered."""
        messages = self._next(min(limit, RESPONSE_MESSAGES))
        if not messages:
            return None
        over = _over(messages, limit_bytes)
        back = messages[over:]
        del messages[over:]
        batch = f"{_PROCESS}{next(_batches):08x}"
        ids = ack_ids(batch, len(messages))
        if self._lanes is not None:
            self._lanes.sent(pair for pair in zip(ids, messages, strict=True) if pair[1].key)
        if back:
            self._put_back(back)
        self._lease(dict(zip(ids, messages, strict=True)), deadline_s, holder)
        if holder is not None:
            holder.take(messages)
        if self.faults.twice:
            self._double(messages)
        self._counts.delivered += len(messages)
        return received(batch, messages, self._count_attempts(messages) if self.max_attempts else None), len(messages)

    def _next(self, limit: int) -> list[Message]:
        messages = self._lanes.take(limit) if self._lanes else []
        queue = self._queue
        room = min(limit - len(messages), len(queue))
        popleft = queue.popleft
        if self.faults.span and room:
            window = [popleft() for _ in range(min(max(room, self.faults.span), len(queue)))]
            drawn = set(self.faults.random.sample(range(len(window)), room))
            some = [window[index] for index in drawn]
            self.faults.random.shuffle(some)
            queue.extendleft(message for index, message in reversed(list(enumerate(window))) if index not in drawn)
            return messages + some
        messages += [popleft() for _ in range(room)]
        return messages

    def _put_back(self, messages: list[Message]) -> None:
        lanes = self._lanes
        if lanes is not None:
            lanes.put_back([message for message in messages if message.key])
            messages = [message for message in messages if not message.key]
        self._queue.extendleft(reversed(messages))

    def _lease(self, pending: dict[str, Message], deadline_s: float, holder: Holder | None) -> None:
        timer = asyncio.get_running_loop().call_later(deadline_s, self._expire, pending)
        self._leases.update(dict.fromkeys(pending, _Lease(pending, holder, timer)))

    def _double(self, messages: list[Message]) -> None:
        for message in messages:
            in_lane = message.key and self._lanes is not None  # a lane is delivered twice when it is acknowledged
            if not in_lane and message.number in self.unacked and message.number not in self._doubled:
                self._doubled.add(message.number)
                self._queue.append(message)
        self._wake()

    def _count_attempts(self, messages: list[Message]) -> list[int]:
        result = []
        for message in messages:
            attempt = self._attempts.get(message.number, 0) + 1
            result.append(attempt)
            if message.number in self.unacked:
                self._attempts[message.number] = attempt
        return result

    def ack(self, ids: Iterable[str]) -> list[int]:
        """End leases for good; the numbers of the messages that are acknowledged thereby."""
        leases, unacked = self._leases, self.unacked
        done = []
        for ack_id in ids:
            lease = leases.pop(ack_id, None)
            if lease is None:
                self._counts.ignored_acks += 1
                continue
            message = lease.pending.pop(ack_id)
            if not lease.pending:
                lease.timer.cancel()
            if lease.holder is not None:
                lease.holder.release(message)
            if self._lanes is not None and message.key:
                done += self._ack_in_lane(self._lanes, message)
            elif unacked.pop(message.number, None) is not None:
                done.append(message.number)
        if self._attempts:
            for number in done:
                self._attempts.pop(number, None)
        if self._doubled:
            self._doubled.difference_update(done)
        self._counts.acked += len(done)
        return done

    def _ack_in_lane(self, lanes: Lanes, message: Message) -> list[int]:
        batch = lanes.ack(message, whole=self.faults.twice)
        if self.faults.twice and batch:
            again = [one for one in batch if one.number not in self._doubled]
            self._doubled.update(one.number for one in again)
            lanes.return_to(message.key, again)
            batch = [one for one in batch if one not in again]
        if lanes.waiting:
            self._wake()
        return [one.number for one in batch if self.unacked.pop(one.number, None) is not None]

    def modify(self, deadlines_s: dict[str, int]) -> None:
        """Move the deadlines of deliveries to so many seconds from now; 0 gives a message back at once."""
        for ack_id, deadline_s in deadlines_s.items():
            if deadline_s == 0 and ack_id in self._leases:
                self._counts.nacked += 1
                self._give_back(ack_id)
        moved: dict[tuple[Holder | None, int], dict[str, Message]] = {}
        for ack_id, deadline_s in deadlines_s.items():
            lease = self._leases.get(ack_id)
            if lease is None:
                continue
            moved.setdefault((lease.holder, deadline_s), {})[ack_id] = lease.pending.pop(ack_id)
            if not lease.pending:
                lease.timer.cancel()
        for (holder, deadline_s), pending in moved.items():
            self._lease(pending, deadline_s, holder)
        self._wake()

    def _expire(self, pending: dict[str, Message]) -> None:
        for ack_id in list(pending):
            if ack_id in pending:
                self._counts.expired += 1
                self._give_back(ack_id)
        self._wake()

    def _release(self, ack_id: str) -> Message | None:
        lease = self._leases.pop(ack_id, None)
        if lease is None:
            return None
        message = lease.pending.pop(ack_id)
        if not lease.pending:
            lease.timer.cancel()
        if lease.holder is not None:
            lease.holder.release(message)
        return message

    def _give_back(self, ack_id: str) -> None:
        message = self._release(ack_id)
        if message is None:
            return
        back = [message]
        if in_lane := self._lanes is not None and bool(message.key):
            assert self._lanes is not None
            void, back = self._lanes.revoke(message)
            for one in void:
                self._release(one)
        if self._is_buried(message):
            del back[0]
        back = [one for one in back if one.number in self.unacked]
        if in_lane:
            assert self._lanes is not None
            self._lanes.return_to(message.key, back)
        else:
            self._queue.extend(back)

    def _is_buried(self, message: Message) -> bool:
        attempts = self._attempts.get(message.number, 0)
        if not self.max_attempts or attempts < self.max_attempts or message.number not in self.unacked:
            return False
        if not self.bury(self, message, attempts):
            return False
        self.unacked.pop(message.number)
        self._attempts.pop(message.number)
        self._doubled.discard(message.number)
        self._counts.dead_lettered += 1
        return True

    @contextmanager
    def waiting(self) -> Iterator[asyncio.Event]:
        """An event that is set whenever there may be something to take."""
        event = asyncio.Event()
        self._waiters[event] = None
        try:
            yield event
        finally:
            del self._waiters[event]

    def _wake(self) -> None:
        for event in self._waiters:
            event.set()

    def close(self) -> None:
        """It is deleted: nothing expires any more, and who waits finds out."""
        self._deleted = True
        for lease in self._leases.values():
            lease.timer.cancel()
        self._wake()

    def check_there(self) -> None:
        """Raises RefusedError: it was deleted meanwhile."""
        if self._deleted:
            raise RefusedError(f"The subscription {self.name} was deleted.", code="NOT_FOUND")

    def stats(self) -> Stats:
        """The counts, and what there is now."""
        oldest = next(iter(self.unacked.values()), None)
        counts = self._counts
        return Stats(
            published=counts.published,
            delivered=counts.delivered,
            acked=counts.acked,
            nacked=counts.nacked,
            expired=counts.expired,
            dead_lettered=counts.dead_lettered,
            ignored_acks=counts.ignored_acks,
            queued=len(self._queue) + (self._lanes.waiting if self._lanes is not None else 0),
            outstanding=len(self._leases),
            oldest_unacked_age_s=max(0.0, (time.time_ns() - oldest.published_ns) / 1e9) if oldest else 0.0,
        )


def _over(messages: list[Message], limit_bytes: int) -> int:
    """How many of the messages go into so many bytes; the first one always does."""
    room = limit_bytes - sum([len(message.body) for message in messages])
    end = len(messages)
    while room < 0 and end > 1:
        end -= 1
        room += len(messages[end].body)
    return end
