"""Pulls messages ahead of their use, keeps their leases alive, and acknowledges them when told to.

For the engines that have no Pub/Sub reader of their own. What is held, pulled but not yet acknowledged, is bounded
in messages and bytes, so a stage that waits for its database stops the pulling instead of filling the memory.

Whoever takes a pull gives it back or has it acknowledged as a whole: one lease is one pull.
"""

from __future__ import annotations

import collections
import threading
import time
from collections.abc import Callable, Sequence
from typing import Any, Final

from tidemark.bus.frontier import Frontier
from tidemark.bus.leases import Leases, Pulled
from tidemark.bus.subscription import RPC_TIMEOUT_S, Subscription
from tidemark.errors import MisconfiguredError, UnavailableError
from tidemark.logs import log
from tidemark.retry import FIRST_WAIT_S, LONGEST_WAIT_S, kind

LEASE_S: Final = 20
"""What a lease is extended to: so long at most does Pub/Sub wait before it gives a dead reader's messages to another."""
SHORTEST_ACK_DEADLINE_S: Final = 10
"""Pub/Sub's least: what a lease can be counted on to last before its first extension."""
LONGEST_DONE_S: Final = 3600
"""Messages that were stored so long ago, and are not acknowledged, are given back: their bundle was forgotten."""
EXTEND_AHEAD_S: Final = 6
KEEPER_TICK_S: Final = 2
PULL_MESSAGES: Final = 1000


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
        self._subscription = Subscription(subscription)
        self._max_messages, self._max_bytes = max_messages, max_bytes
        self._ready: collections.deque[Pulled] = collections.deque()
        self._leases = Leases()
        self._frontier = frontier or Frontier()
        self._frontier.begin()
        self._changed = threading.Condition()
        self._stopping = threading.Event()
        self._closed = threading.Event()
        self._workers = [threading.Thread(target=self._pull_ahead, name="pull", daemon=True) for _ in range(threads)]
        self._keeper = threading.Thread(target=self._keep_leases, name="leases", daemon=True)

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
            return self._leases.messages

    def acknowledge(self, pulled: Pulled) -> None:
        """Acknowledge what is stored; what Pub/Sub does not hear of is delivered again, which is harmless."""
        self._subscription.acknowledge(pulled.ack_ids)
        self._let_go(pulled, stored=True)

    def done(self, pulled: Pulled) -> None:
        """Note that messages are stored: what remains is that the engine commits, which takes it seconds or never."""
        with self._changed:
            self._leases.stored(pulled, time.monotonic())

    def quiet(self) -> bool:
        """Nothing is held that is not stored, and nothing came lately."""
        with self._changed:
            return self._leases.unstored_us() is None and self._frontier.quiet()

    def stored_before(self) -> int | None:
        """What was published before this, in microseconds since 1970, is stored, as `Frontier` believes; None: not known."""
        if self.quiet():
            self._ask()
        with self._changed:
            return self._frontier.stored_before(self._leases.unstored_us())

    def _ask(self) -> None:
        """Whether anything waits; the pulls that are open say nothing until something does, or are cut off."""
        with self._changed:
            if self._full() or self._stopping.is_set():
                return
        at_us = time.time_ns() // 1000
        received = self._subscription.waiting(PULL_MESSAGES)
        if received:
            self._add(received)
        elif received is not None:
            with self._changed:
                self._frontier.nothing_waited(at_us)

    def release(self, pulled: Pulled) -> None:
        """Give messages back, to be delivered again at once; what is not held any more is left alone."""
        if self._let_go(pulled, stored=False):
            self._subscription.modify_deadline(pulled.ack_ids, 0)

    def stop(self) -> None:
        """Pull no more, and give back what nobody has taken; what was taken stays leased until it is acknowledged."""
        self._stopping.set()
        with self._changed:
            untaken = list(self._ready)
            self._ready.clear()
            self._changed.notify_all()
        for pulled in untaken:
            self.release(pulled)
        for worker in self._workers:
            worker.join(RPC_TIMEOUT_S)

    def close(self) -> None:
        """Stop, and let every lease go."""
        self.stop()
        with self._changed:
            left = self._leases.all()
        for pulled in left:
            self.release(pulled)
        self._closed.set()
        self._keeper.join(RPC_TIMEOUT_S)

    def _full(self) -> bool:
        return self._leases.messages >= self._max_messages or self._leases.bytes >= self._max_bytes

    def _pull_ahead(self) -> None:
        wait = FIRST_WAIT_S
        while not self._stopping.is_set():
            with self._changed:
                while self._full() and not self._stopping.is_set():
                    self._changed.wait(1)
            if self._stopping.is_set():
                return
            try:
                received = self._subscription.pull(min(PULL_MESSAGES, self._max_messages))
            except (UnavailableError, MisconfiguredError) as told:
                self._count(f"retries_{kind(told)}")
                log.warning("%s Waiting.", told)
                self._stopping.wait(wait)
                wait = min(2 * wait, LONGEST_WAIT_S)
                continue
            wait = FIRST_WAIT_S
            if received:
                self._add(received)

    def _add(self, received: Sequence[Any]) -> None:
        pulled = Pulled.of(received)
        with self._changed:
            self._leases.take(pulled, time.monotonic() + SHORTEST_ACK_DEADLINE_S)
            self._frontier.came(int(pulled.published.min()), int(pulled.published.max()))
            if not self._stopping.is_set():
                self._ready.append(pulled)
                self._changed.notify()
                return
        self.release(pulled)

    def _let_go(self, pulled: Pulled, *, stored: bool) -> bool:
        """Forget messages; whether they were held."""
        with self._changed:
            was_stored = self._leases.drop(pulled)
            if was_stored is False and not stored:
                self._frontier.gave_back(int(pulled.published.min()))
            self._changed.notify_all()
        return was_stored is not None

    def _keep_leases(self) -> None:
        while not self._closed.wait(KEEPER_TICK_S):
            now = time.monotonic()
            with self._changed:
                ending = self._leases.ending(now + EXTEND_AHEAD_S)
                forgotten = self._leases.stored_since(now - LONGEST_DONE_S).intersection(ending)
            if forgotten:
                number = sum(len(pulled.ack_ids) for pulled in forgotten)
                log.warning("%d messages were stored, but not acknowledged in an hour: they are given back.", number)
                for pulled in forgotten:
                    self.release(pulled)
                ending = [pulled for pulled in ending if pulled not in forgotten]
            ids = [ack_id for pulled in ending for ack_id in pulled.ack_ids]
            if ids and self._subscription.modify_deadline(ids, LEASE_S):
                with self._changed:
                    self._leases.extend(ending, time.monotonic() + LEASE_S)
