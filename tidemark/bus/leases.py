"""What a reader holds: pulls, each with one lease, until it is acknowledged or given back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from tidemark.wire.messages import Messages, Micros


@dataclass(frozen=True, eq=False)
class Pulled:
    """The messages of one pull, with what acknowledges them.

    Attributes:
        ack_ids: Pub/Sub's.
        messages: As columns.
        published: When Pub/Sub accepted each of them, in microseconds since 1970. Shape (n,).
        size: Bytes of their bodies.
    """

    ack_ids: list[str]
    messages: Messages
    published: Micros
    size: int

    @classmethod
    def of(cls, received: Sequence[Any]) -> Pulled:
        """Received messages, as the protocol has them; at least one."""
        messages = [one.message for one in received]
        times = [one.publish_time for one in messages]
        seconds, nanos = (
            np.array(some, np.int64) for some in ([at.seconds for at in times], [at.nanos for at in times])
        )
        published = seconds * 1_000_000 + nanos // 1000
        data = [one.data for one in messages]
        columns = Messages.delivered(
            data, [one.attributes for one in messages], published, [one.message_id for one in messages]
        )
        return cls([one.ack_id for one in received], columns, published, sum(map(len, data)))


@dataclass(eq=False)
class _Lease:
    until: float
    stored_at: float | None = None


class Leases:
    """Pulls that are held, by when their leases end; times are monotonic seconds. Whoever uses it keeps others out.

    Attributes:
        messages, bytes: Of all of them.
    """

    def __init__(self) -> None:
        self._held: dict[Pulled, _Lease] = {}
        self.messages = self.bytes = 0

    def take(self, pulled: Pulled, until: float) -> None:
        """Hold a pull, whose lease lasts as long."""
        self._held[pulled] = _Lease(until)
        self.messages += len(pulled.ack_ids)
        self.bytes += pulled.size

    def stored(self, pulled: Pulled, now: float) -> None:
        """Note that its messages are stored; of one that is not held any more, nothing."""
        lease = self._held.get(pulled)
        if lease is not None:
            lease.stored_at = now

    def drop(self, pulled: Pulled) -> bool | None:
        """Forget a pull; whether it was stored. None: it was not held."""
        lease = self._held.pop(pulled, None)
        if lease is None:
            return None
        self.messages -= len(pulled.ack_ids)
        self.bytes -= pulled.size
        return lease.stored_at is not None

    def extend(self, pulls: Iterable[Pulled], until: float) -> None:
        """The leases of those that are still held last until then."""
        for pulled in pulls:
            if pulled in self._held:
                self._held[pulled].until = until

    def ending(self, before: float) -> list[Pulled]:
        """Those whose lease ends before."""
        return [pulled for pulled, lease in self._held.items() if lease.until < before]

    def stored_since(self, before: float) -> set[Pulled]:
        """Those that were stored before, and are held still."""
        return {
            pulled for pulled, lease in self._held.items() if lease.stored_at is not None and lease.stored_at < before
        }

    def all(self) -> list[Pulled]:
        """Every pull that is held."""
        return list(self._held)

    def unstored_us(self) -> int | None:
        """When the earliest message was published that is not stored, in microseconds since 1970; None: there is none."""
        times = [int(pulled.published.min()) for pulled, lease in self._held.items() if lease.stored_at is None]
        return min(times, default=None)
