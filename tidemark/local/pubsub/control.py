"""The client of the server's faults and figures."""

from __future__ import annotations

import json
from typing import Any

import grpc


class Control:
    """Asks a running server to misbehave, and how it is doing."""

    def __init__(self, address: str) -> None:
        """`address` is host:port."""
        self._channel = grpc.insecure_channel(address)
        self._faults = self._channel.unary_unary("/tidemark.local.Control/Faults")
        self._stats = self._channel.unary_unary("/tidemark.local.Control/Stats")

    def fail(self, method: str, code: str, times: int = 1) -> None:
        """Fail the next calls of a method (`Publish`, `Pull`, `Acknowledge`, …) with a status such as `UNAVAILABLE`."""
        self._ask(fail=[method, code, times])

    def delay(self, method: str, seconds: float) -> None:
        """Delay every call of a method."""
        self._ask(delay_s=[method, seconds])

    def drop_acks(self, requests: int = -1) -> None:
        """Accept and forget the next Acknowledge requests; -1: all."""
        self._ask(drop_acks=requests)

    def twice(self, on: bool = True) -> None:
        """Deliver everything twice."""
        self._ask(twice=on)

    def shuffle(self, seed: int | None) -> None:
        """Deliver in a random order."""
        self._ask(shuffle=seed)

    def clear(self) -> None:
        """Behave again."""
        self._ask(clear=True)

    def stats(self, subscription: str) -> dict[str, float]:
        """published, delivered, acked, nacked, expired, queued, outstanding, oldest_unacked_s."""
        found: dict[str, float] = json.loads(self._stats(b"", timeout=10))[subscription]
        return found

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def _ask(self, **wish: Any) -> None:
        self._faults(json.dumps(wish).encode(), timeout=10)
