"""What goes wrong on purpose, by request through `control`; a restarted server has none of it."""

from __future__ import annotations

import asyncio
import random
from typing import Final

import msgspec

from tidemark.errors import RefusedError

METHODS: Final = frozenset(
    {
        "CreateTopic",
        "GetTopic",
        "ListTopics",
        "DeleteTopic",
        "ListTopicSubscriptions",
        "Publish",
        "CreateSubscription",
        "GetSubscription",
        "ListSubscriptions",
        "DeleteSubscription",
        "Pull",
        "StreamingPull",
        "Acknowledge",
        "ModifyAckDeadline",
    }
)
CODES: Final = frozenset(
    {
        "CANCELLED",
        "UNKNOWN",
        "INVALID_ARGUMENT",
        "DEADLINE_EXCEEDED",
        "NOT_FOUND",
        "ALREADY_EXISTS",
        "PERMISSION_DENIED",
        "RESOURCE_EXHAUSTED",
        "FAILED_PRECONDITION",
        "ABORTED",
        "OUT_OF_RANGE",
        "UNIMPLEMENTED",
        "INTERNAL",
        "UNAVAILABLE",
        "DATA_LOSS",
        "UNAUTHENTICATED",
    }
)


class Failure(msgspec.Struct, forbid_unknown_fields=True):
    """The next `times` calls of a method end with `code`."""

    times: int
    code: str = "UNAVAILABLE"
    applied: bool = False
    """The call does its work all the same, and only the answer is lost."""


class DropAcks(msgspec.Struct, forbid_unknown_fields=True):
    """Acknowledgements are accepted and forgotten: the next so many requests or ids, or all of them with neither."""

    requests: int | None = None
    ids: int | None = None


class Shuffle(msgspec.Struct, forbid_unknown_fields=True):
    """A delivery is drawn from the first `span` messages of the queue instead of its head; ordering keys keep their order."""

    seed: int
    span: int = 10_000


class Change(msgspec.Struct, forbid_unknown_fields=True, omit_defaults=True):
    """A request for faults; what it does not name stays as it is."""

    clear: bool = False
    """Begin by ending every fault."""
    fail: dict[str, Failure] = {}
    delay_s: dict[str, float] = {}
    drop_acks: DropAcks | None = None
    twice: bool | None = None
    """Deliver every message a second time, though it was acknowledged."""
    shuffle: Shuffle | None = None


class Faults:
    """The faults in force."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self._failures: dict[str, Failure] = {}
        self._delays: dict[str, float] = {}
        self._drop: DropAcks | None = None
        self.twice = False
        self._shuffle: Shuffle | None = None
        self.span = 0
        """How far ahead of the head a delivery may come from; 0 = in the order of the queue."""
        self.random = random.Random(0)  # noqa: S311 - for an order that can be repeated, not for secrets

    def change(self, request: bytes) -> bytes:
        """Apply a `Change` in JSON, and answer with what is in force as one.

        Raises:
            RefusedError: it is not a change.
        """
        try:
            change = msgspec.json.decode(request, type=Change)
        except msgspec.DecodeError as error:
            raise RefusedError(f"Not a change of faults: {error}.", code="INVALID_ARGUMENT") from None
        unknown = (change.fail.keys() | change.delay_s.keys()) - METHODS
        unknown |= {failure.code for failure in change.fail.values()} - CODES
        if unknown:
            raise RefusedError(f"No such method or status: {', '.join(sorted(unknown))}.", code="INVALID_ARGUMENT")
        if change.clear:
            self._clear()
        self._failures |= change.fail
        self._delays |= change.delay_s
        self._drop = change.drop_acks or self._drop
        self.twice = self.twice if change.twice is None else change.twice
        if change.shuffle is not None:
            self._shuffle, self.span = change.shuffle, change.shuffle.span
            self.random.seed(change.shuffle.seed)
        return self._in_force()

    def _in_force(self) -> bytes:
        failures = {method: failure for method, failure in self._failures.items() if failure.times}
        return msgspec.json.encode(
            Change(
                fail=failures,
                delay_s=self._delays,
                drop_acks=self._drop,
                twice=self.twice or None,
                shuffle=self._shuffle,
            )
        )

    async def before(self, method: str) -> Failure | None:
        """Wait as told; then the failure this call must end with, if any."""
        if self._delays and (delay_s := self._delays.get(method)):
            await asyncio.sleep(delay_s)
        if not self._failures:
            return None
        failure = self._failures.get(method)
        if failure is None or failure.times <= 0:
            return None
        failure.times -= 1
        return failure

    def heard(self, ack_ids: list[str]) -> list[str]:
        """The acknowledgements of one request that are not dropped."""
        drop = self._drop
        if drop is None:
            return ack_ids
        if drop.requests is None and drop.ids is None:
            return []
        if drop.requests:
            drop.requests -= 1
            return []
        dropped = min(drop.ids or 0, len(ack_ids))
        if drop.ids is not None:
            drop.ids -= dropped
        return ack_ids[dropped:]
