"""Publishes what a bad day brings, and learns from a subscription of its own what Pub/Sub accepted, and when."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import grpc
import numpy as np
from google.pubsub_v1 import types

from tidemark.local.stack import TOPIC

Message = types.PubsubMessage.pb()
Series = tuple[str, str, str]
_Request, _Response = types.PublishRequest.pb(), types.PublishResponse.pb()
_Pull, _Pulled = types.PullRequest.pb(), types.PullResponse.pb()
_Ack = types.AcknowledgeRequest.pb()
_WITNESS = "projects/tidemark-local/subscriptions/witness"
POINTS_A_MESSAGE = 50
STEP_MS = 18
TICK_S = 0.1
SERIES: list[Series] = [(project, f"s{i}", "m") for project in ("alpha", "beta") for i in range(100)]
DOOMED: Series = ("beta", "doomed", "m")
"""Sent in the first half, then deleted."""
MALFORMED = [b"\xff\xfe", b"{", b'{"project":"chaos"}', b"[1"]


def until_it_answers(call: Callable[[], object], give_up: threading.Event) -> object:
    """Call a server that is killed now and then until it answers; a request may have been taken all the same."""
    while not give_up.is_set():
        try:
            return call()
        except grpc.RpcError as error:
            if error.code() not in (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED):
                raise
            time.sleep(0.2)
    return None


@dataclass(frozen=True)
class Sent:
    """What one number of message says: points of one series."""

    series: Series
    event_ms: np.ndarray
    value: np.ndarray


class Traffic(threading.Thread):
    """10 % of the messages up to five horizons late, 5 % published again, 1 % overwriting, 0.1 % as many malformed.

    Args:
        address: Of the Pub/Sub stand-in.
        seed: Of everything random.
        points: In all, without repetitions.
        seconds: Over which they are spread.
        horizon_s: Of the pipeline.
    """

    def __init__(self, address: str, seed: int, points: int, seconds: float, horizon_s: float) -> None:
        super().__init__(daemon=True, name="traffic")
        self._rng, self._numbers = random.Random(seed), np.random.default_rng(seed)
        self.messages, self._seconds, self._horizon_s = points // POINTS_A_MESSAGE, seconds, horizon_s
        self.sent: list[Sent] = []
        self.again = self.late = self.overwriting = 0
        self.malformed: list[str] = []
        self.stopping = threading.Event()
        self.error: BaseException | None = None
        channel = grpc.insecure_channel(address)
        self._publish = channel.unary_unary(
            "/google.pubsub.v1.Publisher/Publish", _Request.SerializeToString, _Response.FromString
        )

    def run(self) -> None:
        try:
            began = time.monotonic()
            while len(self.sent) < self.messages and not self.stopping.is_set():
                due = int(min(1.0, (time.monotonic() - began) / self._seconds) * self.messages)
                batch: list[Message] = []
                while len(self.sent) < due and len(batch) < 500:
                    batch += self._next()
                if batch:
                    request = _Request(topic=TOPIC, messages=batch)
                    until_it_answers(lambda request=request: self._publish(request, timeout=10), self.stopping)
                if len(self.sent) >= due:
                    time.sleep(TICK_S)
        except BaseException as error:  # noqa: BLE001  # whoever waits asks for it
            self.error = error

    def _next(self) -> list[Message]:
        number, rng = len(self.sent), self._rng
        doomed = number < self.messages // 2 and number % 50 == 0
        series = DOOMED if doomed else SERIES[rng.randrange(len(SERIES))]
        value = np.round(self._numbers.uniform(-1000, 1000, POINTS_A_MESSAGE), 3)
        if self.sent and rng.random() < 0.01:
            earlier = self.sent[rng.randrange(max(0, number - 2000), number)]
            series, event_ms = earlier.series, earlier.event_ms
            self.overwriting += 1
        else:
            event_ms = time.time_ns() // 1_000_000 - np.arange(POINTS_A_MESSAGE) * STEP_MS
            if rng.random() < 0.1:
                event_ms -= int(rng.uniform(0, 5 * self._horizon_s) * 1000)
                self.late += 1
        self.sent.append(Sent(series, event_ms, value))
        one = _message(number, series, event_ms, value)
        made = [one]
        if rng.random() < 0.05:  # published again, with an id and a publish time of its own
            made.append(one)
            self.again += 1
        if rng.random() < 0.001 * POINTS_A_MESSAGE:
            name = f"malformed-{len(self.malformed)}"
            self.malformed.append(name)
            made.append(Message(data=rng.choice(MALFORMED), attributes={"n": name}))
        return made


def _message(number: int, series: Series, event_ms: np.ndarray, value: np.ndarray) -> Message:
    project, source, metric = (json.dumps(name) for name in series)
    points = ",".join(
        f'{{"metric":{metric},"event_time":{at},"value":{v!r}}}'
        for at, v in zip(event_ms.tolist(), value.tolist(), strict=True)
    )
    body = f'{{"project":{project},"source":{source},"points":[{points}]}}'
    return Message(data=body.encode(), attributes={"n": str(number), "event_time": str(event_ms.min())})


class Witness(threading.Thread):
    """Writes down which message was accepted when."""

    def __init__(self, address: str) -> None:
        super().__init__(daemon=True, name="witness")
        channel = grpc.insecure_channel(address, options=[("grpc.max_receive_message_length", -1)])
        service = "/google.pubsub.v1.Subscriber"
        self._pull = channel.unary_unary(f"{service}/Pull", _Pull.SerializeToString, _Pulled.FromString)
        self._ack = channel.unary_unary(f"{service}/Acknowledge", _Ack.SerializeToString, None)
        create = channel.unary_unary(f"{service}/CreateSubscription", types.Subscription.pb().SerializeToString, None)
        create(types.Subscription.pb()(name=_WITNESS, topic=TOPIC, ack_deadline_seconds=60), timeout=10)
        self.accepted: dict[str, tuple[str, int]] = {}
        """Message id to (number, publish time in µs)."""
        self.stopping = threading.Event()
        self.heard = time.monotonic()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stopping.is_set():
                pull = _Pull(subscription=_WITNESS, max_messages=1000)
                answer = until_it_answers(lambda pull=pull: self._pull(pull, timeout=10), self.stopping)
                received = answer.received_messages if answer is not None else []
                for one in received:
                    at = one.message.publish_time
                    told = one.message.attributes["n"], at.seconds * 1_000_000 + at.nanos // 1000
                    self.accepted[one.message.message_id] = told
                if received:
                    self.heard = time.monotonic()
                    acks = _Ack(subscription=_WITNESS, ack_ids=[one.ack_id for one in received])
                    until_it_answers(lambda acks=acks: self._ack(acks, timeout=10), self.stopping)
                else:
                    time.sleep(0.2)
        except BaseException as error:  # noqa: BLE001  # whoever waits asks for it
            self.error = error

    def has_all_of(self, traffic: Traffic, within_s: float = 120) -> None:
        """Wait until everything that was sent was heard of, and nothing more comes."""
        wanted = {*map(str, range(len(traffic.sent))), *traffic.malformed}
        until = time.monotonic() + within_s
        while wanted - {number for number, _ in self.accepted.values()} or time.monotonic() < self.heard + 2:
            assert self.error is None, self.error
            assert time.monotonic() < until, "the witness does not hear of everything that was sent"
            time.sleep(0.5)
        self.stopping.set()
        self.join(30)
