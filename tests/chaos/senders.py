"""Senders over each transport that acknowledges: each sends until what it sends is acknowledged, as a sender has to."""

from __future__ import annotations

import contextlib
import gzip
import http.client
import json
import queue
import random
import socket
import threading
import time
from collections import Counter
from typing import Any, NamedTuple

from paho.mqtt import client as paho
from paho.mqtt.enums import CallbackAPIVersion, MQTTProtocolVersion

KEYS = 40
"""Of a sender: each is written again and again."""
Key = tuple[str, int]
Points = list[dict[str, Any]]


class Ports(NamedTuple):
    """Where the edge is."""

    http: int
    mqtt: int
    tcp: int


class Sender(threading.Thread):
    """Remembers the value of each point that was acknowledged last."""

    def __init__(self, number: int, seed: int, token: str, ports: Ports, pause_s: float) -> None:
        super().__init__(daemon=True)
        self._metric, self.token, self.ports, self._pause_s = f"m{number}", token, ports, pause_s
        self.chance = random.Random(seed * 100 + number)
        self._base = time.time_ns() // 1_000_000 - 5_000
        self.stop = threading.Event()
        self.kept: dict[Key, float] = {}
        self.told: Counter[str] = Counter()
        self.error: BaseException | None = None

    def run(self) -> None:
        try:
            while not self.stop.is_set():
                self._write()
                self.stop.wait(self._pause_s)
        except BaseException as error:
            self.error = error
            raise
        finally:
            self.close()

    def _write(self) -> None:
        chance = self.chance
        times = chance.sample(range(KEYS), chance.choice((1, 1, 1, 2, 7)))
        points: Points = [
            {"source": "s", "metric": self._metric, "event_time": self._base + at, "value": chance.randrange(10_000)}
            for at in times
        ]
        self.send(points)
        for point in points:
            self.kept[self._metric, int(point["event_time"])] = float(point["value"])

    def send(self, points: Points) -> None:
        """Send them, as often as it takes."""
        raise NotImplementedError

    def close(self) -> None:
        """Close the connection."""


class Http(Sender):
    """A body at a time, with a point now and then that is refused."""

    _connection: http.client.HTTPConnection | None = None

    def send(self, points: Points) -> None:
        wrong = [{"source": "s"}] if self.chance.random() < 0.1 else []
        body: Any = points + wrong
        text = json.dumps(body if len(body) > 1 or self.chance.random() < 0.5 else body[0]).encode()
        packed = self.chance.random() < 0.3
        while (status := self._post(gzip.compress(text) if packed else text, packed=packed, last=len(points))) not in (
            200,
            202,
            400,
        ):
            assert status in (0, 503), status
            time.sleep(0.05)

    def close(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None

    def _post(self, body: bytes, *, packed: bool, last: int) -> int:
        """The status; 0: nobody knows what became of it."""
        if self._connection is None:
            self._connection = http.client.HTTPConnection("127.0.0.1", self.ports.http, timeout=30)
        headers = {"Authorization": f"Bearer {self.token}"} | ({"Content-Encoding": "gzip"} if packed else {})
        try:
            self._connection.request("POST", "/v1/points", body, headers)
            answer = self._connection.getresponse()
            text = answer.read()
        except (OSError, http.client.HTTPException):
            self.close()
            return 0
        self.told[str(answer.status)] += 1
        if answer.status == 400:
            assert [one["index"] for one in json.loads(text)["rejected"]] == [last]
        return answer.status


class Mqtt(Sender):
    """paho's client, which connects again and sends again by itself; one message of QoS 1 or 2 at a time."""

    version = MQTTProtocolVersion.MQTTv311
    _client: paho.Client | None = None

    def send(self, points: Points) -> None:
        if self._client is None:
            self._acknowledged: queue.Queue[int] = queue.Queue()
            self._client = made = paho.Client(
                CallbackAPIVersion.VERSION2, client_id=f"sender-{self._metric}", protocol=self.version, **self.session()
            )
            made.username_pw_set("cams", self.token)
            made.reconnect_delay_set(1, 1)
            made.on_publish = lambda _client, _data, number, *_: self._acknowledged.put(number)
            made.connect_async("127.0.0.1", self.ports.mqtt)
            made.loop_start()
        text = "\n".join(map(json.dumps, points))
        # what is given while it is not connected is sent once it is, though the outcome says otherwise
        number = self._client.publish("tidemark/cams", text, qos=self.chance.choice((1, 1, 2))).mid
        assert self._acknowledged.get(timeout=60) == number
        self.told[self.version.name] += 1

    def session(self) -> dict[str, Any]:
        return {"clean_session": False}

    def close(self) -> None:
        if self._client is not None:
            self._client.disconnect()
            self._client.loop_stop()


class Mqtt5(Mqtt):
    """The same of version 5."""

    version = MQTTProtocolVersion.MQTTv5

    def session(self) -> dict[str, Any]:
        return {}


class Tcp(Sender):
    """Lines, and goes on when they are acknowledged; from a new connection on all that were not."""

    _socket: socket.socket | None = None
    _answers: Any = None
    _line = 0

    def send(self, points: Points) -> None:
        text = "".join(json.dumps(point) + "\n" for point in points).encode()
        while not self._sent(text, len(points)):
            self.close()
            time.sleep(0.05)
        self.told["tcp"] += 1

    def close(self) -> None:
        if self._socket is not None:
            self._answers.close()
            self._socket.close()
            self._socket = None

    def _sent(self, text: bytes, lines: int) -> bool:
        with contextlib.suppress(OSError):
            if self._socket is None:
                self._socket = socket.create_connection(("127.0.0.1", self.ports.tcp), timeout=30)
                self._answers, self._line = self._socket.makefile("rb"), 0
                self._socket.sendall(json.dumps({"token": self.token, "acks": True}).encode() + b"\n")
            self._socket.sendall(text)
            self._line += lines
            while line := self._answers.readline():
                answer = json.loads(line)
                if "error" in answer:
                    return False
                if answer["line"] == self._line:
                    return True
        return False


KINDS = (Http, Mqtt, Mqtt5, Tcp)
