"""One subscription: what is queued, what is leased to whom, and what comes back.

Messages stay the bytes they came as. Without ordering there is one queue; with it, one for each key, of which one
batch is out at a time and comes back whole, in order.
"""

from __future__ import annotations

import itertools
import random
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final

DEFAULT_ACK_DEADLINE_S: Final = 10


class Entry:
    """A message on its way to one subscription."""

    __slots__ = ("attempts", "copies", "key", "number", "raw", "since")

    def __init__(self, number: int, raw: bytes, key: str) -> None:
        self.number, self.raw, self.key = number, raw, key
        self.attempts = 0
        self.copies = 0
        self.since = time.monotonic()


@dataclass
class Flow:
    """What one stream may have outstanding; zero is no bound."""

    max_messages: int = 0
    max_bytes: int = 0
    messages: int = 0
    bytes: int = 0

    def room(self) -> int:
        """How many more messages fit."""
        if self.max_bytes and self.bytes >= self.max_bytes:
            return 0
        return self.max_messages - self.messages if self.max_messages else 1 << 30


class Lease:
    """One delivery of one entry."""

    __slots__ = ("entry", "flow", "until")

    def __init__(self, entry: Entry, until: float, flow: Flow | None) -> None:
        self.entry, self.until, self.flow = entry, until, flow


@dataclass
class Delivery:
    """Faults of delivery, switched by a test."""

    twice: bool = False
    shuffle: random.Random | None = None


