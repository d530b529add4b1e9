"""Faults a test can ask for."""

from __future__ import annotations

import random
import threading
import time
from dataclasses import dataclass, field
from typing import Any

import grpc


@dataclass
class Faults:
    """What goes wrong, by method name (`Publish`, `Pull`, …)."""

    fail: dict[str, list[str]] = field(default_factory=dict)
    delay_s: dict[str, float] = field(default_factory=dict)
    drop_acks: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def before(self, method: str, context: Any) -> None:
        """Delay or fail a call, as asked."""
        pause = self.delay_s.get(method)
        if pause:
            time.sleep(pause)
        with self.lock:
            codes = self.fail.get(method)
            code = codes.pop(0) if codes else None
        if code is not None:
            context.abort(grpc.StatusCode[code], f"asked to fail {method}")

    def drops_acks(self) -> bool:
        """Forget this Acknowledge."""
        with self.lock:
            if self.drop_acks:
                self.drop_acks -= self.drop_acks > 0
                return True
            return False

    def apply(self, wish: dict[str, Any], delivery: Any) -> None:
        """Take a wish, as `Control` words it.

        Args:
            wish: Any of clear: true; fail: [method, code, times]; delay_s: [method, seconds]; drop_acks: requests, -1
                for all; twice: bool; shuffle: seed or null.
            delivery: The subscriptions' faults of delivery.
        """
        with self.lock:
            if wish.get("clear"):
                self.fail.clear()
                self.delay_s.clear()
                self.drop_acks = 0
                delivery.twice, delivery.shuffle = False, None
            if "fail" in wish:
                method, code, times = wish["fail"]
                if code not in grpc.StatusCode.__members__:
                    raise ValueError(f"{code} is no gRPC status")
                self.fail.setdefault(method, []).extend([code] * times)
            if "delay_s" in wish:
                method, seconds = wish["delay_s"]
                self.delay_s[method] = float(seconds)
            if "drop_acks" in wish:
                self.drop_acks = int(wish["drop_acks"])
            if "twice" in wish:
                delivery.twice = bool(wish["twice"])
            if "shuffle" in wish:
                seed = wish["shuffle"]
                delivery.shuffle = None if seed is None else random.Random(seed)  # noqa: S311  # repeatable on purpose
