"""The client of a stand-in's faults and counts, for tests and benchmarks."""

from __future__ import annotations

from collections.abc import Mapping
from types import TracebackType
from typing import Any, Self

import grpc
import msgspec

from tidemark.errors import LocalError
from tidemark.local.pubsub.faults import Change, DropAcks, Failure, Shuffle

SERVICE = "tidemark.local.Control"
_TIMEOUT_S = 30


class Stats(msgspec.Struct, frozen=True):
    """One subscription; counts are messages since the server started, `queued` and `outstanding` are now."""

    published: int
    delivered: int
    acked: int
    nacked: int
    expired: int
    dead_lettered: int
    ignored_acks: int
    """Acknowledgements of deliveries that had expired or were never made."""
    queued: int
    outstanding: int
    oldest_unacked_age_s: float
    """0 when nothing is unacknowledged."""

    @property
    def unacked(self) -> int:
        """Messages not yet acknowledged for good; a message delivered twice counts as often as it waits or is leased."""
        return self.queued + self.outstanding


class Control:
    """Faults and counts of one server; close it, or use it in a `with`."""

    def __init__(self, address: str) -> None:
        """Nothing is sent yet.

        Args:
            address: `host:port`, as in `PUBSUB_EMULATOR_HOST`.
        """
        self._address = address
        self._channel = grpc.insecure_channel(address)
        self._faults = self._channel.unary_unary(f"/{SERVICE}/Faults")
        self._stats = self._channel.unary_unary(f"/{SERVICE}/Stats")

    def fail(self, method: str, times: int = 1, code: str = "UNAVAILABLE", *, applied: bool = False) -> None:
        """Let the next `times` calls of a method, such as `Publish`, end with a status.

        Args:
            method: Its name in the protocol; for `StreamingPull` it is the opening that fails.
            times: How many calls.
            code: The name of the status.
            applied: The call does its work all the same, and only the answer is lost.
        """
        self.change(Change(fail={method: Failure(times, code, applied)}))

    def delay(self, method: str, delay_s: float) -> None:
        """Let each call of a method begin `delay_s` late; 0 ends it."""
        self.change(Change(delay_s={method: delay_s}))

    def drop_acks(self, *, requests: int | None = None, ids: int | None = None) -> None:
        """Accept and forget the next acknowledgements, counted in requests or in ids; with neither, all until `clear`."""
        self.change(Change(drop_acks=DropAcks(requests, ids)))

    def twice(self) -> None:
        """Deliver every message a second time, though it was acknowledged, until `clear`."""
        self.change(Change(twice=True))

    def shuffle(self, seed: int, span: int = 10_000) -> None:
        """Deliver in random order, drawn from the first `span` of the queue, until `clear`; ordering keys keep theirs."""
        self.change(Change(shuffle=Shuffle(seed, span)))

    def clear(self) -> None:
        """End every fault."""
        self.change(Change(clear=True))

    def change(self, change: Change) -> Change:
        """Several faults at once; answers with those in force.

        Raises:
            LocalError: the server is away, or refuses.
        """
        return msgspec.json.decode(self._call(self._faults, msgspec.json.encode(change)), type=Change)

    def stats(self) -> Mapping[str, Stats]:
        """Counts by full subscription name.

        Raises:
            LocalError: the server is away.
        """
        return msgspec.json.decode(self._call(self._stats, b""), type=dict[str, Stats])

    def _call(self, method: Any, request: bytes) -> bytes:
        try:
            answer: bytes = method(request, timeout=_TIMEOUT_S)
        except grpc.RpcError as error:
            raise LocalError(
                f"The Pub/Sub stand-in at {self._address} does not do it: {error.code().name}: {error.details()}"
            ) from None
        return answer

    def close(self) -> None:
        """Close the connection."""
        self._channel.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