@dataclass
class Subscription:
    """One subscription's messages.

    Attributes:
        name: Full name.
        topic: Full name of its topic.
        ack_deadline_s: How long a lease lasts.
        ordered: Deliver messages of one key in order.
        max_attempts: After so many deliveries a message goes to `dead_letter`; 0: never.
        dead_letter: Takes entries that were delivered too often.
        forget: Told the numbers of messages that need not be delivered any more.
        delivery: Faults.
    """

    name: str
    topic: str
    ack_deadline_s: int
    ordered: bool
    max_attempts: int
    dead_letter: Callable[[Entry], None]
    forget: Callable[[Sequence[int]], None]
    delivery: Delivery
    changed: threading.Condition = field(default_factory=threading.Condition)
    stats: Counter[str] = field(default_factory=Counter)

    def __post_init__(self) -> None:
        self._queue: deque[Entry] = deque()
        self._by_key: dict[str, deque[Entry]] = {}
        self._out_by_key: dict[str, dict[str, Entry]] = {}
        self._leases: dict[str, Lease] = {}
        self._serial = itertools.count(1)

    def put(self, entries: Iterable[Entry]) -> None:
        """Queue new messages."""
        with self.changed:
            for entry in entries:
                self._enqueue(entry)
                self.stats["published"] += 1
            self.changed.notify_all()

    def take(self, most: int, wait_s: float, flow: Flow | None = None, lease_s: int = 0) -> list[tuple[str, Entry]]:
        """Lease up to `most` messages; waits until there is one.

        Returns:
            (acknowledgement id, entry) each; empty when nothing came in time or `flow` has no room.
        """
        with self.changed:
            if flow is not None:
                most = min(most, flow.room())
            if most <= 0 or not self._deliverable():
                self.changed.wait(wait_s)
                if flow is not None:
                    most = min(most, flow.room())
            entries = self._next(most) if most > 0 else []
            return [self._lease(entry, flow, lease_s) for entry in entries]

    def acknowledge(self, ack_ids: Iterable[str]) -> None:
        """End leases for good; unknown ids are ignored, as Pub/Sub does."""
        done = []
        with self.changed:
            for ack_id in ack_ids:
                lease = self._end(ack_id)
                if lease is None:
                    self.stats["ack_unknown"] += 1
                    continue
                self.stats["acked"] += 1
                if lease.entry.copies:
                    lease.entry.copies -= 1
                else:
                    done.append(lease.entry.number)
            self.changed.notify_all()
        if done:
            self.forget(done)

    def modify(self, ack_ids: Iterable[str], seconds: int) -> None:
        """Let leases last this long from now; 0 gives the messages back."""
        with self.changed:
            until = time.monotonic() + seconds
            for ack_id in ack_ids:
                lease = self._leases.get(ack_id)
                if lease is None:
                    continue
                if seconds:
                    lease.until = until
                    self.stats["extended"] += 1
                else:
                    self.stats["nacked"] += 1
                    self._give_back(ack_id)
            self.changed.notify_all()

    def expire(self) -> None:
        """Give back what was leased for too long."""
        with self.changed:
            now = time.monotonic()
            late = [ack_id for ack_id, lease in self._leases.items() if lease.until < now]
            for ack_id in late:
                if ack_id in self._leases:
                    self.stats["expired"] += 1
                    self._give_back(ack_id)
            if late:
                self.changed.notify_all()

    def release(self, flow: Flow) -> None:
        """A stream has ended: its leases run out by themselves, and count for nobody."""
        with self.changed:
            for lease in self._leases.values():
                if lease.flow is flow:
                    lease.flow = None

    def report(self) -> dict[str, float]:
        """Counters, and what is queued and outstanding."""
        with self.changed:
            waiting = [e.since for e in itertools.islice(self._queue, 1)]
            waiting += [queue[0].since for queue in self._by_key.values() if queue]
            waiting += [lease.entry.since for lease in self._leases.values()]
            queued = len(self._queue) + sum(map(len, self._by_key.values()))
            oldest = time.monotonic() - min(waiting) if waiting else 0.0
            return {**self.stats, "queued": queued, "outstanding": len(self._leases), "oldest_unacked_s": oldest}

    def _enqueue(self, entry: Entry) -> None:
        if self.ordered and entry.key:
            self._by_key.setdefault(entry.key, deque()).append(entry)
        else:
            self._queue.append(entry)

    def _deliverable(self) -> bool:
        return bool(self._queue) or any(key not in self._out_by_key for key in self._by_key)

    def _next(self, most: int) -> list[Entry]:
        queue = self._queue
        if self.delivery.shuffle is not None and queue:
            queue.rotate(-self.delivery.shuffle.randrange(len(queue)))
        entries = [queue.popleft() for _ in range(min(most, len(queue)))]
        if self.delivery.shuffle is not None:
            self.delivery.shuffle.shuffle(entries)
        if self.delivery.twice:
            for entry in entries:
                if entry.attempts == 0:
                    entry.copies += 1
                    queue.append(entry)
        for key in [key for key in self._by_key if key not in self._out_by_key]:
            if len(entries) >= most:
                break
            waiting = self._by_key[key]
            self._out_by_key[key] = {}
            entries += [waiting.popleft() for _ in range(min(most - len(entries), len(waiting)))]
            if not waiting:
                del self._by_key[key]
        return entries

    def _lease(self, entry: Entry, flow: Flow | None, lease_s: int) -> tuple[str, Entry]:
        ack_id = f"{entry.number}-{next(self._serial)}"
        entry.attempts += 1
        self._leases[ack_id] = Lease(entry, time.monotonic() + (lease_s or self.ack_deadline_s), flow)
        if flow is not None:
            flow.messages += 1
            flow.bytes += len(entry.raw)
        if self.ordered and entry.key:
            self._out_by_key[entry.key][ack_id] = entry
        self.stats["delivered"] += 1
        return ack_id, entry

    def _end(self, ack_id: str) -> Lease | None:
        lease = self._leases.pop(ack_id, None)
        if lease is None:
            return None
        if lease.flow is not None:
            lease.flow.messages -= 1
            lease.flow.bytes -= len(lease.entry.raw)
        out = self._out_by_key.get(lease.entry.key) if self.ordered else None
        if out is not None:
            out.pop(ack_id, None)
            if not out:
                del self._out_by_key[lease.entry.key]
        return lease

    def _give_back(self, ack_id: str) -> None:
        """Queue a leased message again; of an ordered key, the whole batch, so that the order holds."""
        entry = self._leases[ack_id].entry
        if self.ordered and entry.key:
            batch = list(self._out_by_key[entry.key].items())
            for batch_id, _ in batch:
                self._end(batch_id)
            waiting = self._by_key.setdefault(entry.key, deque())
            waiting.extendleft(e for _, e in reversed(batch) if not self._exhausted(e))
            if not waiting:
                del self._by_key[entry.key]
            return
        self._end(ack_id)
        if entry.copies:
            entry.copies -= 1
        elif not self._exhausted(entry):
            self._queue.append(entry)

    def _exhausted(self, entry: Entry) -> bool:
        if not self.max_attempts or entry.attempts < self.max_attempts:
            return False
        self.stats["dead_lettered"] += 1
        self.dead_letter(entry)
        self.forget([entry.number])
        return True
